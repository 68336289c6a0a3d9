#include "agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a start that was prepared needs: wait before the workload runs, be ready again, read all memory once. */

enum { PAGE = 4096, AGAIN_NS = 2000000000 };

/* Everything is there but the workload. False when the host ends it before it has let it go. */
bool warm_hold(const struct spec *spec, struct workload *workload, struct relay *relay)
{
	workload->out = workload->err = -1;
	if (!relay->open) {
		vm_open_console(spec);
		relay_flush(relay);
	}
	while (!relay->go)
		if (!control_serve(spec, workload, relay))
			return false;
	return true;
}

/* Mark when the workload's readiness condition holds, as far as it can be asked anew. */
bool warm_again(const struct spec *spec, struct buf *body)
{
	struct ready_check check = {.socket = -1};
	bool asks = spec->ready == READY_TCP || spec->ready == READY_HTTP;
	uint64_t start_ns = now_ns();
	while (asks && !ready_poll(&check, spec, 0)) {
		if (now_ns() - start_ns > AGAIN_NS) {
			buf_str(body, "again: the workload is not ready any more");
			return false;
		}
		struct pollfd answer = {.fd = check.socket, .events = POLLIN};
		poll(&answer, 1, 1);
	}
	mark("cal", "%d", 0);
	if (check.socket >= 0)
		close(check.socket);
	free(check.seen.data);
	buf_str(body, "again");
	return true;
}

/* Read the pages of one mapping that are there (bit 63 of /proc/PID/pagemap; 62: in swap), and no others. */
static uint64_t touch_mapping(int memory, int pagemap, uint64_t from, uint64_t to)
{
	uint64_t entries[512], read_bytes = 0;
	char page[PAGE];
	while (from < to) {
		uint64_t count = (to - from) / PAGE < 512 ? (to - from) / PAGE : 512;
		ssize_t len = pread(pagemap, entries, count * 8, (off_t)(from / PAGE * 8));
		if (len <= 0)
			return read_bytes;
		for (ssize_t i = 0; i < len / 8; i++)
			if (entries[i] >> 62 && pread(memory, page, PAGE, (off_t)(from + (uint64_t)i * PAGE)) == PAGE)
				read_bytes += PAGE;
		from += (uint64_t)len / 8 * PAGE;
	}
	return read_bytes;
}

static uint64_t touch_process(int pid)
{
	char path[64];
	struct buf maps = {0};
	uint64_t read_bytes = 0;
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int memory = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
	int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	char *rest = NULL;
	bool readable = memory >= 0 && pagemap >= 0 && buf_file(&maps, AT_FDCWD, path);
	for (char *line = readable ? strtok_r(maps.data, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
		unsigned long long from, to;
		char mode[5];
		if (sscanf(line, "%llx-%llx %4s", &from, &to, mode) == 3 && mode[0] == 'r' && !strstr(line, "[v"))
			read_bytes += touch_mapping(memory, pagemap, from, to);
	}
	if (memory >= 0)
		close(memory);
	if (pagemap >= 0)
		close(pagemap);
	free(maps.data);
	return read_bytes;
}

/* Every process but us; where we are not pid 1, the workload alone. */
void warm_touch(const struct workload *workload, struct buf *body)
{
	uint64_t read_bytes = 0;
	DIR *processes = opendir("/proc");
	for (struct dirent *entry; processes && (entry = readdir(processes));) {
		int pid = atoi(entry->d_name); /* 0 for a name that is no number */
		if (pid > 0 && (getpid() == 1 ? pid != 1 : pid == workload->pid))
			read_bytes += touch_process(pid);
	}
	if (processes)
		closedir(processes);
	buf_fmt(body, "%llu\n", (unsigned long long)read_bytes);
}
