/*
 * The launcher: it takes the steps of one plan, in order, and becomes the container's process. harness/container/plan.py writes plans.
 *
 * As it is started, its fds are those that the container's process shall have (0 to kept - 1), then the plan, the status
 * socket and the program, then those that the plan's steps name by number.
 */
#ifndef LAUNCH_H
#define LAUNCH_H

#include "../shared/kernel.h"

#include <stdbool.h>
#include <stddef.h>

enum { LOWERS_MAX = 500, SOURCES_MAX = 256, ARGS_MAX = 4096, STEPS_MAX = 1024 };

struct launch {
	const char *step; /* which is taken; a system call goes by its own name */
	char detail[512]; /* of the step that failed: which path, which number */
	int kept;	  /* how many fds the process keeps */
	int status;	  /* SOCK_SEQPACKET to the runtime: `pid`, `sync`, `error`, `trace` */
	int program;	  /* what `exec-fd` executes */
	int proc;	  /* the host's /proc */
	int devpts;	  /* root of the container's devpts */
	int workspace;	  /* root of the private tmpfs */
	int root;	  /* root of the container's file system; until there is one, the workspace */
	int lowers[LOWERS_MAX];
	size_t lower_count;
	int sources[SOURCES_MAX]; /* detached mounts, until they are attached */
	char *state;		  /* what hooks are told on their stdin */
	size_t state_size;
	char **args, **env;
	char path[4096]; /* of the program, as `find` found it */
	bool traced, filtered;
	char times[STEPS_MAX * 21]; /* ` NS` after each step */
	size_t times_len;
};

/*
 * Every step: its name, least and most arguments (what they are is said at each function), the function. A step returns 0,
 * or -1 with errno set and, where it helps, `detail`.
 */
#define STEPS(X) \
	X("arguments", 1, ARGS_MAX, arguments) \
	X("await", 1, 1, await) \
	X("bind", 8, 8, bind) \
	X("bounding", 1, 1, bounding) \
	X("call", 1, 7, call) \
	X("clone", 2, 3, clone) \
	X("created", 0, 0, created) \
	X("device", 8, 8, device) \
	X("directory", 1, 1, directory) \
	X("environment", 0, ARGS_MAX, environment) \
	X("exec", 0, 0, exec) \
	X("exec-fd", 0, 0, exec_fd) \
	X("find", 0, 0, find) \
	X("home", 1, 1, home) \
	X("hook", 3, ARGS_MAX, hook) \
	X("link", 2, 2, link) \
	X("loopback", 0, 0, loopback) \
	X("lower", 1, 1, lower) \
	X("make-directory", 1, 1, make_directory) \
	X("mark", 2, 2, mark) \
	X("mask", 1, 1, mask) \
	X("mount", 6, ARGS_MAX, mount) \
	X("namespaces", 2, 16, namespaces) \
	X("overlay", 1, 2, overlay) \
	X("parent-death", 0, 0, parent_death) \
	X("pivot", 0, 0, pivot) \
	X("proc", 0, 0, proc) \
	X("readonly", 1, 2, readonly) \
	X("root", 0, 0, root) \
	X("seccomp", 2, 2, seccomp) \
	X("source", 3, 5, source) \
	X("stdio", 1, 1, stdio) \
	X("sync", 1, 1, sync) \
	X("terminal", 4, 4, terminal) \
	X("trace", 0, 0, trace) \
	X("tree", 2, 2, tree) \
	X("try", 2, 8, try) \
	X("workspace", 0, 0, workspace) \
	X("write", 2, 2, write)

typedef int step_fn(struct launch *launch, int count, char **args);
#define DECLARE(name, least, most, function) step_fn step_##function;
STEPS(DECLARE)

/* plan.c */
struct reader {
	char *at, *end;
};
enum next { NEXT_STEP, NEXT_END, NEXT_BROKEN };
enum next next_step(struct reader *reader, char **name, int *count, char **args);

/* status.c */
int fail(struct launch *launch, const char *format, ...) __attribute__((format(printf, 2, 3)));
int tell(struct launch *launch, const char *format, ...) __attribute__((format(printf, 2, 3)));
int tell_fd(struct launch *launch, const char *name, int fd);
int close_saving(int fd, int result);
unsigned long long number(const char *text);

int read_state(struct launch *launch);

/* paths.c: resolution inside the container's root, whose content is hostile */
int open_beneath(int dirfd, const char *path, uint64_t flags, uint64_t resolve);
int write_file(int dirfd, const char *path, const char *text);
int open_made(int root, const char *path, bool directory, uint64_t resolve);
int open_parent(int root, const char *path, bool make, const char **name);

/* devices.c */
int open_own_node(struct launch *launch, mode_t mode, dev_t device, uid_t uid, gid_t gid);
int open_host_node(const char *path, mode_t type, dev_t device);

/* copy.c */
int copy_tree(int from, int to, int depth);

/* mounts.c */
int bind_over(int dirfd, const char *path, unsigned flags, uint64_t attrs, int target);

#endif
