/* Reads KVM's own statistics (api.rst, 4.133 KVM_GET_STATS_FD), whatever they are. */
#ifndef MONITOR_KVM_STATS_H
#define MONITOR_KVM_STATS_H

#include <linux/kvm.h>

#include "base/types.h"
#include "kvm_if.h"

#define KVM_STAT_NAME_MAX 64

struct kvm_stat {
	char name[KVM_STAT_NAME_MAX]; /* cut when longer */
	u32 flags;                    /* KVM_STATS_TYPE_*, _UNIT_*, _BASE_* */
	s16 exponent;
	u64 value;                    /* of a histogram: the sum of its buckets, a number without unit */
};

struct kvm_stats {
	unsigned nr;
	struct kvm_stat *stat;
};

/* The statistics of the VM or vCPU behind @fd. 0, or -errno with nothing to free; kvm_stats_free() after a success. */
int kvm_stats_get(const struct kvm_if *kvm, int fd, struct kvm_stats *s);
/* The same from a statistics file itself, which may hold anything: -EINVAL when it makes no sense. */
int kvm_stats_read(int stats_fd, struct kvm_stats *s);
void kvm_stats_free(struct kvm_stats *s);
/* NULL when there is none. */
const struct kvm_stat *kvm_stats_find(const struct kvm_stats *s, const char *name);

/* @value in the unit of @flags and @exponent, short: "1234", "1.5 ms", "3.2 MiB". */
void kvm_stat_format(char *text, size_t max, u64 value, u32 flags, s16 exponent);

#endif
