/*
 * Fixed work whose cost is the system's: arithmetic, memory, system calls, starting programs. Started as
 * `harness:workbench PART...`; prints one JSON object. Every part checks what it did, and ends with code 1 if it is wrong.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MATRIX = 64, LINE_WORDS = 8, PAGE_BYTES = 4096 };
enum { FUTEX_WAIT = 0, FUTEX_WAKE = 1 }; /* include/uapi/linux/futex.h, which musl lacks */

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("workbench: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static void report(const char *name, uint64_t count, uint64_t took_ns)
{
	printf(",\"%s\":{\"count\":%llu,\"ns\":%llu}", name, (unsigned long long)count, (unsigned long long)took_ns);
}

/* Each step waits for the one before: Knuth's generator (MMIX). The last number is checked by whoever reads it. */
static void integers(uint64_t steps)
{
	uint64_t value = 1, start = now_ns();
	for (uint64_t i = 0; i < steps; i++) {
		value = value * 6364136223846793005ull + 1442695040888963407ull;
		__asm__ volatile("" : "+r"(value)); /* no compiler may do several steps at once */
	}
	report("integer", steps, now_ns() - start);
	printf(",\"integer_result\":\"%llu\"", (unsigned long long)value);
}

/* Products of matrices of small whole numbers, whose sum a double holds exactly. */
static void floats(uint64_t rounds)
{
	static double a[MATRIX][MATRIX], b[MATRIX][MATRIX], c[MATRIX][MATRIX];
	double sum = 0, expected = 0;
	for (int i = 0; i < MATRIX; i++)
		for (int j = 0; j < MATRIX; j++)
			a[i][j] = (i + j) % 7, b[i][j] = (i * j) % 5;
	uint64_t start = now_ns();
	for (uint64_t round = 0; round < rounds; round++) {
		memset(c, 0, sizeof c);
		for (int i = 0; i < MATRIX; i++)
			for (int k = 0; k < MATRIX; k++)
				for (int j = 0; j < MATRIX; j++)
					c[i][j] += a[i][k] * b[k][j];
		__asm__ volatile("" : : "r"(c) : "memory");
	}
	uint64_t took = now_ns() - start;
	for (int i = 0; i < MATRIX; i++)
		for (int j = 0; j < MATRIX; j++)
			sum += c[i][j];
	for (int k = 0; k < MATRIX; k++) {
		double column = 0, row = 0;
		for (int i = 0; i < MATRIX; i++)
			column += a[i][k], row += b[k][i];
		expected += column * row;
	}
	if (sum != expected)
		fail("float: the sum is %g, expected %g", sum, expected);
	report("float", rounds * MATRIX * MATRIX * MATRIX * 2, took);
}

static void *map(uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap of %llu bytes: %s", (unsigned long long)bytes, strerror(errno));
	return memory;
}

/* As STREAM's triad: two arrays are read and one is written; all are touched before the clock starts. */
static void stream(uint64_t bytes, uint64_t rounds)
{
	uint64_t count = bytes / sizeof(double) / 3;
	double *a = map(bytes), *b = a + count, *c = b + count;
	for (uint64_t i = 0; i < count; i++)
		a[i] = 0, b[i] = 1, c[i] = 2;
	uint64_t start = now_ns();
	for (uint64_t round = 0; round < rounds; round++) {
		double factor = (double)round;
		for (uint64_t i = 0; i < count; i++)
			a[i] = b[i] + factor * c[i];
		__asm__ volatile("" : : "r"(a) : "memory");
	}
	uint64_t took = now_ns() - start;
	for (uint64_t i = 0; i < count; i++)
		if (a[i] != 1 + 2 * (double)(rounds - 1))
			fail("stream: a wrong number at %llu", (unsigned long long)i);
	report("stream", rounds * count * 3 * sizeof(double), took);
	munmap(a, bytes);
}

/* One chain through all cache lines in random order (Sattolo): each load needs what the one before has brought. */
static void chase(uint64_t bytes, uint64_t steps)
{
	uint64_t lines = bytes / (LINE_WORDS * sizeof(uint64_t)), seed = 7;
	uint64_t *memory = map(bytes), at = 0;
	for (uint64_t i = 0; i < lines; i++)
		memory[i * LINE_WORDS] = i;
	for (uint64_t i = lines - 1; i > 0; i--) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		uint64_t other = (seed >> 33) % i, kept = memory[i * LINE_WORDS];
		memory[i * LINE_WORDS] = memory[other * LINE_WORDS], memory[other * LINE_WORDS] = kept;
	}
	uint64_t start = now_ns(), rounds = steps / lines ? steps / lines : 1;
	for (uint64_t i = 0; i < rounds * lines; i++)
		at = memory[at * LINE_WORDS];
	uint64_t took = now_ns() - start;
	if (at != 0)
		fail("random: the chain ends at %llu", (unsigned long long)at);
	report("random", rounds * lines, took);
	munmap(memory, bytes);
}

static void faults(uint64_t pages)
{
	char *memory = map(pages * PAGE_BYTES);
	madvise(memory, pages * PAGE_BYTES, MADV_NOHUGEPAGE);
	uint64_t start = now_ns();
	for (uint64_t i = 0; i < pages; i++)
		memory[i * PAGE_BYTES] = 1;
	report("fault", pages, now_ns() - start);
	munmap(memory, pages * PAGE_BYTES);
}

