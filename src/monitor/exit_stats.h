/* Where and why vCPUs leave the guest for this program, counted by it: the same on every KVM. */
#ifndef MONITOR_EXIT_STATS_H
#define MONITOR_EXIT_STATS_H

#include <linux/kvm.h>

#include "base/types.h"

#define EXIT_REASONS 64 /* KVM_EXIT_*; greater ones count as KVM_EXIT_UNKNOWN */
#define EXIT_SITES 1024

/* A place in the guest and what it did there. */
struct exit_site {
	u64 count; /* 0: free */
	u64 rip;   /* as KVM gives it: of the instruction, or behind it */
	u64 addr;  /* port or guest-physical address; 0 for other reasons */
	u32 reason;
	bool write;
};

struct exit_stats {
	u64 reason[EXIT_REASONS]; /* KVM_RUN's that failed by a signal are KVM_EXIT_INTR */
	u64 lost;                 /* exits for whose place there was no room in site[] */
	bool sites;               /* set by the owner: KVM gives RIP in the run page (KVM_SYNC_X86_REGS) */
	struct exit_site site[EXIT_SITES]; /* hashed by place; bounded search */
};

/* Counts the end of a KVM_RUN that returned @rc: >= 0 or -errno. */
void exit_stats_count(struct exit_stats *s, const struct kvm_run *run, long rc);

/* Adds @from to @to. */
void exit_stats_add(struct exit_stats *to, const struct exit_stats *from);

/* The places with the most exits, most first, at most @max of them. Returns how many. */
unsigned exit_stats_top(const struct exit_stats *s, struct exit_site *top, unsigned max);

#endif
