/* Local APIC: registers, priorities, base MSR, reset and saved state. */
#include <errno.h>
#include <string.h>

#include "irqchip/lapic_priv.h"

#define REG_BIT(offset) BIT64((offset) >> 4)
#define REG_256(offset) (0xffull << ((offset) >> 4))
/* Registers that can be read in both modes, and those of xAPIC mode alone (SDM vol. 3A, tables 11-1 and 11-6). */
#define READABLE (REG_BIT(LAPIC_ID) | REG_BIT(LAPIC_VERSION) | REG_BIT(LAPIC_TPR) | REG_BIT(LAPIC_PPR) | \
	REG_BIT(LAPIC_LDR) | REG_BIT(LAPIC_SVR) | REG_256(LAPIC_ISR) | REG_256(LAPIC_TMR) | REG_256(LAPIC_IRR) | \
	REG_BIT(LAPIC_ESR) | REG_BIT(LAPIC_ICR) | REG_BIT(LAPIC_LVT_TIMER) | REG_BIT(LAPIC_LVT_THERMAL) | \
	REG_BIT(LAPIC_LVT_PERF) | REG_BIT(LAPIC_LVT_LINT0) | REG_BIT(LAPIC_LVT_LINT1) | REG_BIT(LAPIC_LVT_ERROR) | \
	REG_BIT(LAPIC_TIMER_INIT) | REG_BIT(LAPIC_TIMER_COUNT) | REG_BIT(LAPIC_TIMER_DIV))
#define READABLE_XAPIC (REG_BIT(LAPIC_APR) | REG_BIT(LAPIC_DFR) | REG_BIT(LAPIC_ICR2))

/* Writable bits of the LVT entries but for the timer's mode (SDM vol. 3A, figure 11-8). */
#define LVT_BITS (LAPIC_LVT_MASKED | 0xff)
#define LVT_MODE (7u << 8)
#define LVT_LINT (LVT_BITS | LVT_MODE | BIT(13) | BIT(15))
#define LVT_READ_ONLY (BIT(12) | BIT(14))
static const struct {
	u16 offset;
	u32 mask;
} lvt_table[] = {
	{ LAPIC_LVT_TIMER, LVT_BITS },
	{ LAPIC_LVT_THERMAL, LVT_BITS | LVT_MODE },
	{ LAPIC_LVT_PERF, LVT_BITS | LVT_MODE },
	{ LAPIC_LVT_LINT0, LVT_LINT },
	{ LAPIC_LVT_LINT1, LVT_LINT },
	{ LAPIC_LVT_ERROR, LVT_BITS },
	{ LAPIC_LVT_CMCI, LVT_BITS | LVT_MODE },
};

/* Reserved in a write of the x2APIC ICR (SDM vol. 3A, figure 11-28); bit 12 was the busy bit and is tolerated. */
#define X2APIC_ICR_RESERVED 0xfff32000ull

void lapic_recheck(struct lapic *l)
{
	if (irqchip_has_interrupt(l->chip, l))
		l->chip->host->kick(l->vcpu);
}

/* Highest vector set in the 256-bit register at @base, or -1. */
static int highest(const struct lapic *l, unsigned base)
{
	for (int i = 7; i >= 0; i--) {
		u32 word = reg_get(l, base + i * 0x10);

		if (word)
			return i * 32 + 31 - __builtin_clz(word);
	}
	return -1;
}

u8 lapic_ppr(const struct lapic *l)
{
	u8 tpr = reg_get(l, LAPIC_TPR), isr = MAX(highest(l, LAPIC_ISR), 0);

	return (tpr & 0xf0) >= (isr & 0xf0) ? tpr : isr & 0xf0;
}

int lapic_pending_vector(const struct lapic *l)
{
	int vector = lapic_hw_enabled(l) ? highest(l, LAPIC_IRR) : -1;

	return vector >= 0 && (vector & 0xf0) > (lapic_ppr(l) & 0xf0) ? vector : -1;
}

