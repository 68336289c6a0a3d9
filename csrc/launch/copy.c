/* What a tmpfs shall hold from the start: a copy of the directory that it covers (`tmpcopyup`). */
#include "launch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 64 };

static int copy_link(int from, int to, const char *name)
{
	char target[4096] = "";
	return readlinkat(from, name, target, sizeof target - 1) < 0 ? -1 : symlinkat(target, to, name);
}

/* What is in a file or a directory, which may have become another thing meanwhile. */
static int copy_content(int from, int to, const char *name, bool directory, int depth)
{
	int flags = (directory ? O_DIRECTORY : 0) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
	int in = openat(from, name, O_RDONLY | flags), out = openat(to, name, (directory ? O_RDONLY : O_WRONLY) | flags);
	ssize_t done = in < 0 || out < 0 ? -1 : directory ? copy_tree(in, out, depth + 1) : 1;
	while (done > 0)
		done = sendfile(out, in, NULL, 1 << 20);
	close_saving(in, 0);
	return close_saving(out, (int)done);
}

static int copy_entry(int from, int to, const char *name, int depth)
{
	struct stat st;
	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	bool directory = S_ISDIR(st.st_mode), link = S_ISLNK(st.st_mode);
	int done = link	       ? copy_link(from, to, name)
		   : directory ? mkdirat(to, name, 0700)
			       : mknodat(to, name, st.st_mode, st.st_rdev);
	if (done == 0 && (directory || S_ISREG(st.st_mode)))
		done = copy_content(from, to, name, directory, depth);
	if (done == 0)
		done = fchownat(to, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW);
	return done < 0 || link ? done : fchmodat(to, name, st.st_mode & 07777, 0); /* last: chown clears set-id bits */
}

/* Copy what is in one directory into another; neither fd is closed. Links are copied, never followed. */
int copy_tree(int from, int to, int depth)
{
	int fd = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), done = 0;
	DIR *entries = depth > DEPTH_MAX ? NULL : fdopendir(fd);
	if (!entries) {
		errno = depth > DEPTH_MAX ? ELOOP : errno;
		return close_saving(fd, -1);
	}
	for (struct dirent *entry; done == 0 && (entry = readdir(entries));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			done = copy_entry(from, to, entry->d_name, depth);
	int saved = errno;
	closedir(entries);
	errno = saved;
	return done;
}
