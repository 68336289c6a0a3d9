#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of a directory in byte order, NULL-terminated. Takes over `fd`. */
static char **names_of(int fd)
{
	DIR *dir = fdopendir(fd);
	char **names = NULL;
	size_t len = 0;
	struct dirent *entry;
	while (dir && (errno = 0, entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		names = realloc(names, (len + 2) * sizeof *names);
		if (!names || !(names[len++] = strdup(entry->d_name)))
			die("attest: out of memory");
	}
	if (!dir || errno)
		die("attest: directory: %s", strerror(errno));
	closedir(dir);
	if (!names && !(names = calloc(1, sizeof *names)))
		die("attest: out of memory");
	names[len] = NULL;
	qsort(names, len, sizeof *names, by_bytes);
	return names;
}

static char type_of(mode_t mode)
{
	return S_ISREG(mode)   ? 'f'
	       : S_ISDIR(mode) ? 'd'
	       : S_ISLNK(mode) ? 'l'
	       : S_ISCHR(mode) ? 'c'
	       : S_ISBLK(mode) ? 'b'
	       : S_ISFIFO(mode) ? 'p'
				: 's';
}

static void content_of(int dirfd, const char *name, mode_t mode, char *content, size_t size)
{
	snprintf(content, size, "-");
	if (S_ISLNK(mode)) {
		ssize_t len = readlinkat(dirfd, name, content, size - 1);
		content[len > 0 ? len : 0] = 0;
	} else if (S_ISREG(mode)) {
		int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || !sha256_fd(fd, content))
			die("attest: %s: %s", name, strerror(errno));
		close(fd);
	}
}

static void add_record(struct sha256 *hash, int dirfd, const char *name, const char *path, const struct stat *st)
{
	char size[64] = "0", content[4097];
	struct buf record = {0};
	if (S_ISREG(st->st_mode))
		snprintf(size, sizeof size, "%lld", (long long)st->st_size);
	else if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
		snprintf(size, sizeof size, "%u:%u", major(st->st_rdev), minor(st->st_rdev));
	content_of(dirfd, name, st->st_mode, content, sizeof content);
	buf_add(&record, path, strlen(path) + 1);
	buf_fmt(&record, "%c %o %u %u %s ", type_of(st->st_mode), st->st_mode & 07777, st->st_uid, st->st_gid, size);
	buf_add(&record, content, strlen(content) + 1);
	sha256_add(hash, record.data, record.len);
	free(record.data);
}

static void add_directory(struct sha256 *hash, int fd, const char *prefix)
{
	char **names = names_of(dup(fd));
	for (char **name = names; *name; name++) {
		struct stat st;
		struct buf path = {0};
		buf_str(&path, prefix);
		buf_str(&path, *name);
		if (fstatat(fd, *name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			die("attest: %s: %s", path.data, strerror(errno));
		add_record(hash, fd, *name, path.data, &st);
		if (S_ISDIR(st.st_mode)) {
			int below = openat(fd, *name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (below < 0)
				die("attest: %s: %s", path.data, strerror(errno));
			buf_str(&path, "/");
			add_directory(hash, below, path.data);
			close(below);
		}
		free(path.data), free(*name);
	}
	free(names);
}

static void add_strings(struct buf *json, char **strings)
{
	buf_str(json, "[");
	for (char **at = strings; *at; at++) {
		if (at != strings)
			buf_str(json, ",");
		buf_json(json, *at);
	}
	buf_str(json, "]");
}

static void add_boot_id(struct buf *json)
{
	struct buf id = {0};
	json_key(json, "boot_id");
	if (buf_file(&id, AT_FDCWD, "/proc/sys/kernel/random/boot_id") && id.len)
		id.data[id.len - 1] = 0;
	buf_json(json, id.data ? id.data : "");
	free(id.data);
}

void attest(struct buf *json, const struct spec *spec, const struct workload *workload)
{
	struct sha256 tree;
	char hex[65];
	struct utsname uts;
	struct sysinfo info;
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	sha256_init(&tree);
	if (spec->tree_device)
		vm_open_tree(spec);
	int root = openat(FD_TREE, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		die("attest: root tree: %s", strerror(errno));
	add_directory(&tree, root, "");
	close(root);
	sha256_hex(&tree, hex);
	buf_str(json, "{");
	json_key(json, "root_digest");
	buf_fmt(json, "\"sha256:%s\"", hex);
	if (!sha256_fd(workload->exe, hex))
		die("attest: executable: %s", strerror(errno));
	json_key(json, "exe_sha256");
	buf_fmt(json, "\"%s\"", hex);
	json_key(json, "argv"), add_strings(json, spec->argv);
	json_key(json, "env"), add_strings(json, spec->env);
	json_key(json, "cwd"), buf_json(json, spec->cwd);
	uname(&uts), sysinfo(&info), sched_getaffinity(0, sizeof cpus, &cpus);
	buf_fmt(json, ",\"uid\":%u,\"gid\":%u,\"cpus\":%d,\"memory_bytes\":%llu", spec->uid, spec->gid, CPU_COUNT(&cpus),
		(unsigned long long)info.totalram * info.mem_unit);
	json_key(json, "kernel"), buf_json(json, uts.release);
	add_boot_id(json);
	buf_str(json, "}");
}
