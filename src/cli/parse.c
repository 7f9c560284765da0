#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"

bool cli_parse_count(const char *text, u64 *value)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return !errno && !*end;
}

bool cli_parse_size(const char *text, u64 *bytes)
{
	static const char units[] = "kmgt";
	unsigned shift = 20;
	u64 value;
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return false;
	if (*end) {
		const char *unit = strchr(units, tolower((unsigned char)*end++));

		if (!unit || (*end && strcasecmp(end, "b") && strcasecmp(end, "ib")))
			return false;
		shift = 10 * (unsigned)(unit - units + 1);
	}
	*bytes = value << shift;
	return *bytes >> shift == value;
}
