/*
 * What a sandbox lets its workload reach, tried from inside. Nothing that is tried can take effect: every call fails by
 * construction, is parked before it runs, or only asks. What is found is printed as JSON; the host's side judges it.
 */
#ifndef PROBE_H
#define PROBE_H

#include "../agent/agent.h"

int probe(int argc, char **argv); /* argv[0] is anything; without arguments: the surface */

/* apart.c: run what a filter may kill. */
enum { KILLED = -1000 }; /* KILLED - n: signal n ended the child */
typedef int (*task)(int which);
void run_apart(int count, task run, int results[]); /* each in a child of its own; what it returned, or KILLED - n */
typedef void (*section)(struct buf *json);
void add_section(struct buf *json, const char *name, section fill); /* `{"killed":n}` where its child was */

/* syscalls.c */
void add_syscalls(struct buf *json);
void add_symbols(struct buf *json);

/* operations.c, paths.c, devices.c, view.c */
void add_operations(struct buf *json);
void add_writable(struct buf *json);
void add_masked(struct buf *json);
void add_devices_opened(struct buf *json);
void add_identity(struct buf *json);
void add_files(struct buf *json);
void add_leaks(struct buf *json);
void add_sockets(struct buf *json);

int dump_filters(int argc, char **tids); /* filters.c: on the host, as root */
/* press.c: prints what it got done. `where`: a directory for disks, ADDRESS:PORT for networks, else how many. */
int victim(const char *kind, const char *milliseconds, const char *where);
int press(const char *kind, const char *milliseconds, const char *where);
/* press_io.c; what is not 0 is an exit code, with the reason on stderr */
int disk_victim(uint64_t window_ns, const char *directory);
int disk_press(uint64_t until_ns, const char *directory, uint64_t *made);
int network_press(uint64_t until_ns, const char *where, uint64_t *made);
int fault(const char *kind, const char *argument); /* faults.c */
#define INIT_FAULT "init-"
int init_fault(const char *kind, const char *argument); /* faults.c: of the agent itself, which serves it by `exec` */
int fixed_work(void);			 /* work.c */

/* names.c: a counted list of names, of which the first few are kept. */
struct names {
	long count;
	struct buf kept;
};
void names_add(struct names *names, const char *path);
void names_json(struct buf *json, const char *key, struct names *names); /* `key`: {"count":n,"names":[...]}; frees */

#endif
