#define _GNU_SOURCE 1
#include "program.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

const char *search_path(char **env)
{
	for (; *env; env++)
		if (strncmp(*env, "PATH=", 5) == 0)
			return *env + 5;
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/*
 * An image's directory may be /proc/self/fd/N: through an fd of the host that is still open here, the program's directory
 * would lie outside its root (the way of CVE-2024-21626). getcwd(2) says "(unreachable)" for such a one (Linux 2.6.36).
 */
int enter_directory(const char *path)
{
	char where[4096];
	if (chdir(path) < 0)
		return -1;
	errno = ENOENT;
	return getcwd(where, sizeof where) && where[0] == '/' ? 0 : -1;
}