int lapic_ack(struct lapic *l)
{
	int vector = lapic_pending_vector(l);

	if (vector < 0)
		return -1;
	vector_clear(l, LAPIC_IRR, vector);
	vector_set(l, LAPIC_ISR, vector);
	return vector;
}

/* Split irqchip: a level-triggered @vector is that of one of the client's IOAPIC pins. */
static bool client_handles(const struct irqchip *chip, u8 vector)
{
	for (u32 gsi = 0; gsi < chip->split_pins; gsi++) {
		u32 nr;
		const struct route *r = routing_of(chip->routing, gsi, &nr);

		if (nr && (u8)r->data == vector && r->data >> 15 & 1)
			return true;
	}
	return false;
}

int lapic_eoi(struct lapic *l)
{
	struct irqchip *chip = l->chip;
	int vector = highest(l, LAPIC_ISR);
	bool broadcast;

	if (vector < 0)
		return -1;
	vector_clear(l, LAPIC_ISR, vector);
	broadcast = vector_test(l, LAPIC_TMR, vector) && !(reg_get(l, LAPIC_SVR) & LAPIC_SVR_NO_EOI_BROADCAST);
	if (!chip->split)
		ioapic_eoi(&chip->ioapic, vector, broadcast);
	else if (broadcast && client_handles(chip, vector))
		chip->host->ioapic_eoi(l->vcpu, vector);
	lapic_recheck(l);
	return vector;
}

bool lapic_pv_eoi_allowed(const struct lapic *l)
{
	const struct irqchip *chip = l->chip;
	int vector = highest(l, LAPIC_ISR);
	unsigned in_service = 0;

	if (vector < 0 || highest(l, LAPIC_IRR) >= 0)
		return false;
	for (unsigned i = 0; i < 8; i++)
		in_service += __builtin_popcount(reg_get(l, LAPIC_ISR + i * 0x10));
	if (in_service != 1)
		return false;
	if (chip->split)
		return !vector_test(l, LAPIC_TMR, vector);
	return !ioapic_handles(&chip->ioapic, vector);
}

u8 lapic_get_cr8(const struct lapic *l)
{
	return reg_get(l, LAPIC_TPR) >> 4 & 0xf;
}

static void write_tpr(struct lapic *l, u8 value)
{
	reg_set(l, LAPIC_TPR, value);
	lapic_recheck(l);
}

void lapic_set_cr8(struct lapic *l, u8 cr8)
{
	write_tpr(l, (cr8 & 0xf) << 4);
}

/* --- Registers --- */

/* Directed EOI needs an IOAPIC with an EOI register: the client's may have one, ours (version 11h) has not. */
static bool has_directed_eoi(const struct lapic *l)
{
	return l->chip->split && l->has_x2apic;
}

static u32 read_register(const struct lapic *l, unsigned offset)
{
	switch (offset) {
	case LAPIC_ID:
		return lapic_x2apic(l) ? l->id : reg_get(l, offset);
	case LAPIC_LDR:
		return lapic_x2apic(l) ? lapic_x2apic_ldr(l) : reg_get(l, offset);
	case LAPIC_VERSION:
		return 0x14 | (l->nr_lvt - 1u) << 16 | (has_directed_eoi(l) ? BIT(24) : 0);
	case LAPIC_PPR:
		return lapic_ppr(l);
	case LAPIC_TIMER_COUNT:
		return lapic_timer_count(l);
	default:
		return reg_get(l, offset);
	}
}

static bool readable(const struct lapic *l, unsigned offset)
{
	u64 mask = READABLE | (lapic_x2apic(l) ? 0 : READABLE_XAPIC) | (l->nr_lvt > 6 ? REG_BIT(LAPIC_LVT_CMCI) : 0);

	return offset <= 0x3f0 && mask >> (offset >> 4) & 1;
}

static void write_lvt(struct lapic *l, unsigned offset, u32 value)
{
	if (!lapic_sw_enabled(l))
		value |= LAPIC_LVT_MASKED;
	if (offset == LAPIC_LVT_TIMER)
		lapic_timer_write_lvt(l, value);
	else
		reg_set(l, offset, value);
	if (offset == LAPIC_LVT_LINT0)
		lapic_recheck(l);
}