static void calls(uint64_t count)
{
	pid_t self = getpid();
	uint64_t start = now_ns();
	for (uint64_t i = 0; i < count; i++)
		if (syscall(SYS_getpid) != self)
			fail("getpid: another number");
	report("getpid", count, now_ns() - start);
	start = now_ns();
	for (uint64_t i = 0; i < count / 10; i++) {
		int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (fd < 0 || close(fd) < 0)
			fail("/dev/null: %s", strerror(errno));
	}
	report("open_close", count / 10, now_ns() - start);
}

static void wait_for(pid_t pid, const char *what)
{
	int status;
	if (pid < 0 || waitpid(pid, &status, 0) != pid || exit_code(status) != 0)
		fail("%s: a process did not end well", what);
}

/* Start a program `count` times, one after the other, with its output dropped. */
static void spawn(const char *name, uint64_t count, char **argv)
{
	uint64_t start = now_ns();
	for (uint64_t i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			int null = open("/dev/null", O_RDWR | O_CLOEXEC);
			dup2(null, 1);
			if (strncmp(argv[0], BUILT_IN, strlen(BUILT_IN)) == 0)
				execv("/proc/self/exe", argv);
			else
				execvp(argv[0], argv);
			fprintf(stderr, "workbench: %s: %s\n", argv[0], strerror(errno));
			_exit(127);
		}
		wait_for(pid, argv[0]);
	}
	report(name, count, now_ns() - start);
}

static void forks(uint64_t count)
{
	char *nothing[] = {BUILT_IN "true", NULL};
	uint64_t start = now_ns();
	for (uint64_t i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		wait_for(pid, "fork");
	}
	report("fork", count, now_ns() - start);
	spawn("fork_exec", count, nothing);
}

static void pass_byte(int from, int to, unsigned char expected)
{
	unsigned char byte = expected;
	if (from >= 0 && (read(from, &byte, 1) != 1 || byte != expected))
		fail("pipe: another byte came back");
	if (to >= 0 && write(to, &byte, 1) != 1)
		fail("pipe: %s", strerror(errno));
}

static void pipes(uint64_t rounds)
{
	int there[2], back[2];
	if (pipe(there) < 0 || pipe(back) < 0)
		fail("pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid == 0) {
		for (uint64_t i = 0; i < rounds; i++)
			pass_byte(there[0], back[1], (unsigned char)i);
		_exit(0);
	}
	uint64_t start = now_ns();
	for (uint64_t i = 0; i < rounds; i++)
		pass_byte(-1, there[1], (unsigned char)i), pass_byte(back[0], -1, (unsigned char)i);
	report("pipe_round", rounds, now_ns() - start);
	wait_for(pid, "pipe");
}

/* Wait until `word` is `value`, then make it `next` and wake the other. */
static void take_turn(uint32_t *word, uint32_t value, uint32_t next)
{
	for (uint32_t now; (now = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != value;)
		syscall(SYS_futex, word, FUTEX_WAIT, now, NULL, NULL, 0);
	__atomic_store_n(word, next, __ATOMIC_RELEASE);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void futexes(uint64_t rounds)
{
	uint32_t *word = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (word == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	pid_t pid = fork();
	if (pid == 0) {
		for (uint32_t i = 0; i < rounds; i++)
			take_turn(word, 2 * i + 1, 2 * i + 2);
		_exit(0);
	}
	uint64_t start = now_ns();
	for (uint32_t i = 0; i < rounds; i++)
		take_turn(word, 2 * i, 2 * i + 1);
	wait_for(pid, "futex");
	report("futex_round", rounds, now_ns() - start);
	if (*word != 2 * (uint32_t)rounds)
		fail("futex: %u turns", *word);
}

static uint64_t number(const char *text, const char **rest)
{
	char *end;
	errno = 0;
	uint64_t value = strtoull(text, &end, 10);
	if (errno || end == text || value == 0 || value >= 1ull << 40)
		fail("'%s': not a number of what is to be done", text);
	*rest = *end ? end + 1 : end;
	return value;
}

/* PART=A[:B]; `spawn=N` takes all the arguments that follow it. */
static bool run_part(char **argv)
{
	const char *value = strchr(argv[0], '='), *rest;
	if (!value)
		fail("'%s': not PART=NUMBER", argv[0]);
	size_t len = (size_t)(value - argv[0]);
	uint64_t first = number(value + 1, &rest);
	static const struct {
		const char *name;
		void (*one)(uint64_t);
		void (*two)(uint64_t, uint64_t);
	} parts[] = {{"integer", integers, NULL}, {"float", floats, NULL}, {"stream", NULL, stream}, {"random", NULL, chase},
		     {"fault", faults, NULL},	  {"call", calls, NULL},   {"fork", forks, NULL},    {"pipe", pipes, NULL},
		     {"futex", futexes, NULL}};
	if (len == 5 && strncmp(argv[0], "spawn", len) == 0 && argv[1]) {
		spawn("spawn", first, argv + 1);
		return false;
	}
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		if (strlen(parts[i].name) != len || strncmp(argv[0], parts[i].name, len) != 0)
			continue;
		if (parts[i].one)
			parts[i].one(first);
		else
			parts[i].two(first, number(rest, &rest));
		return true;
	}
	fail("'%s': unknown part", argv[0]);
}

int workbench(char **argv)
{
	printf("{\"schema\":\"harness.workbench/1\"");
	for (char **part = argv + 1; *part; part++) {
		fflush(stdout); /* or a child that ends would print it again */
		if (!run_part(part))
			break;
	}
	printf("}\n");
	return fflush(stdout) == 0 ? 0 : 1;
}
