/*
 * The workload that the agent brings along: what a file system costs, measured from inside by the same program on every
 * side, whatever the image holds.
 *
 *     harness:iobench DIRECTORY PART=A:B ...
 *     first_write=SIZE:COUNT   open a file that is there, write one byte into it, close; COUNT files of SIZE bytes
 *     metadata=COUNT           look COUNT names up that are not there, then create, stat, rename and unlink as many files
 *     sequential=BYTES         write in blocks of 1 MiB and fsync; drop the file from the page cache, read it
 *     walk=DEPTH:FANOUT        list and stat a tree: FANOUT files and FANOUT directories in each directory
 *
 * Files that `first_write` and `walk` want are taken where the image has them (DIRECTORY/first-SIZE-I, DIRECTORY/tree),
 * and made before and removed again where it has not: the answer says which. One line of JSON goes to stdout, and only when all was done
 * and found right; else stderr has a reason, and the exit code is 1. Durations are of CLOCK_MONOTONIC, in ns.
 */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { BLOCK_BYTES = 1 << 20, FILES_MAX = 1000000, FIRST_MAX = 10000 };

static uint64_t block[BLOCK_BYTES / sizeof(uint64_t)];

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("iobench: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	_exit(1); /* and not exit: half an answer on stdout is none */
}

static int must(int result, const char *what, const char *name)
{
	if (result < 0)
		fail("%s: %s: %s", name, what, strerror(errno));
	return result;
}

static unsigned long long number(const char **text, unsigned long long most)
{
	char *end;
	errno = 0;
	unsigned long long value = strtoull(*text, &end, 10);
	if (errno || end == *text || value < 1 || value > most)
		fail("'%s': expected a number from 1 to %llu", *text, most);
	*text = *end == ':' ? end + 1 : end;
	return value;
}

/* xorshift64 (Marsaglia 2003): content that no file system can compress or deduplicate. */
static void fill_block(uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u | 1;
	for (size_t i = 0; i < BLOCK_BYTES / sizeof *block; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		block[i] = x;
	}
}

/* The place of each word counts, so that blocks in the wrong order are found too. */
static uint64_t block_sum(size_t len, uint64_t first_word)
{
	uint64_t sum = 0;
	memset((char *)block + len, 0, -len % sizeof *block);
	for (size_t i = 0; i < (len + 7) / sizeof *block; i++)
		sum += (first_word + i + 1) * block[i];
	return sum;
}

static void write_block(int fd, size_t len, const char *name)
{
	for (size_t done = 0; done < len;) {
		ssize_t wrote = write(fd, (char *)block + done, len - done);
		if (wrote <= 0)
			fail("%s: write: %s", name, wrote < 0 ? strerror(errno) : "nothing was written");
		done += (size_t)wrote;
	}
}

static size_t read_block(int fd, const char *name)
{
	size_t done = 0;
	ssize_t got;
	while (done < BLOCK_BYTES && (got = read(fd, (char *)block + done, BLOCK_BYTES - done)) != 0)
		done += (size_t)must((int)got, "read", name);
	return done;
}

static void make_file(const char *name, uint64_t size)
{
	int fd = must(open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), "create", name);
	for (uint64_t at = 0; at < size; at += BLOCK_BYTES) {
		fill_block(at + 1);
		write_block(fd, size - at < BLOCK_BYTES ? size - at : BLOCK_BYTES, name);
	}
	must(fsync(fd), "fsync", name);
	close(fd);
}

/* What a whole file sums up to; `took_ns`, where wanted, gets the time of the reads alone. */
static uint64_t sum_file(const char *name, uint64_t size, uint64_t *took_ns)
{
	uint64_t sum = 0, at = 0, took = 0;
	int fd = must(open(name, O_RDONLY | O_CLOEXEC), "open", name);
	for (;;) {
		uint64_t start = now_ns();
		size_t len = read_block(fd, name);
		took += now_ns() - start;
		if (len == 0)
			break;
		sum += block_sum(len, at / sizeof *block);
		at += len;
	}
	close(fd);
	if (at != size)
		fail("%s: has %llu bytes, expected %llu", name, (unsigned long long)at, (unsigned long long)size);
	if (took_ns)
		*took_ns = took;
	return sum;
}

/* How the sum of a file changes when one byte of it does. */
static uint64_t sum_change(uint64_t at, unsigned char before, unsigned char after)
{
	uint64_t word[2] = {0};
	((unsigned char *)&word[0])[at % 8] = before, ((unsigned char *)&word[1])[at % 8] = after;
	return (at / 8 + 1) * (word[1] - word[0]);
}

