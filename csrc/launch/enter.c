/* Into namespaces and cgroups. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { JOINED_MAX = 8 };

/* ARGS: (flag, path)..., in the order of joining. All are opened before: a mount namespace changes what paths mean. */
int step_namespaces(struct launch *launch, int count, char **args)
{
	int fds[JOINED_MAX];
	errno = EINVAL;
	if (count % 2)
		return -1;
	for (int i = 0; i < count / 2; i++)
		if ((fds[i] = open(args[2 * i + 1], O_RDONLY | O_CLOEXEC)) < 0)
			return fail(launch, "%s", args[2 * i + 1]);
	for (int i = 0; i < count / 2; i++) {
		if (setns(fds[i], (int)number(args[2 * i])) < 0)
			return fail(launch, "%s%s", args[2 * i + 1], errno == EINVAL ? ": not a namespace of this kind" : "");
		close(fds[i]);
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
