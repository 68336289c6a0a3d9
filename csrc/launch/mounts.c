/* What is mounted in the container's root: file systems, binds, masks. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* Put a clone of the mount at `path` of `dirfd` over `target`, with more attributes. */
int bind_over(int dirfd, const char *path, unsigned flags, uint64_t attrs, int target)
{
	int tree = open_tree_fd(dirfd, path, flags | OPEN_TREE_CLONE);
	if (tree < 0)
		return -1;
	int done = attrs ? change_mount(tree, (struct mount_change){.set = attrs}, flags & AT_RECURSIVE) : 0;
	return close_saving(tree, done == 0 ? attach(tree, target) : done);
}

/* An fd of a user namespace with these maps; its only process is gone when we return. */
static int open_user_namespace(const char *uid_map, const char *gid_map)
{
	char path[64];
	int go[2], fd = -1;
	if (pipe2(go, O_CLOEXEC) < 0)
		return -1;
	pid_t pid = clone_into(CLONE_NEWUSER, -1);
	if (pid == 0) {
		close(go[1]);
		_exit((int)read(go[0], path, 1)); /* until we close the other end, or die */
	}
	snprintf(path, sizeof path, "/proc/%d", pid);
	int dir = pid < 0 ? -1 : open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0 && write_file(dir, "gid_map", gid_map) == 0 && write_file(dir, "uid_map", uid_map) == 0)
		fd = openat(dir, "ns/user", O_RDONLY | O_CLOEXEC);
	close_saving(dir, 0);
	close_saving(go[0], 0);
	close_saving(go[1], 0);
	int saved = errno;
	if (pid > 0)
		waitpid(pid, NULL, 0);
	errno = saved;
	return fd;
}

/*
 * ARGS: number, path, `recursive`, `top` or "" [, uid map, gid map]. A detached clone of a mount, its ids mapped where maps
 * are (mount_setattr(2), Linux 5.12); with `top` those of what is mounted below it are not.
 */
int step_source(struct launch *launch, int count, char **args)
{
	unsigned long slot = (unsigned long)number(args[0]);
	unsigned recursive = args[2][0] ? AT_RECURSIVE : 0;
	int tree = slot < SOURCES_MAX ? open_tree_fd(AT_FDCWD, args[1], OPEN_TREE_CLONE | recursive) : -1;
	if (tree < 0)
		return fail(launch, "%s", args[1]);
	launch->sources[slot] = tree;
	if (count < 5)
		return 0;
	int users = open_user_namespace(args[3], args[4]);
	struct mount_change change = {.set = MOUNT_ATTR_IDMAP, .userns = (uint64_t)users};
	if (users < 0 || close_saving(users, change_mount(tree, change, strcmp(args[2], "recursive") == 0)) < 0)
		return fail(launch, "%s: map its ids", args[1]);
	return 0;
}

/* What the file system said of its options (fsconfig(2)), where it said something. */
static int explain(struct launch *launch, int fs, const char *type, const char *path)
{
	char text[256];
	int saved = errno;
	ssize_t len = fs < 0 ? -1 : read(fs, text, sizeof text - 1);
	if (len > 0)
		text[len - (text[len - 1] == '\n')] = 0;
	errno = saved;
	return fail(launch, "%s on /%s%s%s", type, path, len > 2 ? ": " : "", len > 2 ? text + 2 : "");
}

/* mount(2), for an option that is too long for fsconfig(2). */
static int mount_by_options(char **args, int target)
{
	char path[64], options[4096] = "";
	size_t len = 0;
	unsigned long flags = number(args[2]) & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC); /* MOUNT_ATTR_*, the same */
	for (char **option = args + 6; *option && len < sizeof options; option++)
		len += (size_t)snprintf(options + len, sizeof options - len, "%s%s", len ? "," : "", *option);
	if (len >= sizeof options) {
		errno = E2BIG;
		return -1;
	}
	snprintf(path, sizeof path, "/proc/self/fd/%d", target);
	return mount(args[3], path, args[0], flags, options);
}

