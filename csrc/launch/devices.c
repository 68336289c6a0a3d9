/* Device nodes and links of /dev. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
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
static int make_node(int parent, const char *name, char **args, dev_t device)
{
	mode_t type = type_of(args[1]), mode = (mode_t)number(args[4]);
	if (mknodat(parent, name, type | mode, device) < 0)
		return errno == EEXIST ? accept_existing(parent, name, type, device) : -1;
	return fchownat(parent, name, (uid_t)number(args[5]), (gid_t)number(args[6]), AT_SYMLINK_NOFOLLOW);
}

/*
 * A node on our own tmpfs, bound to a file in the directory, so that the directory's mount can be `nodev`. It is called
 * after what it is: no node takes the place of another, or of what masks are made of.
 */
static int bind_node(struct launch *launch, int parent, const char *name, char **args, dev_t device)
{
	char own[64];
	snprintf(own, sizeof own, "%c-%llx-%o-%u-%u", args[1][0], (unsigned long long)device, (mode_t)number(args[4]),
		 (uid_t)number(args[5]), (gid_t)number(args[6]));
	if (make_node(launch->workspace, own, args, device) < 0 ||
	    (mknodat(parent, name, S_IFREG | 0644, 0) < 0 && errno != EEXIST))
		return -1;
	int target = open_beneath(parent, name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (target < 0)
		return -1;
	return close_saving(target, bind_over(launch->workspace, own, 0, MOUNT_ATTR_NOEXEC, target));
}

/* The host's node, where none may be made (user namespaces). It must be what it is called. */
static int bind_host_node(int parent, const char *name, char **args, dev_t device)
{
	char path[4096];
	struct stat st;
	snprintf(path, sizeof path, "/%s", args[0]);
	int node = open(path, O_PATH | O_CLOEXEC);
	if (node < 0)
		return -1;
	if (fstat(node, &st) < 0 || (st.st_mode & S_IFMT) != type_of(args[1]) || st.st_rdev != device) {
		errno = ENODEV;
		return close_saving(node, -1);
	}
	int made = mknodat(parent, name, S_IFREG | 0644, 0);
	int target = made < 0 && errno != EEXIST ? -1 : open_beneath(parent, name, O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	int done = target < 0 ? -1 : bind_over(node, "", 0, MOUNT_ATTR_NOEXEC, target);
	close_saving(target, 0);
	return close_saving(node, done);
}

/* ARGS: path beneath the root, `c`, `b` or `p`, major, minor, mode, uid, gid, how: `node`, `bind` or `host`. */
int step_device(struct launch *launch, int count, char **args)
{
	const char *name;
	dev_t device = makedev((unsigned)number(args[2]), (unsigned)number(args[3]));
	int parent = open_parent(launch->root, args[0], true, &name), done;
	if (parent < 0)
		return fail(launch, "/%s", args[0]);
	if (args[7][0] == 'h' && args[1][0] != 'p')
		done = bind_host_node(parent, name, args, device);
	else if (args[7][0] == 'b')
		done = bind_node(launch, parent, name, args, device);
	else
		done = make_node(parent, name, args, device);
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
