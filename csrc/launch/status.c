/* What the runtime is told: one record a message. */
#include "launch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int fail(struct launch *launch, const char *format, ...)
{
	int saved = errno;
	va_list args;
	va_start(args, format);
	vsnprintf(launch->detail, sizeof launch->detail, format, args);
	va_end(args);
	errno = saved;
	return -1;
}

int tell(struct launch *launch, const char *format, ...)
{
	char text[sizeof launch->times + 64];
	va_list args;
	va_start(args, format);
	int len = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	size_t size = (size_t)len < sizeof text ? (size_t)len : sizeof text - 1;
	return send(launch->status, text, size, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* `fd NAME` with the fd itself (SCM_RIGHTS, unix(7)). */
int tell_fd(struct launch *launch, const char *name, int fd)
{
	char text[64];
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec part = {.iov_base = text, .iov_len = (size_t)snprintf(text, sizeof text, "fd %s", name)};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	return sendmsg(launch->status, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

int close_saving(int fd, int result)
{
	int saved = errno;
	close(fd);
	errno = saved;
	return result;
}

unsigned long long number(const char *text)
{
	return strtoull(text, NULL, 0);
}
