/* Read a plan, take its steps in order, become the agent. Every step either works or is reported; nothing is printed. */
#include "launch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PLAN_MAX_BYTES = 1 << 20, ARGS_MAX = 5 };

static const struct step {
	const char *name;
	int args;
	step_fn *take;
} steps[] = {
	{"clone", 2, step_clone},
	{"join", 1, step_join},
	{"unshare", 1, step_unshare},
	{"session", 0, step_session},
	{"groups", 0, step_groups},
	{"parent-death", 0, step_parent_death},
	{"private", 0, step_private},
	{"tree", 1, step_tree},
	{"workspace", 2, step_workspace},
	{"lower", 1, step_lower},
	{"overlay", 0, step_overlay},
	{"mount", 4, step_mount},
	{"device", 3, step_device},
	{"link", 2, step_link},
	{"mask", 1, step_mask},
	{"readonly", 1, step_readonly},
	{"bind", 3, step_bind},
	{"loopback", 0, step_loopback},
	{"hostname", 1, step_hostname},
	{"pivot", 0, step_pivot},
	{"chroot", 1, step_chroot},
	{"rlimit", 3, step_rlimit},
	{"umask", 1, step_umask},
	{"capabilities", 1, step_capabilities},
	{"no-new-privs", 0, step_no_new_privs},
	{"exec", 0, step_exec},
};

int fail(struct launch *launch, const char *format, ...)
{
	int saved = errno;
	va_list args;
	va_start(args, format);
	vsnprintf(launch->detail, sizeof launch->detail, format, args);
	va_end(args);
	errno = saved;
	return -1;
}

unsigned long long number(const char *text)
{
	return strtoull(text, NULL, 0);
}

static void mark_exec(void)
{
	struct timespec now;
	char line[64];
	clock_gettime(CLOCK_MONOTONIC, &now);
	int len = snprintf(line, sizeof line, "\x1eruntime.exec %lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	if (write(FD_MARKS, line, (size_t)len) < 0)
		_exit(1); /* nobody listens: the harness is gone */
}

static _Noreturn void give_up(long index, const char *name, int error, const char *detail)
{
	char line[1024];
	snprintf(line, sizeof line, "error %ld %.200s %d %.512s\n", index, name, error, detail);
	_exit(write(FD_STATUS, line, strlen(line)) < 0 ? 2 : 1);
}

/* The plan's strings lie one after another, each with its NUL. It is read at offset 0: launches share its memfd. */
static char *read_plan(char **end)
{
	struct stat st;
	if (fstat(FD_PLAN, &st) < 0)
		give_up(-1, "plan", errno, "fstat");
	if (st.st_size <= 0 || st.st_size > PLAN_MAX_BYTES)
		give_up(-1, "plan", EMSGSIZE, "size");
	char *plan = malloc((size_t)st.st_size);
	if (!plan || pread(FD_PLAN, plan, (size_t)st.st_size, 0) != st.st_size || plan[st.st_size - 1])
		give_up(-1, "plan", EIO, "read");
	*end = plan + st.st_size;
	return plan;
}

static char *next_string(char **at, char *end)
{
	char *text = *at;
	if (text >= end)
		give_up(-1, "plan", ENODATA, "ends within a step");
	*at += strlen(text) + 1;
	return text;
}

static const struct step *find_step(const char *name, long index)
{
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
		if (strcmp(steps[i].name, name) == 0)
			return &steps[i];
	give_up(index, name, ENOSYS, "the launcher knows no such step");
}

int main(void)
{
	static struct launch launch = {.workspace = -1, .root = -1};
	char *args[ARGS_MAX], *end;
	mark_exec();
	umask(0);
	char *at = read_plan(&end);
	for (long index = 0; at < end; index++) {
		const struct step *step = find_step(next_string(&at, end), index);
		for (int i = 0; i < step->args; i++)
			args[i] = next_string(&at, end);
		launch.detail[0] = 0;
		errno = 0;
		if (step->take(&launch, args) < 0)
			give_up(index, step->name, errno, launch.detail);
	}
	give_up(-1, "plan", ENOEXEC, "has no exec step");
}
