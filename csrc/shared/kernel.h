/* What both programs ask of the kernel: system calls that musl does not wrap, the clock of every mark, the loopback. */
#ifndef KERNEL_H
#define KERNEL_H

#define _GNU_SOURCE 1

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

uint64_t now_ns(void); /* CLOCK_MONOTONIC */
int loopback_up(void);

struct mount_change {
	uint64_t set, clear, propagation, userns;
};
int open_tree_fd(int dirfd, const char *path, unsigned flags);
int change_mount(int fd, struct mount_change change, bool recursive);
int attach(int tree, int target);
int fs_open(const char *type);
int fs_config(int fs, unsigned command, const char *key, const void *value, int aux);
int fs_mount(int fs, uint64_t attrs);
int open_how(int dirfd, const char *path, uint64_t flags, uint64_t resolve);
pid_t clone_into(uint64_t flags, int cgroup);
int close_from(unsigned first, unsigned flags);
int open_pidfd(pid_t pid);

#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_BENEATH 0x08
#define RESOLVE_IN_ROOT 0x10
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC 02000000
#define MOUNT_ATTR_RDONLY 0x01
#define MOUNT_ATTR_NOSUID 0x02
#define MOUNT_ATTR_NODEV 0x04
#define MOUNT_ATTR_NOEXEC 0x08
#define MOUNT_ATTR_IDMAP 0x00100000
#define CLOSE_RANGE_CLOEXEC 4
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
/* include/uapi/linux/mount.h, enum fsconfig_command */
enum { SET_FLAG = 0, SET_STRING = 1, SET_FD = 5, CMD_CREATE = 6 };

#endif
