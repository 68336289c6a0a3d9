/* Read a plan, take its steps in order, become the process. Every step works or is reported; nothing is printed. */
#include "launch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PLAN_MAX_BYTES = 8 << 20 };

#define ROW(name, least, most, function) {name, least, most, step_##function},
static const struct step {
	const char *name;
	int least, most;
	step_fn *take;
} steps[] = {STEPS(ROW)};

static _Noreturn void give_up(struct launch *launch, long index, int error, const char *detail)
{
	_exit(tell(launch, "error %ld %.64s %d %.512s", index, launch->step, error, detail) < 0 ? 2 : 1);
}

/* It is read at offset 0: launches share its memfd. */
static void read_plan(struct launch *launch, int fd, struct reader *reader)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		give_up(launch, -1, errno, "fstat");
	if (st.st_size <= 0 || st.st_size > PLAN_MAX_BYTES)
		give_up(launch, -1, EMSGSIZE, "size");
	char *plan = malloc((size_t)st.st_size);
	if (!plan || pread(fd, plan, (size_t)st.st_size, 0) != st.st_size)
		give_up(launch, -1, EIO, "read");
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
	if (launch->traced && launch->times_len < sizeof launch->times - 21)
		launch->times_len += (size_t)sprintf(launch->times + launch->times_len, " %llu", (unsigned long long)now_ns());
}

static void take_steps(struct launch *launch, struct reader *reader)
{
	char **args = malloc((ARGS_MAX + 1) * sizeof *args), *name;
	int count;
	for (long index = 0;; index++) {
		launch->step = "plan";
		enum next next = args ? next_step(reader, &name, &count, args) : NEXT_BROKEN;
		if (next != NEXT_STEP)
			give_up(launch, index, ENODATA, next == NEXT_END ? "has no exec step" : "ends within a step");
		launch->step = name;
		const struct step *step = find_step(name);
		if (!step)
			give_up(launch, index, ENOSYS, "the launcher knows no such step");
		if (count < step->least || count > step->most)
			give_up(launch, index, EINVAL, "wrong number of arguments");
		launch->detail[0] = 0;
		errno = 0;
		if (step->take(launch, count, args) < 0)
			give_up(launch, index, errno, launch->detail);
		note_time(launch);
	}
}

/* The one argument is the number of fds that the process keeps. */
int main(int argc, char **argv)
{
	static char *args[] = {"", NULL}, *env[] = {NULL, NULL}; /* for a plan that gives none */
	static struct launch launch = {
		.step = "plan", .proc = -1, .devpts = -1, .workspace = -1, .root = -1, .args = args, .env = env};
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
