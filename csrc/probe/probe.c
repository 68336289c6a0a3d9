#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct part {
	const char *name;
	section fill;
} parts[] = {
    {"identity", add_identity}, {"syscalls", add_syscalls}, {"operations", add_operations},
    {"writable", add_writable}, {"masked", add_masked},	    {"devices", add_devices_opened},
    {"leaks", add_leaks},	{"sees", add_sockets},	    {"files", add_files},
};

/* `symbols`: list the kernel's entry points too, which the host cannot know of a kernel that is not its own. */
static int surface(bool symbols)
{
	struct buf json = {0};
	buf_str(&json, "{\"schema\":\"harness.surface/1\"");
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		add_section(&json, parts[i].name, parts[i].fill);
	if (symbols)
		add_section(&json, "symbols", add_symbols);
	buf_str(&json, "}\n");
	write_all(1, json.data, json.len);
	free(json.data);
	return 0;
}

static int finish(int code)
{
	fflush(stdout);
	return code;
}

int probe(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "surface";
	if (strcmp(what, "surface") == 0)
		return surface(argc > 2 && strcmp(argv[2], "symbols") == 0);
	if (strcmp(what, "work") == 0)
		return fixed_work();
	if ((argc == 4 || argc == 5) && strcmp(what, "victim") == 0)
		return finish(victim(argv[2], argv[3], argc == 5 ? argv[4] : ""));
	if (argc == 5 && strcmp(what, "press") == 0)
		return finish(press(argv[2], argv[3], argv[4]));
	if (argc == 4 && strcmp(what, "fault") == 0)
		return finish(fault(argv[2], argv[3]));
	if (strcmp(what, "nothing") == 0)
		return 0;
	if (strcmp(what, "wait") == 0) { /* a workload that is ready at once and does nothing */
		write_all(1, "waiting\n", 8);
		for (;;)
			pause();
	}
	fprintf(stderr, "harness-probe [surface [symbols] | work | wait | victim KIND MS [WHERE] | press KIND MS WHERE"
			" | fault KIND WHAT]\n");
	return 2;
}
