/* What is to be seen: identity, host-wide files, leaks, sockets. Read as it is; the host's side compares. */
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILE_KEPT_BYTES = 24 << 10, SOCKETS_PER_DIRECTORY = 256 };

static void add_file(struct buf *json, const char *key, const char *path)
{
	struct buf text = {0};
	if (buf_file(&text, AT_FDCWD, path)) {
		if (text.len > FILE_KEPT_BYTES)
			text.data[FILE_KEPT_BYTES] = 0;
		json_key(json, key);
		buf_json(json, text.data ? text.data : "");
	}
	free(text.data);
}

/* The note of the kernel's build in /sys/kernel/notes: name size, content size, type 3, "GNU", content. */
static void add_build_id(struct buf *json)
{
	struct buf notes = {0};
	json_key(json, "build_id"), buf_str(json, "\"");
	if (buf_file(&notes, AT_FDCWD, "/sys/kernel/notes"))
		for (size_t i = 0; i + 36 <= notes.len; i += 4)
			if (memcmp(notes.data + i, "\4\0\0\0\24\0\0\0\3\0\0\0GNU", 16) == 0) {
				for (int n = 0; n < 20; n++)
					buf_fmt(json, "%02x", (unsigned char)notes.data[i + 16 + (size_t)n]);
				break;
			}
	buf_str(json, "\"");
	free(notes.data);
}

static void add_namespaces(struct buf *json)
{
	static const char *const kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
	json_key(json, "namespaces"), buf_str(json, "{");
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		char path[64], link[64];
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		ssize_t len = readlink(path, link, sizeof link - 1);
		if (len > 0)
			link[len] = 0, json_key(json, kinds[i]), buf_json(json, link);
	}
	buf_str(json, "}");
}

void add_identity(struct buf *json)
{
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	sched_getaffinity(0, sizeof cpus, &cpus);
	buf_str(json, "{");
	add_file(json, "boot_id", "/proc/sys/kernel/random/boot_id");
	add_file(json, "version", "/proc/version");
	add_build_id(json);
	add_namespaces(json);
	add_file(json, "status", "/proc/self/status");
	add_file(json, "uid_map", "/proc/self/uid_map");
	add_file(json, "gid_map", "/proc/self/gid_map");
	add_file(json, "setgroups", "/proc/self/setgroups");
	add_file(json, "label", "/proc/self/attr/current");
	add_file(json, "apparmor", "/proc/self/attr/apparmor/current");
	add_file(json, "cpus_online", "/sys/devices/system/cpu/online");
	json_key(json, "cpus_allowed"), buf_fmt(json, "%d", CPU_COUNT(&cpus));
	json_key(json, "pid"), buf_fmt(json, "%d", getpid());
	buf_str(json, "}");
}

/* Files whose counters are the whole host's wherever the kernel is. harness/probes/_bracketing.py reads the same. */
void add_files(struct buf *json)
{
	static const char *const paths[] = {
	    "/proc/stat", "/proc/vmstat", "/proc/meminfo", "/proc/interrupts", "/proc/softirqs", "/proc/loadavg",
	    "/proc/uptime", "/proc/diskstats", "/proc/schedstat", "/proc/pressure/cpu", "/proc/pressure/io",
	    "/proc/pressure/memory", "/proc/sys/fs/file-nr", "/proc/sys/fs/inode-nr", "/proc/sys/fs/dentry-state",
	    "/proc/swaps", "/proc/partitions", "/proc/net/dev", "/proc/self/mountinfo"};
	buf_str(json, "{");
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		add_file(json, paths[i], paths[i]);
	buf_str(json, "}");
}

/* 0 when a byte could be read, else the errno; ENODATA for an empty file. */
static int first_byte(const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	ssize_t len = read(fd, &byte, 1);
	int why = len < 0 ? errno : len == 0 ? ENODATA : 0;
	close(fd);
	return why;
}

/* Addresses are zeros where kptr_restrict hides them. */
static int kernel_addresses(void)
{
	char text[4096];
	int fd = open("/proc/kallsyms", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	ssize_t len = read(fd, text, sizeof text);
	close(fd);
	for (ssize_t i = 0; i < len && i < 16; i++)
		if (text[i] != '0')
			return 0;
	return len > 0 ? EACCES : ENODATA;
}

static int leak(int which)
{
	static const char *const paths[] = {"/proc/keys", "/proc/timer_list", "/proc/config.gz", "/proc/cmdline",
					    "/proc/slabinfo"};
	char text[256];
	if (which == 0)
		return syscall(SYS_syslog, 3, text, sizeof text) < 0 ? errno : 0; /* read, and leave it there */
	if (which == 1) {
		int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		return fd < 0 ? errno : (close(fd), 0);
	}
	return which == 2 ? kernel_addresses() : first_byte(paths[which - 3]);
}

void add_leaks(struct buf *json)
{
	static const char *const names[] = {"syslog", "/dev/kmsg",	  "kallsyms addresses", "/proc/keys",
					    "/proc/timer_list", "/proc/config.gz", "/proc/cmdline",	    "/proc/slabinfo"};
	enum { LEAKS = sizeof names / sizeof *names };
	int results[LEAKS];
	run_apart(LEAKS, leak, results);
	buf_str(json, "{");
	for (int i = 0; i < LEAKS; i++)
		json_key(json, names[i]), buf_fmt(json, "%d", results[i]);
	buf_str(json, "}");
}

static bool is_socket(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static void sockets_in(struct names *found, const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	for (int n = 0; dir && n < SOCKETS_PER_DIRECTORY && (entry = readdir(dir)); n++) {
		char below[1024];
		int len = snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
		if (entry->d_type == DT_SOCK && (size_t)len < sizeof below)
			names_add(found, below);
	}
	if (dir)
		closedir(dir);
}

/* Sockets in the usual directories of engines, at mount points, and directly below them. */
static void find_sockets(struct names *found)
{
	static const char *const usual[] = {"/run", "/run/containerd", "/run/podman", "/run/crio", "/run/libvirt"};
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[4096], point[1024];
	for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
		sockets_in(found, usual[i]);
	while (file && fgets(line, sizeof line, file)) {
		if (sscanf(line, "%*d %*d %*s %*s %1023s", point) != 1 || strncmp(point, "/proc", 5) == 0 ||
		    strncmp(point, "/sys", 4) == 0 || strcmp(point, "/run") == 0)
			continue;
		if (is_socket(point))
			names_add(found, point);
		else
			sockets_in(found, point);
	}
	if (file)
		fclose(file);
}

void add_sockets(struct buf *json)
{
	struct names found = {0};
	struct dirent *entry;
	long processes = 0;
	DIR *dir = opendir("/proc");
	find_sockets(&found);
	buf_str(json, "{");
	names_json(json, "sockets", &found);
	while (dir && (entry = readdir(dir)))
		processes += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
	if (dir)
		closedir(dir);
	json_key(json, "processes"), buf_fmt(json, "%ld", processes);
	buf_str(json, "}");
}