static void mask_lvts(struct lapic *l)
{
	for (unsigned i = 0; i < l->nr_lvt && i < ARRAY_SIZE(lvt_table); i++)
		reg_set(l, lvt_table[i].offset, reg_get(l, lvt_table[i].offset) | LAPIC_LVT_MASKED);
}

/* Bits of @offset that can be written, in *@mask; read-only ones, in which any value is ignored, in *@ignored. */
static bool writable(const struct lapic *l, unsigned offset, u32 *mask, u32 *ignored)
{
	bool x2apic = lapic_x2apic(l);

	*ignored = 0;
	for (unsigned i = 0; i < l->nr_lvt && i < ARRAY_SIZE(lvt_table); i++)
		if (lvt_table[i].offset == offset) {
			*mask = lvt_table[i].mask | (i ? 0 : lapic_timer_mode_mask(l));
			*ignored = LVT_READ_ONLY;
			return true;
		}
	switch (offset) {
	case LAPIC_ID:
	case LAPIC_LDR:
	case LAPIC_ICR2:
		*mask = 0xff000000u;
		return !x2apic;
	case LAPIC_DFR:
		*mask = 0xf0000000u;
		return !x2apic;
	case LAPIC_TPR:
		*mask = 0xff;
		return true;
	case LAPIC_EOI:
	case LAPIC_ESR:
		*mask = 0;
		return true;
	case LAPIC_SVR:
		*mask = 0x3ff | (has_directed_eoi(l) ? LAPIC_SVR_NO_EOI_BROADCAST : 0);
		return true;
	case LAPIC_ICR:
		*mask = (u32)~X2APIC_ICR_RESERVED & ~ICR_BUSY;
		*ignored = ICR_BUSY;
		return true;
	case LAPIC_TIMER_INIT:
		*mask = ~0u;
		return true;
	case LAPIC_TIMER_DIV:
		*mask = 0xb;
		return true;
	case LAPIC_SELF_IPI:
		*mask = 0xff;
		return x2apic;
	default:
		return false;
	}
}

/* A write of @value, of which only the writable bits are left. */
static void write_register(struct lapic *l, unsigned offset, u32 value)
{
	switch (offset) {
	case LAPIC_TPR:
		write_tpr(l, value);
		break;
	case LAPIC_EOI:
		lapic_eoi(l);
		break;
	case LAPIC_DFR:
		reg_set(l, offset, value | 0x0fffffff);
		break;
	case LAPIC_SVR:
		reg_set(l, offset, value);
		if (!(value & LAPIC_SVR_ENABLE))
			mask_lvts(l);
		break;
	case LAPIC_ESR:
		/* A write shows the errors since the last one (SDM vol. 3A, 11.5.3). */
		reg_set(l, offset, l->esr_pending);
		l->esr_pending = 0;
		break;
	case LAPIC_ICR:
		reg_set(l, offset, value);
		lapic_send_ipi(l, value, lapic_x2apic(l) ? reg_get(l, LAPIC_ICR2) : reg_get(l, LAPIC_ICR2) >> 24);
		break;
	case LAPIC_SELF_IPI:
		lapic_send_ipi(l, APIC_SELF << 18 | value, 0);
		break;
	case LAPIC_TIMER_INIT:
		lapic_timer_write_init(l, value);
		break;
	case LAPIC_TIMER_DIV:
		lapic_timer_write_div(l, value);
		break;
	case LAPIC_ID:
	case LAPIC_LDR:
	case LAPIC_ICR2:
		reg_set(l, offset, value);
		break;
	default:
		write_lvt(l, offset, value);
	}
}

/* Registers that exist but for the direction of the access are no illegal addresses. */
static bool exists(const struct lapic *l, unsigned offset)
{
	u32 mask, ignored;

	return readable(l, offset) || writable(l, offset, &mask, &ignored) || offset == 0xc0 /* remote read */;
}

