/* Messages to and from a local APIC: destinations, acceptance, IPIs, the local vector table. */
#include "irqchip/lapic_priv.h"

#define XAPIC_BROADCAST 0xffu
#define X2APIC_BROADCAST 0xffffffffu
#define DFR_FLAT 0xf
#define DFR_CLUSTER 0x0

u32 lapic_x2apic_ldr(const struct lapic *l)
{
	return l->id >> 4 << 16 | BIT(l->id & 0xf);
}

/* SDM vol. 3A, 11.6.2.1, and 11.12.9 for x2APIC mode. */
static bool match_physical(const struct lapic *l, u32 dest)
{
	/* An id that xAPIC mode cannot hold names the LAPIC even while it is in that mode, as on KVM. */
	if (lapic_x2apic(l) || dest > XAPIC_BROADCAST)
		return dest == l->id;
	return dest == reg_get(l, LAPIC_ID) >> 24;
}

/* SDM vol. 3A, 11.6.2.2, and 11.12.10.1 for x2APIC mode. */
static bool match_logical(const struct lapic *l, u32 dest)
{
	u32 ldr;

	if (lapic_x2apic(l)) {
		ldr = lapic_x2apic_ldr(l);
		return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff;
	}
	ldr = reg_get(l, LAPIC_LDR) >> 24;
	switch (reg_get(l, LAPIC_DFR) >> 28) {
	case DFR_FLAT:
		return ldr & dest;
	case DFR_CLUSTER:
		return ldr >> 4 == dest >> 4 && ldr & dest & 0xf;
	default:
		return false;
	}
}

bool lapic_match(const struct lapic *l, const struct lapic *src, const struct apic_msg *msg)
{
	u32 dest = msg->dest;

	switch (msg->shorthand) {
	case APIC_SELF:
		return l == src;
	case APIC_ALL:
		return true;
	case APIC_ALL_BUT_SELF:
		return l != src;
	}
	/* A device knows 8 bits of destination: its broadcast reaches x2APICs too, unless the client has 32-bit ids. */
	if (dest == XAPIC_BROADCAST && !src && lapic_x2apic(l) && !l->chip->no_broadcast_quirk)
		dest = X2APIC_BROADCAST;
	if (dest == (lapic_x2apic(l) ? X2APIC_BROADCAST : XAPIC_BROADCAST))
		return true;
	return msg->logical ? match_logical(l, dest) : match_physical(l, dest);
}

void lapic_error(struct lapic *l, u32 bit)
{
	/* Also ends the recursion when the vector of the error LVT is itself illegal. */
	if (l->esr_pending & bit)
		return;
	l->esr_pending |= bit;
	lapic_local(l, LAPIC_LVT_ERROR);
}

/* SDM vol. 3A, 11.8.4: the vector is pending in the IRR, the TMR says how it is to end. */
static int accept_fixed(struct lapic *l, u8 vector, bool level)
{
	bool pending;

	if (!lapic_hw_enabled(l) || !lapic_sw_enabled(l))
		return -1;
	if (vector < 16) {
		lapic_error(l, ESR_RECEIVE_ILLEGAL);
		return -1;
	}
	pending = vector_test(l, LAPIC_IRR, vector);
	if (level)
		vector_set(l, LAPIC_TMR, vector);
	else
		vector_clear(l, LAPIC_TMR, vector);
	vector_set(l, LAPIC_IRR, vector);
	if (!pending)
		lapic_recheck(l);
	return !pending;
}

int lapic_accept(struct lapic *l, const struct apic_msg *msg)
{
	const struct irqchip_host *host = l->chip->host;

	switch (msg->mode) {
	case APIC_FIXED:
	case APIC_LOWEST:
		return msg->level && !msg->assert ? -1 : accept_fixed(l, msg->vector, msg->level);
	case APIC_SMI:
		host->smi(l->vcpu);
		return 1;
	case APIC_NMI:
		host->nmi(l->vcpu);
		return 1;
	case APIC_INIT:
		/* Level de-assert sets arbitration ids on old buses, and nothing here (SDM vol. 3A, 11.6.1). */
		if (msg->level && !msg->assert)
			return -1;
		host->init(l->vcpu);
		return 1;
	case APIC_STARTUP:
		host->sipi(l->vcpu, msg->vector);
		return 1;
	default: /* ExtINT comes as the PIC's INT line, see lapic_accepts_extint() */
		return -1;
	}
}

void lapic_send_ipi(struct lapic *l, u32 low, u32 dest)
{
	struct apic_msg msg = {
		.vector = low & 0xff,
		.mode = low >> 8 & 7,
		.shorthand = low >> 18 & 3,
		.logical = low >> 11 & 1,
		.assert = low >> 14 & 1,
		.dest = dest,
	};

	/* The trigger mode is that of INIT alone; every other IPI is an edge (SDM vol. 3A, 11.6.1). */
	msg.level = msg.mode == APIC_INIT && low >> 15 & 1;
	if ((msg.mode == APIC_FIXED || msg.mode == APIC_LOWEST) && msg.vector < 16) {
		lapic_error(l, ESR_SEND_ILLEGAL);
		return;
	}
	irqchip_deliver(l->chip, l, &msg);
}

int lapic_local(struct lapic *l, unsigned lvt)
{
	u32 value = reg_get(l, lvt);
	struct apic_msg msg = {
		.vector = value & 0xff,
		.mode = lvt == LAPIC_LVT_TIMER || lvt == LAPIC_LVT_ERROR ? APIC_FIXED : value >> 8 & 7,
		.level = (lvt == LAPIC_LVT_LINT0 || lvt == LAPIC_LVT_LINT1) && value >> 15 & 1,
		.assert = true,
	};
	int ret;

	if (!lapic_hw_enabled(l) || value & LAPIC_LVT_MASKED)
		return -1;
	ret = lapic_accept(l, &msg);
	/* A performance counter interrupt masks its own entry (SDM vol. 3A, 11.5.1). */
	if (lvt == LAPIC_LVT_PERF && ret >= 0)
		reg_set(l, lvt, value | LAPIC_LVT_MASKED);
	return ret;
}

bool lapic_accepts_extint(const struct lapic *l)
{
	u32 lint0 = reg_get(l, LAPIC_LVT_LINT0);

	return !lapic_hw_enabled(l) || (!(lint0 & LAPIC_LVT_MASKED) && (lint0 >> 8 & 7) == APIC_EXTINT);
}
