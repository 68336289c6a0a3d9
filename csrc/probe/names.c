#include "probe.h"

#include <stdlib.h>

enum { NAMES_KEPT = 60 };

void names_add(struct names *names, const char *path)
{
	if (names->count++ >= NAMES_KEPT)
		return;
	if (names->kept.len)
		buf_str(&names->kept, ",");
	buf_json(&names->kept, path);
}

void names_json(struct buf *json, const char *key, struct names *names)
{
	json_key(json, key);
	buf_fmt(json, "{\"count\":%ld,\"names\":[", names->count);
	buf_str(json, names->kept.data ? names->kept.data : "");
	buf_str(json, "]}");
	free(names->kept.data);
	*names = (struct names){0};
}
