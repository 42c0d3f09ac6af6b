#!/bin/sh
# openssl: OpenSSL checked against itself (encrypt and decrypt, sign and verify) and against Python's own hashes and pow(). Part of programs.py.
set -e
cd /tmp
head -c 3000000 /usr/bin/python3.11 >plain
for cipher in aes-128-cbc aes-256-cbc aes-128-ctr aes-256-ctr aes-256-cfb aria-256-ctr camellia-256-cbc chacha20; do
    openssl enc -$cipher -pbkdf2 -iter 1000 -pass pass:soak -in plain -out secret
    openssl enc -d -$cipher -pbkdf2 -iter 1000 -pass pass:soak -in secret -out again
    cmp plain again
done
# Builds of hashlib's own, not OpenSSL's.
for hash in md5 sha1 sha256 sha512 sha3_256 blake2b; do
    python3 -c "
import _md5, _sha1, _sha256, _sha512, _sha3, _blake2
make = {'md5': _md5.md5, 'sha1': _sha1.sha1, 'sha256': _sha256.sha256, 'sha512': _sha512.sha512, 'sha3_256': _sha3.sha3_256, 'blake2b': _blake2.blake2b}
print(make['$hash'](open('/tmp/plain', 'rb').read()).hexdigest())" >one
    name=$(echo $hash | sed 's/sha3_/sha3-/; s/blake2b/blake2b512/')
    openssl dgst -r -$name plain | cut -d' ' -f1 >two
    cmp one two
done
for kind in "RSA -pkeyopt rsa_keygen_bits:2048" "EC -pkeyopt ec_paramgen_curve:P-256" "EC -pkeyopt ec_paramgen_curve:secp384r1"; do
    openssl genpkey -algorithm $kind -out key.pem
    openssl pkey -in key.pem -check -noout
    openssl dgst -sha256 -sign key.pem -out signature plain
    openssl pkey -in key.pem -pubout -out public.pem
    openssl dgst -sha256 -verify public.pem -signature signature plain
done
openssl genpkey -algorithm ED25519 -out key.pem
openssl pkey -in key.pem -pubout -out public.pem
head -c 1000 plain >short
openssl pkeyutl -sign -inkey key.pem -rawin -in short -out signature
openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in short -sigfile signature
openssl prime -generate -bits 1024 | python3 -c "n = int(input()); print(pow(3, n - 1, n) == 1 or exit(1))"
rm -f plain secret again one two short signature key.pem public.pem
