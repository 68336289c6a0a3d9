/* What the agent serves as a workload: nothing at all (`harness:pause`), or every byte back (`harness:echo`). */
#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 128 };

/* Ready, and idle until it is killed: what is to be done is run beside it. */
int pause_for_ever(void)
{
	write_all(1, "ready\n", 6);
	for (;;)
		pause();
}

static int fail(const char *what)
{
	fprintf(stderr, "echo: %s: %s\n", what, strerror(errno));
	return 1;
}

static int listen_on(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, CONNECTIONS_MAX) < 0)
		return -1;
	return fd;
}

static bool send_back(int fd)
{
	char chunk[65536];
	ssize_t len = read(fd, chunk, sizeof chunk);
	return len > 0 && send(fd, chunk, (size_t)len, MSG_NOSIGNAL) == len;
}

static int serve(int listener)
{
	struct pollfd fds[CONNECTIONS_MAX + 1] = {{.fd = listener, .events = POLLIN}};
	int count = 1, one = 1;
	for (;;) {
		fds[0].events = count <= CONNECTIONS_MAX ? POLLIN : 0;
		if (poll(fds, (nfds_t)count, -1) < 0)
			return fail("poll");
		for (int i = count - 1; i > 0; i--) {
			if (!fds[i].revents || send_back(fds[i].fd))
				continue;
			close(fds[i].fd);
			fds[i] = fds[--count];
		}
		if (!(fds[0].revents & POLLIN) || count > CONNECTIONS_MAX)
			continue;
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
	}
}

/* PORT [PROGRAM ARGUMENT...]: the program is a second server, which runs beside it. */
int echo(char **argv)
{
	int listener = argv[1] ? listen_on(atoi(argv[1])) : -1;
	if (listener < 0)
		return fail(argv[1] ? argv[1] : "no port");
	if (argv[2]) {
		pid_t pid = fork();
		if (pid == 0) {
			execvp(argv[2], argv + 2);
			_exit(fail(argv[2]) + 126);
		}
		if (pid < 0)
			return fail("fork");
	}
	return serve(listener);
}
