/* What the process is and may do. */
#include "launch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/*
 * Steps that are one system call, by the name that errors have. Kinds of arguments: `i` a number, `s` a string, `w` and `q` a
 * list of numbers of 4 and of 8 bytes, which the call gets the address of.
 */
static const struct call {
	const char *name;
	long number;
	const char *kinds;
} calls[] = {
	{"affinity", SYS_sched_setaffinity, "iiq"},
	{"capabilities", SYS_capset, "ww"},
	{"chdir", SYS_chdir, "s"},
	{"chroot", SYS_chroot, "s"},
	{"groups", SYS_setgroups, "iw"},
	{"ioprio_set", SYS_ioprio_set, "iii"},
	{"join", SYS_write, "isi"},
	{"keyctl", SYS_keyctl, "is"},
	{"mkdirat", SYS_mkdirat, "isi"},
	{"mount", SYS_mount, "sssis"},
	{"personality", SYS_personality, "i"},
	{"prctl", SYS_prctl, "iiiii"},
	{"rlimit", SYS_prlimit64, "iiq"},
	{"scheduler", SYS_sched_setattr, "iwi"},
	{"setdomainname", SYS_setdomainname, "si"},
	{"sethostname", SYS_sethostname, "si"},
	{"setns", SYS_setns, "ii"},
	{"setpriority", SYS_setpriority, "iii"},
	{"setresgid", SYS_setresgid, "iii"},
	{"setresuid", SYS_setresuid, "iii"},
	{"setsid", SYS_setsid, ""},
	{"symlinkat", SYS_symlinkat, "sis"},
	{"umask", SYS_umask, "i"},
	{"unshare", SYS_unshare, "i"},
};

/* The numbers of a list in memory, where they stay. */
static void *pack(const char *list, bool wide)
{
	uint64_t *wides = calloc(strlen(list) + 1, sizeof *wides);
	uint32_t *words = (uint32_t *)wides;
	char *end;
	for (size_t i = 0; wides && *list; i++, list = end + (*end != 0)) {
		unsigned long long value = strtoull(list, &end, 0);
		if (wide)
			wides[i] = value;
		else
			words[i] = (uint32_t)value;
	}
	return wides;
}

/* ARGS: name, arguments. */
int step_call(struct launch *launch, int count, char **args)
{
	long values[6] = {0};
	size_t i = 0, len = 0;
	launch->step = args[0];
	while (i < sizeof calls / sizeof *calls && strcmp(calls[i].name, args[0]) != 0)
		i++;
	if (i == sizeof calls / sizeof *calls || strlen(calls[i].kinds) != (size_t)count - 1) {
		errno = ENOSYS;
		return fail(launch, "no such system call with %d arguments", count - 1);
	}
	for (int n = 1; n < count; n++) {
		char kind = calls[i].kinds[n - 1];
		values[n - 1] = kind == 'i' ? (long)number(args[n]) : kind == 's' ? (long)args[n] : (long)pack(args[n], kind == 'q');
	}
	if (syscall(calls[i].number, values[0], values[1], values[2], values[3], values[4], values[5]) >= 0)
		return 0;
	for (int n = 1, error = errno; n < count && len < sizeof launch->detail; n++, errno = error)
		len += (size_t)snprintf(launch->detail + len, sizeof launch->detail - len, "%s%s", n > 1 ? " " : "", args[n]);
	return -1;
}

/* ARGS: an errno that is no failure here, what `call` takes. */
int step_try(struct launch *launch, int count, char **args)
{
	return step_call(launch, count - 1, args + 1) < 0 && errno != (int)number(args[0]) ? -1 : 0;
}

/* ARGS: path below the host's /proc, which no mount of the container can have replaced; text. */
int step_write(struct launch *launch, int count, char **args)
{
	return write_file(launch->proc, args[0], args[1]) < 0 ? fail(launch, "%s: %s", args[0], args[1]) : 0;
}

/* ARGS: mask of the capabilities that stay in the bounding set (capabilities(7)). */
int step_bounding(struct launch *launch, int count, char **args)
{
	uint64_t kept = number(args[0]);
	int has;
	for (unsigned long cap = 0; (has = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) >= 0; cap++)
		if (has && !(kept >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return fail(launch, "capability %lu", cap);
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
