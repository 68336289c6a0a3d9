/* The agent: pid 1 on both sides. The protocol is in harness/agent/README.md. */
#ifndef AGENT_H
#define AGENT_H

#include "../shared/kernel.h"

#include <stdbool.h>
#include <stddef.h>

enum { FD_OUT = 1, FD_ERR = 2, FD_SPEC = 3, FD_MARKS = 4, FD_CONTROL = 5, FD_TREE = 6 };

enum ready_kind { READY_EXIT, READY_LINE, READY_TCP, READY_HTTP };

struct spec {
	char **argv, **env, **modules, **late_modules, **layers, **mounts; /* NULL-terminated */
	const char *cwd, *ready_text, *ready_path, *hostname, *root_device, *root_fs;
	const char *tree_device; /* guest: the unchanged image, where the root is a disk that is written to */
	const char *net_address, *net_mask, *net_gateway; /* guest: of eth0; NULL without a network */
	uid_t uid;
	gid_t gid;
	enum ready_kind ready;
	int ready_port, vsock; /* vsock: guest: the first of three ports of the host, instead of virtio-serial; 0: none */
	bool vm, hold; /* hold: wait for the host's word before the workload runs */
	uint64_t upper_bytes;
	long pids;
};

/* spec.c: parse NUL-terminated key=value records; the strings live in the one buffer that was read. */
void spec_read(struct spec *spec, int fd);

/* buf.c: a growing byte string; running out of memory ends the agent. */
struct buf {
	char *data;
	size_t len, cap;
};
void buf_add(struct buf *buf, const void *data, size_t len);
void buf_str(struct buf *buf, const char *text);
void buf_fmt(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_json(struct buf *buf, const char *text); /* quoted and escaped; bytes that are not UTF-8 become U+FFFD */
bool buf_file(struct buf *buf, int dirfd, const char *path); /* append a file; false when it cannot be read */
void json_key(struct buf *buf, const char *key);             /* `,"key":` or `"key":` after `{` */

/* marks.c */
bool marks_use_port(void); /* guest: an I/O port (0xe9, isa-debugcon) instead of FD_MARKS; false when it is forbidden */
void marks_drop_port(void); /* in the workload's child: it shall not write marks */
void mark(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
void mark_on(int fd, const char *name, const char *detail); /* the same through another channel, to compare them */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2))); /* mark `error`, then end */

/* connect.c: fds 0 to 6 from the host, over its socket. */
void connect_host(const char *path);

/* vm.c: what a guest's init must do before a workload can run. */
void vm_boot(struct spec *spec);
void vm_open_console(const struct spec *spec); /* fds 1, 2 and 5 become virtio-serial ports, or sockets to the host */
void vm_power_off(void) __attribute__((noreturn));

int kvm_probe(void); /* kvm.c */

/* system.c: where pid 1 is another one */
void system_leave(void);
void system_power_off(void) __attribute__((noreturn));

/* vm_root.c */
void vm_must(int result, const char *what); /* die unless it is at least 0 */
void vm_mount(const char *type, const char *source, const char *target, unsigned long flags, const char *data);
void vm_make_root(const struct spec *spec); /* at /root; FD_TREE becomes the image as it was, or `vm_open_tree` does that */
void vm_open_tree(const struct spec *spec);
const char *vm_device(const char *name); /* `disk:SERIAL` as a path in /dev; other names stay what they are */
void vm_mount_all(const struct spec *spec); /* what the scenario mounts, below the root that we are in */

/* workload.c */
struct workload {
	pid_t pid;	 /* 0 when the host has ended it */
	int out, err;	 /* read ends of its stdout and stderr, -1 at their end */
	int exe;	 /* the executable, opened before it ran */
	int returncode;	 /* valid when `exited` */
	bool exited;
	uint64_t exec_ns;
};
void workload_start(struct workload *workload, const struct spec *spec);
void end_processes(void); /* kill all but us; may be called in a signal handler */
int exit_code(int wait_status); /* 128 + n after signal n */
void run_command(const struct spec *spec, char **argv, uint64_t timeout_ns, struct buf *reply);

/* The workloads that the agent brings along, started as argv[0] `harness:NAME`; argv ends with NULL. */
#define BUILT_IN "harness:"
int iobench(int argc, char **argv);

/* touch.c: a child that holds so many bytes. */
int touch(char **argv);
int workbench(char **argv); /* workbench.c */
int echo(char **argv);	    /* serve.c */
int pause_for_ever(void);

/* ready.c: is it ready? Asked again and again without blocking. */
struct ready_check {
	int socket; /* -1 when no attempt is under way */
	uint64_t until_ns; /* when that attempt is given up */
	bool answered;	   /* only the rest of the answer is awaited */
	size_t rest_bytes;
	struct buf seen;
};
bool ready_line(struct ready_check *check, const struct spec *spec, const char *data, size_t len);
bool ready_poll(struct ready_check *check, const struct spec *spec, uint64_t since_exec_ns);
void ready_refuse_other_server(const struct spec *spec); /* die when the port answers before the workload runs */
uint64_t ready_interval_ns(uint64_t since_exec_ns);

/* sha256.c: FIPS 180-4. */
struct sha256 {
	uint32_t state[8];
	uint64_t length;
	uint8_t block[64];
};
void sha256_init(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t len);
void sha256_hex(struct sha256 *hash, char hex[65]);
bool sha256_fd(int fd, char hex[65]); /* from the file's start; false on a read error */

/* attest.c, inside.c: JSON for the control channel. */
void attest(struct buf *json, const struct spec *spec, const struct workload *workload);
void inside(struct buf *json, const struct workload *workload);

/* control.c */
struct relay {
	uint64_t out_bytes, err_bytes; /* relayed to the host */
	struct buf out_wait, err_wait; /* guest: kept until the console is open */
	bool open;
	bool go; /* the workload may run */
};
void relay_output(struct relay *relay, int *source, bool is_err, const struct spec *spec, struct ready_check *check,
		  bool *ready);
void relay_flush(struct relay *relay);
bool control_serve(const struct spec *spec, struct workload *workload, struct relay *relay); /* false: end */
void write_all(int fd, const void *data, size_t len);

/* warm.c: for starts that were prepared */
bool warm_hold(const struct spec *spec, struct workload *workload, struct relay *relay); /* false: end */
bool warm_again(const struct spec *spec, struct buf *body);
void warm_touch(const struct workload *workload, struct buf *body); /* how many bytes were read */

#endif
