#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 1 << 16 };

bool ready_line(struct ready_check *check, const struct spec *spec, const char *data, size_t len)
{
	bool found = false;
	for (const char *end; len > 0 && (end = memchr(data, '\n', len)); len -= (size_t)(end + 1 - data), data = end + 1) {
		buf_add(&check->seen, data, (size_t)(end - data));
		found = found || memmem(check->seen.data, check->seen.len, spec->ready_text, strlen(spec->ready_text));
		check->seen.len = 0;
	}
	if (check->seen.len + len < LINE_MAX_BYTES)
		buf_add(&check->seen, data, len);
	return found;
}

/* Asking costs the workload time (on one slow CPU most of all), so ask more rarely as time passes: the moment is
 * known to 1/16 of the time since exec, never better than 0.2 ms, never worse than 5 ms. */
uint64_t ready_interval_ns(uint64_t since_exec_ns)
{
	uint64_t interval = since_exec_ns / 16;
	return interval < 200000 ? 200000 : interval > 5000000 ? 5000000 : interval;
}

/* Connecting over loopback is decided at once; the bound only guards against a full accept queue. */
static int connect_loopback(int port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval bound = {.tv_usec = 50000};
	struct sockaddr_in to = {
	    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (fd < 0)
		die("ready: socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
	if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
		return fd;
	close(fd);
	return -1;
}

static void give_up(struct ready_check *check)
{
	close(check->socket);
	check->socket = -1;
	check->seen.len = 0;
}

static bool answered(struct ready_check *check)
{
	char chunk[256];
	ssize_t len = recv(check->socket, chunk, sizeof chunk, MSG_DONTWAIT);
	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (len > 0)
		buf_add(&check->seen, chunk, (size_t)len);
	if (check->seen.len < 13 && len > 0)
		return false;
	bool http = check->seen.len >= 13 && memcmp(check->seen.data, "HTTP/1.", 7) == 0;
	int status = http ? atoi(check->seen.data + 9) : 0;
	give_up(check);
	return status >= 100 && status < 500;
}

bool ready_poll(struct ready_check *check, const struct spec *spec)
{
	if (check->socket >= 0)
		return answered(check);
	check->socket = connect_loopback(spec->ready_port);
	if (check->socket < 0)
		return false;
	if (spec->ready == READY_TCP) {
		give_up(check);
		return true;
	}
	struct buf request = {0};
	buf_str(&request, "GET ");
	buf_str(&request, spec->ready_path);
	buf_str(&request, " HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n");
	if (send(check->socket, request.data, request.len, MSG_NOSIGNAL) != (ssize_t)request.len)
		give_up(check);
	free(request.data);
	return false;
}
