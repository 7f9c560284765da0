/* struct kvm_if over the system calls: the kernel's KVM. */
#ifndef MONITOR_KVM_IF_SYS_H
#define MONITOR_KVM_IF_SYS_H

#include "kvm_if.h"

#define KVM_DEVICE_PATH "/dev/kvm"

extern const struct kvm_if sys_kvm_if;

#endif