static int configure(int fs, char *option)
{
	char *value = strchr(option, '=');
	if (value)
		*value++ = 0;
	return fs_config(fs, value ? SET_STRING : SET_FLAG, option, value, 0);
}

/* A tmpfs has the mode of the directory that it covers, unless an option tells it another (as runc and crun have it). */
static int configure_mode(int fs, int covered)
{
	struct stat st;
	char mode[16];
	if (fstat(covered, &st) < 0)
		return -1;
	snprintf(mode, sizeof mode, "%o", st.st_mode & 07777);
	return fs_config(fs, SET_STRING, "mode", mode, 0);
}

static int mount_new(struct launch *launch, char **args, int target, bool made)
{
	int fs = fs_open(args[0]);
	int done = fs < 0 || !args[3][0] ? fs : fs_config(fs, SET_STRING, "source", args[3], 0);
	if (done >= 0 && !made && strcmp(args[0], "tmpfs") == 0)
		done = configure_mode(fs, target);
	for (char **option = args + 6; done >= 0 && *option; option++)
		done = configure(fs, *option);
	if (done >= 0)
		done = fs_config(fs, CMD_CREATE, NULL, NULL, 0);
	int tree = done < 0 ? -1 : fs_mount(fs, number(args[2]));
	if (tree >= 0 && strstr(args[4], "copy") && copy_tree(target, tree, 0) < 0)
		return close_saving(fs, fail(launch, "/%s: copy what it covers", args[1]));
	if (tree < 0 || attach(tree, target) < 0)
		return close_saving(fs, explain(launch, fs, args[0], args[1]));
	close(fs);
	struct mount_change how = {.propagation = number(args[5]) & ~(uint64_t)MS_REC};
	if (how.propagation && change_mount(tree, how, false) < 0)
		return fail(launch, "/%s: propagation", args[1]);
	if (strcmp(args[0], "devpts") == 0)
		launch->devpts = tree;
	else
		close(tree);
	return 0;
}

/*
 * ARGS: type, target beneath the root, MOUNT_ATTR_*, source, words, propagation or 0, options... `own` targets
 * (/proc, /sys, /dev) must be directories that no link leads to: what is written there later is meant for the kernel. With
 * `copy` it holds from the start what it covers; with `long` an option is too long for fsconfig(2).
 */
int step_mount(struct launch *launch, int count, char **args)
{
	bool own = strstr(args[4], "own"), is_long = strstr(args[4], "long");
	uint64_t resolve = own ? RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS : RESOLVE_IN_ROOT;
	int target = open_beneath(launch->root, args[1], O_PATH, resolve);
	bool made = target < 0;
	if (made)
		target = open_made(launch->root, args[1], true, resolve);
	if (target < 0)
		return fail(launch, "/%s: not a directory%s", args[1], own ? " of its own" : "");
	int done = is_long ? mount_by_options(args, target) : mount_new(launch, args, target, made);
	if (done < 0 && is_long)
		fail(launch, "%s on /%s", args[0], args[1]);
	return close_saving(target, done);
}

/* A detached clone of a source. Our own workspace is left out of it, where the host's path leads to that as well. */
static int open_source(struct launch *launch, const char *name, unsigned recursive)
{
	if (name[0] == '#')
		return launch->sources[number(name + 1) % SOURCES_MAX];
	if (name[0] == '@')
		return (int)number(name + 1);
	if (recursive)
		change_mount(launch->workspace, (struct mount_change){.propagation = MS_UNBINDABLE}, false);
	int tree = open_tree_fd(AT_FDCWD, name, OPEN_TREE_CLONE | recursive);
	int saved = errno;
	if (recursive)
		change_mount(launch->workspace, (struct mount_change){.propagation = MS_PRIVATE}, false);
	errno = saved;
	return tree;
}

