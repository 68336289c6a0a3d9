/* What can be seen from inside, read at the moment of the request and reported as it is; the host side judges. */
#include "agent.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { NAMES_MAX = 64 };

/* The workload's namespaces are the agent's own, which it may always read; another user's it may not (ptrace(2)). */
static void add_namespaces(struct buf *json)
{
	static const char *const kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
	json_key(json, "namespaces");
	buf_str(json, "{");
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		char path[64], link[64];
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		ssize_t len = readlink(path, link, sizeof link - 1);
		if (len <= 0)
			continue; /* this kernel has no such namespace */
		link[len] = 0;
		json_key(json, kinds[i]);
		buf_json(json, link);
	}
	buf_str(json, "}");
}

/* The lines of /proc/PID/status that say what the process may do, as strings. */
static void add_status(struct buf *json, const char *process)
{
	static const char *const keys[] = {"Uid",    "Gid",    "CapInh",     "CapPrm",  "CapEff",
					   "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"};
	char path[64];
	struct buf text = {0};
	snprintf(path, sizeof path, "/proc/%s/status", process);
	json_key(json, "status");
	buf_str(json, "{");
	bool read_it = buf_file(&text, AT_FDCWD, path);
	char *rest = NULL;
	for (char *line = read_it ? strtok_r(text.data, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
		char *value = strstr(line, ":\t");
		if (!value)
			continue;
		*value = 0;
		for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
			if (strcmp(line, keys[i]) == 0) {
				json_key(json, line);
				buf_json(json, value + 2);
			}
	}
	buf_str(json, "}");
	free(text.data);
}

static void add_memory(struct buf *json)
{
	struct buf text = {0};
	json_key(json, "memory_bytes");
	buf_str(json, "{");
	bool read_it = buf_file(&text, AT_FDCWD, "/proc/meminfo");
	char *rest = NULL;
	for (char *line = read_it ? strtok_r(text.data, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
		char key[40];
		unsigned long long kib;
		if (sscanf(line, "%39[A-Za-z_]: %llu kB", key, &kib) != 2)
			continue;
		json_key(json, key);
		buf_fmt(json, "%llu", kib * 1024);
	}
	buf_str(json, "}");
	free(text.data);
}

static long count_processes(void)
{
	long count = 0;
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	while (dir && (entry = readdir(dir)))
		count += isdigit((unsigned char)entry->d_name[0]) != 0;
	if (dir)
		closedir(dir);
	return count;
}

struct devices {
	long character, block;
	struct buf names;
	long named;
};

static void add_device(struct devices *devices, const struct stat *st, const char *path)
{
	devices->character += S_ISCHR(st->st_mode);
	devices->block += S_ISBLK(st->st_mode);
	if (devices->named++ < NAMES_MAX) {
		if (devices->named > 1)
			buf_str(&devices->names, " ");
		buf_str(&devices->names, path);
	}
}

/* Walk /dev and /dev/NAME, which is as deep as devices lie. */
static void count_devices(struct devices *devices, const char *where, int depth)
{
	DIR *dir = opendir(where);
	struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		char path[512];
		struct stat st;
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%.200s/%.255s", where, entry->d_name);
		if (lstat(path, &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode) && depth > 0)
			count_devices(devices, path, depth - 1);
		else if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
			add_device(devices, &st, path);
	}
	if (dir)
		closedir(dir);
}

static void add_devices(struct buf *json)
{
	struct devices devices = {0};
	count_devices(&devices, "/dev", 2);
	json_key(json, "devices");
	buf_fmt(json, "{\"character\":%ld,\"block\":%ld,\"names\":", devices.character, devices.block);
	buf_json(json, devices.names.data ? devices.names.data : "");
	buf_str(json, "}");
	free(devices.names.data);
}

static void add_lines(struct buf *json, const char *key, const char *path, long skip)
{
	struct buf text = {0};
	if (buf_file(&text, AT_FDCWD, path)) {
		long lines = -skip;
		for (size_t i = 0; i < text.len; i++)
			lines += text.data[i] == '\n';
		json_key(json, key);
		buf_fmt(json, "%ld", lines);
	}
	free(text.data);
}

static void add_file(struct buf *json, const char *key, const char *path)
{
	struct buf text = {0};
	if (buf_file(&text, AT_FDCWD, path)) {
		while (text.len && text.data[text.len - 1] == '\n')
			text.data[--text.len] = 0;
		json_key(json, key);
		buf_json(json, text.data ? text.data : "");
	}
	free(text.data);
}

void inside(struct buf *json, const struct workload *workload)
{
	char process[32] = "self";
	struct utsname uts;
	uname(&uts);
	if (!workload->exited)
		snprintf(process, sizeof process, "%d", workload->pid);
	buf_str(json, "{");
	json_key(json, "subject"), buf_json(json, workload->exited ? "agent" : "workload");
	json_key(json, "kernel"), buf_json(json, uts.release);
	json_key(json, "hostname"), buf_json(json, uts.nodename);
	add_file(json, "boot_id", "/proc/sys/kernel/random/boot_id");
	add_namespaces(json);
	add_status(json, process);
	add_memory(json);
	json_key(json, "processes"), buf_fmt(json, "%ld", count_processes());
	add_devices(json);
	add_lines(json, "mounts", "/proc/self/mountinfo", 0);
	add_lines(json, "network_interfaces", "/proc/net/dev", 2);
	buf_str(json, "}");
}
