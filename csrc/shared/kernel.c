#include "kernel.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define INTO_CGROUP 0x200000000ULL	     /* CLONE_INTO_CGROUP, Linux 5.7 */
enum { FROM_EMPTY = 0x04, TO_EMPTY = 0x40 }; /* MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH */

/* Structures of include/uapi/linux/{openat2,sched}.h; musl has none, glibc has some. */
struct how {
	uint64_t flags, mode, resolve;
};

struct clone3 {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

int open_tree_fd(int dirfd, const char *path, unsigned flags)
{
	return (int)syscall(SYS_open_tree, dirfd, path, flags | AT_EMPTY_PATH | OPEN_TREE_CLOEXEC);
}

int change_mount(int fd, struct mount_change change, bool recursive)
{
	unsigned flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);
	return (int)syscall(SYS_mount_setattr, fd, "", flags, &change, sizeof change);
}

int attach(int tree, int target)
{
	return (int)syscall(SYS_move_mount, tree, "", target, "", FROM_EMPTY | TO_EMPTY);
}

int fs_open(const char *type)
{
	return (int)syscall(SYS_fsopen, type, 1 /* FSOPEN_CLOEXEC */);
}

int fs_config(int fs, unsigned command, const char *key, const void *value, int aux)
{
	return (int)syscall(SYS_fsconfig, fs, command, key, value, aux);
}

int fs_mount(int fs, uint64_t attrs)
{
	return (int)syscall(SYS_fsmount, fs, 1 /* FSMOUNT_CLOEXEC */, attrs);
}

int open_how(int dirfd, const char *path, uint64_t flags, uint64_t resolve)
{
	struct how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
	return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof how);
}

/* As fork(2). With CLONE_PARENT the child is a child of our parent. `cgroup` is a cgroup2 directory or -1. */
pid_t clone_into(uint64_t flags, int cgroup)
{
	struct clone3 args = {.flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD};
	if (cgroup >= 0) {
		args.flags |= INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup;
	}
	return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

int close_from(unsigned first, unsigned flags)
{
	return (int)syscall(SYS_close_range, first, ~0U, flags);
}

int open_pidfd(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int done = fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return done;
}
