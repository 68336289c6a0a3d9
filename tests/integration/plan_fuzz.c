/* libFuzzer's entry to the launcher's plan reader: whatever the bytes are, every string it returns lies within them. */
#include "launch.h"

#include <stdlib.h>
#include <string.h>

static char *args[ARGS_MAX + 1];

static void check(const char *text, const char *begin, const char *end)
{
	if (text < begin || text >= end || !memchr(text, 0, (size_t)(end - text)))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *plan = malloc(size ? size : 1), *name; /* of the very size, so that the next byte is poisoned */
	int count;
	enum next next;
	memcpy(plan, data, size);
	struct reader reader = {.at = plan, .end = plan + size};
	while ((next = next_step(&reader, &name, &count, args)) == NEXT_STEP) {
		if (count < 0 || count > ARGS_MAX || args[count] || reader.at > reader.end)
			abort();
		check(name, plan, plan + size);
		for (int i = 0; i < count; i++)
			check(args[i], plan, plan + size);
	}
	if (next == NEXT_END && reader.at != reader.end)
		abort();
	free(plan);
	return 0;
}
