/* A known amount of memory, for a host that wants to see whether it finds it again: `harness:touch BYTES`. */
#include "agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

/* Write to every page something of its own, so that no page is the same as another, or as the zero page. */
static int hold(size_t bytes, int done)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	for (size_t at = 0; at < bytes; at += PAGE)
		memcpy(memory + at, &at, sizeof at), memory[at + PAGE - 1] = 1;
	if (write(done, "x", 1) != 1)
		return 1;
	close(done), close(0), close(1), close(2);
	for (;;)
		pause();
}

/* Return when a child holds as many bytes; it goes on holding them until the instance ends. */
int touch(char **argv)
{
	char answer, *end = NULL;
	unsigned long long bytes = argv[1] ? strtoull(argv[1], &end, 10) : 0;
	int done[2];
	if (bytes == 0 || *end || pipe(done) < 0) {
		fprintf(stderr, "touch: expected a number of bytes\n");
		return 2;
	}
	pid_t child = fork();
	if (child == 0) {
		close(done[0]);
		_exit(hold((size_t)bytes, done[1]));
	}
	close(done[1]);
	if (child > 0 && read(done[0], &answer, 1) == 1)
		return 0;
	fprintf(stderr, "touch: %llu bytes: %s\n", bytes, child < 0 ? strerror(errno) : "not to be had");
	return 1;
}
