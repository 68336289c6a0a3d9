#include "agent.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void buf_add(struct buf *buf, const void *data, size_t len)
{
	if (buf->len + len + 1 > buf->cap) {
		size_t cap = (buf->len + len + 1) * 2;
		char *grown = realloc(buf->data, cap);
		if (!grown)
			die("out of memory: %zu bytes", cap);
		buf->data = grown;
		buf->cap = cap;
	}
	memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = 0;
}

void buf_str(struct buf *buf, const char *text)
{
	buf_add(buf, text, strlen(text));
}

void buf_fmt(struct buf *buf, const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	int len = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (len < 0 || (size_t)len >= sizeof text)
		die("buf_fmt: %s: longer than %zu bytes", format, sizeof text);
	buf_add(buf, text, (size_t)len);
}

/* Length of the valid UTF-8 sequence at `s`, 0 if there is none (overlong forms and surrogates included). */
static size_t utf8_length(const unsigned char *s)
{
	if (s[0] < 0x80)
		return 1;
	size_t len = s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] >= 0x90))
		return 0;
	return len;
}

void buf_json(struct buf *buf, const char *text)
{
	buf_add(buf, "\"", 1);
	for (const unsigned char *s = (const unsigned char *)text; *s;) {
		size_t len = utf8_length(s);
		if (len == 0)
			buf_str(buf, "\\ufffd");
		else if (*s == '"' || *s == '\\')
			buf_fmt(buf, "\\%c", *s);
		else if (*s < 0x20)
			buf_fmt(buf, "\\u%04x", *s);
		else
			buf_add(buf, s, len);
		s += len ? len : 1;
	}
	buf_add(buf, "\"", 1);
}

void json_key(struct buf *buf, const char *key)
{
	if (buf->len && buf->data[buf->len - 1] != '{')
		buf_add(buf, ",", 1);
	buf_json(buf, key);
	buf_add(buf, ":", 1);
}

bool buf_file(struct buf *buf, int dirfd, const char *path)
{
	enum { FILE_MAX_BYTES = 4 << 20 }; /* where root is hostile, /proc may be anything */
	char chunk[4096];
	int fd = openat(dirfd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t len;
	size_t total = 0;
	while ((len = read(fd, chunk, sizeof chunk)) > 0 && (total += (size_t)len) <= FILE_MAX_BYTES)
		buf_add(buf, chunk, (size_t)len);
	close(fd);
	return len == 0;
}
