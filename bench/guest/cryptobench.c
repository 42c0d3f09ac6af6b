// cryptobench: fixed work with OpenSSL's library: `cryptobench aes|sha|rsa`; prints a digest of all results.
//
// Compiled inside the benchmark's Debian tree, so that guest and host run the same program with the same libcrypto. Like `openssl speed` without its clock.
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 16384 };

static void check(int good, const char *what) {
    if (!good) {
        fprintf(stderr, "cryptobench: %s failed\n", what);
        exit(1);
    }
}

static void print_digest(const unsigned char *data, size_t size) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    check(EVP_Digest(data, size, digest, &length, EVP_sha256(), NULL), "digest");
    for (unsigned int i = 0; i < length; ++i) {
        printf("%02x", digest[i]);
    }
    printf("\n");
}

static void encrypt(const EVP_CIPHER *cipher, unsigned char *buffer, int rounds) {
    unsigned char key[32] = "0123456789abcdef0123456789abcde", iv[16] = "fedcba987654321";
    int length = 0;
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    check(context != NULL && EVP_EncryptInit_ex(context, cipher, NULL, key, iv) && EVP_CIPHER_CTX_set_padding(context, 0), "cipher");
    for (int i = 0; i < rounds; ++i) {
        check(EVP_EncryptUpdate(context, buffer, &length, buffer, BUFFER) && length == BUFFER, "encryption");
    }
    EVP_CIPHER_CTX_free(context);
}

static void run_aes(unsigned char *buffer) {
    encrypt(EVP_aes_128_cbc(), buffer, 2500);
    encrypt(EVP_aes_256_ctr(), buffer, 7500);
    encrypt(EVP_aes_128_gcm(), buffer, 7500);
}

static void hash(const EVP_MD *type, unsigned char *buffer, int rounds) {
    unsigned int length = 0;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    check(context != NULL && EVP_DigestInit_ex(context, type, NULL), "hash");
    for (int i = 0; i < rounds; ++i) {
        check(EVP_DigestUpdate(context, buffer, BUFFER), "hashing");
    }
    check(EVP_DigestFinal_ex(context, buffer, &length), "hash end");
    EVP_MD_CTX_free(context);
}

static void run_sha(unsigned char *buffer) {
    hash(EVP_sha1(), buffer, 3000);
    hash(EVP_sha256(), buffer, 3000);
    hash(EVP_sha512(), buffer, 3000);
}

static void run_rsa(unsigned char *buffer, const char *key_file) {
    FILE *file = fopen(key_file, "r");
    EVP_PKEY *key = file != NULL ? PEM_read_PrivateKey(file, NULL, NULL, NULL) : NULL;
    check(key != NULL, "reading the key");
    fclose(file);
    EVP_PKEY_CTX *sign = EVP_PKEY_CTX_new(key, NULL), *verify = EVP_PKEY_CTX_new(key, NULL);
    check(sign != NULL && verify != NULL && EVP_PKEY_sign_init(sign) > 0 && EVP_PKEY_verify_init(verify) > 0, "key set-up");
    for (int i = 0; i < 200; ++i) {
        size_t length = 512;
        unsigned char message[32];
        memcpy(message, buffer, sizeof(message));
        check(EVP_PKEY_sign(sign, buffer, &length, message, sizeof(message)) > 0, "signing");
        for (int j = 0; j < 10; ++j) {
            check(EVP_PKEY_verify(verify, buffer, length, message, sizeof(message)) > 0, "verifying");
        }
    }
    EVP_PKEY_CTX_free(sign);
    EVP_PKEY_CTX_free(verify);
    EVP_PKEY_free(key);
}

int main(int argc, char **argv) {
    static unsigned char buffer[BUFFER + 64];
    for (int i = 0; i < BUFFER; ++i) {
        buffer[i] = (unsigned char)(i * 7);
    }
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "aes") == 0) {
        run_aes(buffer);
    } else if (strcmp(what, "sha") == 0) {
        run_sha(buffer);
    } else if (strcmp(what, "rsa") == 0 && argc > 2) {
        run_rsa(buffer, argv[2]);
    } else {
        fprintf(stderr, "usage: cryptobench aes|sha|rsa KEY\n");
        return 2;
    }
    print_digest(buffer, BUFFER);
    return 0;
}
