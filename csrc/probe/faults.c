/*
 * Faults inside a sandbox of our own, bounded before they begin: memory by BYTES, processes by 200, a disk by BYTES. A
 * kernel panic is caused only where the kernel has been proven not to be the host's.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PROCESSES_MAX = 200, FAULT_S = 10, BYTES_MAX = 512 << 20 };

/* A child that takes memory until it has BYTES, or is killed; it is the one to be killed. */
static int take_memory(size_t bytes)
{
	pid_t pid = fork();
	if (pid == 0) {
		int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
		if (fd >= 0 && write(fd, "1000", 4) < 0)
			_exit(3);
		int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE; /* or a small guest refuses at once */
		char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
		if (at == MAP_FAILED)
			_exit(2);
		for (size_t i = 0; i < bytes; i += PAGE)
			at[i] = 1;
		_exit(0);
	}
	int status = 0;
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 1;
	printf("%s %d\n", WIFSIGNALED(status) ? "killed" : "ended", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return 0;
}

/* As many sleeping processes as are allowed, no more than PROCESSES_MAX; then all of them are ended. */
static int take_processes(void)
{
	pid_t made[PROCESSES_MAX];
	int count = 0, why = 0;
	for (; count < PROCESSES_MAX; count++) {
		made[count] = fork();
		if (made[count] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			alarm(FAULT_S);
			pause();
			_exit(0);
		}
		if (made[count] < 0) {
			why = errno;
			break;
		}
	}
	for (int i = 0; i < count; i++)
		kill(made[i], SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	printf("%d %d\n", count, why);
	return 0;
}

/* A file that grows until the disk is full or it has BYTES; it goes at once. */
static int take_disk(size_t bytes, const char *directory)
{
	static char block[1 << 16];
	char path[512];
	snprintf(path, sizeof path, "%s/harness-probe-fill", directory);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), why = 0;
	if (fd < 0)
		return printf("0 %d\n", errno), 0;
	unlink(path);
	size_t done = 0;
	while (done < bytes) {
		ssize_t len = write(fd, block, sizeof block);
		if (len < 0) {
			why = errno;
			break;
		}
		done += (size_t)len;
	}
	close(fd);
	printf("%zu %d\n", done, why);
	return 0;
}

/* 3: this may be the host's kernel. The host tells its boot id, which no other kernel has. */
static int panic(const char *host_boot_id)
{
	char own[64] = {0};
	int id = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t len = id < 0 ? -1 : read(id, own, sizeof own - 1);
	if (len != 37 || strlen(host_boot_id) != 36 || strncmp(own, host_boot_id, 36) == 0)
		return 3;
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return 4;
	return write(fd, "c", 1) == 1 ? 0 : 5;
}

/*
 * What becomes of a sandbox whose first process itself fails: the agent calls this, not a child of it. 0: it lives on.
 * Kinds: `exit` with a code; `kill` by its own hand, which the kernel ignores of a pid 1; `memory` beyond a limit.
 */
int init_fault(const char *kind, const char *argument)
{
	size_t bytes = strtoul(argument, NULL, 10);
	if (strcmp(kind, "exit") == 0)
		_exit((int)(bytes & 0x7f));
	if (strcmp(kind, "kill") == 0)
		return kill(getpid(), SIGKILL) < 0;
	if (strcmp(kind, "memory") != 0)
		return 2;
	bytes = bytes > BYTES_MAX ? BYTES_MAX : bytes;
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return 3;
	for (size_t i = 0; i < bytes; i += PAGE)
		at[i] = 1;
	munmap(at, bytes);
	return 0;
}

int fault(const char *kind, const char *argument)
{
	size_t bytes = strtoul(argument, NULL, 10);
	bytes = bytes > BYTES_MAX ? BYTES_MAX : bytes;
	if (strcmp(kind, "panic") == 0)
		return panic(argument);
	alarm(FAULT_S);
	if (strcmp(kind, "memory") == 0)
		return take_memory(bytes);
	if (strcmp(kind, "processes") == 0)
		return take_processes();
	return strcmp(kind, "disk") == 0 ? take_disk(bytes, "/tmp") : 2;
}