/*
 * ARGS: source (a path of the host, `#N` for one made before, `@N` for the fd of a mount that is nowhere yet), target beneath
 * the root, `recursive` or "", attributes to set, to clear, to set and to clear in the whole tree, propagation of mount(2)
 * or 0.
 */
int step_bind(struct launch *launch, int count, char **args)
{
	struct stat st;
	int tree = open_source(launch, args[0], args[2][0] ? AT_RECURSIVE : 0);
	struct mount_change change = {.set = number(args[3]), .clear = number(args[4])};
	struct mount_change all = {.set = number(args[5]), .clear = number(args[6])};
	struct mount_change how = {.propagation = number(args[7]) & ~(uint64_t)MS_REC};
	if (tree < 0 || fstat(tree, &st) < 0)
		return fail(launch, "%s", args[0]);
	if ((change.set || change.clear) && change_mount(tree, change, false) < 0)
		return fail(launch, "/%s: attributes", args[1]);
	if ((all.set || all.clear) && change_mount(tree, all, true) < 0)
		return fail(launch, "/%s: attributes of the tree", args[1]);
	int target = open_made(launch->root, args[1], S_ISDIR(st.st_mode), RESOLVE_IN_ROOT);
	if (target < 0 || close_saving(target, attach(tree, target)) < 0)
		return fail(launch, "/%s", args[1]);
	if (how.propagation && change_mount(tree, how, number(args[7]) & MS_REC) < 0)
		return fail(launch, "/%s: propagation", args[1]);
	return close(tree);
}

/* A null device that is no inode of the image: our own, or where we may make none, the host's. */
static int cover_file(struct launch *launch, int target, uint64_t attrs)
{
	int null = open_own_node(launch, S_IFCHR | 0666, makedev(1, 3), 0, 0);
	if (null < 0)
		null = open_host_node("/dev/null", S_IFCHR, makedev(1, 3));
	return null < 0 ? -1 : close_saving(null, bind_over(null, "", 0, attrs & ~(uint64_t)MOUNT_ATTR_NODEV, target));
}

/* ARGS: path beneath the root, to be made where it is missing. */
int step_make_directory(struct launch *launch, int count, char **args)
{
	int fd = open_made(launch->root, args[0], true, RESOLVE_IN_ROOT);
	return fd < 0 ? fail(launch, "/%s", args[0]) : close(fd);
}

/* ARGS: path beneath the root; one that is not there needs no mask. Files show a null device, directories nothing. */
int step_mask(struct launch *launch, int count, char **args)
{
	struct stat st;
	int target = open_beneath(launch->root, args[0], O_PATH, RESOLVE_IN_ROOT);
	if (target < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : fail(launch, "/%s", args[0]);
	uint64_t attrs = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	int done = fstat(target, &st);
	if (done == 0 && !S_ISDIR(st.st_mode))
		done = cover_file(launch, target, attrs);
	else if (done == 0 && (mkdirat(launch->workspace, "empty", 0555) == 0 || errno == EEXIST))
		done = bind_over(launch->workspace, "empty", 0, attrs, target);
	else
		done = -1;
	return close_saving(target, done < 0 ? fail(launch, "/%s", args[0]) : 0);
}

/* ARGS: path beneath the root [, `alone`: not what is mounted below]; one that is not there needs no protection. */
int step_readonly(struct launch *launch, int count, char **args)
{
	int target = open_beneath(launch->root, args[0], O_PATH, RESOLVE_IN_ROOT);
	if (target < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : fail(launch, "/%s", args[0]);
	int done = change_mount(target, (struct mount_change){.set = MOUNT_ATTR_RDONLY}, count < 2);
	if (done < 0 && errno == EINVAL) /* not the root of a mount (mount_setattr(2)) */
		done = bind_over(target, "", AT_RECURSIVE, MOUNT_ATTR_RDONLY, target);
	return close_saving(target, done < 0 ? fail(launch, "/%s", args[0]) : 0);
}
