/* A virtual CPU: its set-up, its thread and its exits. */
#ifndef MONITOR_VCPU_H
#define MONITOR_VCPU_H

#include "monitor/machine.h"

/* The handler of the signal that takes a vCPU thread out of KVM_RUN. Once per process. */
#define VCPU_KICK_SIGNAL SIGUSR1
void vcpu_install_kick(void);

/* Creates vCPU @id of @m. Returns 0 or -1 with one line in @error. vcpu_fini() is wanted in both cases. */
int vcpu_init(struct vcpu *v, struct machine *m, unsigned id, char error[BOOT_ERROR_MAX]);
/* vcpu_setup.c: CPUID, MSRs, local APIC and, on CPU 0, the state at @entry. Same result. */
int vcpu_setup(struct vcpu *v, const struct boot_entry *entry, char error[BOOT_ERROR_MAX]);
void vcpu_fini(struct vcpu *v);

/* Starts the thread. Returns 0 or -errno. */
int vcpu_start(struct vcpu *v);
/* Makes KVM_RUN return soon; may come too early to do so, hence to be repeated until v->done. */
void vcpu_kick(struct vcpu *v);
/* Waits for the thread of a vCPU that is done. */
void vcpu_join(struct vcpu *v);

#endif
