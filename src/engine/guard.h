/*
 * Guest memory is the client's mapping, and the client may take it away: a host SIGSEGV or SIGBUS on it
 * while guest code runs becomes an exit (KVM_RUN fails with -EFAULT), not a crash. And a SIGFPE of the guest's own
 * SIMD instruction, run by the copy engine under the guest's MXCSR, is the guest's #XM.
 */
#ifndef ENGINE_GUARD_H
#define ENGINE_GUARD_H

#include "cpu/cpu.h"

/* Installs the process-wide handlers, which pass on whatever is not the guest's. Idempotent. 0 or -errno. */
int guard_install(void);

/* Names the vCPU whose guest code the calling thread may run, NULL for none; and unblocks those signals in it. */
void guard_set_cpu(struct cpu *c);

#endif
