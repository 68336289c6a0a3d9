#include "agent.h"

#include "../shared/program.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXEC_OUTPUT_MAX = 1 << 20, END_NS = 2000000000 };

static pid_t first = -1; /* the workload's first process, which leads its group */

int exit_code(int wait_status)
{
	return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

/* Open what execve would take; it takes regular files alone, and opening a FIFO or a device would wait or act. */
static int open_program(const char *path)
{
	struct stat st;
	if (access(path, X_OK) < 0 || stat(path, &st) < 0)
		return -1;
	if (!S_ISREG(st.st_mode)) {
		errno = EACCES;
		return -1;
	}
	return open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* Find argv[0] as execvp does and open it, so that what was started can be hashed later. */
static int find_program(const struct spec *spec, const char *name, char *path, size_t size)
{
	if (strncmp(name, BUILT_IN, strlen(BUILT_IN)) == 0) { /* ourselves: no program of the image has such a name */
		snprintf(path, size, "/proc/self/exe");
		return open_program(path);
	}
	if (strchr(name, '/')) {
		bool absolute = *name == '/';
		int len = snprintf(path, size, "%s%s%s", absolute ? "" : spec->cwd, absolute ? "" : "/", name);
		errno = ENAMETOOLONG;
		return (size_t)len < size ? open_program(path) : -1;
	}
	int why = ENOENT;
	for (const char *at = search_path(spec->env); *name && *at;) {
		size_t len = strcspn(at, ":");
		bool absolute = *at == '/';
		int total = snprintf(path, size, "%s%s%.*s/%s", absolute ? "" : spec->cwd, absolute ? "" : "/", (int)len, at, name);
		errno = ENAMETOOLONG;
		int fd = (size_t)total < size ? open_program(path) : -1;
		if (fd >= 0)
			return fd;
		if (errno != ENOENT && errno != ENOTDIR)
			why = errno; /* it is there but cannot be run: more to the point than "no such file" */
		at += len + (at[len] == ':');
	}
	errno = why;
	return -1;
}

static void child_fail(int report, const char *what)
{
	char text[300];
	const char *why = strerror(errno);
	snprintf(text, sizeof text, "%.200s: %s", what, why);
	write_all(report, text, strlen(text));
	_exit(127);
}

/* Only what must change, since a container may lack the capability that a change needs. */
static bool change_user(const struct spec *spec)
{
	uid_t ruid, euid, suid;
	gid_t rgid, egid, sgid;
	if (getgroups(0, NULL) > 0 && setgroups(0, NULL) < 0)
		return false;
	if (getresgid(&rgid, &egid, &sgid) < 0 || getresuid(&ruid, &euid, &suid) < 0)
		return false;
	bool same_group = rgid == spec->gid && egid == spec->gid && sgid == spec->gid;
	bool same_user = ruid == spec->uid && euid == spec->uid && suid == spec->uid;
	return (same_group || setresgid(spec->gid, spec->gid, spec->gid) == 0) &&
	       (same_user || setresuid(spec->uid, spec->uid, spec->uid) == 0);
}

/* Between fork and execve: become the workload's user. The report pipe closes by itself when execve succeeds. */
static void become(const struct spec *spec, const char *path, char **argv, int report, bool marked)
{
	sigset_t none;
	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL); /* what is ignored stays so across execve */
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (!change_user(spec))
		child_fail(report, "user");
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the credentials: a change of them clears it */
	if (enter_directory(spec->cwd) < 0)
		child_fail(report, spec->cwd);
	if (marked)
		mark("exec", "%s", "");
	marks_drop_port();
	execve(path, argv, spec->env);
	child_fail(report, path);
}

struct child {
	pid_t pid;
	int out, err, exe;
	char failure[300]; /* empty: it runs */
};

static void set_failure(struct child *child, const char *what)
{
	const char *why = strerror(errno);
	snprintf(child->failure, sizeof child->failure, "%.200s: %s", what, why);
}

/* Three pipes: stdout, stderr, report. All or none. */
static bool open_pipes(int pipes[3][2])
{
	for (int i = 0; i < 3; i++) {
		if (pipe2(pipes[i], O_CLOEXEC) == 0)
			continue;
		int why = errno;
		while (i-- > 0)
			close(pipes[i][0]), close(pipes[i][1]);
		errno = why;
		return false;
	}
	return true;
}

static ssize_t read_report(int fd, char *text, size_t size)
{
	ssize_t len;
	do
		len = read(fd, text, size);
	while (len < 0 && errno == EINTR);
	close(fd);
	return len > 0 ? len : 0;
}

static struct child spawn(const struct spec *spec, char **argv, bool marked)
{
	struct child child = {.out = -1, .err = -1};
	char path[4096];
	int pipes[3][2];
	child.exe = find_program(spec, argv[0], path, sizeof path);
	if (child.exe < 0) {
		set_failure(&child, argv[0]);
		return child;
	}
	if (!open_pipes(pipes)) {
		set_failure(&child, "pipe");
		return child;
	}
	child.pid = fork(); /* fails when the workload has used up the processes of its limit */
	if (child.pid < 0)
		set_failure(&child, "fork");
	if (child.pid == 0) {
		dup2(pipes[0][1], 1), dup2(pipes[1][1], 2);
		become(spec, path, argv, pipes[2][1], marked);
	}
	close(pipes[0][1]), close(pipes[1][1]), close(pipes[2][1]);
	child.out = pipes[0][0], child.err = pipes[1][0];
	ssize_t len = read_report(pipes[2][0], path, sizeof child.failure - 1);
	if (len > 0)
		snprintf(child.failure, sizeof child.failure, "%.*s", (int)len, path);
	return child;
}

void workload_start(struct workload *workload, const struct spec *spec)
{
	ready_refuse_other_server(spec);
	workload->exec_ns = now_ns();
	struct child child = spawn(spec, spec->argv, true);
	if (child.failure[0])
		die("exec: %s", child.failure);
	first = child.pid;
	*workload = (struct workload){
	    .pid = child.pid, .out = child.out, .err = child.err, .exe = child.exe, .exec_ns = workload->exec_ns};
}

/* SIGKILL for each child of ours; false where this kernel does not tell which there are. */
static bool kill_children(void)
{
	char text[4096];
	int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t len = read(fd, text, sizeof text - 1);
	close(fd);
	if (len < 0)
		return false;
	pid_t pid = 0;
	for (ssize_t i = 0; i < len; i++) {
		if (text[i] >= '0' && text[i] <= '9') {
			pid = pid * 10 + (text[i] - '0');
			continue;
		}
		if (pid > 0)
			kill(pid, SIGKILL);
		pid = 0;
	}
	return true;
}

/*
 * One call does it for pid 1. Elsewhere we are the sub-reaper of whatever the workload has started: the children of a
 * process that we kill become ours, so after some rounds none is left.
 */
void end_processes(void)
{
	if (getpid() == 1) {
		kill(-1, SIGKILL);
		return;
	}
	uint64_t deadline_ns = now_ns() + END_NS;
	for (pid_t ended; (ended = waitpid(-1, NULL, WNOHANG)) >= 0 && now_ns() < deadline_ns;) {
		if (ended > 0)
			continue;
		if (!kill_children() && first > 0)
			kill(-first, SIGKILL);
		poll(NULL, 0, 1);
	}
}

/* Read both streams until they end or the time is over. */
static void collect(struct child *child, uint64_t deadline_ns, struct buf out[2])
{
	struct pollfd fds[2] = {{.fd = child->out, .events = POLLIN}, {.fd = child->err, .events = POLLIN}};
	char chunk[4096];
	while (fds[0].fd >= 0 || fds[1].fd >= 0) {
		uint64_t now = now_ns(), left_ms = (deadline_ns - now) / 1000000 + 1;
		if (now >= deadline_ns || poll(fds, 2, left_ms < INT_MAX ? (int)left_ms : INT_MAX) == 0)
			return;
		for (int i = 0; i < 2; i++) {
			if (fds[i].fd < 0 || !fds[i].revents)
				continue;
			ssize_t len = read(fds[i].fd, chunk, sizeof chunk);
			if (len <= 0)
				fds[i].fd = -1;
			else if (out[i].len < EXEC_OUTPUT_MAX)
				buf_add(&out[i], chunk, (size_t)len);
		}
	}
}

/* A command that closed its streams may go on running: wait for it, but not for ever. */
static int reap_by(pid_t pid, uint64_t deadline_ns)
{
	int status;
	for (;;) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return exit_code(status);
		if (now_ns() >= deadline_ns) {
			kill(-pid, SIGKILL);
			waitpid(pid, &status, 0);
			return 124; /* as timeout(1) says it */
		}
		poll(NULL, 0, 1);
	}
}

void run_command(const struct spec *spec, char **argv, uint64_t timeout_ns, struct buf *reply)
{
	struct child child = spawn(spec, argv, false);
	struct buf out[2] = {0};
	int code = 127;
	if (child.failure[0])
		buf_str(&out[1], child.failure);
	if (child.pid > 0) {
		uint64_t deadline_ns = now_ns() + timeout_ns;
		collect(&child, deadline_ns, out);
		code = reap_by(child.pid, deadline_ns);
	}
	close(child.out), close(child.err), close(child.exe); /* -1, where it did not come so far, is refused */
	buf_fmt(reply, "%d %zu %zu\n", code, out[0].len, out[1].len);
	buf_add(reply, out[0].data ? out[0].data : "", out[0].len);
	buf_add(reply, out[1].data ? out[1].data : "", out[1].len);
	free(out[0].data), free(out[1].data);
}
