#include "agent.h"

#include "../probe/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MAX_BYTES = 128 * 1024 };

struct agent {
	struct spec spec;
	struct workload workload;
	struct relay relay;
	struct ready_check check;
	bool ready, ended;
	int signals;
};

static void set_ready(struct agent *agent)
{
	agent->ready = true;
	mark("ready", "%s", "");
	if (agent->spec.ready == READY_HTTP)
		mark("answer", "%s", "");
}

/* A guest's kernel says on its console whom it has killed for want of memory, but we have silenced it: it counts them too. */
static void tell_of_memory(void)
{
	struct buf text = {0};
	if (buf_file(&text, AT_FDCWD, "/proc/vmstat")) {
		buf_add(&text, "", 1);
		const char *count = strstr(text.data, "oom_kill ");
		if (count && atoi(count + strlen("oom_kill ")) > 0)
			mark("oom", "%d", atoi(count + strlen("oom_kill ")));
	}
	free(text.data);
}

/* Reap everything, as pid 1 must; note when the workload ends. */
static void reap(struct agent *agent)
{
	struct signalfd_siginfo info;
	if (read(agent->signals, &info, sizeof info) < 0)
		return;
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
		if (pid != agent->workload.pid)
			continue;
		agent->workload.exited = true;
		agent->workload.returncode = exit_code(status);
		if (agent->workload.returncode == 137 && agent->spec.vm)
			tell_of_memory();
		if (agent->spec.ready == READY_EXIT && agent->workload.returncode == 0)
			set_ready(agent);
		mark("exited", "%d", agent->workload.returncode);
	}
}

static bool asks(const struct agent *agent)
{
	return !agent->ready && !agent->workload.exited && (agent->spec.ready == READY_TCP || agent->spec.ready == READY_HTTP);
}

/* The next moment at which readiness must be looked at, in ns from now; -1 when only an event can change anything. */
static int64_t wait_ns(const struct agent *agent)
{
	uint64_t now = now_ns();
	if (agent->check.socket >= 0)
		return agent->check.until_ns > now ? (int64_t)(agent->check.until_ns - now) : 0;
	return asks(agent) ? (int64_t)ready_interval_ns(now - agent->workload.exec_ns) : -1;
}

static void wait_for_events(struct agent *agent, struct pollfd fds[5])
{
	int64_t left_ns = wait_ns(agent);
	struct timespec bound = {.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000};
	fds[0] = (struct pollfd){.fd = agent->relay.open ? FD_CONTROL : -1, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = agent->workload.out, .events = POLLIN};
	fds[2] = (struct pollfd){.fd = agent->workload.err, .events = POLLIN};
	fds[3] = (struct pollfd){.fd = agent->signals, .events = POLLIN};
	fds[4] = (struct pollfd){.fd = agent->check.socket, .events = POLLIN};
	ppoll(fds, 5, left_ns >= 0 ? &bound : NULL, NULL);
}

/* A guest loads the console's modules only when nobody waits for it any more, or when too much output piles up. */
static void open_console_when_due(struct agent *agent)
{
	const struct relay *relay = &agent->relay;
	if (relay->open)
		return;
	if (agent->ready || agent->workload.exited || relay->out_wait.len + relay->err_wait.len > WAIT_MAX_BYTES) {
		vm_open_console(&agent->spec);
		relay_flush(&agent->relay);
	}
}

/* One round; false when the host has said that it is over. */
static bool step(struct agent *agent)
{
	struct pollfd fds[5];
	wait_for_events(agent, fds);
	if (fds[1].revents)
		relay_output(&agent->relay, &agent->workload.out, false, &agent->spec, &agent->check, &agent->ready);
	if (fds[2].revents)
		relay_output(&agent->relay, &agent->workload.err, true, &agent->spec, &agent->check, &agent->ready);
	bool due = agent->check.socket >= 0 ? fds[4].revents || now_ns() >= agent->check.until_ns : asks(agent);
	if (due && ready_poll(&agent->check, &agent->spec, now_ns() - agent->workload.exec_ns))
		set_ready(agent);
	if (fds[3].revents)
		reap(agent);
	open_console_when_due(agent);
	return !fds[0].revents || control_serve(&agent->spec, &agent->workload, &agent->relay);
}

static void catch_children(struct agent *agent)
{
	sigset_t children;
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	signal(SIGPIPE, SIG_IGN);
	agent->signals = signalfd(-1, &children, SFD_CLOEXEC);
	if (agent->signals < 0)
		die("signalfd: %s", strerror(errno));
}

