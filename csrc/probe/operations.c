/*
 * Privileged operations that fail by construction: the kernel asks for the permission before it finds that the arguments
 * are no good (or there is nothing to do). EPERM and EACCES mean refused, ENOSYS that there is no such call, anything
 * else that the permission was there. Left out because trivial arguments do something: acct, vhangup, sync, quotactl,
 * swapoff, delete_module.
 */
#include "probe.h"

#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum operation {
	MOUNT, REBOOT, SWAPON, INIT_MODULE, KEXEC_LOAD, SETTIMEOFDAY, SYSLOG, BPF, PERF_EVENT_OPEN, OPEN_BY_HANDLE_AT,
	SETHOSTNAME, PIVOT_ROOT, KEYCTL, IO_URING_SETUP, USERFAULTFD, PTRACE, SOCKET_PACKET, SOCKET_RAW, IOPL,
	UNSHARE_USER, UNSHARE_MOUNT, MMAP_WRITE_EXEC, OPERATIONS
};

static const char *const names[OPERATIONS] = {
    [MOUNT] = "mount", [REBOOT] = "reboot", [SWAPON] = "swapon", [INIT_MODULE] = "init_module",
    [KEXEC_LOAD] = "kexec_load", [SETTIMEOFDAY] = "settimeofday", [SYSLOG] = "syslog", [BPF] = "bpf",
    [PERF_EVENT_OPEN] = "perf_event_open", [OPEN_BY_HANDLE_AT] = "open_by_handle_at", [SETHOSTNAME] = "sethostname",
    [PIVOT_ROOT] = "pivot_root", [KEYCTL] = "keyctl", [IO_URING_SETUP] = "io_uring_setup",
    [USERFAULTFD] = "userfaultfd", [PTRACE] = "ptrace", [SOCKET_PACKET] = "socket_packet", [SOCKET_RAW] = "socket_raw",
    [IOPL] = "iopl", [UNSHARE_USER] = "unshare_user", [UNSHARE_MOUNT] = "unshare_mount",
    [MMAP_WRITE_EXEC] = "mmap_write_exec",
};

static long no_call(void)
{
	errno = ENOSYS;
	return -1;
}

static long on_kernel(int which)
{
	switch (which) {
	case REBOOT:
		return syscall(SYS_reboot, 0, 0, 0, 0); /* wrong magic */
	case SWAPON:
		return syscall(SYS_swapon, NULL, 0);
	case INIT_MODULE:
		return syscall(SYS_init_module, NULL, 0, NULL);
	case KEXEC_LOAD:
		return syscall(SYS_kexec_load, 0, 0, NULL, 0xffffL); /* no segments, no such flags */
	case SETTIMEOFDAY:
		return syscall(SYS_settimeofday, NULL, NULL); /* sets nothing */
	case SYSLOG:
		return syscall(SYS_syslog, 10, NULL, 0); /* asks for a size */
	case BPF:
		return syscall(SYS_bpf, 5, NULL, 0);
	case PERF_EVENT_OPEN:
		return syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0);
	case OPEN_BY_HANDLE_AT:
		return syscall(SYS_open_by_handle_at, -1, NULL, 0);
	case KEYCTL:
		return syscall(SYS_keyctl, -1, 0, 0, 0, 0);
	case IO_URING_SETUP:
		return syscall(SYS_io_uring_setup, 0, NULL);
	case USERFAULTFD:
		return syscall(SYS_userfaultfd, 0x100000);
	case PTRACE:
		return syscall(SYS_ptrace, 0x7fff, 1, 0, 0);
#ifdef SYS_iopl
	case IOPL:
		return syscall(SYS_iopl, 3); /* of this child alone */
#endif
	default:
		return no_call();
	}
}

static long attempt(int which)
{
	switch (which) {
	case MOUNT:
		return mount("none", "/", "harness-no-such-filesystem", 0, NULL);
	case SETHOSTNAME:
		return syscall(SYS_sethostname, NULL, -1);
	case PIVOT_ROOT:
		return syscall(SYS_pivot_root, NULL, NULL);
	case SOCKET_PACKET:
		return socket(AF_PACKET, SOCK_RAW, 0);
	case SOCKET_RAW:
		return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	case UNSHARE_USER:
		return unshare(CLONE_NEWUSER);
	case UNSHARE_MOUNT:
		return unshare(CLONE_NEWNS);
	case MMAP_WRITE_EXEC:
		return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
			   ? -1
			   : 0;
	default:
		return on_kernel(which);
	}
}

static int errno_of(int which)
{
	return attempt(which) < 0 ? errno : 0;
}

void add_operations(struct buf *json)
{
	int results[OPERATIONS];
	run_apart(OPERATIONS, errno_of, results);
	buf_str(json, "{");
	for (int i = 0; i < OPERATIONS; i++) {
		json_key(json, names[i]);
		buf_fmt(json, "%d", results[i]);
	}
	buf_str(json, "}");
}