/* Read it first, so that its pages are in memory on every side; what is timed then is what the first write brings. */
static uint64_t first_write(const char *name, uint64_t size)
{
	uint64_t at = size / 2, before = sum_file(name, size, NULL);
	unsigned char old, new;
	int fd = must(open(name, O_RDONLY | O_CLOEXEC), "open", name);
	if (pread(fd, &old, 1, (off_t)at) != 1)
		fail("%s: read: %s", name, strerror(errno));
	close(fd);
	new = (unsigned char)~old;
	uint64_t start = now_ns();
	fd = must(open(name, O_WRONLY | O_CLOEXEC), "open for writing", name);
	ssize_t wrote = pwrite(fd, &new, 1, (off_t)at);
	int closed = close(fd);
	uint64_t took = now_ns() - start;
	if (wrote != 1 || closed < 0)
		fail("%s: write: %s", name, strerror(errno));
	if (sum_file(name, size, NULL) != before + sum_change(at, old, new))
		fail("%s: its content is not what was there and what was written", name);
	return took;
}

static void name_first(char *name, size_t len, uint64_t size, uint64_t i)
{
	snprintf(name, len, "first-%llu-%llu", (unsigned long long)size, (unsigned long long)i);
}

static void first_writes(const char *args)
{
	static bool made_it[FIRST_MAX];
	uint64_t size = number(&args, 1ull << 40), count = number(&args, FIRST_MAX), made = 0;
	char name[64];
	for (uint64_t i = 0; i < count; i++) {
		name_first(name, sizeof name, size, i);
		made_it[i] = access(name, F_OK) < 0;
		if (made_it[i])
			make_file(name, size), made++;
	}
	printf("{\"part\":\"first_write\",\"bytes\":%llu,\"count\":%llu,\"made\":%llu,\"ns\":[", (unsigned long long)size,
	       (unsigned long long)count, (unsigned long long)made);
	for (uint64_t i = 0; i < count; i++) {
		name_first(name, sizeof name, size, i);
		printf("%s%llu", i ? "," : "", (unsigned long long)first_write(name, size));
		if (made_it[i])
			must(unlink(name), "unlink", name);
	}
	printf("]}");
}

static uint64_t entries_of(const char *path, char prefix)
{
	uint64_t count = 0;
	DIR *dir = opendir(path);
	if (!dir)
		fail("%s: %s", path, strerror(errno));
	for (struct dirent *entry; (errno = 0, entry = readdir(dir));)
		count += entry->d_name[0] == prefix;
	if (errno)
		fail("%s: %s", path, strerror(errno));
	closedir(dir);
	return count;
}

enum operation { LOOKUP, CREATE, STAT, RENAME, UNLINK };
static const char *const operations[] = {"lookup", "create", "stat", "rename", "unlink"};

static void operate(enum operation operation, const char *dir, uint64_t i)
{
	char name[96], renamed[96];
	struct stat st;
	int result = 0;
	/* What is looked up is beside the new directory: through all layers that have DIRECTORY. */
	snprintf(name, sizeof name, "%s%cf%llu", dir, operation == LOOKUP ? '-' : '/', (unsigned long long)i);
	snprintf(renamed, sizeof renamed, "%s/r%llu", dir, (unsigned long long)i);
	if (operation == LOOKUP)
		result = stat(name, &st) < 0 && errno == ENOENT ? 0 : -1;
	else if (operation == CREATE)
		result = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), close(result);
	else if (operation == STAT)
		result = stat(name, &st);
	else if (operation == RENAME)
		result = rename(name, renamed);
	else
		result = unlink(renamed);
	must(result, operations[operation], operation == UNLINK ? renamed : name);
}

static void metadata(const char *args)
{
	static const char prefix[] = {'f', 'f', 'f', 'r', 'r'};
	uint64_t count = number(&args, FILES_MAX);
	char dir[64];
	snprintf(dir, sizeof dir, "metadata-%llu", (unsigned long long)now_ns());
	must(mkdir(dir, 0755), "mkdir", dir);
	printf("{\"part\":\"metadata\",\"count\":%llu", (unsigned long long)count);
	for (enum operation operation = LOOKUP; operation <= UNLINK; operation++) {
		uint64_t start = now_ns();
		for (uint64_t i = 0; i < count; i++)
			operate(operation, dir, i);
		uint64_t took = now_ns() - start, left = entries_of(dir, prefix[operation]);
		if (left != (operation == UNLINK || operation == LOOKUP ? 0 : count))
			fail("%s: %llu files after %s", dir, (unsigned long long)left, operations[operation]);
		printf(",\"%s_ns\":%llu", operations[operation], (unsigned long long)took);
	}
	must(rmdir(dir), "rmdir", dir);
	printf("}");
}

static uint64_t write_sequentially(const char *name, uint64_t size, uint64_t *took)
{
	int fd = must(open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), "create", name);
	uint64_t sum = 0, start;
	*took = 0;
	for (uint64_t at = 0; at < size; at += BLOCK_BYTES) {
		size_t len = size - at < BLOCK_BYTES ? size - at : BLOCK_BYTES;
		fill_block(at + 7);
		sum += block_sum(len, at / sizeof *block);
		start = now_ns();
		write_block(fd, len, name);
		*took += now_ns() - start;
	}
	start = now_ns();
	must(fsync(fd), "fsync", name);
	*took += now_ns() - start;
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* a wish: tmpfs has nowhere else to keep it */
	close(fd);
	return sum;
}

