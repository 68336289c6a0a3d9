/* harness-load: asks a server at given moments, whatever it answers meanwhile. What it prints is in docs/load.md. */
#ifndef LOAD_H
#define LOAD_H

#include "../shared/kernel.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REQUEST_MAX = 65536, HEAD_MAX = 16384 };

enum framing { HTTP, RESP, ECHO };

/* What one connection has seen of the answer that it awaits. */
struct answer {
	char head[HEAD_MAX];
	size_t len;	      /* bytes in `head` */
	uint64_t body, wanted; /* bytes of the body: seen so far, expected */
	bool in_body, closes;
};

enum verdict { MORE, COMPLETE, WRONG };

void answer_reset(struct answer *answer);

/* Take in bytes of an answer; `request` is what an echo must give back, `body_bytes` what an HTTP body must have (0: any). */
enum verdict answer_take(struct answer *answer, enum framing framing, const char *data, size_t len,
			 const char *request, size_t request_len, uint64_t body_bytes);

#endif
