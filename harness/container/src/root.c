#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Nothing that we mount reaches the host, and what the host mounts from now on does not reach us. */
int step_private(struct launch *launch, char **args)
{
	(void)args;
	return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ? fail(launch, "/") : 0;
}

/* ARGS: directory. A detached read-only clone of it becomes FD_TREE: what the agent attests is what the root is made of. */
int step_tree(struct launch *launch, char **args)
{
	int tree = open_tree_fd(AT_FDCWD, args[0], OPEN_TREE_CLONE);
	if (tree < 0)
		return fail(launch, "open_tree: %s", args[0]);
	if (set_mount_attrs(tree, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, false) < 0)
		return fail(launch, "mount_setattr: %s", args[0]);
	if (dup2(tree, FD_TREE) < 0)
		return fail(launch, "dup2");
	close(tree);
	return 0;
}

/* ARGS: directory of the host, size in bytes. A tmpfs that only this mount namespace sees covers the directory. */
int step_workspace(struct launch *launch, char **args)
{
	char options[64];
	snprintf(options, sizeof options, "mode=0700,size=%s", args[1]);
	if (mount("tmpfs", args[0], "tmpfs", MS_NOSUID, options) < 0 || chdir(args[0]) < 0)
		return fail(launch, "%s", args[0]);
	launch->workspace = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (launch->workspace < 0 || mkdir("upper", 0755) < 0 || mkdir("work", 0700) < 0 || mkdir("root", 0755) < 0)
		return fail(launch, "upper, work, root");
	return 0;
}

/* ARGS: directory. The first one is the topmost; all are opened before anything is mounted over the host's paths. */
int step_lower(struct launch *launch, char **args)
{
	if (launch->lower_count == LOWERS_MAX) {
		errno = E2BIG;
		return fail(launch, "%s", args[0]);
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
 * The layers are named through their fds: no path needs the escapes of overlay's option string, the one page that
 * mount(2) takes holds some 200 layers, and /proc/mounts inside does not show the host's paths. `nodev` here, as on every
 * mount of the container but its device nodes: what CAP_MKNOD makes cannot be opened, without any device cgroup.
 * index and metacopy off: they tie an upper directory to its first lower ones.
 */
int step_overlay(struct launch *launch, char **args)
{
	(void)args;
	char options[4096] = "lowerdir=";
	size_t len = strlen(options);
	for (size_t i = 0; i < launch->lower_count; i++)
		len += (size_t)snprintf(options + len, sizeof options - len, "%s/proc/self/fd/%d", i ? ":" : "",
					launch->lowers[i]);
	if (launch->lower_count == 0 || len > sizeof options - 100) {
		errno = EINVAL;
		return fail(launch, "%zu lower directories", launch->lower_count);
	}
	strcat(options, ",upperdir=upper,workdir=work,index=off,metacopy=off,redirect_dir=off,xino=off");
	if (copy_owner_and_mode(launch->lowers[0], "upper") < 0)
		return fail(launch, "upper");
	if (mount("overlay", "root", "overlay", MS_NODEV, options) < 0)
		return fail(launch, "%zu lower directories", launch->lower_count);
	launch->root = open("root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return launch->root < 0 ? fail(launch, "root") : 0;
}

/* pivot_root(2), "pivot_root(".", ".")": the old root lies under the new one until it is detached. */
int step_pivot(struct launch *launch, char **args)
{
	(void)args;
	if (fchdir(launch->root) < 0)
		return fail(launch, "fchdir");
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return fail(launch, "pivot_root");
	if (umount2(".", MNT_DETACH) < 0)
		return fail(launch, "umount");
	return chdir("/");
}

int step_chroot(struct launch *launch, char **args)
{
	if (chroot(args[0]) < 0)
		return fail(launch, "%s", args[0]);
	return chdir("/");
}
