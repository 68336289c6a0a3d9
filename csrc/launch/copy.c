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

static int copy_file(int from, int to, const char *name, const struct stat *st)
{
	int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC); /* it may be a FIFO by now */
	int out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, st->st_mode & 07777);
	ssize_t sent = in < 0 || out < 0 ? -1 : 1;
	while (sent > 0)
		sent = sendfile(out, in, NULL, 1 << 20);
	close_saving(in, 0);
	return close_saving(out, (int)sent);
}

static int copy_link(int from, int to, const char *name)
{
	char target[4096];
	ssize_t len = readlinkat(from, name, target, sizeof target - 1);
	if (len < 0)
		return -1;
	target[len] = 0;
	return symlinkat(target, to, name);
}

static int copy_entry(int from, int to, const char *name, int depth)
{
	struct stat st;
	int done = fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW);
	if (done == 0 && S_ISDIR(st.st_mode)) {
		int in = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		int out = mkdirat(to, name, st.st_mode & 07777) < 0
			      ? -1
			      : openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		done = in < 0 || out < 0 ? -1 : copy_tree(in, out, depth + 1);
		close_saving(in, 0);
		close_saving(out, 0);
	} else if (done == 0 && S_ISLNK(st.st_mode)) {
		done = copy_link(from, to, name);
	} else if (done == 0) {
		done = S_ISREG(st.st_mode) ? copy_file(from, to, name, &st) : mknodat(to, name, st.st_mode, st.st_rdev);
	}
	if (done == 0)
		done = fchownat(to, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW);
	return done < 0 || S_ISLNK(st.st_mode) ? done : fchmodat(to, name, st.st_mode & 07777, 0); /* chown clears set-id bits */
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
