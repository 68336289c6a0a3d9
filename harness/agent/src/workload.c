#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXEC_OUTPUT_MAX = 1 << 20 };

int exit_code(int wait_status)
{
	return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

static const char *path_of(const struct spec *spec)
{
	for (char **env = spec->env; *env; env++)
		if (strncmp(*env, "PATH=", 5) == 0)
			return *env + 5;
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/* Find argv[0] as execvp does and open it, so that what was started can be hashed later. */
static int find_program(const struct spec *spec, const char *name, char *path, size_t size)
{
	if (strchr(name, '/')) {
		snprintf(path, size, "%s%s%s", *name == '/' ? "" : spec->cwd, *name == '/' ? "" : "/", name);
		return access(path, X_OK) < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	}
	for (const char *at = path_of(spec); *at;) {
		size_t len = strcspn(at, ":");
		snprintf(path, size, "%.*s/%s", (int)len, at, name);
		if (access(path, X_OK) == 0)
			return open(path, O_RDONLY | O_CLOEXEC);
		at += len + (at[len] == ':');
	}
	errno = ENOENT;
	return -1;
}

static void child_fail(int report, const char *what)
{
	char text[300];
	int len = snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
	write_all(report, text, (size_t)len);
	_exit(127);
}

/* Between fork and execve: become the workload's user. The report pipe closes by itself when execve succeeds. */
static void become(const struct spec *spec, const char *path, char **argv, int report, bool marked)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (setgroups(0, NULL) < 0 || setresgid(spec->gid, spec->gid, spec->gid) < 0 ||
	    setresuid(spec->uid, spec->uid, spec->uid) < 0)
		child_fail(report, "user");
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the credentials: a change of them clears it */
	if (chdir(spec->cwd) < 0)
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

static void open_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC) < 0)
		die("pipe: %s", strerror(errno));
}

static struct child spawn(const struct spec *spec, char **argv, bool marked)
{
	struct child child = {.out = -1, .err = -1};
	char path[4096];
	child.exe = find_program(spec, argv[0], path, sizeof path);
	if (child.exe < 0) {
		snprintf(child.failure, sizeof child.failure, "%.200s: %s", argv[0], strerror(errno));
		return child;
	}
	int out[2], err[2], report[2];
	open_pipe(out), open_pipe(err), open_pipe(report);
	child.pid = fork();
	if (child.pid < 0)
		die("fork: %s", strerror(errno));
	if (child.pid == 0) {
		dup2(out[1], 1), dup2(err[1], 2);
		become(spec, path, argv, report[1], marked);
	}
	close(out[1]), close(err[1]), close(report[1]);
	child.out = out[0], child.err = err[0];
	ssize_t len = read(report[0], child.failure, sizeof child.failure - 1);
	child.failure[len > 0 ? len : 0] = 0;
	close(report[0]);
	return child;
}

void workload_start(struct workload *workload, const struct spec *spec)
{
	workload->exec_ns = now_ns();
	struct child child = spawn(spec, spec->argv, true);
	if (child.failure[0])
		die("exec: %s", child.failure);
	*workload = (struct workload){
	    .pid = child.pid, .out = child.out, .err = child.err, .exe = child.exe, .exec_ns = workload->exec_ns};
}

/* Read both streams until they end or the time is over. */
static void collect(struct child *child, uint64_t deadline_ns, struct buf out[2])
{
	struct pollfd fds[2] = {{.fd = child->out, .events = POLLIN}, {.fd = child->err, .events = POLLIN}};
	char chunk[4096];
	while (fds[0].fd >= 0 || fds[1].fd >= 0) {
		uint64_t now = now_ns();
		if (now >= deadline_ns || poll(fds, 2, (int)((deadline_ns - now) / 1000000 + 1)) == 0)
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
		close(child.out), close(child.err);
	}
	if (child.exe >= 0)
		close(child.exe);
	buf_fmt(reply, "%d %zu %zu\n", code, out[0].len, out[1].len);
	buf_add(reply, out[0].data ? out[0].data : "", out[0].len);
	buf_add(reply, out[1].data ? out[1].data : "", out[1].len);
	free(out[0].data), free(out[1].data);
}
