#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ARGS: flags, fd of a cgroup2 directory or -1. The child goes on as a child of our parent; we say its pid and end. */
int step_clone(struct launch *launch, char **args)
{
	int cgroup = args[1][0] == '-' ? -1 : (int)number(args[1]);
	pid_t pid = clone_into(number(args[0]), cgroup);
	if (pid < 0)
		return fail(launch, "clone3: flags %s", args[0]);
	if (pid == 0)
		return 0;
	char line[32];
	int len = snprintf(line, sizeof line, "pid %d\n", pid);
	_exit(write(FD_STATUS, line, (size_t)len) < 0);
}

/*
 * ARGS: fd of a cgroup v1 `tasks` file. A single thread that moves itself needs no cgroup_threadgroup_rwsem; `cgroup.procs`
 * takes it for writing, which on an idle host waits for an RCU grace period: 10 to 15 ms for each hierarchy.
 */
int step_join(struct launch *launch, char **args)
{
	int fd = (int)number(args[0]);
	if (write(fd, "0", 1) != 1)
		return fail(launch, "cgroup of fd %d", fd);
	close(fd);
	return 0;
}

int step_unshare(struct launch *launch, char **args)
{
	return syscall(SYS_unshare, number(args[0])) < 0 ? fail(launch, "flags %s", args[0]) : 0;
}

int step_session(struct launch *launch, char **args)
{
	(void)launch, (void)args;
	return setsid() < 0 ? -1 : 0;
}

/* None of the harness's supplementary groups: to drop them later would take a capability that a container may not have. */
int step_groups(struct launch *launch, char **args)
{
	(void)launch, (void)args;
	return setgroups(0, NULL);
}

/* A parent that died before the request is noticed by its end of the status pipe; getppid() is 0 in a new pid namespace. */
int step_parent_death(struct launch *launch, char **args)
{
	(void)args;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -1;
	struct pollfd status = {.fd = FD_STATUS};
	if (poll(&status, 1, 0) < 0 || status.revents & POLLERR) {
		errno = EPIPE;
		return fail(launch, "the harness is gone");
	}
	return 0;
}

int step_rlimit(struct launch *launch, char **args)
{
	struct rlimit limit = {.rlim_cur = number(args[1]), .rlim_max = number(args[2])};
	return setrlimit((int)number(args[0]), &limit) < 0 ? fail(launch, "resource %s", args[0]) : 0;
}

int step_umask(struct launch *launch, char **args)
{
	(void)launch;
	umask((mode_t)number(args[0]));
	return 0;
}

/* include/uapi/linux/capability.h, version 3: two words for each set. */
struct cap_header {
	uint32_t version;
	int pid;
};

struct cap_words {
	uint32_t effective, permitted, inheritable;
};

/* ARGS: the mask to keep. Bounding, permitted and effective become the mask, inheritable and ambient empty. */
int step_capabilities(struct launch *launch, char **args)
{
	uint64_t keep = number(args[0]);
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return fail(launch, "bounding set: capability %lu", cap);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return fail(launch, "ambient set");
	struct cap_header header = {.version = 0x20080522};
	struct cap_words words[2];
	for (int i = 0; i < 2; i++) {
		uint32_t word = (uint32_t)(keep >> (32 * i));
		words[i] = (struct cap_words){.effective = word, .permitted = word};
	}
	return syscall(SYS_capset, &header, words) < 0 ? fail(launch, "mask %s", args[0]) : 0;
}

int step_no_new_privs(struct launch *launch, char **args)
{
	(void)launch, (void)args;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int step_loopback(struct launch *launch, char **args)
{
	(void)args;
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return fail(launch, "lo");
	close(fd);
	return 0;
}

int step_hostname(struct launch *launch, char **args)
{
	return sethostname(args[0], strlen(args[0])) < 0 ? fail(launch, "%s", args[0]) : 0;
}

/* The status pipe closes by itself when this works: that is how the harness learns of it. */
int step_exec(struct launch *launch, char **args)
{
	(void)args;
	char *argv[] = {"harness-agent", NULL}, *env[] = {NULL};
	if (close_from(FD_TREE + 1, CLOSE_RANGE_CLOEXEC) < 0)
		return fail(launch, "close_range");
	syscall(SYS_execveat, FD_AGENT, "", argv, env, AT_EMPTY_PATH);
	return fail(launch, "the agent");
}
