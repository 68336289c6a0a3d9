/* Mounts inside the container's root. The image is hostile: no path of it is followed where it could lead elsewhere. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Make what is missing at the end of `path`; the directory above it must be there. */
static int make_last(int root, const char *path, bool directory, uint64_t resolve)
{
	char parent[512];
	const char *slash = strrchr(path, '/');
	snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	const char *name = slash ? slash + 1 : path;
	int fd = open_beneath(root, parent, O_PATH | O_DIRECTORY, resolve);
	if (fd < 0)
		return -1;
	int made = directory ? mkdirat(fd, name, 0755) : mknodat(fd, name, S_IFREG | 0644, 0);
	int saved = errno;
	close(fd);
	errno = saved;
	return made;
}

/* An O_PATH fd of a mount's target, made if missing. A link in the place of any component is refused (ELOOP). */
static int open_own(int root, const char *path, bool directory)
{
	uint64_t flags = O_PATH | (directory ? O_DIRECTORY : 0), resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
	int fd = open_beneath(root, path, flags, resolve);
	if (fd < 0 && errno == ENOENT && make_last(root, path, directory, resolve) == 0)
		fd = open_beneath(root, path, flags, resolve);
	return fd;
}

/* Put a clone of the mount at `path` of `dirfd` over `target`, with more attributes. */
static int bind_over(int dirfd, const char *path, unsigned flags, uint64_t attrs, int target)
{
	int tree = open_tree_fd(dirfd, path, flags | OPEN_TREE_CLONE);
	if (tree < 0)
		return -1;
	int done = attrs ? set_mount_attrs(tree, attrs, flags & AT_RECURSIVE) : 0;
	if (done == 0)
		done = attach(tree, target);
	int saved = errno;
	close(tree);
	errno = saved;
	return done;
}

/* ARGS: type, target beneath the root, flags of mount(2), options. The magic link names exactly the directory checked. */
int step_mount(struct launch *launch, char **args)
{
	char target[64];
	int fd = open_own(launch->root, args[1], true);
	if (fd < 0)
		return fail(launch, "/%s: not a directory of its own", args[1]);
	snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
	int done = mount(args[0], target, args[0], (unsigned long)number(args[2]), args[3]);
	if (done < 0)
		fail(launch, "%s on /%s", args[0], args[1]);
	int saved = errno;
	close(fd);
	errno = saved;
	return done;
}

/*
 * ARGS: name, major, minor. The node is made in the workspace and bound to /dev/NAME: no node of the host or of the image
 * is ever trusted, and /dev itself can be `nodev`.
 */
int step_device(struct launch *launch, char **args)
{
	char path[128];
	dev_t device = makedev((unsigned)number(args[1]), (unsigned)number(args[2]));
	snprintf(path, sizeof path, "dev/%s", args[0]);
	if (mknodat(launch->workspace, args[0], S_IFCHR | 0666, device) < 0)
		return fail(launch, "mknod: %s", args[0]);
	int target = open_own(launch->root, path, false);
	if (target < 0 || bind_over(launch->workspace, args[0], 0, MOUNT_ATTR_NOEXEC, target) < 0)
		return fail(launch, "/%s", path);
	close(target);
	return 0;
}

/* ARGS: content, path beneath the root; its directory must be one of ours. */
int step_link(struct launch *launch, char **args)
{
	char parent[256];
	const char *slash = strrchr(args[1], '/');
	snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - args[1]) : 1, slash ? args[1] : ".");
	int fd = open_beneath(launch->root, parent, O_PATH | O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (fd < 0 || symlinkat(args[0], fd, slash ? slash + 1 : args[1]) < 0)
		return fail(launch, "/%s", args[1]);
	close(fd);
	return 0;
}

/* ARGS: path beneath the root; one that is not there needs no mask. Files show our own null device, directories nothing. */
int step_mask(struct launch *launch, char **args)
{
	struct stat st;
	int target = open_beneath(launch->root, args[0], O_PATH, RESOLVE_IN_ROOT);
	if (target < 0)
		return errno == ENOENT ? 0 : fail(launch, "/%s", args[0]);
	if (fstat(target, &st) < 0 || (mkdirat(launch->workspace, "empty", 0755) < 0 && errno != EEXIST))
		return fail(launch, "/%s", args[0]);
	const char *cover = S_ISDIR(st.st_mode) ? "empty" : "null";
	uint64_t attrs = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
	if (bind_over(launch->workspace, cover, 0, attrs, target) < 0)
		return fail(launch, "/%s", args[0]);
	close(target);
	return 0;
}

/* ARGS: path beneath the root; one that is not there needs no protection. */
int step_readonly(struct launch *launch, char **args)
{
	int target = open_beneath(launch->root, args[0], O_PATH, RESOLVE_IN_ROOT);
	if (target < 0)
		return errno == ENOENT ? 0 : fail(launch, "/%s", args[0]);
	uint64_t attrs = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	if (bind_over(target, "", AT_RECURSIVE, attrs, target) < 0)
		return fail(launch, "/%s", args[0]);
	close(target);
	return 0;
}

/* As `mkdir -p` inside the root; links of the image are followed there and nowhere else. */
static int open_made(int root, const char *path, bool directory)
{
	char prefix[4096];
	for (const char *end = path;; end++) {
		end += strcspn(end, "/");
		if ((size_t)snprintf(prefix, sizeof prefix, "%.*s", (int)(end - path), path) >= sizeof prefix) {
			errno = ENAMETOOLONG;
			return -1;
		}
		bool last = *end == 0;
		int fd = open_beneath(root, prefix, O_PATH, RESOLVE_IN_ROOT);
		if (fd < 0 && errno == ENOENT && make_last(root, prefix, directory || !last, RESOLVE_IN_ROOT) == 0)
			fd = open_beneath(root, prefix, O_PATH, RESOLVE_IN_ROOT);
		if (fd < 0 || last)
			return fd;
		close(fd);
	}
}

/* ARGS: path of the host, path beneath the root, `ro` or `rw`. */
int step_bind(struct launch *launch, char **args)
{
	struct stat st;
	uint64_t attrs = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (strcmp(args[2], "ro") == 0 ? MOUNT_ATTR_RDONLY : 0);
	if (stat(args[0], &st) < 0)
		return fail(launch, "%s", args[0]);
	int target = open_made(launch->root, args[1], S_ISDIR(st.st_mode));
	if (target < 0)
		return fail(launch, "/%s", args[1]);
	if (bind_over(AT_FDCWD, args[0], AT_RECURSIVE, attrs, target) < 0)
		return fail(launch, "%s on /%s", args[0], args[1]);
	close(target);
	return 0;
}
