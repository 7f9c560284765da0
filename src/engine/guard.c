#include "engine/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

static _Thread_local struct cpu *guard_cpu;
static struct sigaction old_segv, old_bus;
static pthread_once_t guard_once = PTHREAD_ONCE_INIT;
static int guard_error;

/* The slot of the running map that holds host address @addr, or NULL: then the fault is a bug of the program. */
static const struct gpa_slot *guest_slot(const struct cpu *c, const u8 *addr)
{
	for (u32 n = 0; c->map && n < c->map->nr; n++) {
		const struct gpa_slot *s = &c->map->slot[n];
		if (addr >= s->hva && addr < s->hva + s->size)
			return s;
	}
	return NULL;
}

static void guard_handler(int sig, siginfo_t *info, void *context)
{
	struct cpu *c = guard_cpu;

	if (c && c->in_engine) {
		const struct gpa_slot *s = guest_slot(c, info->si_addr);
		if (s) {
			c->exit.reason = EXIT_MEMORY_FAULT;
			c->exit.gpa = s->gpa + (u64)((u8 *)info->si_addr - s->hva);
			longjmp(*c->unwind, UNWIND_EXIT);
		}
	}

	const struct sigaction *old = sig == SIGBUS ? &old_bus : &old_segv;
	if (old->sa_flags & SA_SIGINFO) {
		old->sa_sigaction(sig, info, context);
	} else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
		old->sa_handler(sig);
	} else {
		/* Back to the default: the faulting instruction runs again and ends the process. */
		signal(sig, SIG_DFL);
	}
}

static void guard_do_install(void)
{
	struct sigaction sa;

	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = guard_handler;
	/* NODEFER: the handler leaves by longjmp, which does not restore the signal mask. */
	sa.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGSEGV, &sa, &old_segv) || sigaction(SIGBUS, &sa, &old_bus))
		guard_error = -errno;
}

int guard_install(void)
{
	pthread_once(&guard_once, guard_do_install);
	return guard_error;
}

void guard_set_cpu(struct cpu *c)
{
	guard_cpu = c;
}
