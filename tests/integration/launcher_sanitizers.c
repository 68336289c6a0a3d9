/* Compiled into a launcher with sanitizers: what they find is written to a file that was open before the root changed. */
#include <fcntl.h>
#include <sanitizer/common_interface_defs.h>
#include <stdint.h>
#include <unistd.h>

enum { REPORTS = 900 };

const char *__asan_default_options(void)
{
	return "detect_leaks=0:exitcode=99:allocator_may_return_null=1";
}

const char *__ubsan_default_options(void)
{
	return "print_stacktrace=1";
}

__attribute__((constructor)) static void open_reports(void)
{
	int fd = open(SANITIZER_REPORTS, O_WRONLY | O_APPEND | O_CREAT, 0666);
	if (dup3(fd, REPORTS, O_CLOEXEC) == REPORTS)
		__sanitizer_set_report_fd((void *)(intptr_t)REPORTS);
	close(fd);
}
