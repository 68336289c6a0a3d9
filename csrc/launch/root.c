/* The container's root: what it is made of, and how it becomes `/`. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * ARGS: directory, or `@N` for the fd of a mount that is read-only already; fd. A detached read-only clone of it becomes the
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

/* The current directory is a private tmpfs now, which only this mount namespace sees if it is a new one. */
int step_workspace(struct launch *launch, int count, char **args)
{
	launch->root = launch->workspace = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return launch->workspace < 0 ? fail(launch, ".") : 0;
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

/*
 * ARGS: options [, our own upper directory, which gets the first layer's owner and mode: the root has them]. The layers are
 * named by their fds, through a link of the workspace: no path needs the escapes of overlay's option string, /proc/mounts
 * inside does not show the host's paths, and as many as overlay can stack fit into the one page of mount(2). `nodev` here,
 * as on every mount of the container but its device nodes: what CAP_MKNOD makes cannot be opened.
 */
int step_overlay(struct launch *launch, int count, char **args)
{
	struct stat st;
	char options[4096];
	size_t len = (size_t)snprintf(options, sizeof options, "%s,lowerdir=", args[0]);
	errno = EINVAL;
	if (launch->lower_count == 0 || fstat(launch->lowers[0], &st) < 0)
		return fail(launch, "no lower directory");
	if (count > 1 && (chown(args[1], st.st_uid, st.st_gid) < 0 || chmod(args[1], st.st_mode & 07777) < 0))
		return fail(launch, "%s", args[1]);
	for (size_t i = 0; i < launch->lower_count && len < sizeof options; i++)
		len += (size_t)snprintf(options + len, sizeof options - len, "%sfd/%d", i ? ":" : "", launch->lowers[i]);
	errno = E2BIG;
	if (len >= sizeof options || mount("overlay", "root", "overlay", MS_NODEV, options) < 0)
		return fail(launch, "%zu lower directories, %s", launch->lower_count, args[0]);
	for (size_t i = 0; i < launch->lower_count; i++)
		close(launch->lowers[i]);
	return 0;
}

/* What is mounted in the workspace now is the root. */
int step_root(struct launch *launch, int count, char **args)
{
	launch->root = openat(launch->workspace, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return launch->root < 0 ? fail(launch, "root") : 0;
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
