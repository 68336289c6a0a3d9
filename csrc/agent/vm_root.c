/* A guest's root: a read-only image under an overlay in memory, a stack of layers under one, or a disk that is written to;
 * and what a scenario mounts below it. */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define OVERLAY_OPTIONS "index=off,metacopy=off,redirect_dir=off,xino=off"

enum { DEVICE_WAIT_NS = 1000000000, OPTIONS_MAX = 4096 };

/* include/uapi/linux/blkpg.h, which musl has not */
struct partition {
	long long start, length; /* bytes */
	int number;
	char devname[64], volname[64];
};
struct partition_change {
	int op, flags, datalen;
	void *data;
};
enum { BLKPG = 0x1269, BLKPG_ADD_PARTITION = 1 };
enum { LOOP_SET_FD = 0x4C00, LOOP_CTL_GET_FREE = 0x4C82 }; /* include/uapi/linux/loop.h */

void vm_must(int result, const char *what)
{
	if (result < 0)
		die("guest: %s: %s", what, strerror(errno));
}

void vm_mount(const char *type, const char *source, const char *target, unsigned long flags, const char *data)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, data) < 0)
		die("guest: mount %s on %s: %s", type, target, strerror(errno));
}

static void wait_for_device(const char *path)
{
	uint64_t deadline_ns = now_ns() + DEVICE_WAIT_NS;
	struct stat st;
	while (stat(path, &st) < 0) {
		if (now_ns() > deadline_ns)
			die("guest: %s: no such device: is the disk attached and its driver loaded?", path);
		poll(NULL, 0, 1);
	}
}

/* Make a block device of a file of the initramfs: a disk whose blocks no host has to be waited for. loop(4) */
static const char *loop_device(const char *image)
{
	static char path[32];
	int file = open(image, O_RDONLY | O_CLOEXEC), control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	vm_must(file, image), vm_must(control, "loop-control");
	int number = ioctl(control, LOOP_CTL_GET_FREE);
	vm_must(number, "free loop device");
	snprintf(path, sizeof path, "/dev/loop%d", number);
	wait_for_device(path);
	int loop = open(path, O_RDONLY | O_CLOEXEC);
	vm_must(loop, path), vm_must(ioctl(loop, LOOP_SET_FD, file), path);
	close(loop), close(file), close(control);
	return path;
}

static void take_tree(const char *path)
{
	vm_must(dup2(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), FD_TREE), "root tree");
}

/* The disk is a row of layers, lowest first, each "offset length" in bytes: make a partition of each. No table is on it. */
static void add_partitions(const struct spec *spec)
{
	int disk = open(spec->root_device, O_RDONLY | O_CLOEXEC);
	vm_must(disk, spec->root_device);
	for (int i = 0; spec->layers[i]; i++) {
		struct partition partition = {.number = i + 1};
		struct partition_change add = {BLKPG_ADD_PARTITION, 0, sizeof partition, &partition};
		if (sscanf(spec->layers[i], "%lld %lld", &partition.start, &partition.length) != 2)
			die("guest: layer '%s': expected an offset and a length", spec->layers[i]);
		vm_must(ioctl(disk, BLKPG, &add), "partition of a layer");
	}
	close(disk);
}

/* Mount every layer, and all of them as one tree: what is attested. Returns overlay's `lowerdir`, topmost first. */
static char *mount_layers(const struct spec *spec)
{
	static char lowers[OPTIONS_MAX / 2];
	char device[64], place[32];
	size_t at = sizeof lowers - 1;
	add_partitions(spec);
	for (int i = 0; spec->layers[i]; i++) {
		snprintf(device, sizeof device, "%s%d", spec->root_device, i + 1);
		snprintf(place, sizeof place, "/l%d", i + 1);
		wait_for_device(device);
		vm_mount(spec->root_fs, device, place, MS_RDONLY, "");
		snprintf(place, sizeof place, "/l%d%s", i + 1, i ? ":" : ""); /* a later layer is above: it comes first */
		size_t len = strlen(place);
		if (len > at)
			die("guest: %d layers: too many for one page of options", i);
		memcpy(lowers + (at -= len), place, len);
	}
	return lowers + at;
}

static void mount_tree(const char *lowers)
{
	char options[OPTIONS_MAX];
	if (!strchr(lowers, ':')) {
		take_tree(lowers);
		return;
	}
	snprintf(options, sizeof options, "lowerdir=%s," OVERLAY_OPTIONS, lowers);
	vm_mount("overlay", "overlay", "/lower", MS_RDONLY, options);
	take_tree("/lower");
}

