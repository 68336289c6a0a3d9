/* Of include/uapi/linux/{filter,bpf_common,seccomp}.h what is used here; musl has no kernel headers. */
#ifndef PROBE_SECCOMP_H
#define PROBE_SECCOMP_H

#include <stdint.h>
#include <sys/ioctl.h>

struct sock_filter {
	uint16_t code;
	uint8_t jump_true, jump_false;
	uint32_t value;
};
struct sock_fprog {
	unsigned short length;
	struct sock_filter *filter;
};

enum { BPF_RETURN = 0x06, SET_MODE_FILTER = 1, NEW_LISTENER = 1 << 3 };
#define RET_USER_NOTIF 0x7fc00000u
#define RET_TRACE 0x7ff00000u

struct seccomp_call {
	uint64_t id;
	uint32_t pid, flags;
	int32_t number;
	uint32_t arch;
	uint64_t instruction, arguments[6];
};
struct seccomp_reply {
	uint64_t id;
	int64_t value;
	int32_t error;
	uint32_t flags;
};
#define NOTIF_RECV _IOWR('!', 0, struct seccomp_call)
#define NOTIF_SEND _IOWR('!', 1, struct seccomp_reply)

#endif
