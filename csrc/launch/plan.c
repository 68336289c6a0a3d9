/* A plan: strings one after another, each with its NUL. A step is its name, the number of its arguments, and these. */
#include "launch.h"

#include <stdlib.h>
#include <string.h>

static char *next_string(struct reader *reader)
{
	char *text = reader->at, *nul = reader->at < reader->end ? memchr(text, 0, (size_t)(reader->end - text)) : NULL;
	if (!nul)
		return NULL;
	reader->at = nul + 1;
	return text;
}

/* Point `args` (of ARGS_MAX + 1) at the next step's arguments, with a NULL after the last. */
enum next next_step(struct reader *reader, char **name, int *count, char **args)
{
	if (reader->at == reader->end)
		return NEXT_END;
	char *end, *text = NULL;
	if (!(*name = next_string(reader)) || !(text = next_string(reader)))
		return NEXT_BROKEN;
	unsigned long announced = strtoul(text, &end, 10);
	if (end == text || *end || announced > ARGS_MAX)
		return NEXT_BROKEN;
	for (unsigned long i = 0; i < announced; i++)
		if (!(args[i] = next_string(reader)))
			return NEXT_BROKEN;
	args[announced] = NULL;
	*count = (int)announced;
	return NEXT_STEP;
}
