#include "agent.h"
#include "../probe/probe.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REQUEST_MAX = 8 << 20, CALIBRATE_MAX = 10000, DRAIN_NS = 2000000000, SPIN_NS = 5000000 };

static bool read_exactly(void *data, size_t len)
{
	for (char *at = data; len > 0;) {
		ssize_t done = read(FD_CONTROL, at, len);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		at += done, len -= (size_t)done;
	}
	return true;
}

static bool read_line(char *line, size_t size)
{
	for (size_t i = 0; i + 1 < size; i++) {
		if (!read_exactly(line + i, 1))
			return false;
		if (line[i] == '\n') {
			line[i] = 0;
			return true;
		}
	}
	return false;
}

static void reply(const char *kind, const struct buf *body)
{
	char head[64];
	int len = snprintf(head, sizeof head, "%s %zu\n", kind, body->len);
	write_all(FD_CONTROL, head, (size_t)len);
	write_all(FD_CONTROL, body->data ? body->data : "", body->len);
}

static void sink(struct relay *relay, bool is_err, const char *data, size_t len)
{
	*(is_err ? &relay->err_bytes : &relay->out_bytes) += len;
	if (relay->open)
		write_all(is_err ? FD_ERR : FD_OUT, data, len);
	else
		buf_add(is_err ? &relay->err_wait : &relay->out_wait, data, len);
}

void relay_flush(struct relay *relay)
{
	relay->open = true;
	write_all(FD_OUT, relay->out_wait.data, relay->out_wait.len);
	write_all(FD_ERR, relay->err_wait.data, relay->err_wait.len);
	free(relay->out_wait.data), free(relay->err_wait.data);
	relay->out_wait = relay->err_wait = (struct buf){0};
}

void relay_output(struct relay *relay, int *source, bool is_err, const struct spec *spec, struct ready_check *check,
		  bool *ready)
{
	static char chunk[1 << 16];
	ssize_t len = read(*source, chunk, sizeof chunk);
	if (len < 0 && errno == EINTR)
		return;
	if (len <= 0) {
		close(*source);
		*source = -1;
		return;
	}
	if (!is_err && !*ready && spec->ready == READY_LINE && ready_line(check, spec, chunk, (size_t)len)) {
		*ready = true;
		mark("ready", "%s", "");
	}
	sink(relay, is_err, chunk, (size_t)len);
}

/* A fault that shall be this very process', and no child's (csrc/probe/faults.c). */
static bool is_own_fault(char **argv, size_t argc)
{
	return argc == 4 && strcmp(argv[0], BUILT_IN "probe") == 0 && strcmp(argv[1], "fault") == 0 &&
	       strncmp(argv[2], INIT_FAULT, strlen(INIT_FAULT)) == 0;
}

static void serve_exec(const struct spec *spec, const char *arguments)
{
	unsigned long long timeout_ns;
	size_t len;
	struct buf body = {0};
	if (sscanf(arguments, "%llu %zu", &timeout_ns, &len) != 2 || len == 0 || len > REQUEST_MAX) {
		buf_str(&body, "exec: bad request");
		reply("ERR", &body);
		free(body.data);
		return;
	}
	char *words = malloc(len + 1);
	if (!words)
		die("exec: out of memory");
	if (!read_exactly(words, len))
		die("exec: the request ended early");
	words[len] = 0;
	size_t argc = 0;
	for (size_t i = 0; i <= len; i++)
		argc += words[i] == 0;
	char **argv = calloc(argc + 1, sizeof *argv);
	if (!argv)
		die("exec: out of memory");
	argc = 0;
	for (char *at = words; at < words + len; at += strlen(at) + 1)
		argv[argc++] = at;
	if (is_own_fault(argv, argc))
		buf_fmt(&body, "%d 0 0\n", init_fault(argv[2] + strlen(INIT_FAULT), argv[3]));
	else
		run_command(spec, argv, timeout_ns, &body);
	reply("OK", &body);
	free(words), free(argv), free(body.data);
}

