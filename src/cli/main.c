#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"

#define VERSION "0.1"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
} commands[] = {
	{"run", cli_run, "boot a kernel on a virtual PC"},
	{"doctor", cli_doctor, "tell what this machine offers and what would be used"},
};

static void print_help(void)
{
	puts("Usage: anykvm COMMAND [options]\n\nKVM in user space, and a monitor for it.\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-10s %s\n", commands[i].name, commands[i].what);
	puts("\n  --help     this text; anykvm COMMAND --help tells about a command\n  --version  the version");
}

int cli_usage_error(const char *command, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	log_error("%s (see anykvm %s%s--help)", line, command ? command : "", command ? " " : "");
	return STATUS_USAGE;
}

/* A closed standard descriptor would be given to the first file opened, and the console would go there. */
static void open_standard_descriptors(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

/* Standard output counts as written only when it is. */
static int flushed(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	log_error("cannot write to standard output");
	return status ? status : STATUS_ERROR;
}

int main(int argc, char **argv)
{
	open_standard_descriptors();
	if (argc < 2)
		return cli_usage_error(NULL, "no command given");

	const char *name = argv[1];

	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		print_help();
		return flushed(STATUS_OK);
	}
	if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
		puts("anykvm " VERSION);
		return flushed(STATUS_OK);
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(name, commands[i].name))
			return flushed(commands[i].run(argc - 1, argv + 1));
	return cli_usage_error(NULL, "unknown command '%s'", name);
}
