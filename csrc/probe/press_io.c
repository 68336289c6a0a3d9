/*
 * Work on a disk that is to be disturbed, and load that disturbs through disk and network. Bounded before it begins: in
 * time by the caller, in the size of its file, which is gone with us, and in the bytes that it moves altogether.
 */
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { SMALL = 4096, LARGE = 1 << 20, VICTIM_FILE = 4 << 20, PRESS_FILE = 64 << 20 };
static const uint64_t DISK_BYTES_MAX = 4ull << 30, NETWORK_BYTES_MAX = 16ull << 30;

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s", what, strerror(errno));
	return 3;
}

/*
 * A file of its own for direct writes, its first bytes WRITTEN so that their blocks are there; -1 where the disk has not
 * twice its size left. Nothing but the open descriptor keeps it.
 */
static int make_file(const char *directory, size_t bytes, size_t written)
{
	static char zeros[LARGE];
	char path[512];
	struct statvfs disk;
	if (statvfs(directory, &disk) < 0)
		return -1;
	if ((uint64_t)disk.f_bavail * disk.f_frsize < 2 * (uint64_t)bytes) {
		errno = ENOSPC;
		return -1;
	}
	snprintf(path, sizeof path, "%s/harness-press-%d", directory, (int)getpid());
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	for (size_t done = 0; fd >= 0 && done < written; done += LARGE)
		if (write(fd, zeros, LARGE) != LARGE)
			close(fd), fd = -1;
	if (fd < 0)
		return unlink(path), -1;
	int synced = fsync(fd), direct = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	close(fd), unlink(path);
	return synced < 0 ? -1 : direct;
}

/* One block after the other, round and round; 0 or what the first write that failed returned. */
static int write_blocks(int fd, size_t file, size_t block, bool sync, uint64_t until_ns, uint64_t *done)
{
	void *data;
	if (posix_memalign(&data, SMALL, block) != 0)
		return ENOMEM;
	memset(data, 7, block);
	for (off_t at = 0; now_ns() < until_ns && *done * block < DISK_BYTES_MAX; at = (at + (off_t)block) % (off_t)file) {
		if (pwrite(fd, data, block, at) != (ssize_t)block || (sync && fdatasync(fd) < 0))
			return errno ? errno : EIO;
		++*done;
	}
	free(data);
	return 0;
}

int disk_victim(uint64_t window_ns, const char *directory)
{
	uint64_t done = 0;
	int fd = make_file(directory, VICTIM_FILE, VICTIM_FILE);
	if (fd < 0)
		return fail(directory);
	uint64_t start = now_ns();
	errno = write_blocks(fd, VICTIM_FILE, SMALL, true, start + window_ns, &done);
	if (errno)
		return fail(directory);
	printf("%llu %llu\n", (unsigned long long)done, (unsigned long long)(now_ns() - start));
	return 0;
}

int disk_press(uint64_t until_ns, const char *directory, uint64_t *made)
{
	int fd = make_file(directory, PRESS_FILE, 0);
	if (fd < 0)
		return fail(directory);
	errno = write_blocks(fd, PRESS_FILE, LARGE, false, until_ns, made);
	return errno ? fail(directory) : 0;
}

/* `where`: ADDRESS:PORT of a sink that takes everything and answers nothing. `made` are KiB. */
int network_press(uint64_t until_ns, const char *where, uint64_t *made)
{
	static char block[1 << 16];
	char address[64] = "";
	struct sockaddr_in sink = {.sin_family = AF_INET};
	struct timeval bound = {.tv_sec = 1};
	const char *colon = strchr(where, ':');
	if (!colon || (size_t)(colon - where) >= sizeof address)
		return errno = EINVAL, fail(where);
	memcpy(address, where, (size_t)(colon - where));
	sink.sin_port = htons((uint16_t)atoi(colon + 1));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || inet_pton(AF_INET, address, &sink.sin_addr) != 1)
		return fail(where);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
	if (connect(fd, (struct sockaddr *)&sink, sizeof sink) < 0)
		return fail(where);
	for (uint64_t bytes = 0; now_ns() < until_ns && bytes < NETWORK_BYTES_MAX; *made = bytes >> 10) {
		ssize_t len = send(fd, block, sizeof block, MSG_NOSIGNAL);
		if (len < 0 && errno != EAGAIN && errno != EINTR)
			return fail(where);
		bytes += len > 0 ? (size_t)len : 0;
	}
	close(fd);
	return 0;
}
