/*
 * Which system calls reach the kernel, found without executing one. A child stacks a filter of its own on those that it
 * has, which parks every call at a listener; the filter that forbids most wins (seccomp(2)), so a call is parked only
 * if no older filter refuses it. The parent answers what is parked with a number that no kernel returns.
 *
 * RET_ERRNO would not do: at a tie the newest filter wins, and an older one's errno would not be seen. Neither would
 * PTRACE_SYSEMU: the kernel returns before it asks the filters (kernel/entry, syscall_trace_enter).
 */
#include "probe.h"

#include "seccomp.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
enum { NUMBERS = 512, X86_64 = 0, I386 = 1, X32 = 2, ABIS = 3, VECTORS_MAX = 32 };
enum { REACHED = 0x5eccbad, TRACED = 1 << 20, SLOTS = ABIS * NUMBERS + VECTORS_MAX, TOTAL_S = 60, ANSWER_MS = 1 };
#define X32_BIT 0x40000000L

/* Calls that profiles judge by their arguments. All of x86-64; they never run. */
static const struct vector {
	const char *name;
	long number, arguments[6];
} vectors[] = {
    {"clone(CLONE_NEWUSER)", SYS_clone, {0x10000000}},
    {"clone(CLONE_NEWNS)", SYS_clone, {0x00020000}},
    {"unshare(CLONE_NEWUSER)", SYS_unshare, {0x10000000}},
    {"socket(AF_ALG)", SYS_socket, {38, 5}},
    {"socket(AF_VSOCK)", SYS_socket, {40, 1}},
    {"socket(AF_PACKET)", SYS_socket, {17, 3}},
    {"socket(AF_NETLINK)", SYS_socket, {16, 3}},
    {"socket(AF_KEY)", SYS_socket, {15, 3, 2}},
    {"personality(ADDR_NO_RANDOMIZE)", SYS_personality, {0x0040000}},
    {"ioctl(TIOCSTI)", SYS_ioctl, {0, 0x5412}},
    {"ioctl(TIOCLINUX)", SYS_ioctl, {0, 0x541c}},
    {"prctl(PR_SET_MM)", SYS_prctl, {35}},
    {"fcntl(F_SETPIPE_SZ)", SYS_fcntl, {0, 1031}},
    {"mknod(S_IFBLK)", SYS_mknod, {0, 060000}},
    {"keyctl(KEYCTL_JOIN_SESSION_KEYRING)", SYS_keyctl, {1}},
    {"ptrace(PTRACE_ATTACH)", SYS_ptrace, {16, 1}},
};
enum { VECTORS = sizeof vectors / sizeof *vectors };
_Static_assert((int)VECTORS <= (int)VECTORS_MAX, "more vectors than slots");

struct shared {
	volatile int listener, why; /* listener: 0 not yet, -1 refused (errno in `why`) */
	volatile int at, done;
	volatile int codes[SLOTS];
};

static long call64(long number, const long a[6])
{
	long result;
	register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* The 32-bit entry; the sixth argument (ebp) is left as it is: a frame pointer. */
static long call32(long number)
{
	long result;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(0L), "c"(0L), "d"(0L), "S"(0L), "D"(0L)
			 : "r8", "r9", "r10", "r11", "memory");
	return (int)result;
}

static long call_slot(int slot)
{
	static const long none[6];
	if (slot >= ABIS * NUMBERS)
		return call64(vectors[slot - ABIS * NUMBERS].number, vectors[slot - ABIS * NUMBERS].arguments);
	long number = slot % NUMBERS;
	switch (slot / NUMBERS) {
	case X86_64:
		return call64(number, none);
	case I386:
		return call32(number);
	default:
		return call64(number | X32_BIT, none);
	}
}

static int install(unsigned action, unsigned flags)
{
	struct sock_filter all[] = {{.code = BPF_RETURN, .value = action}};
	struct sock_fprog program = {1, all};
	return (int)syscall(SYS_seccomp, SET_MODE_FILTER, flags, &program);
}

/* In the child. Once the filter is there no call may be made but those that are asked about. */
static void ask_all(struct shared *page, bool trace)
{
	struct rlimit none = {0, 0};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &none);
	alarm(TOTAL_S);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	int fd = trace ? install(RET_TRACE, 0) : install(RET_USER_NOTIF, NEW_LISTENER);
	if (fd < 0) {
		page->why = errno;
		page->listener = -1;
		_exit(0);
	}
	page->listener = trace ? TRACED : fd + 1;
	for (int slot = page->at; slot < ABIS * NUMBERS + VECTORS; slot++) {
		page->at = slot;
		page->codes[slot] = (int)call_slot(slot);
	}
	page->done = 1;
	for (;;)
		__asm__ volatile("pause");
}

static int child_on_our_files(void *argument)
{
	struct shared *page = argument;
	ask_all(page, false);
	return 0;
}

static int child_to_trace(void *argument)
{
	ask_all(argument, true);
	return 0;
}

static void answer(int listener)
{
	struct seccomp_call call = {0};
	struct seccomp_reply reply = {0};
	if (ioctl(listener, NOTIF_RECV, &call) < 0)
		return;
	reply.id = call.id;
	reply.value = REACHED;
	ioctl(listener, NOTIF_SEND, &reply);
}

static void doze(void)
{
	struct timespec moment = {.tv_nsec = 20000};
	nanosleep(&moment, NULL);
}

static int listener_of(const struct shared *page)
{
	return page->listener > 0 && page->listener < TRACED ? page->listener - 1 : -1;
}

/*
 * Serve one child until it is through or dead; its status where it died by itself, else 0, or -1 where nobody knows. A
 * filter for one ABI alone kills whoever uses another: a thousand children then, so a death must be seen at once.
 */
