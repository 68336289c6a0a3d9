/* The launcher: one plan in, one agent out. The steps are listed in ../plan.py, which writes plans. */
#ifndef LAUNCH_H
#define LAUNCH_H

#define _GNU_SOURCE 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* As the launcher is started: 0 to 5 belong to the agent. FD_PLAN becomes FD_TREE once it has been read. */
enum { FD_MARKS = 4, FD_PLAN = 6, FD_TREE = 6, FD_STATUS = 7, FD_AGENT = 8 };
enum { LOWERS_MAX = 200 };

struct launch {
	char detail[512]; /* of the step that failed: which path, which number */
	int workspace;	  /* root of the private tmpfs */
	int root;	  /* root of the container's file system */
	int lowers[LOWERS_MAX];
	size_t lower_count;
};

/* A step returns 0, or -1 with errno set and, where it helps, `detail`. */
typedef int step_fn(struct launch *launch, char **args);

step_fn step_clone, step_join, step_unshare, step_session, step_groups, step_parent_death, step_rlimit, step_umask;
step_fn step_capabilities, step_no_new_privs, step_loopback, step_hostname, step_exec;		  /* process.c */
step_fn step_private, step_tree, step_workspace, step_lower, step_overlay, step_pivot, step_chroot; /* root.c */
step_fn step_mount, step_device, step_link, step_mask, step_readonly, step_bind;		  /* mounts.c */

int fail(struct launch *launch, const char *format, ...) __attribute__((format(printf, 2, 3)));
unsigned long long number(const char *text);

/* kernel.c: system calls that musl does not wrap. */
int open_tree_fd(int dirfd, const char *path, unsigned flags);
int set_mount_attrs(int fd, uint64_t attrs, bool recursive);
int attach(int tree, int target);
int open_beneath(int dirfd, const char *path, uint64_t flags, uint64_t resolve);
pid_t clone_into(uint64_t flags, int cgroup);
int close_from(unsigned first, unsigned flags);

#ifndef RESOLVE_BENEATH
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_BENEATH 0x08
#define RESOLVE_IN_ROOT 0x10
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC 02000000
#endif
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 0x01
#define MOUNT_ATTR_NOSUID 0x02
#define MOUNT_ATTR_NODEV 0x04
#define MOUNT_ATTR_NOEXEC 0x08
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif

#endif
