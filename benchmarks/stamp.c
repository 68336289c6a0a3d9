/* The workload of container_start: say when we began to run (CLOCK_MONOTONIC, ns), end. Nothing else takes any time. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct timespec now;
	char text[32];
	clock_gettime(CLOCK_MONOTONIC, &now);
	int len = snprintf(text, sizeof text, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	return write(1, text, (size_t)len) != len;
}
