/* The commands. Each gets its own name as argv[0] and returns the program's exit status. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/types.h"

enum {
	STATUS_OK = 0,
	STATUS_ERROR = 1,       /* could not start, or the host failed */
	STATUS_USAGE = 2,
	STATUS_GUEST_ERROR = 3, /* triple fault, internal error */
};

int cli_run(int argc, char **argv);
int cli_doctor(int argc, char **argv);

/*
 * A memory size: a number with K, M, G or T (binary; an optional B or iB behind), or without: MiB. Returns false when
 * it is none or does not fit.
 */
bool cli_parse_size(const char *text, u64 *bytes);
/* A whole number in decimal. Same result. */
bool cli_parse_count(const char *text, u64 *value);

/* One line about a misuse and where help is. Returns STATUS_USAGE. */
int cli_usage_error(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
