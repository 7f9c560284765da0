/*
 * The terminal on standard input and output: raw mode that is undone on every
 * way out, and complete writes. The terminal's modes are the process's, so the
 * state of this file is too; only the main thread changes it.
 */
#ifndef HOST_TERMINAL_H
#define HOST_TERMINAL_H

#include <stdatomic.h>

#include "base/types.h"

/* True when standard input is a terminal: keys are then the guest's, but for the escape key. */
bool terminal_is_interactive(void);

/*
 * To be called once, first of all: makes exit(3) and fatal signals restore the terminal. Whoever installs handlers
 * of such signals later is expected to pass on what is not theirs. Ignores SIGPIPE and SIGXFSZ.
 */
void terminal_init(void);

/*
 * Raw mode, if interactive and this is the terminal's foreground process; can be entered again (after a stop and
 * continue).
 */
void terminal_enter(void);

/* The modes terminal_enter() found. Async-signal-safe. */
void terminal_leave(void);

/*
 * Writes all @n bytes to standard output, waiting where it must; @cancel ends the wait (after a signal to this
 * thread). Returns 0, -ECANCELED, or -errno.
 */
int terminal_write(const void *data, size_t n, const atomic_bool *cancel);

#endif
