#include "monitor/exit_stats.h"

#include <errno.h>

#define PROBES 16u

static bool same_place(const struct exit_site *a, const struct exit_site *b)
{
	return a->rip == b->rip && a->addr == b->addr && a->reason == b->reason && a->write == b->write;
}

static void add_site(struct exit_stats *s, const struct exit_site *e)
{
	u64 h = (e->rip ^ e->addr << 20 ^ (u64)e->reason << 1 ^ e->write) * 0x9e3779b97f4a7c15ull;

	for (unsigned i = 0; i < PROBES; i++) {
		struct exit_site *at = &s->site[((h >> 32) + i) % EXIT_SITES];

		if (at->count && !same_place(at, e))
			continue;
		u64 before = at->count;
		*at = *e;
		at->count += before;
		return;
	}
	s->lost += e->count;
}

void exit_stats_count(struct exit_stats *s, const struct kvm_run *run, long rc)
{
	if (rc < 0) {
		s->reason[KVM_EXIT_INTR] += rc == -EINTR;
		return;
	}
	s->reason[run->exit_reason < EXIT_REASONS ? run->exit_reason : KVM_EXIT_UNKNOWN]++;
	if (!s->sites)
		return;

	struct exit_site e = {.count = 1, .rip = run->s.regs.regs.rip, .reason = run->exit_reason};

	if (e.reason == KVM_EXIT_IO) {
		e.addr = run->io.port;
		e.write = run->io.direction == KVM_EXIT_IO_OUT;
	} else if (e.reason == KVM_EXIT_MMIO) {
		e.addr = run->mmio.phys_addr;
		e.write = run->mmio.is_write;
	}
	add_site(s, &e);
}

void exit_stats_add(struct exit_stats *to, const struct exit_stats *from)
{
	for (unsigned i = 0; i < EXIT_REASONS; i++)
		to->reason[i] += from->reason[i];
	for (unsigned i = 0; i < EXIT_SITES; i++)
		if (from->site[i].count)
			add_site(to, &from->site[i]);
	to->lost += from->lost;
	to->sites |= from->sites;
}

unsigned exit_stats_top(const struct exit_stats *s, struct exit_site *top, unsigned max)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < EXIT_SITES; i++) {
		const struct exit_site *e = &s->site[i];
		unsigned at = nr;

		while (at > 0 && top[at - 1].count < e->count)
			at--;
		if (!e->count || at == max)
			continue;
		nr = MIN(nr + 1, max);
		for (unsigned j = nr - 1; j > at; j--)
			top[j] = top[j - 1];
		top[at] = *e;
	}
	return nr;
}
