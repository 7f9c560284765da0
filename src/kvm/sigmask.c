/*
 * The kernel swaps the thread's mask when it enters the guest. In user space that would run handlers, or kill a
 * process whose signal has none, so the signals stay blocked and are watched: by a signalfd while the vCPU sleeps,
 * by a look at the pending set each millisecond while it runs.
 */
#include "kvm/sigmask.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm/kvm.h"

#define LOOK_NS 1000000u

struct sigmask {
	struct vcpu *v;   /* [I] */
	bool in_force;
	sigset_t set;     /* blocked during KVM_RUN */
	sigset_t old;     /* of the thread, while active */
	sigset_t watched; /* let through by set, blocked by the thread */
	int sigfd, wakefd;
	struct timer timer;
	_Atomic bool active; /* [a] */
};

static void look_again(struct timer *t)
{
	struct sigmask *m = container_of(t, struct sigmask, timer);

	if (!atomic_load(&m->active))
		return;
	m->v->vm->ops->kick(&m->v->cpu, REQ_KICK);
	timer_arm(m->v->vm->timers, t, timer_now() + LOOK_NS);
}

static struct sigmask *in_force(const struct vcpu *v)
{
	return v->sigmask && v->sigmask->in_force ? v->sigmask : NULL;
}

static struct sigmask *create(struct vcpu *v)
{
	struct sigmask *m = calloc(1, sizeof(*m));
	sigset_t none;

	if (!m)
		return NULL;
	sigemptyset(&none);
	m->v = v;
	m->timer.fn = look_again;
	m->sigfd = signalfd(-1, &none, SFD_NONBLOCK | SFD_CLOEXEC);
	m->wakefd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (m->sigfd < 0 || m->wakefd < 0) {
		sigmask_free(m);
		return NULL;
	}
	return m;
}

void sigmask_free(struct sigmask *m)
{
	if (!m)
		return;
	close(m->sigfd);
	close(m->wakefd);
	free(m);
}

int sigmask_set(struct vcpu *v, const sigset_t *set)
{
	if (set) {
		if (!v->sigmask)
			v->sigmask = create(v);
		if (!v->sigmask)
			return -ENOMEM;
		v->sigmask->set = *set;
		/* Faults of guest code are signals here (engine/guard.h), which no mask may hold. */
		sigdelset(&v->sigmask->set, SIGSEGV);
		sigdelset(&v->sigmask->set, SIGBUS);
		sigdelset(&v->sigmask->set, SIGFPE);
	}
	if (v->sigmask)
		v->sigmask->in_force = set != NULL;
	return 0;
}

void sigmask_activate(struct vcpu *v)
{
	struct sigmask *m = in_force(v);

	if (!m)
		return;
	pthread_sigmask(SIG_BLOCK, &m->set, &m->old);
	sigemptyset(&m->watched);
	for (int s = 1; s < NSIG; s++)
		if (!sigismember(&m->set, s) && sigismember(&m->old, s) == 1)
			sigaddset(&m->watched, s);
	signalfd(m->sigfd, &m->watched, 0);
	atomic_store(&m->active, true);
	timer_arm(v->vm->timers, &m->timer, timer_now() + LOOK_NS);
}

void sigmask_deactivate(struct vcpu *v)
{
	struct sigmask *m = in_force(v);

	if (!m)
		return;
	atomic_store(&m->active, false);
	timer_arm(v->vm->timers, &m->timer, TIMER_NEVER);
	pthread_sigmask(SIG_SETMASK, &m->old, NULL);
}

bool sigmask_pending(struct vcpu *v)
{
	sigset_t pending, both;

	if (!in_force(v) || sigpending(&pending) < 0)
		return false;
	sigandset(&both, &pending, &v->sigmask->watched);
	return !sigisemptyset(&both);
}

void sigmask_wake(struct vcpu *v)
{
	struct sigmask *m = in_force(v);

	if (m && write(m->wakefd, &(u64){1}, sizeof(u64)) < 0)
		return; /* the counter is full: it is awake */
}

static int poll_wait(struct sigmask *m, u64 until)
{
	struct pollfd fds[] = {{.fd = m->sigfd, .events = POLLIN}, {.fd = m->wakefd, .events = POLLIN}};
	u64 now = timer_now(), count;
	struct timespec rel = clock_timespec(until > now ? until - now : 0);

	if (ppoll(fds, 2, &rel, NULL) < 0 || fds[0].revents)
		return -EINTR;
	if (fds[1].revents && read(m->wakefd, &count, sizeof(count)) < 0)
		return 0; /* somebody was faster; nothing is lost */
	return 0;
}

int sigmask_wait(struct vcpu *v, u32 *word, u32 value, u64 until)
{
	struct timespec abs = clock_timespec(until);

	if (in_force(v))
		return poll_wait(v->sigmask, until);
	if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, &abs, NULL, FUTEX_BITSET_MATCH_ANY) < 0 &&
	    errno == EINTR)
		return -EINTR;
	return 0;
}
