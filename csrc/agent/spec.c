#include "agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct list {
	char **items;
	size_t len, cap;
};

static void push(struct list *list, char *item)
{
	if (list->len + 2 > list->cap) {
		list->cap = 2 * list->cap + 16;
		list->items = realloc(list->items, list->cap * sizeof *list->items);
	}
	if (!list->items)
		die("spec: out of memory");
	if (item)
		list->items[list->len++] = item;
	list->items[list->len] = NULL;
}

static long long number(const char *key, const char *text)
{
	char *end;
	errno = 0;
	long long value = strtoll(text, &end, 10);
	if (errno || *end || end == text)
		die("spec: %s: expected a number, got '%s'", key, text);
	return value;
}

static enum ready_kind ready_kind(const char *text)
{
	static const char *const names[] = {"exit", "line", "tcp", "http"};
	for (int i = 0; i < 4; i++)
		if (strcmp(text, names[i]) == 0)
			return (enum ready_kind)i;
	die("spec: ready: unknown kind '%s'", text);
}

struct lists {
	struct list argv, env, modules, late, layers, mounts;
};

static bool set_list(struct lists *lists, const char *key, char *value)
{
	struct list *list = strcmp(key, "arg") == 0	     ? &lists->argv
			    : strcmp(key, "env") == 0	     ? &lists->env
			    : strcmp(key, "module") == 0     ? &lists->modules
			    : strcmp(key, "late_module") == 0 ? &lists->late
			    : strcmp(key, "layer") == 0	     ? &lists->layers
			    : strcmp(key, "mount") == 0	     ? &lists->mounts
							     : NULL;
	if (list)
		push(list, value);
	return list != NULL;
}

static bool set_text(struct spec *spec, const char *key, const char *value)
{
	const struct {
		const char *key;
		const char **field;
	} texts[] = {
	    {"cwd", &spec->cwd},	     {"ready_text", &spec->ready_text},	  {"ready_path", &spec->ready_path},
	    {"hostname", &spec->hostname},   {"root_device", &spec->root_device}, {"root_fs", &spec->root_fs},
	    {"tree_device", &spec->tree_device},
	    {"net_address", &spec->net_address}, {"net_mask", &spec->net_mask},	  {"net_gateway", &spec->net_gateway},
	};
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (strcmp(key, texts[i].key) == 0) {
			*texts[i].field = value;
			return true;
		}
	return false;
}

static void set_number(struct spec *spec, const char *key, const char *value)
{
	if (strcmp(key, "uid") == 0)
		spec->uid = (uid_t)number(key, value);
	else if (strcmp(key, "gid") == 0)
		spec->gid = (gid_t)number(key, value);
	else if (strcmp(key, "ready_port") == 0)
		spec->ready_port = (int)number(key, value);
	else if (strcmp(key, "vsock") == 0)
		spec->vsock = (int)number(key, value);
	else if (strcmp(key, "upper_bytes") == 0)
		spec->upper_bytes = (uint64_t)number(key, value);
	else if (strcmp(key, "pids") == 0)
		spec->pids = (long)number(key, value);
	else if (strcmp(key, "ready") == 0)
		spec->ready = ready_kind(value);
	else if (strcmp(key, "mode") == 0)
		spec->vm = strcmp(value, "vm") == 0;
	else if (strcmp(key, "hold") == 0)
		spec->hold = number(key, value) != 0;
	else
		die("spec: %s: unknown key", key);
}

static void set(struct spec *spec, struct lists *lists, char *record)
{
	char *value = strchr(record, '=');
	if (!value)
		die("spec: '%s': no '='", record);
	*value++ = 0;
	if (!set_list(lists, record, value) && !set_text(spec, record, value))
		set_number(spec, record, value);
}

void spec_read(struct spec *spec, int fd)
{
	struct buf buf = {0};
	char chunk[4096];
	ssize_t len;
	while ((len = read(fd, chunk, sizeof chunk)) > 0)
		buf_add(&buf, chunk, (size_t)len);
	close(fd);
	if (len < 0)
		die("spec: read: %s", strerror(errno));
	*spec = (struct spec){.cwd = "/", .ready_text = "", .ready_path = "/", .hostname = "", .root_fs = "erofs"};
	struct lists lists = {0};
	for (char *at = buf.data; at && at < buf.data + buf.len;) {
		char *next = at + strlen(at) + 1;
		set(spec, &lists, at);
		at = next;
	}
	push(&lists.argv, NULL), push(&lists.env, NULL), push(&lists.modules, NULL), push(&lists.late, NULL);
	push(&lists.layers, NULL), push(&lists.mounts, NULL);
	spec->argv = lists.argv.items, spec->env = lists.env.items;
	spec->modules = lists.modules.items, spec->late_modules = lists.late.items;
	spec->layers = lists.layers.items, spec->mounts = lists.mounts.items;
	if (!spec->argv[0])
		die("spec: no arg: nothing to run");
}