/* Sleep for most of it, and watch the clock for the rest: a timer alone is late by up to a tick. */
static void wait_exactly(uint64_t until_ns)
{
	for (uint64_t now; (now = now_ns()) < until_ns;)
		if (until_ns - now > 2 * SPIN_NS)
			poll(NULL, 0, (int)((until_ns - now - SPIN_NS) / 1000000));
}

/*
 * `calibrate N [CHANNEL [GAP_NS]]`: marks through the channel `marks` or, to compare it, `control`; each GAP_NS after the
 * one before, to see whether the host finds that time again.
 */
static void serve_calibrate(const char *arguments)
{
	int count = 0;
	unsigned long long gap_ns = 0;
	char channel[16] = "marks", number[16];
	struct buf empty = {0};
	sscanf(arguments, "%d %15s %llu", &count, channel, &gap_ns);
	for (int i = 0; i < count && i < CALIBRATE_MAX; i++) {
		uint64_t start = now_ns();
		snprintf(number, sizeof number, "%d", i);
		if (strcmp(channel, "control") == 0)
			mark_on(FD_CONTROL, "cal", number);
		else
			mark("cal", "%d", i);
		uint64_t took = now_ns() - start;
		mark("took", "%llu", (unsigned long long)took);
		if (gap_ns)
			wait_exactly(start + gap_ns);
		else
			poll(NULL, 0, 2); /* let the reader sleep again, as it does before a real mark */
	}
	reply("OK", &empty);
}

/* End every process and relay what is left in the pipes, so that no byte of output is lost. */
static void serve_stop(const struct spec *spec, struct workload *workload, struct relay *relay)
{
	struct ready_check unused = {.socket = -1};
	struct buf body = {0};
	bool ready = true;
	workload->pid = 0; /* this end is the host's doing: no mark tells of it */
	end_processes();
	uint64_t deadline_ns = now_ns() + DRAIN_NS;
	while ((workload->out >= 0 || workload->err >= 0) && now_ns() < deadline_ns) {
		struct pollfd fds[2] = {{.fd = workload->out, .events = POLLIN}, {.fd = workload->err, .events = POLLIN}};
		poll(fds, 2, 100);
		if (fds[0].revents)
			relay_output(relay, &workload->out, false, spec, &unused, &ready);
		if (fds[1].revents)
			relay_output(relay, &workload->err, true, spec, &unused, &ready);
	}
	buf_fmt(&body, "%llu %llu\n", (unsigned long long)relay->out_bytes, (unsigned long long)relay->err_bytes);
	reply("OK", &body);
	free(body.data);
}

bool control_serve(const struct spec *spec, struct workload *workload, struct relay *relay)
{
	char line[256];
	struct buf body = {0};
	if (!read_line(line, sizeof line) || strcmp(line, "bye") == 0)
		return false;
	if (strncmp(line, "exec ", 5) == 0) {
		serve_exec(spec, line + 5);
		return true;
	}
	if (strncmp(line, "calibrate ", 10) == 0) {
		serve_calibrate(line + 10);
		return true;
	}
	if (strcmp(line, "stop") == 0) {
		serve_stop(spec, workload, relay);
		return true;
	}
	bool worked = true;
	if (strcmp(line, "go") == 0)
		relay->go = true, buf_str(&body, "go");
	else if (strcmp(line, "again") == 0)
		worked = warm_again(spec, &body);
	else if (strcmp(line, "touch") == 0)
		warm_touch(workload, &body);
	else if (strcmp(line, "attest") == 0)
		attest(&body, spec, workload);
	else if (strcmp(line, "inside") == 0)
		inside(&body, workload);
	bool known = body.len > 0;
	if (!known) {
		buf_str(&body, "unknown request: ");
		buf_str(&body, line);
	}
	reply(known && worked ? "OK" : "ERR", &body);
	free(body.data);
	return true;
}
