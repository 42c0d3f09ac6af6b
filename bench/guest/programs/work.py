# work: what the python3 workload runs; fixed work over dictionaries, classes, strings, regular expressions, integers, floats, sorting and JSON.
import collections
import json
import re


class Account:
    def __init__(self, number):
        self.number = number
        self.balance = 0

    def deposit(self, amount):
        self.balance += amount
        return self


def numbers(count):
    """A fixed pseudo-random sequence."""
    state = 12345
    for _ in range(count):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        yield state


def objects():
    accounts = [Account(i) for i in range(500)]
    for value in numbers(40000):
        accounts[value % 500].deposit(value % 97).deposit(1)
    return sum(account.balance * account.number for account in accounts)


def text():
    words = ["w%d" % (value % 3000) for value in numbers(30000)]
    counts = collections.Counter(words)
    line = " ".join(words[:6000])
    found = re.findall(r"\bw(\d)\d*7\b", line)
    return counts.most_common(3), len(found), line.upper().count("W1"), len(re.sub(r"w(\d+) w(\d+)", r"\2-\1", line))


def arithmetic():
    total, big = 0.0, 1
    for i in range(1, 60000):
        total += 1.0 / (i * i)
        total -= (i % 7) * 1e-9
    for i in range(1, 400):
        big *= i
    return round(total, 9), big % 1000000007


def documents():
    rows = [{"id": i, "name": "row %d" % i, "values": [value % 100 for value in numbers(10)]} for i in range(1200)]
    again = json.loads(json.dumps(rows))
    again.sort(key=lambda row: (row["values"][3], -row["id"]))
    return again[0]["id"], sum(sum(row["values"]) for row in again)


def queens(size, row=0, columns=0, left=0, right=0):
    if row == size:
        return 1
    found = 0
    free = ~(columns | left | right) & ((1 << size) - 1)
    while free:
        bit = free & -free
        free ^= bit
        found += queens(size, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return found


print(objects(), text(), arithmetic(), documents(), queens(8))
