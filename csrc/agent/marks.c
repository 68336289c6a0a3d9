#include "agent.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <sys/io.h>
#endif

static unsigned short port = 0xe9;
static bool use_port;

#if defined(__x86_64__)
/* A VMM without that port has a serial one: the kernel hands `harness_marks=0x3f8` of its command line on to us. */
bool marks_use_port(void)
{
	const char *other = getenv("harness_marks");
	if (other)
		port = (unsigned short)strtoul(other, NULL, 0);
	use_port = ioperm(port, 1, 1) == 0;
	return use_port;
}

void marks_drop_port(void)
{
	if (use_port)
		ioperm(port, 1, 0);
	use_port = false;
}

/* One exit to the VMM for each byte, synchronous: the byte is in the host's socket when the instruction ends. */
static void port_write(const char *text, size_t len)
{
	__asm__ volatile("rep outsb" : "+S"(text), "+c"(len) : "d"(port) : "memory");
}
#else
bool marks_use_port(void)
{
	return false;
}
void marks_drop_port(void) {}
static void port_write(const char *text, size_t len)
{
	(void)text, (void)len;
}
#endif

/* A guest's counter says how long ago its first instruction was; with counted instructions, how many there were. */
static size_t format_mark(char *line, size_t size, const char *name, const char *detail)
{
	char ticks[32] = "";
#if defined(__x86_64__)
	if (use_port)
		snprintf(ticks, sizeof ticks, "/%llu", (unsigned long long)__builtin_ia32_rdtsc());
#endif
	int len = snprintf(line, size - 1, "\x1e%s %llu%s%s%s", name, (unsigned long long)now_ns(), ticks,
			   *detail ? " " : "", detail);
	if ((size_t)len >= size - 1)
		len = (int)size - 2;
	for (int i = 1; i < len; i++) /* a line end inside would end the mark */
		if (line[i] == '\n' || line[i] == '\x1e')
			line[i] = ' ';
	line[len++] = '\n';
	return (size_t)len;
}

void mark_on(int fd, const char *name, const char *detail)
{
	char line[512];
	write_all(fd, line, format_mark(line, sizeof line, name, detail));
}

void mark(const char *name, const char *format, ...)
{
	char line[512], detail[400] = "";
	va_list args;
	va_start(args, format);
	vsnprintf(detail, sizeof detail, format, args);
	va_end(args);
	size_t len = format_mark(line, sizeof line, name, detail);
	if (use_port)
		port_write(line, len);
	else if (write(FD_MARKS, line, len) < 0 && errno == EPIPE)
		_exit(1); /* nobody listens: the harness is gone */
}

void die(const char *format, ...)
{
	char text[400];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	mark("error", "%s", text);
	if (use_port)
		vm_power_off();
	_exit(125);
}

void write_all(int fd, const void *data, size_t len)
{
	const char *at = data;
	while (len > 0) {
		ssize_t done = write(fd, at, len);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return; /* the reader is gone; the control channel's end tells us */
		at += done;
		len -= (size_t)done;
	}
}
