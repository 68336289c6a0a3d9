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

enum { LINE_MAX_BYTES = 1 << 16, REST_MAX_BYTES = 1 << 20 };

enum { REST_OF_BAD_NS = 50000000 };

#define ATTEMPT_NS 10000000000u

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
	if (fd < 0 && (errno == ENOMEM || errno == ENOBUFS))
		return -1; /* the workload has used up the memory: not ready */
	if (fd < 0)
		die("ready: socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
	if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
		return fd;
	close(fd);
	return -1;
}

/* In a network that is not our own another server may have the port, and its answer would be taken for the workload's. */
void ready_refuse_other_server(const struct spec *spec)
{
	if (getpid() == 1 || (spec->ready != READY_TCP && spec->ready != READY_HTTP))
		return;
	int fd = connect_loopback(spec->ready_port);
	if (fd >= 0)
		die("ready: port %d: something listens on it already, before the workload runs", spec->ready_port);
}

static void give_up(struct ready_check *check)
{
	close(check->socket);
	check->socket = -1;
	check->answered = false;
	check->rest_bytes = check->seen.len = 0;
}

/* `HTTP/1.x NNN`, below 500. */
static bool is_good_status(const char *head)
{
	return memcmp(head, "HTTP/1.", 7) == 0 && head[8] == ' ' && head[9] >= '1' && head[9] <= '4';
}

/*
 * True once, when the status is there and good. The rest of the answer is read too: a server whose client is gone before
 * it has sent everything may fail, or be killed by SIGPIPE. That of a bad answer must not delay the next attempt for long.
 */
static bool answered(struct ready_check *check)
{
	char chunk[4096];
	ssize_t len = recv(check->socket, chunk, sizeof chunk, MSG_DONTWAIT);
	bool over = len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR);
	bool good = false;
	if (len > 0 && check->answered)
		check->rest_bytes += (size_t)len;
	else if (len > 0)
		buf_add(&check->seen, chunk, (size_t)len);
	if (!check->answered && check->seen.len >= 13) {
		check->answered = true;
		good = is_good_status(check->seen.data);
		if (!good)
			check->until_ns = now_ns() + REST_OF_BAD_NS;
	}
	if (over || check->rest_bytes > REST_MAX_BYTES || now_ns() >= check->until_ns)
		give_up(check);
	return good;
}

/*
 * A server may take a connection and never answer it: try another one, but only after a time in which a slow server has
 * answered, which grows with the server's own.
 */
static uint64_t attempt_ns(uint64_t since_exec_ns)
{
	return since_exec_ns / 2 > ATTEMPT_NS ? since_exec_ns / 2 : ATTEMPT_NS;
}

bool ready_poll(struct ready_check *check, const struct spec *spec, uint64_t since_exec_ns)
{
	if (check->socket >= 0)
		return answered(check);
	check->socket = connect_loopback(spec->ready_port);
	if (check->socket < 0)
		return false;
	check->until_ns = now_ns() + attempt_ns(since_exec_ns);
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
