/* The main loop: signals, keys, and the end of the run. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "host/escape.h"
#include "host/terminal.h"
#include "monitor/machine.h"
#include "monitor/vcpu.h"

/* A kick can come just before the thread enters KVM_RUN or write(2): until it is done, once more. */
#define KICK_AGAIN_MS 5
/* How long a vCPU may take to leave KVM_RUN once nothing else holds it up. */
#define STUCK_NS 3000000000ull

struct loop {
	struct machine *m;
	int signal_fd;
	bool interactive;
	bool input_open;
	struct escape escape;
};

static void on_signal(struct loop *l)
{
	struct signalfd_siginfo info;

	while (read(l->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		switch (info.ssi_signo) {
		case SIGTSTP:
			terminal_leave();
			raise(SIGSTOP);
			terminal_enter();
			break;
		case SIGCONT: terminal_enter(); break;
		default: machine_stop(l->m, STOP_SIGNAL, (int)info.ssi_signo, NULL); break;
		}
	}
}

/* Keys beyond what the guest has room for are lost, as on a real line: Ctrl-A x must get through. */
static void on_keys(struct loop *l, const u8 *in, size_t n)
{
	u8 keys[256];
	enum escape_action action;
	size_t nr_keys;

	while (n) {
		size_t taken = escape_filter(&l->escape, in, n, keys, &nr_keys, &action);

		console_put(&l->m->console, keys, nr_keys);
		if (action == ESCAPE_QUIT)
			machine_stop(l->m, STOP_QUIT, 0, NULL);
		else if (action == ESCAPE_HELP && write(STDERR_FILENO, escape_help, strlen(escape_help)) < 0)
			return; /* nobody to help */
		in += taken;
		n -= taken;
	}
}

static void on_input(struct loop *l)
{
	u8 in[256];
	size_t room = l->interactive ? sizeof(in) : MIN(sizeof(in), console_space(&l->m->console));
	ssize_t n = read(STDIN_FILENO, in, room);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		l->input_open = false; /* the guest goes on without */
		return;
	}
	if (n < 0)
		return;
	if (l->interactive)
		on_keys(l, in, (size_t)n);
	else
		console_put(&l->m->console, in, (size_t)n);
	timer_arm(l->m->timers, &l->m->input_timer, timer_now());
}

/* Sleeps until there is something to look at, and looks. */
static void loop_once(struct loop *l)
{
	struct machine *m = l->m;
	bool listen = l->input_open && (l->interactive || console_space(&m->console));
	struct pollfd fds[] = {
		{.fd = l->signal_fd, .events = POLLIN},
		{.fd = m->wake_fd, .events = POLLIN},
		{.fd = listen ? STDIN_FILENO : -1, .events = POLLIN},
	};
	u64 wakes;

	if (poll(fds, ARRAY_SIZE(fds), machine_stopping(m) ? KICK_AGAIN_MS : -1) <= 0)
		return;
	if (fds[0].revents)
		on_signal(l);
	if (fds[1].revents && read(m->wake_fd, &wakes, sizeof(wakes)) < 0)
		return; /* somebody else's wake was read already */
	if (fds[2].revents & POLLNVAL)
		l->input_open = false;
	else if (fds[2].revents)
		on_input(l);
}

static bool all_done(const struct machine *m)
{
	for (unsigned i = 0; i < m->nr_vcpus; i++)
		if (m->vcpus[i].started && !atomic_load(&m->vcpus[i].done))
			return false;
	return true;
}

bool machine_loop(struct machine *m, const sigset_t *signals)
{
	struct loop l = {.m = m, .interactive = terminal_is_interactive(), .input_open = true};
	u64 give_up = 0;

	l.signal_fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (l.signal_fd < 0)
		machine_stop(m, STOP_ERROR, 0, "cannot take signals: out of file descriptors");
	if (l.interactive)
		log_info("Ctrl-A x ends the run, Ctrl-A h helps");
	terminal_enter();
	while (!all_done(m)) {
		loop_once(&l);
		if (!machine_stopping(m))
			continue;
		for (unsigned i = 0; i < m->nr_vcpus; i++)
			vcpu_kick(&m->vcpus[i]);
		/* A console that is slow, not stopped, may still take what the guest wrote; the user can cancel. */
		if (!atomic_load(&m->cancel))
			continue;
		if (!give_up)
			give_up = timer_now() + STUCK_NS;
		else if (timer_now() > give_up)
			break;
	}
	terminal_leave();
	if (l.signal_fd >= 0)
		close(l.signal_fd);
	return all_done(m);
}
