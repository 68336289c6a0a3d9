#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void answer_reset(struct answer *answer)
{
	answer->len = 0;
	answer->body = answer->wanted = 0;
	answer->in_body = answer->closes = false;
}

/* The value of a header field in a NUL-terminated head, NULL where there is none (RFC 9112, section 5). */
static const char *field(const char *head, const char *name)
{
	size_t len = strlen(name);
	for (const char *line = strchr(head, '\n'); line; line = strchr(line + 1, '\n')) {
		if (strncasecmp(line + 1, name, len) == 0 && line[1 + len] == ':')
			return line + 2 + len + strspn(line + 2 + len, " \t");
	}
	return NULL;
}

static bool http_head(struct answer *answer, uint64_t body_bytes)
{
	const char *length = field(answer->head, "content-length"), *connection = field(answer->head, "connection");
	if (strncmp(answer->head, "HTTP/1.", 7) != 0 || answer->len < 12 || answer->head[9] != '2' || !length)
		return false;
	answer->wanted = strtoull(length, NULL, 10);
	answer->closes = connection ? strncasecmp(connection, "close", 5) == 0 : answer->head[7] == '0';
	return body_bytes == 0 || answer->wanted == body_bytes;
}

/* RESP: simple strings and numbers end with their line, bulk strings have a length (redis.io, protocol specification). */
static bool resp_head(struct answer *answer)
{
	if (answer->head[0] == '+' || answer->head[0] == ':')
		return true;
	long long length = answer->head[0] == '$' ? strtoll(answer->head + 1, NULL, 10) : -1;
	answer->wanted = (uint64_t)length + 2;
	return length >= 0;
}

/* Add bytes until the head is complete; return how many were taken, 0 where it can be no head. */
static size_t take_head(struct answer *answer, const char *data, size_t len, const char *end)
{
	size_t end_len = strlen(end);
	for (size_t i = 0; i < len; i++) {
		if (answer->len + 1 >= sizeof answer->head)
			return 0;
		answer->head[answer->len++] = data[i];
		if (answer->len >= end_len && memcmp(answer->head + answer->len - end_len, end, end_len) == 0) {
			answer->head[answer->len] = '\0';
			answer->in_body = true;
			return i + 1;
		}
	}
	return len;
}

static enum verdict take_echo(struct answer *answer, const char *data, size_t len, const char *request, size_t request_len)
{
	if (answer->body + len > request_len || memcmp(request + answer->body, data, len) != 0)
		return WRONG;
	answer->body += len;
	return answer->body == request_len ? COMPLETE : MORE;
}

enum verdict answer_take(struct answer *answer, enum framing framing, const char *data, size_t len,
			 const char *request, size_t request_len, uint64_t body_bytes)
{
	if (framing == ECHO)
		return take_echo(answer, data, len, request, request_len);
	if (!answer->in_body) {
		size_t taken = take_head(answer, data, len, framing == HTTP ? "\r\n\r\n" : "\r\n");
		if (taken == 0)
			return WRONG;
		if (!answer->in_body)
			return MORE;
		if (!(framing == HTTP ? http_head(answer, body_bytes) : resp_head(answer)))
			return WRONG;
		data += taken, len -= taken;
	}
	answer->body += len;
	return answer->body > answer->wanted ? WRONG : answer->body == answer->wanted ? COMPLETE : MORE;
}
