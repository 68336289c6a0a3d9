/* Paths inside the container's root. The image is hostile: no path of it is followed where it could lead elsewhere. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int open_beneath(int dirfd, const char *path, uint64_t flags, uint64_t resolve)
{
	int fd;
	do /* EAGAIN: something was renamed while ".." was resolved (openat2(2)) */
		fd = open_how(dirfd, path, flags, resolve | RESOLVE_NO_MAGICLINKS);
	while (fd < 0 && errno == EAGAIN);
	return fd;
}

int write_file(int dirfd, const char *path, const char *text)
{
	int fd = open_beneath(dirfd, path, O_WRONLY, RESOLVE_BENEATH);
	ssize_t len = (ssize_t)strlen(text);
	return close_saving(fd, fd >= 0 && write(fd, text, (size_t)len) == len ? 0 : -1);
}

/* Make `name` in `parent`; what another made meanwhile is as good. */
static int make_in(int parent, const char *name, bool directory)
{
	int made = directory ? mkdirat(parent, name, 0755) : mknodat(parent, name, S_IFREG | 0644, 0);
	return made < 0 && errno == EEXIST ? 0 : made;
}

/* The path that a link without a target stands for: `prefix` is the link's own path, `rest` what follows it. */
static int follow(int parent, const char *link, const char *prefix, const char *rest, char *path, size_t size)
{
	char target[2048];
	ssize_t len = readlinkat(parent, link, target, sizeof target - 1);
	if (len < 0)
		return -1;
	target[len] = 0;
	int above = target[0] == '/' ? 0 : (int)(strlen(prefix) - strlen(link));
	const char *inside = target + strspn(target, "/");
	if ((size_t)snprintf(path, size, "%.*s%s%s", above, prefix, inside, rest) < size)
		return 0;
	errno = ENAMETOOLONG;
	return -1;
}

/* As `mkdir -p` inside the root, then an O_PATH fd of the end. Links lead inside, or (`resolve`) nowhere. */
static int make_path(int root, const char *path, bool directory, uint64_t resolve, int links)
{
	char prefix[4096], component[256], other[4096];
	int parent = openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (const char *end = path; parent >= 0; end++) {
		const char *name = end;
		end += strcspn(end, "/");
		bool last = *end == 0;
		size_t len = (size_t)snprintf(component, sizeof component, "%.*s", (int)(end - name), name);
		if ((size_t)snprintf(prefix, sizeof prefix, "%.*s", (int)(end - path), path) >= sizeof prefix ||
		    len >= sizeof component) {
			errno = ENAMETOOLONG;
			break;
		}
		int fd = open_beneath(root, prefix, O_PATH, resolve);
		if (fd < 0 && errno == ENOENT && make_in(parent, component, directory || !last) == 0)
			fd = open_beneath(root, prefix, O_PATH, resolve);
		if (fd < 0 && errno == ENOENT && links > 0 && resolve == RESOLVE_IN_ROOT &&
		    follow(parent, component, prefix, end, other, sizeof other) == 0)
			return close_saving(parent, make_path(root, other, directory, resolve, links - 1));
		close_saving(parent, 0);
		if (fd < 0 || last)
			return fd;
		parent = fd;
	}
	return parent < 0 ? -1 : close_saving(parent, -1);
}

int open_made(int root, const char *path, bool directory, uint64_t resolve)
{
	int fd = open_beneath(root, path, O_PATH, resolve);
	return fd >= 0 || errno != ENOENT ? fd : make_path(root, path, directory, resolve, 8);
}

/* An fd of the directory that holds `path`; `name` becomes its last component. */
int open_parent(int root, const char *path, bool make, const char **name)
{
	char parent[4096];
	const char *slash = strrchr(path, '/');
	if (slash && slash - path >= (ssize_t)sizeof parent) {
		errno = ENAMETOOLONG;
		return -1;
	}
	snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	*name = slash ? slash + 1 : path;
	return make ? open_made(root, parent, true, RESOLVE_IN_ROOT)
		    : open_beneath(root, parent, O_PATH | O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
}
