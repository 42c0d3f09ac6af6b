# gmp: GMP's arithmetic against Python's own integers, on random numbers of all sizes. Part of programs.py.
import math
import random
import sys

import gmpy2


def check(good, what, *values):
    """Ends the program on a difference."""
    if not good:
        print(what, "differs:", *[hex(int(value)) for value in values])
        sys.exit(1)


def number(source, bits):
    """Random, or with long runs of equal bits, as GMP's own tests use."""
    if source.random() < 0.5:
        return source.getrandbits(bits) | 1
    value = 0
    while value.bit_length() < bits:
        run = source.randint(1, 200)
        value = (value << run) | ((1 << run) - 1 if source.random() < 0.5 else 0) | 1
    return value


def main():
    source = random.Random()
    for turn in range(4000):
        a, b, c = (number(source, source.choice((64, 130, 1000, 5000, 20000))) for _ in range(3))
        x, y, z = gmpy2.mpz(a), gmpy2.mpz(b), gmpy2.mpz(c)
        check(int(x * y) == a * b, "product", a, b)
        check(int(x * x) == a * a, "square", a)
        check(int(x + y) == a + b and int(x - y) == a - b, "sum", a, b)
        check(tuple(map(int, gmpy2.f_divmod(x * z + y, y))) == divmod(a * c + b, b), "quotient", a, b, c)
        check(int(gmpy2.gcd(x * z, y * z)) == math.gcd(a * c, b * c), "gcd", a, b, c)
        check(int(gmpy2.isqrt(x)) == math.isqrt(a), "root", a)
        check(int(x.__str__()) == a if a.bit_length() < 10000 else True, "text", a)
        if turn % 20 == 0:
            e = source.getrandbits(200)
            n = number(source, 2000)
            check(int(gmpy2.powmod(x, e, n)) == pow(a, e, n), "power", a, e, n)
            check(math.gcd(a, n) != 1 or int(gmpy2.invert(x, n)) == pow(a, -1, n), "inverse", a, n)
    print("gmp: no difference")


if __name__ == "__main__":
    main()
