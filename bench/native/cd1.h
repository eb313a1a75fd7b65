/* SHA-256 (FIPS 180-4), HMAC (RFC 2104) and the signature of a CD1 request. No library is needed. */
#ifndef CD1_H
#define CD1_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[64];
} sha256_t;

static const uint32_t SHA256_K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rotated(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_block(uint32_t state[8], const uint8_t *p) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + w[i - 7] +
               (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & s[5]) ^ (~e & s[6])) +
                      SHA256_K[i] + w[i];
        uint32_t t2 = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

static void sha256_begin(sha256_t *h) {
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(h->state, first, sizeof first);
    h->length = 0;
}

static void sha256_add(sha256_t *h, const void *data, size_t n) {
    const uint8_t *p = data;
    while (n) {
        size_t at = h->length % 64, room = 64 - at, k = n < room ? n : room;
        memcpy(h->block + at, p, k);
        h->length += k, p += k, n -= k;
        if (at + k == 64) sha256_block(h->state, h->block);
    }
}

static void sha256_end(sha256_t *h, uint8_t digest[32]) {
    uint64_t bits = h->length * 8;
    uint8_t pad[72] = {0x80};
    size_t n = (h->length % 64 < 56 ? 56 : 120) - h->length % 64;
    for (int i = 0; i < 8; i++) pad[n + i] = bits >> (56 - 8 * i);
    sha256_add(h, pad, n + 8);
    for (int i = 0; i < 32; i++) digest[i] = h->state[i / 4] >> (24 - 8 * (i % 4));
}

static void hex(const uint8_t digest[32], char out[65]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) out[2 * i] = digits[digest[i] >> 4], out[2 * i + 1] = digits[digest[i] & 15];
    out[64] = 0;
}

static void sha256_hex(const void *data, size_t n, char out[65]) {
    sha256_t h;
    uint8_t digest[32];
    sha256_begin(&h), sha256_add(&h, data, n), sha256_end(&h, digest);
    hex(digest, out);
}

/* The key is the secret as shown, 64 characters: exactly one block. */
static void hmac_hex(const char secret[64], const void *data, size_t n, char out[65]) {
    sha256_t h;
    uint8_t digest[32], pad[64];
    for (int i = 0; i < 64; i++) pad[i] = secret[i] ^ 0x36;
    sha256_begin(&h), sha256_add(&h, pad, 64), sha256_add(&h, data, n), sha256_end(&h, digest);
    for (int i = 0; i < 64; i++) pad[i] = secret[i] ^ 0x5c;
    sha256_begin(&h), sha256_add(&h, pad, 64), sha256_add(&h, digest, 32), sha256_end(&h, digest);
    hex(digest, out);
}

typedef struct {
    char name[40];
    char secret[65];
    long long seq;
} bot_key_t;

/* Lines of "name secret". Numbers begin with the time, so that a later run goes on above them. */
static int read_keys(const char *path, bot_key_t *keys, int most) {
    FILE *file = fopen(path, "r");
    struct timespec t;
    int n = 0;
    if (!file) return perror(path), exit(2), 0;
    clock_gettime(CLOCK_REALTIME, &t);
    while (n < most && fscanf(file, "%39s %64s", keys[n].name, keys[n].secret) == 2)
        keys[n++].seq = t.tv_sec * 1000000LL + t.tv_nsec / 1000;
    fclose(file);
    return n;
}

/* Write the signed request's head and body to `out`; its length. `more` is further headers, each with its CRLF. */
static int signed_request(char *out, bot_key_t *key, const char *host, const char *method, const char *path,
                          const char *query, const char *effect, const char *body, int length, const char *more) {
    char canonical[512], digest[65], signature[65];
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    long long ms = t.tv_sec * 1000LL + t.tv_nsec / 1000000, seq = ++key->seq;
    sha256_hex(body, length, digest);
    int n = snprintf(canonical, sizeof canonical, "CD1-HMAC-SHA256\n%s\n%s\n%s\n%s\n%s\n%lld\n5000\n%lld\n%s\n%s",
                     method, host, path, query, key->name, ms, seq, *effect ? effect : "-", digest);
    hmac_hex(key->secret, canonical, n, signature);
    n = sprintf(out,
                "%s %s%s%s HTTP/1.1\r\nHost: %s\r\nX-Cd-Key: %s\r\nX-Cd-Time: %lld\r\nX-Cd-Window: 5000\r\n"
                "X-Cd-Seq: %lld\r\nX-Cd-Sig: v1=%s\r\n%s",
                method, path, *query ? "?" : "", query, host, key->name, ms, seq, signature, more);
    if (*effect) n += sprintf(out + n, "Idempotency-Key: %s\r\n", effect);
    if (length) n += sprintf(out + n, "Content-Type: application/json\r\nContent-Length: %d\r\n", length);
    n += sprintf(out + n, "\r\n");
    memcpy(out + n, body, length);
    return n + length;
}

#endif
