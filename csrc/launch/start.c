/* What passes between the runtime and us, the hooks, and the end: the container's own program. */
#include "launch.h"

#include "../shared/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROC_MAGIC = 0x9fa0, DEVPTS_MAGIC = 0x1cd1, STATE_MAX = 1 << 20 };
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

/* ARGS: fd, name. A mark of the agent's form, with our clock. */
int step_mark(struct launch *launch, int count, char **args)
{
	char line[128];
	int len = snprintf(line, sizeof line, "\x1e%s %llu\n", args[1], (unsigned long long)now_ns());
	if (len >= (int)sizeof line) {
		errno = ENAMETOOLONG;
		return fail(launch, "%s", args[1]);
	}
	return write((int)number(args[0]), line, (size_t)len) == len ? 0 : -1;
}

/* Every step's time is told before exec. */
int step_trace(struct launch *launch, int count, char **args)
{
	launch->traced = true;
	return 0;
}

static void tell_times(struct launch *launch)
{
	if (launch->traced && tell(launch, "trace%s", launch->times) < 0)
		_exit(1); /* nobody listens: the runtime is gone */
	launch->times_len = launch->times[0] = 0;
}

/* Hold the host's /proc, before another root hides it. */
int step_proc(struct launch *launch, int count, char **args)
{
	struct statfs st;
	launch->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (launch->proc < 0 || fstatfs(launch->proc, &st) < 0)
		return fail(launch, "/proc");
	errno = ENOTDIR;
	return st.f_type == PROC_MAGIC ? 0 : fail(launch, "/proc: not a proc file system");
}

/*
 * The multiplexer of the container's own devpts. Where we did not mount it (a bind, or a container that runs already) it must
 * be one before anything in it is opened; the host's is never taken for it.
 */
static int open_multiplexer(struct launch *launch)
{
	struct statfs st;
	int root = launch->root >= 0 ? launch->root : open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (launch->devpts < 0)
		launch->devpts = open_beneath(root, "dev/pts", O_PATH | O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (launch->devpts < 0 || fstatfs(launch->devpts, &st) < 0)
		return -1;
	errno = ENODEV;
	return st.f_type == DEVPTS_MAGIC ? openat(launch->devpts, "ptmx", O_RDWR | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC) : -1;
}

static int bind_console(struct launch *launch, int slave)
{
	int target = open_made(launch->root, "dev/console", false, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	return target < 0 ? -1 : close_saving(target, bind_over(slave, "", 0, 0, target));
}

/*
 * ARGS: uid, rows, columns (0: as they are), `console` to bind it to /dev/console or "". The other end is opened through the
 * multiplexer itself (TIOCGPTPEER, Linux 4.13), by no path.
 */
int step_terminal(struct launch *launch, int count, char **args)
{
	int locked = 0, master = open_multiplexer(launch);
	struct winsize size = {.ws_row = (unsigned short)number(args[1]), .ws_col = (unsigned short)number(args[2])};
	if (master < 0 || ioctl(master, TIOCSPTLCK, &locked) < 0)
		return fail(launch, "/dev/pts/ptmx");
	int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	if (slave < 0 || fchown(slave, (uid_t)number(args[0]), (gid_t)-1) < 0)
		return fail(launch, "the terminal");
	if (size.ws_row && ioctl(slave, TIOCSWINSZ, &size) < 0)
		return fail(launch, "its size");
	if (args[3][0] && bind_console(launch, slave) < 0)
		return fail(launch, "/dev/console");
	if (ioctl(slave, TIOCSCTTY, 0) < 0)
		return fail(launch, "controlling terminal");
	for (int fd = 0; fd < 3; fd++)
		if (dup2(slave, fd) < 0)
			return fail(launch, "fd %d", fd);
	close(slave);
	return tell_fd(launch, "terminal", master) < 0 ? -1 : close(master);
}

/* The runtime's answer: the state, as hooks are told it. */
int read_state(struct launch *launch)
{
	free(launch->state);
	launch->state = malloc(STATE_MAX);
	ssize_t len = launch->state ? recv(launch->status, launch->state, STATE_MAX, 0) : -1;
	launch->state_size = len > 0 ? (size_t)len : 0;
	if (len == 0)
		errno = EPIPE;
	return len > 0 ? 0 : fail(launch, "the runtime does not answer");
}

/* ARGS: what the runtime shall do before we go on. */
int step_sync(struct launch *launch, int count, char **args)
{
	return tell(launch, "sync %s", args[0]) < 0 ? -1 : read_state(launch);
}

/* A copy of strings, with room for one more. */
static char **keep(int count, char **args)
{
	char **copy = calloc((size_t)count + 2, sizeof *copy);
	for (int i = 0; copy && i < count; i++)
		copy[i] = args[i];
	return copy;
}

static void be_hook(struct launch *launch, int input, char **args)
{
	int count = (int)number(args[2]);
	char *path = args[0], *none[] = {path, NULL}, **env = args + 3 + count, **copy = keep(count, args + 3);
	sigset_t all;
	sigemptyset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	if (!copy || fchdir(launch->root) < 0 || dup2(input, 0) < 0 || close_from(3, CLOSE_RANGE_CLOEXEC) < 0)
		_exit(127);
	execve(path, count ? copy : none, env);
	_exit(127);
}

static int await_hook(struct launch *launch, const char *path, pid_t pid, int timeout_ms)
{
	int status = 0, pidfd = open_pidfd(pid);
	struct pollfd ended = {.fd = pidfd, .events = POLLIN};
	int ready = pidfd < 0 ? 1 : poll(&ended, 1, timeout_ms);
	close_saving(pidfd, 0);
	if (ready == 0)
		kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) < 0)
		return fail(launch, "%s", path);
	errno = 0;
	if (ready == 0)
		return fail(launch, "%s: still ran after %d s", path, timeout_ms / 1000);
	if (WIFSIGNALED(status))
		return fail(launch, "%s: ended by signal %d", path, WTERMSIG(status));
	return WEXITSTATUS(status) ? fail(launch, "%s: exit status %d", path, WEXITSTATUS(status)) : 0;
}

