/* Into namespaces and cgroups. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
enum { JOINED_MAX = 8, NS_GET_NSTYPE = 0xb703 /* include/uapi/linux/nsfs.h */ };

int write_file(int dirfd, const char *path, const char *text)
{
	int fd = openat(dirfd, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t len = (ssize_t)strlen(text);
	return close_saving(fd, write(fd, text, (size_t)len) == len ? 0 : -1);
}

/* Join one of those that are open, unless that needs a privilege which only another one brings. */
static int join_open(int *fds, const unsigned long *kinds, int count, bool users)
{
	int failed = -1;
	for (int i = 0; i < count; i++) {
		if (fds[i] < 0 || (kinds[i] == CLONE_NEWUSER) != users)
			continue;
		if (setns(fds[i], (int)kinds[i]) < 0) {
			failed = i;
			continue;
		}
		close(fds[i]);
		fds[i] = -1;
	}
	return failed;
}

/*
 * ARGS: (flag, path)... All are opened before one is joined: a mount namespace changes what paths mean. Those that the
 * host's root owns are joined with its privileges, then the user namespace, then those that only its root may join.
 */
int step_namespaces(struct launch *launch, int count, char **args)
{
	int fds[JOINED_MAX];
	unsigned long kinds[JOINED_MAX];
	if (count % 2) {
		errno = EINVAL;
		return -1;
	}
	for (int i = 0; i < count / 2; i++) {
		kinds[i] = (unsigned long)number(args[2 * i]);
		fds[i] = open(args[2 * i + 1], O_RDONLY | O_CLOEXEC);
		if (fds[i] < 0)
			return fail(launch, "%s", args[2 * i + 1]);
		if (ioctl(fds[i], NS_GET_NSTYPE) != (int)kinds[i]) {
			errno = EINVAL;
			return fail(launch, "%s: not a namespace of this kind", args[2 * i + 1]);
		}
	}
	join_open(fds, kinds, count / 2, false);
	int failed = join_open(fds, kinds, count / 2, true);
	if (failed < 0)
		failed = join_open(fds, kinds, count / 2, false);
	return failed < 0 ? 0 : fail(launch, "%s", args[2 * failed + 1]);
}

/* ARGS: (clock, seconds, ns)... A new time namespace for what we clone; time_namespaces(7). */
int step_time(struct launch *launch, int count, char **args)
{
	if (unshare(CLONE_NEWTIME) < 0)
		return fail(launch, "CLONE_NEWTIME");
	for (int i = 0; i + 2 < count; i += 3) {
		char line[128];
		snprintf(line, sizeof line, "%s %s %s\n", args[i], args[i + 1], args[i + 2]);
		if (write_file(AT_FDCWD, "/proc/self/timens_offsets", line) < 0)
			return fail(launch, "%s", args[i]);
	}
	return 0;
}

/* The child of a new user namespace: wait until the runtime has mapped its ids, then be root there, if there is a root. */
static int become_root(struct launch *launch, bool root)
{
	if (tell(launch, "sync maps") < 0 || read_state(launch) < 0)
		return -1;
	if (root && (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0))
		return fail(launch, "root of the new user namespace");
	return 0;
}

/*
 * ARGS: flags, fd of a cgroup2 directory or -1 [, `root` or "": what a new user namespace has]. The child goes on, as a child
 * of our parent; we say its pid, and end.
 */
int step_clone(struct launch *launch, int count, char **args)
{
	int cgroup = args[1][0] == '-' ? -1 : (int)number(args[1]);
	pid_t pid = clone_into(number(args[0]) | CLONE_PARENT, cgroup);
	if (pid < 0)
		return fail(launch, "clone3: flags %s", args[0]);
	if (pid > 0)
		_exit(tell(launch, "pid %d", pid) < 0);
	return count < 3 ? 0 : become_root(launch, args[2][0]);
}

/*
 * ARGS: fd of a cgroup v1 `tasks` file. A single thread that moves itself needs no cgroup_threadgroup_rwsem; `cgroup.procs`
 * takes it for writing, which on an idle host waits for an RCU grace period: 10 to 15 ms for each hierarchy.
 */
int step_join(struct launch *launch, int count, char **args)
{
	int fd = (int)number(args[0]);
	if (write(fd, "0", 1) != 1)
		return fail(launch, "cgroup of fd %d", fd);
	close(fd);
	return 0;
}

/* A parent that died before the request is noticed by its end of the status socket; getppid() is 0 in a new pid namespace. */
int step_parent_death(struct launch *launch, int count, char **args)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -1;
	struct pollfd status = {.fd = launch->status};
	if (poll(&status, 1, 0) > 0 && status.revents & (POLLERR | POLLHUP)) { /* a filter may refuse to look */
		errno = EPIPE;
		return fail(launch, "the runtime is gone");
	}
	return 0;
}
