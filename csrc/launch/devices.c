/* Device nodes and links of /dev. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static mode_t type_of(const char *kind)
{
	return kind[0] == 'b' ? S_IFBLK : kind[0] == 'p' ? S_IFIFO : S_IFCHR;
}

/* Whether `name` is already the node that is wanted; EEXIST where it is another thing, which an image may have put there. */
static int accept_existing(int parent, const char *name, mode_t type, dev_t device)
{
	struct stat st;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	errno = EEXIST;
	return (st.st_mode & S_IFMT) == type && (type == S_IFIFO || st.st_rdev == device) ? 0 : -1;
}

/* A node in the directory itself. */
static int make_node(int parent, const char *name, mode_t mode, dev_t device, uid_t uid, gid_t gid)
{
	if (mknodat(parent, name, mode, device) < 0)
		return errno == EEXIST ? accept_existing(parent, name, mode & S_IFMT, device) : -1;
	return fchownat(parent, name, uid, gid, AT_SYMLINK_NOFOLLOW);
}

/* A node on our own tmpfs, called after what it is: none takes the place of another. */
int open_own_node(struct launch *launch, mode_t mode, dev_t device, uid_t uid, gid_t gid)
{
	char own[64];
	snprintf(own, sizeof own, "%o-%llx-%u-%u", mode, (unsigned long long)device, uid, gid);
	int made = make_node(launch->workspace, own, mode, device, uid, gid);
	return made < 0 ? -1 : openat(launch->workspace, own, O_PATH | O_CLOEXEC);
}

/* The host's node, where none may be made (user namespaces). It must be what it is called. */
int open_host_node(const char *path, mode_t type, dev_t device)
{
	struct stat st;
	int node = open(path, O_PATH | O_CLOEXEC);
	if (node < 0 || (fstat(node, &st) == 0 && (st.st_mode & S_IFMT) == type && st.st_rdev == device))
		return node;
	errno = ENODEV;
	return close_saving(node, -1);
}

/* Bind a node to a file in the directory, so that the directory's own mount can be `nodev`. */
static int bind_node(int node, int parent, const char *name)
{
	int made = node < 0 ? -1 : mknodat(parent, name, S_IFREG | 0644, 0), target = -1;
	if (node >= 0 && (made == 0 || errno == EEXIST))
		target = open_beneath(parent, name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	int done = target < 0 ? -1 : bind_over(node, "", 0, MOUNT_ATTR_NOEXEC, target);
	close_saving(target, 0);
	return close_saving(node, done);
}

/* ARGS: path beneath the root, `c`, `b` or `p`, major, minor, mode, uid, gid, how: `node`, `bind` or `host`. */
int step_device(struct launch *launch, int count, char **args)
{
	const char *name;
	char path[4096];
	dev_t device = makedev((unsigned)number(args[2]), (unsigned)number(args[3]));
	mode_t type = type_of(args[1]), mode = type | (mode_t)number(args[4]);
	uid_t uid = (uid_t)number(args[5]);
	gid_t gid = (gid_t)number(args[6]);
	int parent = open_parent(launch->root, args[0], true, &name), done;
	if (parent < 0)
		return fail(launch, "/%s", args[0]);
	snprintf(path, sizeof path, "/%s", args[0]);
	if (args[7][0] == 'h' && type != S_IFIFO)
		done = bind_node(open_host_node(path, type, device), parent, name);
	else if (args[7][0] == 'b')
		done = bind_node(open_own_node(launch, mode, device, uid, gid), parent, name);
	else
		done = make_node(parent, name, mode, device, uid, gid);
	return close_saving(parent, done < 0 ? fail(launch, "/%s", args[0]) : 0);
}

/* ARGS: content, path beneath the root. What an image has there already is replaced, unless it is a directory. */
int step_link(struct launch *launch, int count, char **args)
{
	const char *name;
	int parent = open_parent(launch->root, args[1], false, &name);
	if (parent < 0)
		return fail(launch, "/%s", args[1]);
	int done = symlinkat(args[0], parent, name);
	if (done < 0 && errno == EEXIST && unlinkat(parent, name, 0) == 0)
		done = symlinkat(args[0], parent, name);
	return close_saving(parent, done < 0 ? fail(launch, "/%s", args[1]) : 0);
}