void vm_make_root(const struct spec *spec)
{
	char options[OPTIONS_MAX];
	const char *lowers = "/lower", *device = spec->root_device;
	if (strncmp(device, "loop:", 5) == 0)
		device = loop_device(device + 5);
	wait_for_device(device);
	if (spec->tree_device) { /* the root is a disk of its own, and the tree is attested from another one */
		vm_mount(spec->root_fs, device, "/root", 0, "");
		return;
	}
	if (spec->layers[0])
		mount_tree(lowers = mount_layers(spec));
	else
		vm_mount(spec->root_fs, device, "/lower", MS_RDONLY, ""), take_tree("/lower");
	snprintf(options, sizeof options, "mode=755,size=%llu", (unsigned long long)spec->upper_bytes);
	vm_mount("tmpfs", "tmpfs", "/rw", 0, options);
	vm_must(mkdir("/rw/upper", 0755), "upper"), vm_must(mkdir("/rw/work", 0755), "work");
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=/rw/upper,workdir=/rw/work," OVERLAY_OPTIONS, lowers);
	vm_mount("overlay", "overlay", "/root", 0, options);
}

/* The image as it was, from the same images of the disk without the one that is written to: only when it is asked for. */
void vm_open_tree(const struct spec *spec)
{
	int fs = fs_open(spec->root_fs);
	vm_must(fs, spec->root_fs);
	vm_must(fs_config(fs, SET_STRING, "source", spec->tree_device, 0), "source of the tree");
	vm_must(fs_config(fs, SET_FLAG, "ro", NULL, 0), "read-only tree");
	vm_must(fs_config(fs, CMD_CREATE, NULL, NULL, 0), spec->tree_device);
	int tree = fs_mount(fs, MOUNT_ATTR_RDONLY);
	vm_must(tree, "tree");
	vm_must(dup3(tree, FD_TREE, O_CLOEXEC), "root tree");
	close(tree), close(fs);
}

/* ---- what a scenario mounts ---- */

/* Find the virtio disk of that serial: names such as vdb depend on the order in which devices are found. */
static bool find_disk(const char *serial, char *device, size_t size)
{
	DIR *blocks = opendir("/sys/block");
	struct dirent *entry;
	bool found = false;
	while (blocks && !found && (entry = readdir(blocks))) {
		char path[300];
		struct buf text = {0};
		snprintf(path, sizeof path, "/sys/block/%.200s/serial", entry->d_name);
		if (buf_file(&text, AT_FDCWD, path) && text.len >= strlen(serial))
			found = strncmp(text.data, serial, strlen(serial)) == 0 &&
				(text.len == strlen(serial) || text.data[strlen(serial)] == '\n');
		free(text.data);
		if (found)
			snprintf(device, size, "/dev/%.200s", entry->d_name);
	}
	if (blocks)
		closedir(blocks);
	return found;
}

const char *vm_device(const char *name)
{
	char device[256];
	if (!name || strncmp(name, "disk:", 5) != 0)
		return name;
	uint64_t deadline_ns = now_ns() + DEVICE_WAIT_NS;
	while (!find_disk(name + 5, device, sizeof device)) {
		if (now_ns() > deadline_ns)
			die("guest: disk %s: no such disk: is it attached and its driver loaded?", name + 5);
		poll(NULL, 0, 1);
	}
	wait_for_device(device);
	return strdup(device); /* kept to the end, as the name was */
}

static void make_path(const char *path)
{
	char part[4096];
	for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
		snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
		mkdir(part, 0755);
	}
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		die("guest: %s: %s", path, strerror(errno));
}

/* TYPE, source (`disk:SERIAL` or what the file system takes), target, `ro` or `rw`, options: five words each. */
static void mount_one(char **words)
{
	const char *type = words[0], *source = vm_device(words[1]), *target = words[2];
	make_path(target);
	vm_mount(type, source, target, strcmp(type, "tmpfs") ? 0 : MS_NOSUID | MS_NODEV, words[4]);
	if (strcmp(words[3], "ro") == 0) /* of this mount alone: the volume may be mounted elsewhere, to be written */
		vm_must(mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), target);
}

void vm_mount_all(const struct spec *spec)
{
	for (char **words = spec->mounts; *words; words += 5) {
		for (int i = 0; i < 5; i++)
			if (!words[i])
				die("spec: mount: five words are needed for each");
		mount_one(words);
	}
}
