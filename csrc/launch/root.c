/* The container's root: what it is made of, and how it becomes `/`. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ARGS: flags of mount(2). Before anything is mounted: private, so that nothing reaches the host, or slave, or shared. */
int step_propagation(struct launch *launch, int count, char **args)
{
	return mount("none", "/", NULL, (unsigned long)number(args[0]), NULL) < 0 ? fail(launch, "/") : 0;
}

/*
 * ARGS: directory, or `@N` for the fd of a mount that is read-only already, fd. A detached read-only clone of it becomes the
 * fd: an agent attests what the root is made of.
 */
int step_tree(struct launch *launch, int count, char **args)
{
	int fd = (int)number(args[1]);
	if (args[0][0] == '@')
		return dup2((int)number(args[0] + 1), fd) < 0 ? fail(launch, "dup2: %s", args[0]) : 0;
	int tree = open_tree_fd(AT_FDCWD, args[0], OPEN_TREE_CLONE);
	struct mount_change change = {
		.set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};
	if (tree < 0)
		return fail(launch, "open_tree: %s", args[0]);
	if (change_mount(tree, change, false) < 0)
		return fail(launch, "mount_setattr: %s", args[0]);
	if (dup2(tree, fd) < 0)
		return fail(launch, "dup2");
	close(tree);
	return 0;
}

/* Make the mount that holds `path` private: what we put there shall not appear in its peers on the host. */
static int make_holder_private(const char *path)
{
	char holder[4096], *slash;
	struct mount_change change = {.propagation = MS_PRIVATE};
	if (!realpath(path, holder))
		return -1;
	for (;;) {
		int fd = open(holder, O_PATH | O_CLOEXEC);
		if (fd < 0)
			return -1;
		if (close_saving(fd, change_mount(fd, change, false)) == 0)
			return 0;
		if (errno != EINVAL || !(slash = strrchr(holder, '/')) || !holder[1])
			return -1; /* EINVAL: not the root of its mount (mount_setattr(2)) */
		*(slash == holder ? slash + 1 : slash) = 0;
	}
}

/*
 * ARGS: directory of the host, size in bytes [, `shared` where the host's mounts may still be, `host` where they are the
 * container's own]. A tmpfs covers the directory, which only this mount namespace sees if it is a new one.
 */
int step_workspace(struct launch *launch, int count, char **args)
{
	char options[64];
	snprintf(options, sizeof options, "mode=0700,size=%s", args[1]);
	if (count == 3 && strcmp(args[2], "shared") == 0 && make_holder_private(args[0]) < 0)
		return fail(launch, "%s: private", args[0]);
	if (mount("tmpfs", args[0], "tmpfs", MS_NOSUID, options) < 0 || chdir(args[0]) < 0)
		return fail(launch, "%s", args[0]);
	if (count == 3 && mount("none", ".", NULL, MS_PRIVATE, NULL) < 0)
		return fail(launch, "%s: private", args[0]);
	launch->workspace = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (launch->workspace < 0 || mkdir("upper", 0755) < 0 || mkdir("work", 0700) < 0 || mkdir("root", 0755) < 0)
		return fail(launch, "upper, work, root");
	return 0;
}

