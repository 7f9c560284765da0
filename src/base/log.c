#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static enum log_level log_level = LOG_INFO;

void log_set_level(enum log_level level)
{
	log_level = level;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	static const char *const prefix[] = {"anykvm: error: ", "anykvm: warning: ", "anykvm: ", "anykvm: debug: "};
	char line[1024];
	int saved = errno;
	va_list ap;

	if (level > log_level)
		return;
	int n = snprintf(line, sizeof(line), "%s", prefix[level]);
	va_start(ap, fmt);
	int m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (m < 0)
		m = 0;
	n += m;
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	ssize_t done = write(STDERR_FILENO, line, (size_t)n);
	(void)done; /* nowhere left to complain */
	errno = saved;
}
