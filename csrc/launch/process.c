/* What the process is and may do. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Steps that are one system call: the kind of each argument, `i` a number, `s` a string. */
static const struct call {
	const char *step;
	long number;
	const char *kinds;
	int tolerated; /* an errno that is no failure */
} calls[] = {
	{"ioprio_set", SYS_ioprio_set, "iii", 0},
	{"keyctl", SYS_keyctl, "is", ENOSYS}, /* a kernel without keys has no keyring to share */
	{"personality", SYS_personality, "i", 0},
	{"prctl", SYS_prctl, "iiiii", 0},
	{"setdomainname", SYS_setdomainname, "si", 0},
	{"sethostname", SYS_sethostname, "si", 0},
	{"setns", SYS_setns, "ii", 0},
	{"setpriority", SYS_setpriority, "iii", 0},
	{"setresgid", SYS_setresgid, "iii", 0},
	{"setresuid", SYS_setresuid, "iii", 0},
	{"setsid", SYS_setsid, "", 0},
	{"umask", SYS_umask, "i", 0},
	{"unshare", SYS_unshare, "i", 0},
};

int step_call(struct launch *launch, int count, char **args)
{
	long values[6] = {0};
	size_t i = 0;
	while (i < sizeof calls / sizeof *calls && strcmp(calls[i].step, args[0]) != 0)
		i++;
	if (i == sizeof calls / sizeof *calls || strlen(calls[i].kinds) != (size_t)count - 1) {
		errno = ENOSYS;
		return fail(launch, "no such system call with %d arguments", count - 1);
	}
	for (int n = 1; n < count; n++)
		values[n - 1] = calls[i].kinds[n - 1] == 's' ? (long)args[n] : (long)number(args[n]);
	long done = syscall(calls[i].number, values[0], values[1], values[2], values[3], values[4], values[5]);
	return done < 0 && errno != calls[i].tolerated ? fail(launch, "%s", count > 1 ? args[1] : "") : 0;
}

/* Write a file of the host's /proc, which no mount of the container can have replaced. */
static int write_proc(struct launch *launch, const char *path, const char *text)
{
	int dir = launch->proc >= 0 ? launch->proc : open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = open_beneath(dir, path, O_WRONLY, RESOLVE_BENEATH);
	ssize_t len = (ssize_t)strlen(text);
	int done = fd >= 0 && write(fd, text, (size_t)len) == len ? 0 : -1;
	if (dir != launch->proc)
		close_saving(dir, 0);
	return close_saving(fd, done);
}

int step_oom_score_adj(struct launch *launch, int count, char **args)
{
	return write_proc(launch, "thread-self/oom_score_adj", args[0]) < 0 ? fail(launch, "%s", args[0]) : 0;
}

/* ARGS: path below /proc/sys, value; before anything can lie over the host's /proc, in the namespaces that it is about. */
int step_sysctl(struct launch *launch, int count, char **args)
{
	char path[512];
	if ((size_t)snprintf(path, sizeof path, "sys/%s", args[0]) >= sizeof path) {
		errno = ENAMETOOLONG;
		return fail(launch, "%s", args[0]);
	}
	return write_proc(launch, path, args[1]) < 0 ? fail(launch, "%s: %s", args[0], args[1]) : 0;
}

/* ARGS: file below /proc/self/attr, text. The label holds from the next execve on. */
int step_label(struct launch *launch, int count, char **args)
{
	char path[128];
	snprintf(path, sizeof path, "thread-self/attr/%s", args[0]);
	return write_proc(launch, path, args[1]) < 0 ? fail(launch, "%s", args[1]) : 0;
}

/* ARGS: resource, soft, hard. */
int step_rlimit(struct launch *launch, int count, char **args)
{
	struct rlimit limit = {.rlim_cur = number(args[1]), .rlim_max = number(args[2])};
	return setrlimit((int)number(args[0]), &limit) < 0 ? fail(launch, "resource %s", args[0]) : 0;
}

/* ARGS: gids. Without any, those of the caller go: to drop them later would take a capability that may be gone by then. */
int step_groups(struct launch *launch, int count, char **args)
{
	gid_t groups[ARGS_MAX];
	for (int i = 0; i < count; i++)
		groups[i] = (gid_t)number(args[i]);
	return setgroups((size_t)count, groups) < 0 ? fail(launch, "%d groups", count) : 0;
}

/* include/uapi/linux/capability.h, version 3: two words for each set. */
struct cap_header {
	uint32_t version;
	int pid;
};

struct cap_words {
	uint32_t effective, permitted, inheritable;
};

static int set_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct cap_header header = {.version = 0x20080522};
	struct cap_words words[2];
	for (int i = 0; i < 2; i++)
		words[i] = (struct cap_words){.effective = (uint32_t)(effective >> 32 * i),
					      .permitted = (uint32_t)(permitted >> 32 * i),
					      .inheritable = (uint32_t)(inheritable >> 32 * i)};
	return (int)syscall(SYS_capset, &header, words);
}