/* ARGS: directory. The first one is the topmost; all are opened before anything is mounted over the host's paths. */
int step_lower(struct launch *launch, int count, char **args)
{
	if (launch->lower_count == LOWERS_MAX) {
		errno = E2BIG;
		return fail(launch, "%s: more than %d layers", args[0], LOWERS_MAX);
	}
	int fd = open(args[0], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(launch, "%s", args[0]);
	launch->lowers[launch->lower_count++] = fd;
	return 0;
}

/* The root of an overlay takes owner and mode from its upper directory. */
static int copy_owner_and_mode(int from, const char *to)
{
	struct stat st;
	return fstat(from, &st) < 0 || chown(to, st.st_uid, st.st_gid) < 0 || chmod(to, st.st_mode & 07777) < 0 ? -1 : 0;
}

/*
 * mount(2) has one page for all options. From within /proc/self/fd a layer is but the number of its fd, so that as many as
 * overlay stacks fit into it, on every kernel. Relative upper and work directories are the workspace's.
 */
static int mount_overlay(struct launch *launch, const char *upper, const char *work, const char *more)
{
	char options[4096] = "lowerdir=", target[64], from[64];
	size_t len = strlen(options);
	snprintf(target, sizeof target, "%d/root", launch->workspace);
	snprintf(from, sizeof from, "%d/", launch->workspace);
	for (size_t i = 0; i < launch->lower_count && len < sizeof options; i++)
		len += (size_t)snprintf(options + len, sizeof options - len, "%s%d", i ? ":" : "", launch->lowers[i]);
	if (len < sizeof options)
		len += (size_t)snprintf(options + len, sizeof options - len, ",upperdir=%s%s,workdir=%s%s,%s",
					*upper == '/' ? "" : from, upper, *work == '/' ? "" : from, work, more);
	if (len >= sizeof options) {
		errno = E2BIG;
		return -1;
	}
	if (chdir("/proc/self/fd") < 0 || mount("overlay", target, "overlay", MS_NODEV, options) < 0)
		return -1;
	return fchdir(launch->workspace);
}

/*
 * ARGS: options [, upper and work directories]. The layers are named by their fds: no path needs the escapes of overlay's
 * option string, and /proc/mounts inside does not show the host's paths. `nodev` here, as on every mount of the container
 * but its device nodes: what CAP_MKNOD makes cannot be opened.
 */
int step_overlay(struct launch *launch, int count, char **args)
{
	const char *upper = count == 3 ? args[1] : "upper", *work = count == 3 ? args[2] : "work";
	if (launch->lower_count == 0) {
		errno = EINVAL;
		return fail(launch, "no lower directory");
	}
	if (count == 1 && copy_owner_and_mode(launch->lowers[0], "upper") < 0)
		return fail(launch, "upper");
	if (mount_overlay(launch, upper, work, args[0]) < 0)
		return fail(launch, "%zu lower directories, %s", launch->lower_count, args[0]);
	launch->root = open("root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < launch->lower_count; i++)
		close(launch->lowers[i]);
	return launch->root < 0 ? fail(launch, "root") : 0;
}

/*
 * ARGS: source, as of `bind`, or `@N` for the fd of a detached mount. It is mounted below the workspace, with all that is
 * mounted in it.
 */
int step_rootfs(struct launch *launch, int count, char **args)
{
	int tree = open_source(launch, args[0], AT_RECURSIVE);
	struct mount_change change = {.propagation = MS_PRIVATE};
	if (tree < 0)
		return fail(launch, "%s", args[0]);
	if (change_mount(tree, change, true) < 0)
		return fail(launch, "%s: private", args[0]);
	int target = openat(launch->workspace, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (target < 0 || attach(tree, target) < 0)
		return fail(launch, "%s: attach", args[0]);
	close(target);
	launch->root = tree;
	return 0;
}

/*
 * pivot_root(2), "pivot_root(".", ".")": the old root lies over the new one until it is detached. It is made a slave before
 * that, so that nothing is unmounted on a host with which it is shared: through an fd, since `.` is the new root now.
 */
int step_pivot(struct launch *launch, int count, char **args)
{
	int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (old < 0 || fchdir(launch->root) < 0)
		return fail(launch, "fchdir");
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return fail(launch, "pivot_root");
	if (fchdir(old) < 0 || mount("none", ".", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		return fail(launch, "slave");
	if (umount2(".", MNT_DETACH) < 0)
		return fail(launch, "umount");
	close(old);
	return chdir("/");
}

int step_chroot(struct launch *launch, int count, char **args)
{
	if (chroot(args[0]) < 0)
		return fail(launch, "%s", args[0]);
	return chdir("/");
}

static int change_root(struct launch *launch, struct mount_change change, bool recursive)
{
	int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || close_saving(fd, change_mount(fd, change, recursive)) < 0 ? fail(launch, "/") : 0;
}

int step_root_readonly(struct launch *launch, int count, char **args)
{
	return change_root(launch, (struct mount_change){.set = MOUNT_ATTR_RDONLY}, false);
}

/* ARGS: MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, with MS_REC for all below. */
int step_root_propagation(struct launch *launch, int count, char **args)
{
	unsigned long flags = (unsigned long)number(args[0]);
	return change_root(launch, (struct mount_change){.propagation = flags & ~(unsigned long)MS_REC}, flags & MS_REC);
}
