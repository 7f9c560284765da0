/* Which KVM to run on: the kernel's, if it is one that works, or ours. */
#ifndef MONITOR_ACCEL_H
#define MONITOR_ACCEL_H

#include "base/types.h"

struct accel_check {
	bool usable;
	char why[160];  /* one line for the user: what it can do, or why it cannot be used */
	/* Processor time. 0 when the test did not come that far. */
	u64 native_ns;  /* the test loop on this processor... */
	u64 guest_ns;   /* ...and in a guest */
	u64 exit_ns;    /* a port access handled by this program */
	u64 elapsed_ns; /* real time of the whole test */
};

/* Milliseconds after which a /dev/kvm that has not passed counts as useless. */
#define ACCEL_DEADLINE_MS 300
/* The same for the test loop alone, of processor time. */
#define ACCEL_LOOP_MS 60

/*
 * Tries the kernel's KVM with a small 64-bit guest: paging, exceptions, CPUID, MSRs, a timer interrupt, port and
 * memory-mapped exits, and speed. In a child process, so that a KVM that hangs is given up after the deadline.
 */
void accel_check_kvm(struct accel_check *check);

#endif
