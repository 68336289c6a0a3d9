/* Read a plan, take its steps in order, become the process. Every step works or is reported; nothing is printed. */
#include "launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PLAN_MAX_BYTES = 8 << 20, ANY = ARGS_MAX };

/* Name, least and most arguments. What the arguments are is said at each function. */
static const struct step {
	const char *name;
	int least, most;
	step_fn *take;
} steps[] = {
	{"mark", 2, 2, step_mark},
	{"trace", 0, 0, step_trace},
	{"proc", 0, 0, step_proc},
	{"undumpable", 0, 0, step_undumpable},
	{"oom-score-adj", 1, 1, step_oom_score_adj},
	{"namespaces", 2, 16, step_namespaces},
	{"attach", 2, 2, step_attach},
	{"time", 0, 9, step_time},
	{"source", 3, 5, step_source},
	{"clone", 2, 8, step_clone},
	{"join", 1, 1, step_join},
	{"unshare", 1, 1, step_unshare},
	{"session", 0, 0, step_session},
	{"groups", 0, ANY, step_groups},
	{"parent-death", 0, 0, step_parent_death},
	{"propagation", 1, 1, step_propagation},
	{"tree", 2, 2, step_tree},
	{"lower", 1, 1, step_lower},
	{"rootfs", 1, 1, step_rootfs},
	{"workspace", 2, 3, step_workspace},
	{"overlay", 2, 4, step_overlay},
	{"mount", 6, ANY, step_mount},
	{"make-directory", 1, 1, step_make_directory},
	{"bind", 8, 8, step_bind},
	{"device", 8, 8, step_device},
	{"link", 2, 2, step_link},
	{"mask", 1, 1, step_mask},
	{"readonly", 1, 1, step_readonly},
	{"sysctl", 2, 2, step_sysctl},
	{"loopback", 0, 0, step_loopback},
	{"hostname", 1, 1, step_hostname},
	{"domainname", 1, 1, step_domainname},
	{"terminal", 4, 4, step_terminal},
	{"sync", 1, 1, step_sync},
	{"hook", 3, ANY, step_hook},
	{"pivot", 0, 0, step_pivot},
	{"chroot", 1, 1, step_chroot},
	{"root-readonly", 0, 0, step_root_readonly},
	{"root-propagation", 1, 1, step_root_propagation},
	{"rlimit", 3, 3, step_rlimit},
	{"umask", 1, 1, step_umask},
	{"keyring", 1, 1, step_keyring},
	{"label", 2, 2, step_label},
	{"personality", 1, 1, step_personality},
	{"nice", 1, 1, step_nice},
	{"io-priority", 2, 2, step_io_priority},
	{"scheduler", 7, 7, step_scheduler},
	{"affinity", 1, ANY, step_affinity},
	{"stdio", 1, 1, step_stdio},
	{"capabilities", 5, 5, step_capabilities},
	{"user", 2, 2, step_user},
	{"no-new-privs", 0, 0, step_no_new_privs},
	{"seccomp", 2, 2, step_seccomp},
	{"arguments", 1, ANY, step_arguments},
	{"environment", 0, ANY, step_environment},
	{"directory", 1, 1, step_directory},
	{"find", 0, 0, step_find},
	{"created", 0, 0, step_created},
	{"await", 1, 1, step_await},
	{"exec", 0, 0, step_exec},
	{"exec-fd", 0, 0, step_exec_fd},
};

static _Noreturn void give_up(struct launch *launch, long index, const char *name, int error, const char *detail)
{
	_exit(tell(launch, "error %ld %.64s %d %.512s", index, name, error, detail) < 0 ? 2 : 1);
}

/* It is read at offset 0: launches share its memfd. */
static void read_plan(struct launch *launch, int fd, struct reader *reader)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		give_up(launch, -1, "plan", errno, "fstat");
	if (st.st_size <= 0 || st.st_size > PLAN_MAX_BYTES)
		give_up(launch, -1, "plan", EMSGSIZE, "size");
	char *plan = malloc((size_t)st.st_size);
	if (!plan || pread(fd, plan, (size_t)st.st_size, 0) != st.st_size)
		give_up(launch, -1, "plan", EIO, "read");
	*reader = (struct reader){.at = plan, .end = plan + st.st_size};
	close(fd);
}

static const struct step *find_step(const char *name)
{
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
		if (strcmp(steps[i].name, name) == 0)
			return &steps[i];
	return NULL;
}

static void note_time(struct launch *launch)
{
	struct timespec now;
	if (launch->traced && launch->time_count < STEPS_MAX) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		launch->times_ns[launch->time_count++] = now.tv_sec * 1000000000LL + now.tv_nsec;
	}
}

static void take_steps(struct launch *launch, struct reader *reader)
{
	char **args = malloc((ARGS_MAX + 1) * sizeof *args), *name;
	int count;
	for (long index = 0;; index++) {
		enum next next = args ? next_step(reader, &name, &count, args) : NEXT_BROKEN;
		if (next == NEXT_BROKEN)
			give_up(launch, index, "plan", ENODATA, "ends within a step");
		if (next == NEXT_END)
			give_up(launch, index, "plan", ENOEXEC, "has no exec step");
		const struct step *step = find_step(name);
		if (!step)
			give_up(launch, index, name, ENOSYS, "the launcher knows no such step");
		if (count < step->least || count > step->most)
			give_up(launch, index, name, EINVAL, "wrong number of arguments");
		launch->detail[0] = 0;
		errno = 0;
		if (step->take(launch, count, args) < 0)
			give_up(launch, index, name, errno, launch->detail);
		note_time(launch);
	}
}

/* The one argument is the number of fds that the process keeps. */
int main(int argc, char **argv)
{
	static struct launch launch = {.proc = -1, .devpts = -1, .workspace = -1, .root = -1};
	struct reader reader;
	if (argc != 2)
		return 2;
	launch.kept = (int)number(argv[1]);
	launch.status = launch.kept + 1;
	launch.program = launch.kept + 2;
	for (size_t i = 0; i < SOURCES_MAX; i++)
		launch.sources[i] = -1;
	umask(0);
	read_plan(&launch, launch.kept, &reader);
	take_steps(&launch, &reader);
}
