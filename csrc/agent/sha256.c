/* SHA-256 after FIPS 180-4; the agent is static and links no library. */
#include "agent.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void compress(struct sha256 *hash, const uint8_t *block)
{
	uint32_t w[64], *s = hash->state;
	uint32_t a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
		       block[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
		       (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
		uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
		h = g, g = f, f = e, e = d + t1;
		d = c, c = b, b = a, a = t1 + t2;
	}
	s[0] += a, s[1] += b, s[2] += c, s[3] += d, s[4] += e, s[5] += f, s[6] += g, s[7] += h;
}

void sha256_init(struct sha256 *hash)
{
	static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
					  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	memcpy(hash->state, start, sizeof start);
	hash->length = 0;
}

void sha256_add(struct sha256 *hash, const void *data, size_t len)
{
	const uint8_t *at = data;
	size_t have = hash->length % 64;
	hash->length += len;
	if (have) {
		size_t take = len < 64 - have ? len : 64 - have;
		memcpy(hash->block + have, at, take);
		at += take, len -= take;
		if (have + take < 64)
			return;
		compress(hash, hash->block);
	}
	for (; len >= 64; at += 64, len -= 64)
		compress(hash, at);
	memcpy(hash->block, at, len);
}

void sha256_hex(struct sha256 *hash, char hex[65])
{
	uint64_t bits = hash->length * 8;
	uint8_t pad[72] = {0x80};
	size_t len = 1 + (119 - hash->length % 64) % 64;
	for (int i = 0; i < 8; i++)
		pad[len + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
	sha256_add(hash, pad, len + 8);
	for (int i = 0; i < 8; i++)
		snprintf(hex + 8 * i, 9, "%08x", hash->state[i]);
}

bool sha256_fd(int fd, char hex[65])
{
	static uint8_t chunk[1 << 16];
	struct sha256 hash;
	sha256_init(&hash);
	off_t at = 0;
	ssize_t len;
	while ((len = pread(fd, chunk, sizeof chunk, at)) > 0) {
		sha256_add(&hash, chunk, (size_t)len);
		at += len;
	}
	sha256_hex(&hash, hex);
	return len == 0;
}