/* The null device that we were given is the host's: whoever has it as an fd could change its mode and owner there. */
static void take_own_null(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup2(null, 0) < 0)
		die("/dev/null: %s", strerror(errno));
	close(null);
}

static void on_parent_death(int signal)
{
	end_processes();
	_exit(128 + signal);
}

/*
 * With pid 1 everything ends, but where we are not pid 1 the signal that the launcher asked for when the harness dies
 * (SIGKILL) would leave what the workload has started: ask for one that can be caught.
 */
static void catch_parent_death(void)
{
	struct sigaction action = {.sa_handler = on_parent_death};
	if (getpid() != 1 && (sigaction(SIGTERM, &action, NULL) < 0 || prctl(PR_SET_PDEATHSIG, SIGTERM) < 0))
		die("parent death: %s", strerror(errno));
}

/* Host only: how fast the time stamp counter runs, in kHz. A guest without another clock must be told. */
static int print_tsc_khz(void)
{
#if defined(__x86_64__)
	uint64_t start_ns = now_ns(), start = __builtin_ia32_rdtsc();
	poll(NULL, 0, 50);
	uint64_t took_ns = now_ns() - start_ns, ticks = __builtin_ia32_rdtsc() - start;
	printf("%llu\n", (unsigned long long)(ticks * 1000000 / took_ns));
	return 0;
#else
	return 1;
#endif
}

static int built_in(int argc, char **argv)
{
	const char *name = argv[0] + strlen(BUILT_IN);
	if (strcmp(name, "iobench") == 0)
		return iobench(argc, argv);
	if (strcmp(name, "workbench") == 0)
		return workbench(argv);
	if (strcmp(name, "echo") == 0)
		return echo(argv);
	if (strcmp(name, "touch") == 0)
		return touch(argv);
	if (strcmp(name, "pause") == 0)
		return pause_for_ever();
	if (strcmp(name, "true") == 0)
		return 0;
	if (strcmp(argv[0], BUILT_IN "probe") == 0)
		return probe(argc, argv);
	fprintf(stderr, "%s: there is no such workload in the agent\n", argv[0]);
	return 127;
}

/* Our other name, under which people take the probe into sandboxes that are not ours. */
static bool is_probe(const char *program)
{
	const char *slash = strrchr(program, '/');
	return strcmp(slash ? slash + 1 : program, "harness-probe") == 0;
}

int main(int argc, char **argv)
{
	if (argc > 0 && is_probe(argv[0]))
		return probe(argc, argv);
	if (argc > 1 && strcmp(argv[1], "--filters") == 0)
		return dump_filters(argc - 2, argv + 2);
	if (argc > 0 && strncmp(argv[0], BUILT_IN, strlen(BUILT_IN)) == 0)
		return built_in(argc, argv);
	if (argc == 2 && strcmp(argv[1], "--tsc-khz") == 0)
		return print_tsc_khz();
	if (argc == 2 && strcmp(argv[1], "--kvm-probe") == 0)
		return kvm_probe();
	if (argc == 3 && strcmp(argv[1], "--connect") == 0)
		connect_host(argv[2]);
	static struct agent agent = {.check.socket = -1};
	bool in_system = argc == 2 && strcmp(argv[1], "--in-system") == 0; /* a guest whose pid 1 is another one */
	bool guest = in_system || (getpid() == 1 && fcntl(FD_SPEC, F_GETFD) < 0);
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* as pid 1 is, where it is not */
	if (guest)
		marks_use_port();
	mark("init", "%s", "");
	int spec = guest ? open("spec", O_RDONLY | O_CLOEXEC) : FD_SPEC;
	if (spec < 0)
		die("spec: %s", strerror(errno));
	spec_read(&agent.spec, spec);
	if (guest)
		vm_boot(&agent.spec);
	else
		take_own_null(), catch_parent_death();
	for (int fd = FD_MARKS; fd <= FD_TREE; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	catch_children(&agent);
	agent.relay.open = !guest;
	if (agent.spec.hold && !warm_hold(&agent.spec, &agent.workload, &agent.relay))
		agent.ended = true;
	else
		workload_start(&agent.workload, &agent.spec);
	while (!agent.ended && step(&agent))
		;
	if (guest)
		vm_power_off();
	end_processes();
	return 0;
}
