/* Kernel files that could be written, found by access(2) alone: nothing is opened. And files that engines hide. */
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define TMPFS 0x01021994 /* TMPFS_MAGIC, include/uapi/linux/magic.h */
enum { ENTRIES_MAX = 40000, WALK_NS = 1500000000, DEPTH_MAX = 12 };

struct walk {
	struct names found;
	long entries;
	uint64_t end_ns;
	bool cut;
};

/* Large, or of no use to whoever wants to reach the host; what lies below is never entered. */
static bool skipped(const char *path)
{
	static const char *const all[] = {"/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/slab",
					  "/sys/kernel/security", "/sys/fs/cgroup", "/sys/fs/selinux", "/proc/sys",
					  "/proc/self", "/proc/thread-self"};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (strcmp(path, all[i]) == 0)
			return true;
	return strncmp(path, "/proc/", 6) == 0 && path[6] >= '0' && path[6] <= '9';
}

/* CAP_DAC_OVERRIDE may open what nobody can write: only files that have a way to be written count. */
static bool takes_writes(const char *path)
{
	struct stat st;
	return access(path, W_OK) == 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_mode & 0222;
}

static void walk_below(struct walk *walk, const char *path, int depth)
{
	DIR *dir = depth > 0 ? opendir(path) : NULL;
	struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		char below[1024];
		if (entry->d_name[0] == '.' && (!entry->d_name[1] || entry->d_name[1] == '.'))
			continue;
		if (walk->entries++ > ENTRIES_MAX || now_ns() > walk->end_ns) {
			walk->cut = true;
			break;
		}
		int len = snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
		if ((size_t)len >= sizeof below || skipped(below))
			continue;
		if (entry->d_type == DT_DIR)
			walk_below(walk, below, depth - 1);
		else if (entry->d_type == DT_REG && takes_writes(below))
			names_add(&walk->found, below);
	}
	if (dir)
		closedir(dir);
}

static void add_walk(struct buf *json, const char *key, const char *const *roots)
{
	struct walk walk = {.end_ns = now_ns() + WALK_NS};
	for (; *roots; roots++)
		walk_below(&walk, *roots, DEPTH_MAX);
	char cut[64];
	snprintf(cut, sizeof cut, "%s_cut", key);
	names_json(json, key, &walk.found);
	json_key(json, cut), buf_str(json, walk.cut ? "true" : "false");
}

void add_writable(struct buf *json)
{
	static const char *const sysctls[] = {"/proc/sys", NULL};
	static const char *const others[] = {"/proc", "/sys/kernel", "/sys/module", "/sys/power", "/sys/firmware",
					     "/sys/fs", "/sys/bus", NULL};
	buf_str(json, "{");
	add_walk(json, "sysctls", sysctls);
	add_walk(json, "pseudo_files", others);
	buf_str(json, "}");
}

static const char *const hidden[] = {
    "/proc/acpi", "/proc/asound", "/proc/bus", "/proc/config.gz", "/proc/fs", "/proc/interrupts", "/proc/iomem",
    "/proc/irq", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/keys", "/proc/kmsg", "/proc/kpagecount",
    "/proc/latency_stats", "/proc/modules", "/proc/sched_debug", "/proc/scsi", "/proc/slabinfo", "/proc/sys",
    "/proc/sysrq-trigger", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug"};

/* An engine hides a file under its null device, a directory under an empty tmpfs. */
static const char *state_of(const char *path)
{
	struct stat st;
	struct statfs fs;
	struct statvfs flags;
	if (stat(path, &st) < 0)
		return errno == ENOENT ? "absent" : "refused";
	if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
		return "masked";
	if (statfs(path, &fs) == 0 && fs.f_type == TMPFS)
		return "masked";
	if (access(path, R_OK) < 0 && access(path, W_OK) < 0)
		return "refused";
	return statvfs(path, &flags) == 0 && flags.f_flag & ST_RDONLY ? "read-only" : "open";
}

void add_masked(struct buf *json)
{
	buf_str(json, "{");
	for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
		json_key(json, hidden[i]), buf_json(json, state_of(hidden[i]));
	buf_str(json, "}");
}