static bool in_page(const struct lapic *l, u64 gpa)
{
	return gpa >> PAGE_SHIFT == l->base_msr >> PAGE_SHIFT;
}

static bool page_answers(const struct lapic *l)
{
	return lapic_hw_enabled(l) && !lapic_x2apic(l);
}

bool lapic_mmio_read(struct lapic *l, u64 gpa, void *data, unsigned len)
{
	unsigned offset = gpa & (PAGE_SIZE - 1), within = offset & 0xf;
	u32 value;

	if (!in_page(l, gpa))
		return false;
	if (!page_answers(l)) {
		memset(data, 0xff, len);
		return !l->chip->no_mmio_hole_quirk;
	}
	memset(data, 0, len);
	if (!exists(l, offset & ~0xf))
		lapic_error(l, ESR_ILLEGAL_REGISTER);
	if (within + len > 4 || !readable(l, offset & ~0xf))
		return true;
	value = read_register(l, offset & ~0xf);
	memcpy(data, (u8 *)&value + within, len);
	return true;
}

bool lapic_mmio_write(struct lapic *l, u64 gpa, const void *data, unsigned len)
{
	unsigned offset = gpa & (PAGE_SIZE - 1);
	u32 value, mask, ignored;

	if (!in_page(l, gpa))
		return false;
	if (!page_answers(l))
		return !l->chip->no_mmio_hole_quirk;
	/* Registers are written whole (SDM vol. 3A, 11.4.1). */
	if (len != 4 || offset & 0xf)
		return true;
	memcpy(&value, data, 4);
	if (writable(l, offset, &mask, &ignored))
		write_register(l, offset, value & mask);
	else if (!exists(l, offset))
		lapic_error(l, ESR_ILLEGAL_REGISTER);
	return true;
}

bool lapic_msr_read(struct lapic *l, u32 msr, u64 *value)
{
	unsigned offset = (msr - 0x800) << 4;

	if (!lapic_x2apic(l) || msr < 0x800 || msr > 0x8ff || !readable(l, offset))
		return false;
	*value = read_register(l, offset);
	if (offset == LAPIC_ICR)
		*value |= (u64)reg_get(l, LAPIC_ICR2) << 32;
	return true;
}

bool lapic_msr_write(struct lapic *l, u32 msr, u64 value)
{
	unsigned offset = (msr - 0x800) << 4;
	u32 mask, ignored;

	if (!lapic_x2apic(l) || msr < 0x800 || msr > 0x8ff || !writable(l, offset, &mask, &ignored))
		return false;
	if ((u32)value & ~(mask | ignored) || (value >> 32 && offset != LAPIC_ICR))
		return false;
	if (offset == LAPIC_ICR)
		reg_set(l, LAPIC_ICR2, value >> 32);
	write_register(l, offset, value & mask);
	return true;
}

/* --- Modes and state --- */

bool lapic_set_base(struct lapic *l, u64 value, u64 reserved, bool host)
{
	u64 old = l->base_msr, modes = LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC, gained = value & ~old;

	reserved |= 0x2ff | (l->has_x2apic ? 0 : LAPIC_BASE_X2APIC);
	if (value & reserved || (value & modes) == LAPIC_BASE_X2APIC)
		return false;
	/* x2APIC mode is entered from xAPIC mode and left by disabling the APIC. */
	if (!host && (old & modes) == modes && (value & modes) == LAPIC_BASE_ENABLE)
		return false;
	if (!host && !(old & modes) && (value & modes) == modes)
		return false;
	l->base_msr = value;
	if (gained & modes)
		reg_set(l, LAPIC_ID, l->id << 24);
	if (gained & LAPIC_BASE_X2APIC)
		reg_set(l, LAPIC_ICR2, 0);
	if (!(value & LAPIC_BASE_ENABLE))
		lapic_timer_stop(l);
	lapic_recheck(l);
	return true;
}

