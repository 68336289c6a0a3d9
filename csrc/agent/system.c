/* In a guest that has booted a system of its own (systemd is pid 1): a place in which to make the workload's root, out of the
 * system's sight. */
#include "agent.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SYSTEMD_POWER_OFF = 34 + 4 }; /* SIGRTMIN+4 as glibc counts: systemd(1), "Signals" */

/* From here on the root is an empty tmpfs with the system's /dev and /sys, as an initramfs would have them. */
void system_leave(void)
{
	vm_must(unshare(CLONE_NEWNS), "mount namespace");
	vm_must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
	vm_mount("tmpfs", "tmpfs", "/mnt", 0, "mode=755");
	vm_must(mkdir("/mnt/dev", 0755), "dev"), vm_must(mkdir("/mnt/sys", 0755), "sys");
	vm_must(mkdir("/mnt/proc", 0755), "proc");
	vm_must(mount("/dev", "/mnt/dev", NULL, MS_BIND | MS_REC, NULL), "bind /dev");
	vm_must(mount("/sys", "/mnt/sys", NULL, MS_BIND, NULL), "bind /sys");
	vm_must(chdir("/mnt"), "chdir");
	vm_must(chroot("."), "chroot");
}

/* What `poweroff` does: services are stopped, file systems are unmounted. */
void system_power_off(void)
{
	kill(1, SYSTEMD_POWER_OFF);
	for (;;)
		pause();
}
