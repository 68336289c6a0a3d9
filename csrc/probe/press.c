/*
 * Work to be disturbed, and load that disturbs: each bounded by its own hand before it begins, in time (ten seconds at
 * most), processes, memory and forks, whatever limits the sandbox has.
 */
#include "probe.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MILLISECONDS_MAX = 10000, SPINNERS_MAX = 64, FORKS_MAX = 3000, AT_ONCE_MAX = 32, SLEEPS_MAX = 20000 };
enum { VICTIM_BYTES = 64 << 20, PRESS_BYTES_MAX = 64 << 20, PAGE = 4096 };

static uint64_t spin(uint64_t until_ns)
{
	uint64_t loops = 0, x = 88172645463325252u;
	while (now_ns() < until_ns) {
		for (int i = 0; i < 1000; i++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			__asm__ volatile("" : "+r"(x));
		}
		loops++;
	}
	return loops;
}

/* The window begins, at START_NS, when all of the memory is there. */
static uint64_t read_at_random(uint64_t window_ns, uint64_t *start_ns)
{
	char *at = mmap(NULL, VICTIM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return 0;
	for (size_t i = 0; i < VICTIM_BYTES; i += PAGE)
		at[i] = 1;
	uint64_t reads = 0, x = 88172645463325252u, sum = 0;
	*start_ns = now_ns();
	while (now_ns() < *start_ns + window_ns) {
		for (int i = 0; i < 1000; i++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			sum += (unsigned char)at[x % VICTIM_BYTES];
		}
		__asm__ volatile("" : "+r"(sum));
		reads++;
	}
	return reads;
}

static uint64_t fork_and_wait(uint64_t until_ns)
{
	uint64_t done = 0;
	while (now_ns() < until_ns) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			continue;
		done++;
	}
	return done;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* How late a sleep of one millisecond ends. */
static void wake_ups(uint64_t until_ns)
{
	static uint64_t late[SLEEPS_MAX];
	struct timespec one = {.tv_nsec = 1000000};
	size_t count = 0;
	while (count < SLEEPS_MAX && now_ns() < until_ns) {
		uint64_t start = now_ns();
		nanosleep(&one, NULL);
		late[count++] = now_ns() - start - 1000000;
	}
	qsort(late, count, sizeof *late, by_size);
	printf("%llu %llu %zu\n", (unsigned long long)late[count / 2], (unsigned long long)late[count * 99 / 100], count);
}

/* The longest time between two beats, 20 ms apart. */
static void beat(uint64_t until_ns)
{
	struct timespec pause = {.tv_nsec = 20000000};
	uint64_t last = now_ns(), longest = 0;
	while (last < until_ns) {
		nanosleep(&pause, NULL);
		uint64_t now = now_ns();
		longest = now - last > longest ? now - last : longest;
		last = now;
	}
	printf("%llu\n", (unsigned long long)longest);
}

static uint64_t bounded_ms(const char *text)
{
	long ms = atol(text);
	return ms < 1 ? 1 : ms > MILLISECONDS_MAX ? MILLISECONDS_MAX : (uint64_t)ms;
}

/* The guest's own count of time that its hypervisor gave to others, in ticks of 10 ms, and all ticks (proc_stat(5)). */
static int stolen(void)
{
	struct buf text = {0};
	unsigned long long ticks[8] = {0}, all = 0;
	if (!buf_file(&text, AT_FDCWD, "/proc/stat") ||
	    sscanf(text.data, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", ticks, ticks + 1, ticks + 2, ticks + 3, ticks + 4,
		   ticks + 5, ticks + 6, ticks + 7) != 8)
		return 3;
	for (int i = 0; i < 8; i++)
		all += ticks[i];
	free(text.data);
	printf("%llu %llu\n", ticks[7], all);
	return 0;
}

int victim(const char *kind, const char *milliseconds, const char *where)
{
	uint64_t start = now_ns(), window_ns = bounded_ms(milliseconds) * 1000000, until_ns = start + window_ns, done;
	if (strcmp(kind, "disk") == 0)
		return disk_victim(window_ns, where);
	if (strcmp(kind, "steal") == 0)
		return stolen();
	if (strcmp(kind, "wakeup") == 0)
		return wake_ups(until_ns), 0;
	if (strcmp(kind, "beat") == 0)
		return beat(until_ns), 0;
	if (strcmp(kind, "cpu") == 0)
		done = spin(until_ns);
	else if (strcmp(kind, "memory") == 0)
		done = read_at_random(window_ns, &start);
	else if (strcmp(kind, "fork") == 0)
		done = fork_and_wait(until_ns);
	else
		return 2;
	printf("%llu %llu\n", (unsigned long long)done, (unsigned long long)(now_ns() - start));
	return 0;
}

/* -- what disturbs ------------------------------------------------------------------------------------------------ */

/* Return how many MiB were written. */
static uint64_t write_memory(uint64_t until_ns)
{
	uint64_t made = 0;
	char *at = mmap(NULL, PRESS_BYTES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int byte = 0; at != MAP_FAILED && now_ns() < until_ns; byte++, made += PRESS_BYTES_MAX >> 20)
		memset(at, byte, PRESS_BYTES_MAX);
	return made;
}

/* So many processes at once, again and again, and no more than FORKS_MAX altogether. */
static uint64_t fork_much(uint64_t until_ns, uint64_t *refused)
{
	uint64_t made = 0;
	while (now_ns() < until_ns && made < FORKS_MAX && *refused < FORKS_MAX) {
		int at_once = 0;
		for (; at_once < AT_ONCE_MAX; at_once++) {
			pid_t pid = fork();
			if (pid == 0)
				_exit(0);
			if (pid < 0) {
				++*refused;
				break;
			}
			made++;
		}
		while (waitpid(-1, NULL, 0) > 0)
			;
	}
	return made;
}

/* A row of processes, each with its share of time; what they did is the antagonist's own result. */
static uint64_t spin_many(uint64_t until_ns, int count)
{
	uint64_t *done = mmap(NULL, SPINNERS_MAX * sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (done == MAP_FAILED)
		return 0;
	count = count < 1 ? 1 : count > SPINNERS_MAX ? SPINNERS_MAX : count;
	for (int i = 0; i < count; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			alarm(MILLISECONDS_MAX / 1000 + 1);
			done[i] = spin(until_ns);
			_exit(0);
		}
	while (waitpid(-1, NULL, 0) > 0)
		;
	uint64_t sum = 0;
	for (int i = 0; i < count; i++)
		sum += done[i];
	return sum;
}

int press(const char *kind, const char *milliseconds, const char *where)
{
	uint64_t until_ns = now_ns() + bounded_ms(milliseconds) * 1000000, refused = 0, made = 0;
	int failed = 0;
	alarm(MILLISECONDS_MAX / 1000 + 1);
	if (strcmp(kind, "cpu") == 0)
		made = spin_many(until_ns, atoi(where));
	else if (strcmp(kind, "disk") == 0)
		failed = disk_press(until_ns, where, &made);
	else if (strcmp(kind, "network") == 0)
		failed = network_press(until_ns, where, &made);
	else if (strcmp(kind, "memory") == 0)
		made = write_memory(until_ns);
	else if (strcmp(kind, "fork") == 0)
		made = fork_much(until_ns, &refused);
	else
		return 2;
	if (!failed)
		printf("%llu %llu\n", (unsigned long long)made, (unsigned long long)refused);
	return failed;
}
