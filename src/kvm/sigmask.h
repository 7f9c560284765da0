/*
 * KVM_SET_SIGNAL_MASK: a signal mask for the time of KVM_RUN. A signal that this mask lets through and the thread's
 * own mask blocks ends the run with EINTR and stays pending.
 */
#ifndef KVM_SIGMASK_H
#define KVM_SIGMASK_H

#include <signal.h>

#include "base/types.h"

struct vcpu;
struct sigmask;

/* @set NULL: none any more. 0 or -ENOMEM. [v] */
int sigmask_set(struct vcpu *v, const sigset_t *set);
/* When the VM's timer thread has stopped. NULL is fine. */
void sigmask_free(struct sigmask *m);

/* Around KVM_RUN, on its thread. */
void sigmask_activate(struct vcpu *v);
void sigmask_deactivate(struct vcpu *v);

/* True when a signal of the mask waits. */
bool sigmask_pending(struct vcpu *v);

/* Sleeps while *@word is @value, until @until (ns of CLOCK_MONOTONIC) or a signal: -EINTR then, else 0. */
int sigmask_wait(struct vcpu *v, u32 *word, u32 value, u64 until);

/* Called by whoever wakes @v, from any thread. */
void sigmask_wake(struct vcpu *v);

#endif
