/* The guest's side of what a container's launcher does on the host: a root (vm_root.c), the usual mounts, loopback, and the
 * console when it is needed. */
#include "agent.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DEVICE_WAIT_NS = 1000000000 };

#define CONSOLE_WAIT_NS 10000000000u /* its devices are there, and announced one by one */

static int initramfs = -1; /* its root, to find late modules after the root has changed */
static int devices = -1;   /* its /dev */

static void load(char **modules)
{
	for (char **path = modules; *path; path++) {
		int fd = openat(initramfs, *path, O_RDONLY | O_CLOEXEC);
		vm_must(fd, *path);
		if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
			die("guest: module %s: %s", *path, strerror(errno));
		close(fd);
	}
}

/* An initramfs cannot be pivoted away from: move the new root over it (Documentation/filesystems/ramfs-rootfs-initramfs). */
static void enter_root(void)
{
	vm_must(chdir("/root"), "chdir /root");
	vm_must(mount(".", "/", NULL, MS_MOVE, NULL), "move root");
	vm_must(chroot("."), "chroot");
	vm_must(chdir("/"), "chdir /");
	vm_mount("proc", "proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
	vm_mount("sysfs", "sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
	vm_mount("devtmpfs", "devtmpfs", "/dev", MS_NOSUID, "mode=755");
	vm_mount("devpts", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620");
	vm_mount("tmpfs", "shm", "/dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k");
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

static struct sockaddr inet_address(const char *text)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr address;
	if (inet_pton(AF_INET, text ? text : "", &in.sin_addr) != 1)
		die("guest: network: '%s' is no IPv4 address", text ? text : "");
	memcpy(&address, &in, sizeof address);
	return address;
}

static void wait_for_interface(int fd, struct ifreq *request)
{
	uint64_t deadline_ns = now_ns() + DEVICE_WAIT_NS;
	while (ioctl(fd, SIOCGIFINDEX, request) < 0) {
		if (now_ns() > deadline_ns)
			die("guest: %s: no such interface: is virtio_net loaded?", request->ifr_name);
		poll(NULL, 0, 1);
	}
}

/* Address, netmask, up and the default route of the only interface (netdevice(7)): no DHCP, no daemon. */
static void network_up(const struct spec *spec)
{
	struct ifreq request = {.ifr_name = "eth0"};
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	vm_must(fd, "socket");
	wait_for_interface(fd, &request);
	request.ifr_addr = inet_address(spec->net_address);
	vm_must(ioctl(fd, SIOCSIFADDR, &request), "eth0: address");
	request.ifr_netmask = inet_address(spec->net_mask);
	vm_must(ioctl(fd, SIOCSIFNETMASK, &request), "eth0: netmask");
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	vm_must(ioctl(fd, SIOCSIFFLAGS, &request), "eth0: up");
	route.rt_dst = route.rt_genmask = inet_address("0.0.0.0");
	route.rt_gateway = inet_address(spec->net_gateway);
	vm_must(ioctl(fd, SIOCADDRT, &route), "eth0: default route");
	close(fd);
}

/* The guest's kernel threads count too, so the limit is on top of what runs now. */
static void limit_processes(long pids)
{
	struct buf text = {0};
	char number[32];
	long running = 0;
	if (pids <= 0)
		return;
	if (!buf_file(&text, AT_FDCWD, "/proc/loadavg") || sscanf(text.data, "%*s %*s %*s %*d/%ld", &running) != 1)
		die("guest: /proc/loadavg: cannot count processes");
	free(text.data);
	int fd = open("/proc/sys/kernel/threads-max", O_WRONLY | O_CLOEXEC);
	vm_must(fd, "threads-max");
	snprintf(number, sizeof number, "%ld", running + pids);
	vm_must((int)write(fd, number, strlen(number)), "threads-max");
	close(fd);
}

/* Nothing of the initramfs is open below 7, so that the fixed numbers stay free for their purpose. */
static int open_high(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	vm_must(fd, path);
	int high = fcntl(fd, F_DUPFD_CLOEXEC, FD_TREE + 1);
	close(fd);
	return high;
}

/* The kernel's messages share the marks' port: from here on only a panic may speak (console log level 1). */
static void silence_kernel(void)
{
	enum { SYSLOG_ACTION_CONSOLE_LEVEL = 8 };
	syscall(SYS_syslog, SYSLOG_ACTION_CONSOLE_LEVEL, NULL, 1);
}

void vm_boot(struct spec *spec)
{
	silence_kernel();
	initramfs = open_high("/");
	if (getpid() == 1)
		vm_mount("devtmpfs", "devtmpfs", "/dev", 0, "");
	else
		system_leave();
	devices = open_high("/dev");
	int null = open("/dev/null", O_RDWR);
	for (int fd = 0; fd < FD_TREE; fd++)
		if (fd != null)
			dup2(null, fd);
	load(spec->modules);
	spec->root_device = vm_device(spec->root_device), spec->tree_device = vm_device(spec->tree_device);
	mark("drivers", "%s", "");
	vm_make_root(spec);
	enter_root();
	mark("root", "%s", "");
	vm_must(loopback_up(), "loopback");
	if (spec->net_address)
		network_up(spec);
	vm_mount_all(spec);
	limit_processes(spec->pids);
	if (*spec->hostname)
		vm_must(sethostname(spec->hostname, strlen(spec->hostname)), "hostname");
}

static void move_high(int from, int as, const char *name)
{
	vm_must(dup2(from, as), name);
	fcntl(as, F_SETFD, FD_CLOEXEC);
	close(from);
}

/* Open the virtio-serial port of that name: /sys/class/virtio-ports/vportNpM/name tells which node it is. */
static bool open_port(const char *name, int as)
{
	DIR *ports = opendir("/sys/class/virtio-ports");
	struct dirent *entry;
	int found = -1;
	while (ports && found < 0 && (entry = readdir(ports))) {
		char path[300];
		struct buf text = {0};
		snprintf(path, sizeof path, "/sys/class/virtio-ports/%.200s/name", entry->d_name);
		if (buf_file(&text, AT_FDCWD, path) && text.len > 1 && strncmp(text.data, name, text.len - 1) == 0 &&
		    name[text.len - 1] == 0)
			found = openat(devices, entry->d_name, O_RDWR | O_CLOEXEC);
		free(text.data);
	}
	if (ports)
		closedir(ports);
	if (found < 0)
		return false;
	move_high(found, as, name);
	return true;
}

/* A VMM that has no virtio-serial ports connects us to a socket of the host's: vsock(7), whose header musl has not. */
static bool open_vsock(int port, int as)
{
	struct {
		unsigned short family, reserved;
		unsigned port, cid;
		unsigned char flags, zero[3];
	} host = {.family = AF_VSOCK, .port = (unsigned)port, .cid = 2 /* VMADDR_CID_HOST */};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&host, sizeof host) == 0) {
		move_high(fd, as, "vsock");
		return true;
	}
	if (fd >= 0)
		close(fd);
	return false;
}

void vm_open_console(const struct spec *spec)
{
	static const struct {
		const char *name;
		int fd;
	} ports[] = {{"stdout", FD_OUT}, {"stderr", FD_ERR}, {"control", FD_CONTROL}};
	load(spec->late_modules);
	uint64_t deadline_ns = now_ns() + CONSOLE_WAIT_NS;
	for (size_t i = 0; i < sizeof ports / sizeof *ports;) {
		if (spec->vsock ? open_vsock(spec->vsock + (int)i, ports[i].fd) : open_port(ports[i].name, ports[i].fd))
			i++;
		else if (now_ns() > deadline_ns)
			die("guest: %s %s: %s", spec->vsock ? "vsock" : "virtio-serial port", ports[i].name, strerror(errno));
		else
			poll(NULL, 0, 1); /* the host announces ports one by one */
	}
}

void vm_power_off(void)
{
	if (getpid() != 1)
		system_power_off();
	const char *end = getenv("harness_end"); /* a VMM without power management ends when the guest resets itself */
	reboot(end && strcmp(end, "reset") == 0 ? RB_AUTOBOOT : RB_POWER_OFF);
	for (;;)
		pause();
}
