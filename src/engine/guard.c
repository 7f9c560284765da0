#include "engine/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "cpu/fpu.h"

static _Thread_local struct cpu *guard_cpu;
static struct sigaction old_segv, old_bus, old_fpe;
static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER;

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

/*
 * A guest's SIMD instruction, run under the guest's MXCSR, has raised an unmasked exception: #XM, or #UD while the
 * guest has not said that it knows #XM. The processor has set the flags and stored no result. Returns when the trap
 * was not that; under our own MXCSR all exceptions are masked.
 */
static void simd_exception(struct cpu *c, const ucontext_t *u)
{
	u32 mxcsr = u->uc_mcontext.fpregs ? u->uc_mcontext.fpregs->mxcsr : MXCSR_RESET;

	if (!(mxcsr & ~(mxcsr >> 7) & MXCSR_FLAGS))
		return;
	if (c->host_fault)
		c->host_fault(c, u);
	c->fpu.mxcsr = mxcsr;
	c->fault = (struct event){.type = EV_EXCEPTION, .vector = c->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD};
	longjmp(*c->unwind, UNWIND_FAULT);
}

static void guard_handler(int sig, siginfo_t *info, void *context)
{
	struct cpu *c = guard_cpu;

	if (c && c->in_engine && sig == SIGFPE) {
		simd_exception(c, context);
	} else if (c && c->in_engine) {
		const struct gpa_slot *s = guest_slot(c, info->si_addr);
		if (s) {
			if (c->host_fault)
				c->host_fault(c, context);
			c->exit.reason = EXIT_MEMORY_FAULT;
			c->exit.gpa = s->gpa + (u64)((u8 *)info->si_addr - s->hva);
			longjmp(*c->unwind, UNWIND_EXIT);
		}
	}

	const struct sigaction *old = sig == SIGBUS ? &old_bus : sig == SIGFPE ? &old_fpe : &old_segv;
	if (old->sa_flags & SA_SIGINFO) {
		old->sa_sigaction(sig, info, context);
	} else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
		old->sa_handler(sig);
	} else {
		/* Back to the default: the faulting instruction runs again and ends the process. */
		signal(sig, SIG_DFL);
	}
}

static int guard_one(int sig, struct sigaction *old)
{
	struct sigaction sa, now;

	if (sigaction(sig, NULL, &now))
		return -errno;
	if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == guard_handler)
		return 0;
	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = guard_handler;
	/* NODEFER: the handler leaves by longjmp, which does not restore the signal mask. */
	sa.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
	sigemptyset(&sa.sa_mask);
	*old = now;
	return sigaction(sig, &sa, NULL) ? -errno : 0;
}

/* The client may have put handlers of its own in place since the last call: those come after ours then. */
int guard_install(void)
{
	pthread_mutex_lock(&guard_lock);
	int r = guard_one(SIGSEGV, &old_segv);
	if (r == 0)
		r = guard_one(SIGBUS, &old_bus);
	if (r == 0)
		r = guard_one(SIGFPE, &old_fpe);
	pthread_mutex_unlock(&guard_lock);
	return r;
}

/* The kernel ends a process with a fault whose signal the thread blocks. Done once: it costs a system call. */
static void let_faults_through(void)
{
	static _Thread_local bool done;
	sigset_t set;

	if (done)
		return;
	done = true;
	sigemptyset(&set);
	sigaddset(&set, SIGSEGV);
	sigaddset(&set, SIGBUS);
	sigaddset(&set, SIGFPE);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void guard_set_cpu(struct cpu *c)
{
	let_faults_through();
	guard_cpu = c;
}