/* ARGS: path, seconds (0: any), number of arguments, arguments, environment. It reads the state from its stdin. */
int step_hook(struct launch *launch, int count, char **args)
{
	int ends[2];
	if ((unsigned long long)(count - 3) < number(args[2])) {
		errno = EINVAL;
		return fail(launch, "arguments");
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return fail(launch, "socketpair");
	pid_t pid = fork();
	if (pid == 0)
		be_hook(launch, ends[1], args);
	close(ends[1]);
	if (pid > 0) /* a hook need not read it */
		send(ends[0], launch->state, launch->state_size, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(ends[0]);
	if (pid < 0)
		return fail(launch, "fork");
	return await_hook(launch, args[0], pid, number(args[1]) ? (int)number(args[1]) * 1000 : -1);
}

/* The container is created. Whoever made it may go once it has written down who we are, and takes us along before that. */
int step_created(struct launch *launch, int count, char **args)
{
	if (launch->traced)
		tell_times(launch);
	char answer[8];
	if (tell(launch, "created") < 0 || recv(launch->status, answer, sizeof answer, 0) <= 0)
		_exit(1);
	return 0;
}

/* ARGS: fd of a listening socket. Who connects to it starts us, says the state, and hears of what fails from now on. */
int step_await(struct launch *launch, int count, char **args)
{
	int listener = (int)number(args[0]);
	if (dup2(listener, launch->status) < 0) /* the end of `create`'s socket lets it end */
		return fail(launch, "dup2");
	int starter = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (starter < 0 || dup2(starter, launch->status) < 0)
		_exit(1); /* nobody can be told */
	close(starter);
	close(listener);
	return read_state(launch);
}

int step_arguments(struct launch *launch, int count, char **args)
{
	return (launch->args = keep(count, args)) ? 0 : -1;
}

int step_environment(struct launch *launch, int count, char **args)
{
	return (launch->env = keep(count, args)) ? 0 : -1;
}

/* ARGS: uid. $HOME from the container's passwd(5), "/" without one. It may be anything: it is never waited for. */
int step_home(struct launch *launch, int count, char **args)
{
	enum { PASSWD_MAX_BYTES = 1 << 20 };
	static char home[4096] = "HOME=/";
	struct stat st;
	int fd = open("/etc/passwd", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	bool plain = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= PASSWD_MAX_BYTES;
	FILE *file = plain ? fdopen(fd, "r") : NULL;
	for (struct passwd *user; file && (user = fgetpwent(file));)
		if (user->pw_uid == (uid_t)number(args[0]) && user->pw_dir[0]) {
			snprintf(home, sizeof home, "HOME=%s", user->pw_dir);
			break;
		}
	for (count = 0; launch->env[count] && strncmp(launch->env[count], "HOME=", 5) != 0;)
		count++;
	launch->env[count] = home; /* `environment` keeps room for it */
	return 0;
}

/* ARGS: path. */
int step_directory(struct launch *launch, int count, char **args)
{
	return enter_directory(args[0]) < 0 ? fail(launch, "%s", args[0]) : 0;
}

/* Whether it is a file that this process may execute. */
static int usable(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return -1;
	errno = EACCES;
	return S_ISREG(st.st_mode) ? faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) : -1;
}

/* Find the program as execvp(3) does, in the process's own PATH, before the container is called created. */
int step_find(struct launch *launch, int count, char **args)
{
	const char *name = launch->args[0] ? launch->args[0] : "";
	int size = (int)sizeof launch->path, why = ENOENT;
	if (strchr(name, '/')) {
		snprintf(launch->path, sizeof launch->path, "%s", name);
		return usable(name) < 0 ? fail(launch, "%s", name) : 0;
	}
	for (const char *at = search_path(launch->env); *at && *name; at += *at == ':') {
		int len = (int)strcspn(at, ":");
		if (snprintf(launch->path, sizeof launch->path, "%.*s/%s", len ? len : 1, len ? at : ".", name) < size &&
		    usable(launch->path) == 0)
			return 0;
		why = errno == EACCES ? EACCES : why;
		at += len;
	}
	errno = why;
	return fail(launch, "%s: executable file not found in $PATH", name);
}

/* The status socket closes by itself when this works: that is how the runtime learns of it. */
static int before_exec(struct launch *launch)
{
	if (launch->traced)
		tell_times(launch);
	return launch->filtered ? 0 : close_from((unsigned)launch->kept, CLOSE_RANGE_CLOEXEC);
}

int step_exec(struct launch *launch, int count, char **args)
{
	if (before_exec(launch) < 0)
		return fail(launch, "close_range");
	execve(launch->path, launch->args, launch->env);
	return fail(launch, "%s", launch->path);
}

int step_exec_fd(struct launch *launch, int count, char **args)
{
	char *argv[] = {"harness-agent", NULL}, *env[] = {NULL};
	if (before_exec(launch) < 0)
		return fail(launch, "close_range");
	syscall(SYS_execveat, launch->program, "", argv, env, AT_EMPTY_PATH);
	return fail(launch, "the program");
}