static void sequential(const char *args)
{
	uint64_t size = number(&args, 1ull << 40), wrote_ns, read_ns;
	char name[64];
	snprintf(name, sizeof name, "sequential-%llu", (unsigned long long)now_ns());
	uint64_t sum = write_sequentially(name, size, &wrote_ns);
	if (sum_file(name, size, &read_ns) != sum)
		fail("%s: what was read is not what was written", name);
	must(unlink(name), "unlink", name);
	printf("{\"part\":\"sequential\",\"bytes\":%llu,\"write_ns\":%llu,\"read_ns\":%llu}", (unsigned long long)size,
	       (unsigned long long)wrote_ns, (unsigned long long)read_ns);
}

static void make_tree(uint64_t depth, uint64_t fanout)
{
	char name[32];
	for (uint64_t i = 0; i < fanout; i++) {
		snprintf(name, sizeof name, "f%llu", (unsigned long long)i);
		close(must(open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), "create", name));
	}
	for (uint64_t i = 0; depth > 0 && i < fanout; i++) {
		snprintf(name, sizeof name, "d%llu", (unsigned long long)i);
		must(mkdir(name, 0755), "mkdir", name);
		must(chdir(name), "chdir", name);
		make_tree(depth - 1, fanout);
		must(chdir(".."), "chdir", "..");
	}
}

static void remove_tree(uint64_t depth, uint64_t fanout)
{
	char name[32];
	for (uint64_t i = 0; i < fanout; i++) {
		snprintf(name, sizeof name, "f%llu", (unsigned long long)i);
		must(unlink(name), "unlink", name);
	}
	for (uint64_t i = 0; depth > 0 && i < fanout; i++) {
		snprintf(name, sizeof name, "d%llu", (unsigned long long)i);
		must(chdir(name), "chdir", name);
		remove_tree(depth - 1, fanout);
		must(chdir(".."), "chdir", "..");
		must(rmdir(name), "rmdir", name);
	}
}

/* Have one of the two above change what is in `tree`. */
static void in_tree(void (*change)(uint64_t, uint64_t), uint64_t depth, uint64_t fanout)
{
	must(chdir("tree"), "chdir", "tree");
	change(depth, fanout);
	must(chdir(".."), "chdir", "..");
}

/* As `ls -lR` does: read each directory, ask for each entry. */
static uint64_t walk_tree(int at, const char *name)
{
	uint64_t count = 0;
	int fd = must(openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open", name);
	DIR *dir = fdopendir(fd);
	struct stat st;
	for (struct dirent *entry; dir && (errno = 0, entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		must(fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW), "stat", entry->d_name);
		count += 1 + (S_ISDIR(st.st_mode) ? walk_tree(fd, entry->d_name) : 0);
	}
	if (!dir || errno)
		fail("%s: %s", name, strerror(errno));
	closedir(dir);
	return count;
}

static void walk(const char *args)
{
	uint64_t depth = number(&args, 32), fanout = number(&args, 1000), directories = 1, expected = 0;
	for (uint64_t i = 0; i <= depth && expected < FILES_MAX; i++, directories *= fanout)
		expected += directories * (i < depth ? 2 * fanout : fanout);
	if (expected > FILES_MAX)
		fail("walk: a tree of more than %d entries", FILES_MAX);
	bool made = access("tree", F_OK) < 0;
	if (made) {
		must(mkdir("tree", 0755), "mkdir", "tree");
		in_tree(make_tree, depth, fanout);
	}
	uint64_t start = now_ns(), count = walk_tree(AT_FDCWD, "tree"), took = now_ns() - start;
	if (count != expected)
		fail("tree: %llu entries, expected %llu", (unsigned long long)count, (unsigned long long)expected);
	if (made) {
		in_tree(remove_tree, depth, fanout);
		must(rmdir("tree"), "rmdir", "tree");
	}
	printf("{\"part\":\"walk\",\"count\":%llu,\"made\":%d,\"ns\":%llu}", (unsigned long long)count, made,
	       (unsigned long long)took);
}

static void run_part(const char *part)
{
	static const struct {
		const char *name;
		void (*run)(const char *args);
	} parts[] = {{"walk=", walk}, {"first_write=", first_writes}, {"metadata=", metadata}, {"sequential=", sequential}};
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		size_t len = strlen(parts[i].name);
		if (strncmp(part, parts[i].name, len) == 0) {
			parts[i].run(part + len);
			return;
		}
	}
	fail("'%s': unknown part", part);
}

int iobench(int argc, char **argv)
{
	struct statfs fs;
	if (argc < 3)
		fail("usage: DIRECTORY PART=A:B ...");
	must(chdir(argv[1]), "chdir", argv[1]);
	must(statfs(".", &fs), "statfs", argv[1]);
	printf("{\"schema\":\"harness.iobench/1\",\"filesystem\":%lu,\"parts\":[", (unsigned long)fs.f_type);
	for (int i = 2; i < argc; i++) {
		if (i > 2)
			putchar(',');
		run_part(argv[i]);
	}
	printf("]}\n");
	return fflush(stdout) == 0 ? 0 : 1;
}
