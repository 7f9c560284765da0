/* The escape key of the interactive console: Ctrl-A and one more key are for the monitor, not for the guest. */
#ifndef HOST_ESCAPE_H
#define HOST_ESCAPE_H

#include "base/types.h"

#define ESCAPE_KEY 0x01

enum escape_action { ESCAPE_NONE, ESCAPE_QUIT, ESCAPE_HELP };

struct escape {
	bool armed; /* the last key was Ctrl-A */
};

/*
 * Takes keys from @in up to the first that asks for an action and puts the
 * guest's into @out (room for @n). Returns how many keys it took; @out_n says
 * how many are the guest's.
 */
size_t escape_filter(struct escape *e, const u8 *in, size_t n, u8 *out, size_t *out_n, enum escape_action *action);

extern const char escape_help[];

#endif
