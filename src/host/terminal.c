#include "host/terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static volatile sig_atomic_t raw; /* saved is to be restored */

bool terminal_is_interactive(void)
{
	return isatty(STDIN_FILENO);
}

/* In the background the modes are somebody else's, and changing them would stop us. */
static bool in_background(void)
{
	pid_t foreground = tcgetpgrp(STDIN_FILENO);

	return foreground >= 0 && foreground != getpgrp();
}

void terminal_leave(void)
{
	int kept = errno;

	if (raw) {
		raw = 0;
		/* Not TCSADRAIN: a terminal that takes no output must not hold up the end. */
		if (!in_background())
			tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	}
	errno = kept;
}

/* The default action ends the process as it should, once the handler returns and the signal is unblocked. */
static void on_fatal_signal(int sig)
{
	terminal_leave();
	signal(sig, SIG_DFL);
	raise(sig);
}

void terminal_init(void)
{
	/* All that end a process by default and that nobody else takes, or takes later. */
	static const int fatal[] = {SIGSEGV, SIGBUS,    SIGILL,  SIGFPE,  SIGABRT, SIGTRAP, SIGSYS, SIGXCPU,
				    SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGIO,   SIGPWR, SIGSTKFLT};
	struct sigaction action = {.sa_handler = on_fatal_signal};

	atexit(terminal_leave);
	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
		sigaction(fatal[i], &action, NULL);
	/* Errors of write(2) tell better than signals, and a full disk is one of them. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

void terminal_enter(void)
{
	struct termios modes;

	if (!terminal_is_interactive() || in_background())
		return;
	if (!raw && tcgetattr(STDIN_FILENO, &saved) < 0)
		return;
	modes = saved;
	cfmakeraw(&modes);
	raw = 1;
	tcsetattr(STDIN_FILENO, TCSANOW, &modes);
}

int terminal_write(const void *data, size_t n, const atomic_bool *cancel)
{
	const u8 *p = data;

	while (n) {
		ssize_t done = write(STDOUT_FILENO, p, n);

		if (done > 0) {
			p += done;
			n -= (size_t)done;
		} else if (done < 0 && errno == EAGAIN) {
			struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};

			/* The time limit is for a signal that comes just before poll() begins. */
			poll(&out, 1, 100);
		} else if (done < 0 && errno != EINTR) {
			return -errno;
		}
		if (n && atomic_load(cancel))
			return -ECANCELED;
	}
	return 0;
}