static int serve_until(struct shared *page, pid_t pid, int pidfd, uint64_t end_ns)
{
	int status = 0;
	while (!page->done && now_ns() < end_ns) {
		struct pollfd events[2] = {{.fd = listener_of(page), .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
		if (page->listener == 0)
			doze();
		else if (poll(events, 2, ANSWER_MS) > 0 && events[0].revents & POLLIN) {
			answer(events[0].fd);
			continue;
		}
		if (waitpid(pid, &status, WNOHANG | __WALL) == pid)
			return WIFSIGNALED(status) ? status : -1;
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, __WALL);
	return page->done ? 0 : -1;
}

static int serve(struct shared *page, pid_t pid)
{
	int pidfd = open_pidfd(pid);
	int status = serve_until(page, pid, pidfd, now_ns() + (uint64_t)TOTAL_S * 1000000000);
	if (listener_of(page) >= 0)
		close(listener_of(page)); /* the child's end went with it: the table of files is ours too */
	close(pidfd);
	return status;
}

/* All slots, with as many children as a filter kills; false when no filter could be stacked. */
static bool ask(struct shared *page, bool trace)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	while (!page->done && page->at < ABIS * NUMBERS + VECTORS) {
		page->listener = 0;
		int flags = trace ? SIGCHLD : CLONE_FILES | SIGCHLD;
		pid_t pid = clone(trace ? child_to_trace : child_on_our_files, stack + sizeof stack, flags, page);
		if (pid < 0) {
			page->why = errno;
			return false;
		}
		int status = serve(page, pid);
		if (page->listener < 0)
			return false;
		if (status == 0)
			continue;
		if (page->listener == 0 || status < 0) { /* died before its filter was there, or nobody knows of what */
			page->why = EINTR;
			return false;
		}
		page->codes[page->at] = KILLED - WTERMSIG(status);
		page->at = page->at + 1;
	}
	return true;
}

/* Runs of [code, count]: most neighbours are alike. 0: reached; else -errno, or KILLED - n. */
static void add_codes(struct buf *json, const struct shared *page, int first, int count, bool trace)
{
	buf_str(json, "[");
	for (int i = first, run; i < first + count; i += run) {
		int code = page->codes[i];
		for (run = 1; i + run < first + count && page->codes[i + run] == code;)
			run++;
		bool reached = trace ? code == -ENOSYS : code == REACHED;
		buf_fmt(json, "%s[%d,%d]", i == first ? "" : ",", reached ? 0 : code == 0 ? 1 : code, run);
	}
	buf_str(json, "]");
}

static int abi_exists(int which)
{
	static const long none[6];
	long pid = which == 0 ? call32(20) : call64(SYS_getpid | X32_BIT, none);
	return pid == getpid() ? 0 : pid < 0 ? (int)-pid : EINVAL;
}

void add_syscalls(struct buf *json)
{
	static const char *const names[ABIS] = {"x86_64", "i386", "x32"};
	struct shared *page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return;
	bool trace = false, asked = ask(page, false);
	int why = page->why;
	if (!asked && page->listener < 0) { /* a listener is there already, or there can be none, as in gVisor */
		*page = (struct shared){0};
		trace = true, asked = ask(page, true);
	}
	buf_str(json, "{");
	json_key(json, "method"), buf_json(json, !asked ? "none" : trace ? "seccomp RET_TRACE" : "seccomp user notification");
	json_key(json, "errno"), buf_fmt(json, "%d", asked ? 0 : why ? why : page->why);
	if (!asked) {
		buf_str(json, "}");
		return;
	}
	int exists[2];
	run_apart(2, abi_exists, exists);
	for (int abi = 0; abi < ABIS; abi++) {
		json_key(json, names[abi]);
		buf_fmt(json, "{\"exists\":%d,\"codes\":", abi == 0 ? 0 : exists[abi - 1]);
		add_codes(json, page, abi * NUMBERS, NUMBERS, trace);
		buf_str(json, "}");
	}
	json_key(json, "vectors"), buf_str(json, "[");
	for (int i = 0; i < VECTORS; i++) {
		int code = page->codes[ABIS * NUMBERS + i];
		bool reached = trace ? code == -ENOSYS : code == REACHED;
		const struct vector *v = &vectors[i];
		buf_fmt(json, "%s[\"%s\",%d,[", i ? "," : "", v->name, reached ? 0 : code == 0 ? 1 : code);
		for (int n = 0; n < 7; n++)
			buf_fmt(json, "%s%ld", n ? "," : "", n == 0 ? v->number : v->arguments[n - 1]);
		buf_str(json, "]]");
	}
	buf_str(json, "]}");
}
#else
void add_syscalls(struct buf *json)
{
	buf_str(json, "{\"method\":\"none\",\"errno\":95}"); /* EOPNOTSUPP: only x86-64's ways in are known here */
}
#endif

/* Entry points that this kernel really has: strong symbols; a weak one is a stub that returns ENOSYS. */
void add_symbols(struct buf *json)
{
	static const char prefix[] = "__x64_sys_";
	FILE *file = fopen("/proc/kallsyms", "re");
	char line[512], type, name[256];
	struct buf names = {0};
	while (file && fgets(line, sizeof line, file)) {
		char *at = strstr(line, " T __x64_sys_");
		if (!at || sscanf(at, " %c %255s", &type, name) != 2)
			continue;
		buf_str(&names, names.len ? " " : "");
		buf_str(&names, name + sizeof prefix - 1);
	}
	if (file)
		fclose(file);
	buf_json(json, names.data ? names.data : "");
	free(names.data);
}