static void reset_registers(struct lapic *l, bool init)
{
	u32 id;

	if (!init)
		l->base_msr = LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE | (l->bsp ? LAPIC_BASE_BSP : 0);
	/* INIT keeps an id that xAPIC software has changed. */
	id = init ? reg_get(l, LAPIC_ID) : l->id << 24;
	lapic_timer_stop(l);
	memset(l->reg, 0, sizeof(l->reg));
	l->esr_pending = 0;
	l->arb = 0;
	reg_set(l, LAPIC_ID, id);
	reg_set(l, LAPIC_DFR, ~0u);
	reg_set(l, LAPIC_SVR, 0xff);
	for (unsigned i = 0; i < ARRAY_SIZE(lvt_table); i++)
		reg_set(l, lvt_table[i].offset, i < l->nr_lvt ? LAPIC_LVT_MASKED : 0);
	/* Virtual wire mode, as a BIOS leaves it (api.rst, KVM_X86_QUIRK_LINT0_REENABLED). */
	if (l->bsp && !l->chip->no_lint0_quirk)
		reg_set(l, LAPIC_LVT_LINT0, APIC_EXTINT << 8);
}

void lapic_reset(struct lapic *l, bool init)
{
	reset_registers(l, init);
	lapic_recheck(l);
}

int lapic_init(struct lapic *l, struct irqchip *chip, void *vcpu, u32 id, bool bsp)
{
	if (chip->nr_lapic == IRQCHIP_MAX_LAPICS)
		return -ENOSPC;
	if (irqchip_find_lapic(chip, id))
		return -EEXIST;
	*l = (struct lapic){
		.chip = chip,
		.vcpu = vcpu,
		.id = id,
		.bsp = bsp,
		.has_x2apic = true,
		.has_tsc_deadline = true,
		.nr_lvt = 6,
		.deadline = IRQCHIP_NEVER,
	};
	reset_registers(l, false);
	chip->lapic[chip->nr_lapic++] = l;
	return 0;
}

void lapic_fini(struct lapic *l)
{
	struct irqchip *chip = l->chip;

	for (u32 i = 0; i < chip->nr_lapic; i++)
		if (chip->lapic[i] == l) {
			memmove(&chip->lapic[i], &chip->lapic[i + 1],
				(chip->nr_lapic - i - 1) * sizeof(chip->lapic[0]));
			chip->nr_lapic--;
			return;
		}
}

/*
 * The page of the ABI differs in x2APIC mode: its id is that of the xAPIC unless the client asked for 32-bit ids,
 * and the ICR is two registers, as it is kept here.
 */
void lapic_get_state(const struct lapic *l, struct kvm_lapic_state *state)
{
	static const u16 computed[] = { LAPIC_VERSION, LAPIC_PPR, LAPIC_LDR, LAPIC_TIMER_COUNT };
	u32 id = lapic_x2apic(l) && l->chip->x2apic_ids ? l->id : reg_get(l, LAPIC_ID);

	_Static_assert(sizeof(state->regs) == sizeof(l->reg), "register page");
	memcpy(state->regs, l->reg, sizeof(state->regs));
	memcpy(state->regs + LAPIC_ID, &id, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(computed); i++) {
		u32 value = read_register(l, computed[i]);

		memcpy(state->regs + computed[i], &value, 4);
	}
}

int lapic_set_state(struct lapic *l, const struct kvm_lapic_state *state)
{
	u32 id, count;

	memcpy(&id, state->regs + LAPIC_ID, 4);
	memcpy(&count, state->regs + LAPIC_TIMER_COUNT, 4);
	if (lapic_x2apic(l) && l->chip->x2apic_ids && id != l->id)
		return -EINVAL;
	memcpy(l->reg, state->regs, sizeof(l->reg));
	if (lapic_x2apic(l))
		reg_set(l, LAPIC_ID, l->id << 24);
	l->esr_pending = 0;
	l->arb = 0;
	lapic_timer_restore(l, count);
	lapic_recheck(l);
	return 0;
}
