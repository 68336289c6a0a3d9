/* On the host, as root: the seccomp filters of threads, as the kernel holds them. Each is stopped for microseconds. */
#include "probe.h"

#include "seccomp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GET_FILTER = 0x420c }; /* PTRACE_SECCOMP_GET_FILTER, Linux 4.4, CONFIG_CHECKPOINT_RESTORE */

static void add_filter(struct buf *json, pid_t tid, long index, long count)
{
	struct sock_filter *filter = calloc((size_t)count, sizeof *filter);
	if (!filter || ptrace(GET_FILTER, tid, (void *)index, filter) != count)
		die("filter %ld of %d", index, tid);
	buf_str(json, index ? ",\"" : "\"");
	for (const unsigned char *at = (unsigned char *)filter; at < (unsigned char *)(filter + count); at++)
		buf_fmt(json, "%02x", *at);
	buf_str(json, "\"");
	free(filter);
}

/* Newest first. ENOENT ends them; another errno is why they cannot be had. */
static void add_filters(struct buf *json, pid_t tid)
{
	int status, why = 0;
	struct buf filters = {0};
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0)
		why = errno;
	else if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0 || waitpid(tid, &status, __WALL) < 0)
		why = errno;
	for (long index = 0; !why; index++) {
		long count = ptrace(GET_FILTER, tid, (void *)index, NULL);
		if (count < 0 && (errno == ENOENT || (errno == EINVAL && index == 0)))
			break; /* EINVAL: this thread has no filter at all */
		if (count < 0)
			why = errno;
		else
			add_filter(&filters, tid, index, count);
	}
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
	buf_fmt(json, "{\"errno\":%d,\"filters\":[", why);
	buf_str(json, filters.data ? filters.data : "");
	buf_str(json, "]}");
	free(filters.data);
}

int dump_filters(int argc, char **tids)
{
	struct buf json = {0};
	buf_str(&json, "{");
	for (int i = 0; i < argc; i++) {
		json_key(&json, tids[i]);
		add_filters(&json, (pid_t)atol(tids[i]));
	}
	buf_str(&json, "}\n");
	write_all(1, json.data, json.len);
	return 0;
}