/* ARGS: masks of the bounding, effective, permitted, inheritable and ambient sets (capabilities(7)). */
int step_capabilities(struct launch *launch, int count, char **args)
{
	uint64_t bounding = number(args[0]), ambient = number(args[4]);
	/* After a change of the uid the effective set is empty, and the bounding set wants CAP_SETPCAP in it. */
	if (set_capabilities(number(args[2]) | 1ULL << 8, number(args[2]) | 1ULL << 8, number(args[3])) < 0 && errno != EPERM)
		return fail(launch, "CAP_SETPCAP");
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(bounding >> cap & 1) && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) > 0 &&
		    prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return fail(launch, "bounding set: capability %lu", cap);
	if (set_capabilities(number(args[1]), number(args[2]), number(args[3])) < 0)
		return fail(launch, "effective %s, permitted %s, inheritable %s", args[1], args[2], args[3]);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return fail(launch, "ambient set");
	for (unsigned long cap = 0; cap < 64 && ambient >> cap; cap++)
		if (ambient >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return fail(launch, "ambient set: capability %lu", cap);
	return 0;
}

/* include/uapi/linux/{filter,seccomp}.h */
struct instruction {
	uint16_t code;
	uint8_t jt, jf;
	uint32_t k;
};

struct program {
	unsigned short len;
	struct instruction *filter;
};

enum { SET_MODE_FILTER = 1, FLAG_NEW_LISTENER = 1 << 3 };

/* ARGS: fd of a memfd with the filter's `struct sock_filter`, flags of seccomp(2). A listener goes to the runtime. */
int step_seccomp(struct launch *launch, int count, char **args)
{
	struct stat st;
	int fd = (int)number(args[0]);
	unsigned flags = (unsigned)number(args[1]);
	if (fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size % (off_t)sizeof(struct instruction) ||
	    st.st_size / (off_t)sizeof(struct instruction) > UINT16_MAX) {
		errno = EINVAL;
		return fail(launch, "the filter's size");
	}
	if (close_from((unsigned)launch->kept, CLOSE_RANGE_CLOEXEC) < 0) /* now: the filter may not allow it later */
		return fail(launch, "close_range");
	launch->filtered = true;
	struct instruction *filter = malloc((size_t)st.st_size);
	if (!filter || pread(fd, filter, (size_t)st.st_size, 0) != st.st_size)
		return fail(launch, "read the filter");
	struct program program = {.len = (unsigned short)((size_t)st.st_size / sizeof *filter), .filter = filter};
	long listener = syscall(SYS_seccomp, SET_MODE_FILTER, flags, &program);
	if (listener < 0)
		return fail(launch, "%u instructions, flags %s", program.len, args[1]);
	return flags & FLAG_NEW_LISTENER ? tell_fd(launch, "seccomp", (int)listener) : 0;
}

int step_loopback(struct launch *launch, int count, char **args)
{
	return loopback_up() < 0 ? fail(launch, "lo") : 0;
}

/* ARGS: the fields of struct sched_attr after its size (sched_setattr(2)); numbers may be negative. */
int step_scheduler(struct launch *launch, int count, char **args)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {.size = 48, .policy = (uint32_t)number(args[0]), .flags = number(args[1]), .nice = atoi(args[2]),
		  .priority = (uint32_t)number(args[3]), .runtime = number(args[4]), .deadline = number(args[5]),
		  .period = number(args[6])};
	return syscall(SYS_sched_setattr, 0, &attr, 0) < 0 ? fail(launch, "policy %s", args[0]) : 0;
}

/* ARGS: numbers of CPUs. */
int step_affinity(struct launch *launch, int count, char **args)
{
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	for (int i = 0; i < count; i++)
		if (number(args[i]) < CPU_SETSIZE)
			CPU_SET(number(args[i]), &cpus);
	return sched_setaffinity(0, sizeof cpus, &cpus) < 0 ? fail(launch, "%d CPUs", count) : 0;
}

/* ARGS: uid. Pipes and terminals that become 0, 1 and 2 belong to whom they serve; a shared null device stays as it is. */
int step_stdio(struct launch *launch, int count, char **args)
{
	struct stat st;
	uid_t uid = (uid_t)number(args[0]);
	for (int fd = 0; fd < 3; fd++) {
		if (fstat(fd, &st) < 0 || st.st_uid == uid || (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3)))
			continue;
		if (fchown(fd, uid, (gid_t)-1) < 0 && errno != EINVAL && errno != EPERM && errno != EROFS)
			return fail(launch, "fd %d", fd);
	}
	return 0;
}
