/* Where a runtime hands no open files to its container: fetch them from the host, over a socket that is mounted inside. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FDS = FD_TREE + 1 };

/* Nobody listens yet to whom a mark could be sent: the runtime passes on what is said here. */
static void refuse(const char *path, const char *why)
{
	fprintf(stderr, "harness-agent: %s: %s\n", path, why);
	_exit(125);
}

static void receive(int host, const char *path, int fds[FDS])
{
	char byte;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int) * FDS)];
	} control;
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t len;
	while ((len = recvmsg(host, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	const struct cmsghdr *head = len == 1 ? CMSG_FIRSTHDR(&message) : NULL;
	if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof(int) * FDS))
		refuse(path, len < 0 ? strerror(errno) : "the host sent no files");
	memcpy(fds, CMSG_DATA(head), sizeof(int) * FDS);
}

void connect_host(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fds[FDS];
	int host = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (strlen(path) >= sizeof address.sun_path)
		refuse(path, "too long");
	memcpy(address.sun_path, path, strlen(path));
	if (host < 0 || connect(host, (struct sockaddr *)&address, sizeof address) < 0)
		refuse(path, strerror(errno));
	receive(host, path, fds);
	close(host);
	/* What came may lie on the numbers that are wanted: first all above them. */
	for (int fd = 0; fd < FDS; fd++) {
		int high = fcntl(fds[fd], F_DUPFD_CLOEXEC, FDS);
		if (high < 0)
			refuse(path, strerror(errno));
		close(fds[fd]);
		fds[fd] = high;
	}
	for (int fd = 0; fd < FDS; fd++) {
		if (dup2(fds[fd], fd) < 0)
			_exit(125);
		close(fds[fd]);
	}
}
