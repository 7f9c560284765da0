#include "host/escape.h"

const char escape_help[] = "\r\n"
			   "Ctrl-A x       end the run\r\n"
			   "Ctrl-A Ctrl-A  send Ctrl-A to the guest (also Ctrl-A a)\r\n"
			   "Ctrl-A h       this help\r\n";

size_t escape_filter(struct escape *e, const u8 *in, size_t n, u8 *out, size_t *out_n, enum escape_action *action)
{
	size_t i = 0;

	*out_n = 0;
	*action = ESCAPE_NONE;
	while (i < n && *action == ESCAPE_NONE) {
		u8 key = in[i++];

		if (!e->armed) {
			if (key == ESCAPE_KEY)
				e->armed = true;
			else
				out[(*out_n)++] = key;
			continue;
		}
		e->armed = false;
		switch (key) {
		case 'x':
		case 'X': *action = ESCAPE_QUIT; break;
		case 'h':
		case 'H':
		case '?': *action = ESCAPE_HELP; break;
		case 'a':
		case ESCAPE_KEY: out[(*out_n)++] = ESCAPE_KEY; break;
		default: break; /* a key that means nothing here is nobody's */
		}
	}
	return i;
}
