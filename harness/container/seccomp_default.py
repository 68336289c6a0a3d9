"""The seccomp profile of a container that brings none: what every Docker lets through, by the container's capabilities.

That is, what both the profile of Docker 20.10, the oldest in use, and that of 2026 do: a container of ours reaches no
more of the kernel than one of Docker's, whichever stands beside it. Source of the lists: moby, profiles/seccomp at
v20.10.24, and moby/profiles (2026), seccomp/default_linux.go; of single facts, what stands beside them. What is not
named fails with EPERM, io_uring among it. 32-bit programs of an x86-64 or Arm host run too; their socketcall(2) hides
its arguments behind a pointer, so that the choice of address families holds for socket(2) alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from harness.container.seccomp import Arg, Profile, Rule

_ENOSYS = 38
_ALLOW = "SCMP_ACT_ALLOW"

# One line for each purpose; the suffixes 32, 64 and _time64 are the same calls on 32-bit architectures.
_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl
lchown lchown32 lgetxattr link linkat listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir
mkdirat mknod mknodat newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile sendfile64 setxattr splice
stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink
unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
"""
_MEMORY = """
brk madvise membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap msync
munlock munlockall munmap process_mrelease remap_file_pages
"""
_PROCESSES = """
execve execveat exit exit_group fork getcpu get_robust_list getpgid getpgrp getpid getppid getpriority getrlimit
getrusage getsid get_thread_area gettid ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64 riscv_hwprobe rseq sched_getaffinity sched_getattr
sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
set_robust_list set_thread_area set_tid_address setpgid setpriority setrlimit setsid tgkill tkill ugetrlimit uname
uretprobe vfork wait4 waitid waitpid
"""
_CREDENTIALS = """
capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 getresuid
getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid
setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32
"""
_SIGNALS = """
pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn
"""
_TIME = """
adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64 times
"""
_WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
futex futex_time64 futex_waitv io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
_newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select
"""
_MESSAGES = """
accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd recv
recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto
setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair
"""
_OTHER = "getrandom sysinfo"
# Docker allows them since 2023; 20.10 does not. Who calls them goes on without where the kernel has none, and takes
# EPERM for the last word: glibc's fchmodat(AT_SYMLINK_NOFOLLOW) tries fchmodat2 first, its pkey_alloc(3) passes it on.
_LATELY = """
cachestat fchmodat2 futex_requeue futex_wait futex_wake getxattrat listmount listxattrat map_shadow_stack mseal
pkey_alloc pkey_free pkey_mprotect removexattrat setxattrat statmount
"""
# Before Linux 4.8 a tracer could change a call after the filter had seen it (seccomp(2), "Caveats" of PTRACE).
_TRACING = "ptrace"
_ALWAYS = f"{_FILES}{_MEMORY}{_PROCESSES}{_CREDENTIALS}{_SIGNALS}{_TIME}{_WAITING}{_MESSAGES}{_OTHER}"

_BY_CAPABILITY = {
    "dac_read_search": "open_by_handle_at",
    "sys_admin": (
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr "
        "lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount name_to_handle_at open_tree perf_event_open "
        "quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"
    ),
    "sys_boot": "reboot",
    "sys_chroot": "chroot",
    "sys_module": "delete_module finit_module init_module",
    "sys_pacct": "acct",
    "sys_ptrace": f"kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev {_TRACING}",
    "sys_rawio": "ioperm iopl",
    "sys_time": "clock_settime clock_settime64 settimeofday stime",
    "sys_tty_config": "vhangup",
    "sys_nice": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "syslog": "syslog",
    "bpf": "bpf",
    "perfmon": "perf_event_open",
}

_ARM = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"
_S390 = "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"
# By os.uname().machine: the calls of that architecture, and whose programs its kernel runs beside its own.
_BY_MACHINE: dict[str, tuple[str, tuple[str, ...]]] = {
    "x86_64": ("arch_prctl modify_ldt", ("SCMP_ARCH_X86", "SCMP_ARCH_X32")),
    "i686": ("modify_ldt", ()),
    "aarch64": (_ARM, ("SCMP_ARCH_ARM",)),
    "armv7l": (_ARM, ()),
    "ppc64le": ("swapcontext sync_file_range2", ()),
    "s390x": (_S390, ("SCMP_ARCH_S390",)),
    "riscv64": ("riscv_flush_icache", ()),
}

# include/uapi/linux/personality.h: PER_LINUX, PER_LINUX32, each also with UNAME26; all ones asks what it is.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# include/linux/socket.h. Left out: AF_VSOCK (40), which reaches the hypervisor past the network namespace; AF_ALG (38),
# a large interface to the kernel that containers have no need for; and what the kernel dropped or is dropping (DECnet,
# Econet, ATMSVC, IrDA, WANPIPE, ISDN, CAIF).
_FAMILIES_BELOW = 12
_FAMILIES = (13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (include/uapi/linux/sched.h). CLONE_NEWTIME is not a
# flag of clone(2): its bit is part of the exit signal there.
_CLONE_NAMESPACES = 0x7E020000


def _allow(names: str, *args: Arg) -> Rule:
    return Rule(tuple(names.split()), _ALLOW, None, args)


def _sockets() -> list[Rule]:
    below = _allow("socket", Arg(0, _FAMILIES_BELOW, op="SCMP_CMP_LT"))
    return [below, *(_allow("socket", Arg(0, family)) for family in _FAMILIES)]


def _clones(capabilities: Collection[str], machine: str) -> list[Rule]:
    """Threads and processes without new namespaces.

    clone3(2) has its flags behind a pointer; ENOSYS, unlike EPERM, makes a C library use clone(2) instead.
    """
    if "sys_admin" in capabilities:
        return []
    flags_index = 1 if machine == "s390x" else 0  # clone(2), "C library/kernel differences"
    return [
        _allow("clone", Arg(flags_index, _CLONE_NAMESPACES, 0, "SCMP_CMP_MASKED_EQ")),
        Rule(("clone3",), "SCMP_ACT_ERRNO", _ENOSYS),
    ]


def _traceable(release: str) -> bool:
    """Return whether a kernel, by its release such as `6.1.0-56-amd64`, is Linux 4.8 or later."""
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in (*release.split("."), "0")[:2])
    return (major, minor) >= (4, 8)


_made: dict[frozenset[str], Profile] = {}


def default_profile(capabilities: Collection[str]) -> Profile:
    """Return the profile of a container with these capabilities (lower case, without `cap_`), on this host's kernel.

    Capabilities that open no call make no difference. The same ones give the same object.
    """
    relevant = frozenset(_BY_CAPABILITY).intersection(capabilities)
    if relevant not in _made:
        _made[relevant] = _make(relevant)
    return _made[relevant]


def _make(capabilities: frozenset[str]) -> Profile:
    host = os.uname()
    own, others = _BY_MACHINE.get(host.machine, ("", ()))
    rules = [
        _allow(_ALWAYS),
        Rule(tuple(_LATELY.split()), "SCMP_ACT_ERRNO", _ENOSYS),
        *([_allow(_TRACING)] if _traceable(host.release) else []),
        *_sockets(),
        *(_allow("personality", Arg(0, value)) for value in _PERSONALITIES),
        *([_allow(own)] if own else []),
        *(_allow(names) for capability, names in _BY_CAPABILITY.items() if capability in capabilities),
        *_clones(capabilities, host.machine),
    ]
    return Profile("SCMP_ACT_ERRNO", 1, architectures=others, rules=tuple(rules))
