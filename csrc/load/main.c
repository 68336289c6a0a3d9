#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, COUNT_MAX = 10000000, CONNECT_S = 10 };

enum state { IDLE, CONNECTING, ASKED };

struct connection {
	int fd; /* -1 when the server has closed it */
	enum state state;
	uint64_t request; /* the number of the request that it carries */
	uint64_t sent_ns;
	struct answer answer;
};

/* What is known of one request, as printed: see docs/load.md. */
struct record {
	uint64_t latency_ns, lag_ns, service_ns;
};

static struct {
	struct sockaddr_in server;
	enum framing framing;
	double rate; /* requests a second; 0: each connection asks as soon as it was answered */
	uint64_t count, warmup, connections, timeout_ns, body_bytes;
	char request[REQUEST_MAX];
	size_t request_len;
} plan;

static struct connection connections[CONNECTIONS_MAX];
static struct record *records;
static uint64_t start_ns, counted_ns, next, done, wrong, queued;
static int events;
static char last_error[200];

static void fail(const char *what)
{
	fprintf(stderr, "harness-load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t intended_ns(uint64_t request)
{
	return start_ns + (uint64_t)((double)request * 1e9 / plan.rate);
}

static uint64_t cpu_ns(void)
{
	struct rusage use;
	getrusage(RUSAGE_SELF, &use);
	return ((uint64_t)use.ru_utime.tv_sec + (uint64_t)use.ru_stime.tv_sec) * 1000000000ull +
	       ((uint64_t)use.ru_utime.tv_usec + (uint64_t)use.ru_stime.tv_usec) * 1000;
}

/* Connect; without waiting for it once the clock runs. */
static void open_connection(struct connection *connection, bool wait)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (wait ? 0 : SOCK_NONBLOCK), 0);
	struct timeval bound = {.tv_sec = CONNECT_S};
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
	if (fd < 0)
		fail("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (wait) /* connect(2) heeds it, and so a server that is not there is told soon */
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
	if (connect(fd, (struct sockaddr *)&plan.server, sizeof plan.server) < 0 && errno != EINPROGRESS)
		fail("connect");
	if (wait) {
		close(fd), fd = -1; /* it answers: what follows need not wait for addresses to be resolved */
		connection->fd = -1;
		return;
	}
	connection->fd = fd;
	connection->state = CONNECTING;
	if (epoll_ctl(events, EPOLL_CTL_ADD, fd, &event) < 0)
		fail("epoll_ctl");
}

static void close_connection(struct connection *connection)
{
	close(connection->fd);
	connection->fd = -1;
	connection->state = IDLE;
}

static void note_error(struct connection *connection, const char *what, int code)
{
	if (!last_error[0])
		snprintf(last_error, sizeof last_error, "%s: %s", what, code ? strerror(code) : "not what was expected");
	wrong++, done++;
	close_connection(connection);
}

static void send_request(struct connection *connection)
{
	answer_reset(&connection->answer);
	connection->state = ASKED;
	connection->sent_ns = now_ns();
	ssize_t sent = send(connection->fd, plan.request, plan.request_len, MSG_NOSIGNAL);
	if (sent != (ssize_t)plan.request_len)
		note_error(connection, "send", sent < 0 ? errno : 0);
}

static void assign(struct connection *connection, bool late)
{
	uint64_t now = now_ns(), due = plan.rate > 0 ? intended_ns(next) : now;
	connection->request = next++;
	if (connection->request == plan.warmup)
		counted_ns = due;
	/* Only where a connection was free has the client itself been late. */
	records[connection->request].lag_ns = late || now < due ? 0 : now - due;
	queued += late;
	if (connection->fd < 0) {
		connection->sent_ns = now;
		open_connection(connection, false);
	} else {
		send_request(connection);
	}
}

static struct connection *free_connection(void)
{
	for (uint64_t i = 0; i < plan.connections; i++)
		if (connections[i].state == IDLE)
			return &connections[i];
	return NULL;
}

/* Give every request that is due to a free connection; `late`: they waited for one. */
static void assign_due(bool late)
{
	while (next < plan.count && (plan.rate <= 0 || intended_ns(next) <= now_ns())) {
		struct connection *connection = free_connection();
		if (!connection)
			return;
		assign(connection, late && plan.rate > 0);
	}
}

static void finish(struct connection *connection)
{
	uint64_t now = now_ns(), request = connection->request;
	uint64_t from = plan.rate > 0 ? intended_ns(request) : connection->sent_ns;
	records[request].latency_ns = now - from;
	records[request].service_ns = now - connection->sent_ns;
	done++;
	connection->state = IDLE;
	if (connection->answer.closes)
		close_connection(connection);
}

static void receive(struct connection *connection)
{
	static char chunk[65536];
	while (connection->fd >= 0) {
		ssize_t len = recv(connection->fd, chunk, sizeof chunk, MSG_DONTWAIT);
		if (len < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (len <= 0 && connection->state == ASKED) {
			note_error(connection, "receive", len < 0 ? errno : ECONNRESET);
			return;
		}
		if (len <= 0) {
			close_connection(connection);
			return;
		}
		enum verdict verdict = connection->state != ASKED ? WRONG
			: answer_take(&connection->answer, plan.framing, chunk, (size_t)len, plan.request,
				      plan.request_len, plan.body_bytes);
		if (verdict == WRONG) {
			note_error(connection, "answer", 0);
			return;
		}
		if (verdict == COMPLETE)
			finish(connection);
	}
}

static void handle(struct connection *connection, uint32_t what)
{
	if (connection->fd < 0)
		return;
	if (connection->state == CONNECTING) {
		int error = 0;
		socklen_t len = sizeof error;
		getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		if (error)
			note_error(connection, "connect", error);
		else if (what & EPOLLOUT)
			send_request(connection);
		return;
	}
	if (what & (EPOLLIN | EPOLLHUP | EPOLLERR))
		receive(connection);
}

/* Wait until something happens, or the next request is due and can be sent. */
static void wait_and_handle(uint64_t end_ns)
{
	struct epoll_event ready[64];
	bool can_send = next < plan.count && free_connection();
	uint64_t now = now_ns(), until = can_send && plan.rate > 0 ? intended_ns(next) : end_ns;
	uint64_t left = until > now ? until - now : 0;
	struct timespec bound = {.tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000)};
	long count = syscall(SYS_epoll_pwait2, events, ready, 64, &bound, NULL, 0); /* Linux 5.11; musl has no wrapper */
	if (count < 0 && errno != EINTR)
		fail("epoll_pwait2");
	bool all_busy = next < plan.count && !free_connection();
	for (long i = 0; i < count; i++)
		handle(ready[i].data.ptr, ready[i].events);
	assign_due(all_busy);
}

static void run(void)
{
	for (uint64_t i = 0; i < plan.connections; i++)
		connections[i].fd = -1, connections[i].state = IDLE;
	open_connection(&connections[0], true);
	start_ns = counted_ns = now_ns() + 1000000;
	uint64_t lasts_ns = plan.rate > 0 ? (uint64_t)((double)plan.count * 1e9 / plan.rate) : 0;
	uint64_t end_ns = start_ns + lasts_ns + plan.timeout_ns;
	if (plan.rate <= 0)
		assign_due(false);
	while (done < plan.count && now_ns() < end_ns)
		wait_and_handle(end_ns);
}

static uint64_t number(const char *text, uint64_t most)
{
	char *end;
	errno = 0;
	uint64_t value = strtoull(text, &end, 10);
	if (errno || *end || value > most) {
		fprintf(stderr, "harness-load: %s: not a number up to %llu\n", text, (unsigned long long)most);
		exit(2);
	}
	return value;
}

static void read_plan(char **argv)
{
	static const char *const framings[] = {"http", "resp", "echo"};
	plan.server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)number(argv[2], 65535))};
	int known = inet_pton(AF_INET, argv[1], &plan.server.sin_addr);
	for (plan.framing = HTTP; plan.framing <= ECHO && strcmp(argv[3], framings[plan.framing]); plan.framing++)
		;
	plan.rate = strtod(argv[4], NULL);
	plan.warmup = number(argv[6], COUNT_MAX);
	plan.count = number(argv[5], COUNT_MAX) + plan.warmup;
	plan.connections = number(argv[7], CONNECTIONS_MAX);
	plan.timeout_ns = number(argv[8], 3600000) * 1000000;
	plan.body_bytes = number(argv[9], 1ull << 40);
	for (ssize_t len; (len = read(0, plan.request + plan.request_len, REQUEST_MAX - plan.request_len)) > 0;)
		plan.request_len += (size_t)len;
	if (known != 1 || plan.framing > ECHO || plan.connections == 0 || plan.request_len == 0 || plan.rate < 0) {
		fprintf(stderr, "harness-load: wrong arguments\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	if (argc != 10) {
		fprintf(stderr, "usage: harness-load ADDRESS PORT http|resp|echo RATE COUNT WARMUP CONNECTIONS TIMEOUT_MS"
				" BODY_BYTES <REQUEST\n");
		return 2;
	}
	read_plan(argv);
	records = calloc(plan.count + 1, sizeof *records);
	events = epoll_create1(EPOLL_CLOEXEC);
	if (!records || events < 0)
		fail("start");
	prctl(PR_SET_TIMERSLACK, 1); /* else a sleep takes 50 us longer than asked for */
	uint64_t cpu = cpu_ns();
	run();
	uint64_t now = now_ns();
	printf("{\"schema\":\"harness.load/1\",\"asked\":%llu,\"done\":%llu,\"wrong\":%llu,\"queued\":%llu,\"warmup\":%llu,"
	       "\"elapsed_ns\":%llu,\"counted_ns\":%llu,\"cpu_ns\":%llu,\"error\":\"%s\"}\n",
	       (unsigned long long)next, (unsigned long long)(done - wrong), (unsigned long long)wrong,
	       (unsigned long long)queued, (unsigned long long)plan.warmup, (unsigned long long)(now - start_ns),
	       (unsigned long long)(now > counted_ns ? now - counted_ns : 0), (unsigned long long)(cpu_ns() - cpu),
	       last_error);
	fwrite(records + plan.warmup, sizeof *records, plan.count - plan.warmup, stdout);
	return fflush(stdout) == 0 ? 0 : 1;
}
