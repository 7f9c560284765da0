/* What a person needs to see when a vCPU cannot go on. Each ends the run as STOP_GUEST_ERROR. */
#ifndef MONITOR_REPORT_H
#define MONITOR_REPORT_H

#include "monitor/machine.h"

/* The name of a KVM_EXIT_* without that prefix, or "?". */
const char *exit_name(u32 reason);
/* KVM_RUN returned with an exit that ends the run; @what says which. On the vCPU's thread. */
void report_exit(struct vcpu *v, const char *what);
/* KVM_RUN itself failed. */
void report_error(struct vcpu *v, int error);

#endif
