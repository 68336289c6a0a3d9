/* A filter may kill whoever makes a call: then only a child dies, and that is a finding too. */
#include "probe.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TASK_S = 5, SECTION_S = 60 };

/* A child that takes no core file with it, ends with us, and does not outlive its time. */
static pid_t start_child(unsigned bound_s)
{
	pid_t pid = fork();
	if (pid == 0) {
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(bound_s);
	}
	return pid;
}

static int end_of(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 0;
	return WIFSIGNALED(status) ? KILLED - WTERMSIG(status) : 0;
}

void run_apart(int count, task run, int results[])
{
	int *shared = mmap(NULL, sizeof *shared * (size_t)count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < count; i++) {
		results[i] = EAGAIN;
		if (shared == MAP_FAILED)
			continue;
		pid_t pid = start_child(TASK_S);
		if (pid == 0) {
			shared[i] = run(i);
			_exit(0);
		}
		int end = pid > 0 ? end_of(pid) : EAGAIN;
		results[i] = end ? end : shared[i];
	}
	if (shared != MAP_FAILED)
		munmap(shared, sizeof *shared * (size_t)count);
}

void add_section(struct buf *json, const char *name, section fill)
{
	int ends[2];
	struct buf text = {0};
	char chunk[4096];
	if (pipe(ends) < 0)
		die("pipe");
	pid_t pid = start_child(SECTION_S);
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		fill(&text);
		write_all(ends[1], text.data ? text.data : "null", text.data ? text.len : 4);
		_exit(0);
	}
	close(ends[1]);
	for (ssize_t len; (len = read(ends[0], chunk, sizeof chunk)) > 0 || (len < 0 && errno == EINTR);)
		buf_add(&text, chunk, len > 0 ? (size_t)len : 0);
	close(ends[0]);
	int end = end_of(pid);
	json_key(json, name);
	if (end)
		buf_fmt(json, "{\"killed\":%d}", KILLED - end);
	else
		buf_str(json, text.data ? text.data : "null");
	free(text.data);
}
