/* The local APIC against the SDM, vol. 3A, chapter 11: registers, modes, priorities, messages, saved state. */
#include <errno.h>

#include "irqchip_fixture.h"

#define X2APIC_MODE (LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC)
#define PHYS_RESERVED (~0ull << 46)

static bool rdmsr(struct fixture *f, unsigned cpu, unsigned offset, u64 *value)
{
	return lapic_msr_read(&f->cpu[cpu].l, 0x800 + offset / 16, value);
}

static bool wrmsr(struct fixture *f, unsigned cpu, unsigned offset, u64 value)
{
	return lapic_msr_write(&f->cpu[cpu].l, 0x800 + offset / 16, value);
}

static void enter_x2apic(struct fixture *f, unsigned cpu)
{
	u64 bsp = f->cpu[cpu].l.base_msr & LAPIC_BASE_BSP;

	assert_true(lapic_set_base(&f->cpu[cpu].l, X2APIC_MODE | bsp, PHYS_RESERVED, false));
}

/* A fixed interrupt from a device. */
static int send(struct fixture *f, unsigned cpu, u8 vector)
{
	return irqchip_send_msi(&f->chip, 0xfee00000 | cpu << 12, vector);
}

static void ipi(struct fixture *f, unsigned cpu, u8 dest, u32 low)
{
	apic_write(f, cpu, LAPIC_ICR2, (u32)dest << 24);
	apic_write(f, cpu, LAPIC_ICR, low);
}

static void test_reset(void **state)
{
	struct fixture *f = *state;
	static const u16 masked[] = { LAPIC_LVT_TIMER, LAPIC_LVT_THERMAL, LAPIC_LVT_PERF, LAPIC_LVT_LINT0,
				      LAPIC_LVT_LINT1, LAPIC_LVT_ERROR };
	static const u16 zero[] = { LAPIC_TPR, LAPIC_PPR, LAPIC_LDR, LAPIC_ESR, LAPIC_ICR, LAPIC_ICR2,
				    LAPIC_TIMER_INIT, LAPIC_TIMER_COUNT, LAPIC_TIMER_DIV, LAPIC_ISR, LAPIC_IRR };

	for (unsigned init = 0; init < 2; init++) {
		lapic_reset(&f->cpu[3].l, init);
		for (unsigned i = 0; i < ARRAY_SIZE(masked); i++)
			assert_int_equal(apic_read(f, 3, masked[i]), LAPIC_LVT_MASKED);
		for (unsigned i = 0; i < ARRAY_SIZE(zero); i++)
			assert_int_equal(apic_read(f, 3, zero[i]), 0);
		assert_int_equal(apic_read(f, 3, LAPIC_SVR), 0xff);
		assert_int_equal(apic_read(f, 3, LAPIC_DFR), 0xffffffff);
		assert_int_equal(apic_read(f, 3, LAPIC_ID), 0x03000000);
		assert_int_equal(apic_read(f, 3, LAPIC_VERSION), 0x00050014);
		/* What INIT has to undo, and the id and base that it keeps. */
		apic_write(f, 3, LAPIC_SVR, 0x1ff);
		apic_write(f, 3, LAPIC_TPR, 0x55);
		apic_write(f, 3, LAPIC_LDR, 0x08000000);
		apic_write(f, 3, LAPIC_DFR, 0);
		apic_write(f, 3, LAPIC_TIMER_INIT, 1000000);
		apic_write(f, 3, LAPIC_LVT_TIMER, 0x20040);
		send(f, 3, 0x40);
		f->cpu[3].l.base_msr |= LAPIC_BASE_BSP;
	}
	assert_int_equal(f->cpu[3].l.base_msr, LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE | LAPIC_BASE_BSP);
	apic_write(f, 3, LAPIC_ID, 0x77000000);
	lapic_reset(&f->cpu[3].l, true);
	assert_int_equal(apic_read(f, 3, LAPIC_ID), 0x77000000);
	assert_true(lapic_next_deadline(&f->cpu[3].l) == IRQCHIP_NEVER);
	lapic_reset(&f->cpu[3].l, false);
	assert_int_equal(apic_read(f, 3, LAPIC_ID), 0x03000000);
	assert_int_equal(f->cpu[3].l.base_msr, LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE);
	/* The bootstrap processor's LINT0 takes the PIC's ExtINT, unless the client turns that quirk off. */
	lapic_reset(&f->cpu[0].l, false);
	assert_int_equal(f->cpu[0].l.base_msr, LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE | LAPIC_BASE_BSP);
	assert_int_equal(apic_read(f, 0, LAPIC_LVT_LINT0), APIC_EXTINT << 8);
	f->chip.no_lint0_quirk = true;
	lapic_reset(&f->cpu[0].l, false);
	assert_int_equal(apic_read(f, 0, LAPIC_LVT_LINT0), LAPIC_LVT_MASKED);
}

/* Which bits of each register can be written. */
static void test_writable_bits(void **state)
{
	static const struct {
		u16 offset;
		u32 ones, zeros; /* what reads back */
	} regs[] = {
		{ LAPIC_ID, 0xff000000, 0 }, { LAPIC_TPR, 0xff, 0 }, { LAPIC_LDR, 0xff000000, 0 },
		{ LAPIC_DFR, 0xffffffff, 0x0fffffff }, { LAPIC_ICR2, 0xff000000, 0 },
		{ LAPIC_LVT_TIMER, 0x700ff, 0 }, { LAPIC_LVT_THERMAL, 0x107ff, 0 }, { LAPIC_LVT_PERF, 0x107ff, 0 },
		{ LAPIC_LVT_LINT0, 0x1a7ff, 0 }, { LAPIC_LVT_LINT1, 0x1a7ff, 0 }, { LAPIC_LVT_ERROR, 0x100ff, 0 },
		{ LAPIC_TIMER_DIV, 0xb, 0 }, { LAPIC_SVR, 0x3ff, 0 },
		/* Read-only. */
		{ LAPIC_VERSION, 0x50014, 0x50014 }, { LAPIC_PPR, 0, 0 }, { LAPIC_ISR, 0, 0 },
		{ LAPIC_TMR + 0x70, 0, 0 },
		{ LAPIC_IRR + 0x30, 0, 0 }, { LAPIC_TIMER_COUNT, 0, 0 }, { LAPIC_APR, 0, 0 },
		/* Not there. */
		{ 0x00, 0, 0 }, { 0x40, 0, 0 }, { LAPIC_LVT_CMCI, 0, 0 }, { 0x3a0, 0, 0 }, { LAPIC_SELF_IPI, 0, 0 },
		{ 0x400, 0, 0 }, { 0xff0, 0, 0 },
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
		apic_write(f, 0, regs[i].offset, 0xffffffff);
		assert_int_equal(apic_read(f, 0, regs[i].offset), regs[i].ones);
		apic_write(f, 0, regs[i].offset, 0);
		assert_int_equal(apic_read(f, 0, regs[i].offset), regs[i].zeros);
	}
	f->cpu[0].l.nr_lvt = 7;
	assert_int_equal(apic_read(f, 0, LAPIC_VERSION), 0x60014);
	apic_write(f, 0, LAPIC_SVR, LAPIC_SVR_ENABLE);
	apic_write(f, 0, LAPIC_LVT_CMCI, 0xffffffff);
	assert_int_equal(apic_read(f, 0, LAPIC_LVT_CMCI), 0x107ff);
	f->cpu[0].l.has_tsc_deadline = false;
	apic_write(f, 0, LAPIC_LVT_TIMER, 0xffffffff);
	assert_int_equal(apic_read(f, 0, LAPIC_LVT_TIMER), 0x300ff);
}

static void test_access_sizes(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = &f->cpu[1].l;
	u64 wide = ~0ull;
	u32 value = 0;

	assert_true(lapic_mmio_read(l, LAPIC_DEFAULT_BASE + LAPIC_ID + 3, &value, 1));
	assert_int_equal(value, 0x01);
	assert_true(lapic_mmio_read(l, LAPIC_DEFAULT_BASE + LAPIC_ID + 2, &value, 2));
	assert_int_equal(value, 0x0100);
	assert_true(lapic_mmio_read(l, LAPIC_DEFAULT_BASE + LAPIC_ID, &wide, 8)); /* over the register's end: zeros */
	assert_true(wide == 0);
	value = 0x11111111;
	assert_true(lapic_mmio_write(l, LAPIC_DEFAULT_BASE + LAPIC_TPR, &value, 1)); /* ignored */
	assert_true(lapic_mmio_write(l, LAPIC_DEFAULT_BASE + LAPIC_TPR + 4, &value, 4));
	assert_int_equal(apic_read(f, 1, LAPIC_TPR), 0);
	assert_false(lapic_mmio_read(l, LAPIC_DEFAULT_BASE - 1, &value, 1));
	assert_false(lapic_mmio_read(l, LAPIC_DEFAULT_BASE + 0x1000, &value, 4));
	assert_false(lapic_mmio_write(l, LAPIC_DEFAULT_BASE + 0x1000, &value, 4));
}

static void test_base_msr(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = &f->cpu[1].l;
	const u64 off = LAPIC_DEFAULT_BASE, xapic = off | LAPIC_BASE_ENABLE, x2apic = xapic | LAPIC_BASE_X2APIC;
	const u64 invalid = off | LAPIC_BASE_X2APIC, modes[] = { off, xapic, x2apic };
	/* SDM vol. 3A, figure 11-27: from (row) to (column). */
	static const bool allowed[3][3] = { { true, true, false }, { true, true, true }, { true, false, true } };
	u32 value = 0;

	for (unsigned from = 0; from < 3; from++)
		for (unsigned to = 0; to < 3; to++) {
			assert_true(lapic_set_base(l, modes[from], PHYS_RESERVED, true));
			assert_int_equal(lapic_set_base(l, modes[to], PHYS_RESERVED, false), allowed[from][to]);
			assert_int_equal(l->base_msr, allowed[from][to] ? modes[to] : modes[from]);
			assert_false(lapic_set_base(l, invalid, PHYS_RESERVED, true));
		}
	assert_true(lapic_set_base(l, xapic, PHYS_RESERVED, true));
	assert_false(lapic_set_base(l, xapic | BIT64(0), PHYS_RESERVED, true));
	assert_false(lapic_set_base(l, xapic | BIT64(9), PHYS_RESERVED, true));
	assert_false(lapic_set_base(l, xapic | BIT64(46), PHYS_RESERVED, true));
	l->has_x2apic = false;
	assert_false(lapic_set_base(l, x2apic, PHYS_RESERVED, false));
	/* The page moves. */
	assert_true(lapic_set_base(l, 0x12345000 | LAPIC_BASE_ENABLE, PHYS_RESERVED, false));
	assert_false(lapic_mmio_read(l, LAPIC_DEFAULT_BASE + LAPIC_VERSION, &value, 4));
	assert_true(lapic_mmio_read(l, 0x12345000 + LAPIC_VERSION, &value, 4));
	assert_int_equal(value, 0x50014);
	/* Enabling gives the id back that software had changed. */
	value = 0x99000000;
	assert_true(lapic_mmio_write(l, 0x12345000 + LAPIC_ID, &value, 4));
	assert_true(lapic_set_base(l, 0x12345000, PHYS_RESERVED, false));
	assert_true(lapic_set_base(l, 0x12345000 | LAPIC_BASE_ENABLE, PHYS_RESERVED, false));
	assert_true(lapic_mmio_read(l, 0x12345000 + LAPIC_ID, &value, 4));
	assert_int_equal(value, 0x01000000);
	/* Disabled, the page is a hole. */
	assert_true(lapic_set_base(l, 0x12345000, PHYS_RESERVED, false));
	assert_true(lapic_mmio_read(l, 0x12345000 + LAPIC_VERSION, &value, 4));
	assert_int_equal(value, 0xffffffff);
	f->chip.no_mmio_hole_quirk = true;
	assert_false(lapic_mmio_read(l, 0x12345000 + LAPIC_VERSION, &value, 4));
	assert_false(lapic_mmio_write(l, 0x12345000 + LAPIC_TPR, &value, 4));
	assert_int_equal(send(f, 1, 0x41), -1);
}

static void test_x2apic_registers(void **state)
{
	struct fixture *f = *state;
	u64 value = 0;
	u32 word = 0;

	assert_false(rdmsr(f, 2, LAPIC_VERSION, &value)); /* not in this mode */
	assert_false(wrmsr(f, 2, LAPIC_TPR, 0));
	apic_write(f, 2, LAPIC_ID, 0x99000000);
	apic_write(f, 2, LAPIC_ICR2, 0x03000000);
	enter_x2apic(f, 2);
	assert_true(rdmsr(f, 2, LAPIC_ICR, &value));
	assert_true(value == 0); /* an xAPIC destination means something else */
	assert_true(rdmsr(f, 2, LAPIC_ID, &value));
	assert_int_equal(value, 2);
	assert_true(rdmsr(f, 2, LAPIC_LDR, &value));
	assert_int_equal(value, 4);
	assert_true(rdmsr(f, 2, LAPIC_VERSION, &value));
	assert_int_equal(value, 0x50014);
	assert_true(lapic_mmio_read(&f->cpu[2].l, LAPIC_DEFAULT_BASE + LAPIC_ID, &word, 4));
	assert_int_equal(word, 0xffffffff);
	/* Not readable: EOI, DFR, ICR2, self IPI, APR; not writable: ID, LDR, version, DFR, counters, ISR. */
	static const u16 no_read[] = { LAPIC_EOI, LAPIC_DFR, LAPIC_ICR2, LAPIC_SELF_IPI, LAPIC_APR, 0x00, 0x400, 0xff0,
				       LAPIC_LVT_CMCI };
	static const u16 no_write[] = { LAPIC_ID, LAPIC_LDR, LAPIC_VERSION, LAPIC_DFR, LAPIC_ICR2, LAPIC_TIMER_COUNT,
					LAPIC_ISR, LAPIC_PPR, 0x00, 0x400, 0xff0 };
	for (unsigned i = 0; i < ARRAY_SIZE(no_read); i++)
		assert_false(rdmsr(f, 2, no_read[i], &value));
	for (unsigned i = 0; i < ARRAY_SIZE(no_write); i++)
		assert_false(wrmsr(f, 2, no_write[i], 0));
	assert_false(lapic_msr_read(&f->cpu[2].l, 0x7ff, &value));
	assert_false(lapic_msr_read(&f->cpu[2].l, 0x900, &value));
	/* Reserved bits fault (SDM vol. 3A, 11.12.1.3), in the upper half too. */
	assert_true(wrmsr(f, 2, LAPIC_TPR, 0x70));
	assert_false(wrmsr(f, 2, LAPIC_TPR, 0x170));
	assert_false(wrmsr(f, 2, LAPIC_TPR, BIT64(32)));
	assert_false(wrmsr(f, 2, LAPIC_EOI, 1));
	assert_false(wrmsr(f, 2, LAPIC_ESR, 1));
	assert_false(wrmsr(f, 2, LAPIC_SVR, BIT(12)));
	assert_false(wrmsr(f, 2, LAPIC_SELF_IPI, 0x100));
	assert_false(wrmsr(f, 2, LAPIC_LVT_ERROR, 0x200));
	for (unsigned bit = 0; bit < 32; bit++) {
		bool reserved = bit == 13 || bit == 16 || bit == 17 || bit >= 20;

		assert_int_equal(wrmsr(f, 2, LAPIC_ICR, BIT64(bit) | 0x50), !reserved);
	}
	assert_true(wrmsr(f, 2, LAPIC_TPR, 0));
	assert_true(wrmsr(f, 2, LAPIC_EOI, 0));
	assert_true(wrmsr(f, 2, LAPIC_ICR, 0x1234567800000050));
	assert_true(rdmsr(f, 2, LAPIC_ICR, &value));
	assert_true(value == 0x1234567800000050);
}

static void test_priorities(void **state)
{
	struct fixture *f = *state;

	f->cpu[1].kicks = 0;
	assert_int_equal(send(f, 1, 0x45), 1);
	assert_int_equal(f->cpu[1].kicks, 1);
	assert_int_equal(send(f, 1, 0x45), 0);
	assert_int_equal(f->cpu[1].kicks, 1); /* no news */
	assert_int_equal(send(f, 1, 0x91), 1);
	assert_int_equal(send(f, 1, 0x42), 1);
	assert_int_equal(take(f, 1), 0x91);
	assert_int_equal(apic_read(f, 1, LAPIC_PPR), 0x90);
	assert_int_equal(take(f, 1), -1);
	assert_int_equal(send(f, 1, 0x9f), 1); /* same class: waits */
	assert_int_equal(take(f, 1), -1);
	assert_int_equal(send(f, 1, 0xa0), 1);
	assert_int_equal(take(f, 1), 0xa0);
	assert_true(bit_of(f, 1, LAPIC_ISR, 0xa0));
	assert_true(bit_of(f, 1, LAPIC_ISR, 0x91));
	assert_true(bit_of(f, 1, LAPIC_IRR, 0x9f));
	assert_int_equal(lapic_eoi(&f->cpu[1].l), 0xa0);
	assert_int_equal(take(f, 1), -1);
	assert_int_equal(lapic_eoi(&f->cpu[1].l), 0x91);
	assert_int_equal(take(f, 1), 0x9f);
	assert_int_equal(lapic_eoi(&f->cpu[1].l), 0x9f);
	assert_int_equal(take(f, 1), 0x45);
	assert_int_equal(lapic_eoi(&f->cpu[1].l), 0x45);
	assert_int_equal(take(f, 1), 0x42);
	assert_int_equal(lapic_eoi(&f->cpu[1].l), 0x42);
	assert_int_equal(lapic_eoi(&f->cpu[1].l), -1);
	assert_int_equal(take(f, 1), -1);
}

static void test_trigger_mode(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(irqchip_send_msi(&f->chip, 0xfee01000, 0xc045), 1);
	assert_true(bit_of(f, 1, LAPIC_TMR, 0x45));
	assert_int_equal(take(f, 1), 0x45);
	assert_int_equal(send(f, 1, 0x45), 1); /* the TMR is that of the last message */
	assert_false(bit_of(f, 1, LAPIC_TMR, 0x45));
}

static void test_tpr(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = &f->cpu[1].l;

	lapic_set_cr8(l, 5);
	assert_int_equal(apic_read(f, 1, LAPIC_TPR), 0x50);
	assert_int_equal(lapic_get_cr8(l), 5);
	apic_write(f, 1, LAPIC_TPR, 0x4c);
	assert_int_equal(apic_read(f, 1, LAPIC_PPR), 0x4c); /* the subclass shows, but does not count */
	send(f, 1, 0x4f);
	assert_int_equal(take(f, 1), -1);
	f->cpu[1].kicks = 0;
	lapic_set_cr8(l, 3); /* lowering it is news to the vCPU */
	assert_int_equal(f->cpu[1].kicks, 1);
	assert_int_equal(take(f, 1), 0x4f);
	apic_write(f, 1, LAPIC_TPR, 0x40);
	assert_int_equal(apic_read(f, 1, LAPIC_PPR), 0x40);
	apic_write(f, 1, LAPIC_TPR, 0x35);
	assert_int_equal(apic_read(f, 1, LAPIC_PPR), 0x40);
}

static void test_software_disable(void **state)
{
	struct fixture *f = *state;

	apic_write(f, 1, LAPIC_LVT_ERROR, 0xfe);
	send(f, 1, 0x45);
	apic_write(f, 1, LAPIC_SVR, 0xff);
	assert_int_equal(apic_read(f, 1, LAPIC_LVT_ERROR), LAPIC_LVT_MASKED | 0xfe);
	apic_write(f, 1, LAPIC_LVT_ERROR, 0xfe); /* the mask cannot be cleared now */
	assert_int_equal(apic_read(f, 1, LAPIC_LVT_ERROR), LAPIC_LVT_MASKED | 0xfe);
	assert_int_equal(send(f, 1, 0x46), -1);
	assert_int_equal(take(f, 1), 0x45); /* pending ones are held and can be taken */
	/* INIT, NMI, SMI and SIPI still arrive, and IPIs can be sent. */
	ipi(f, 0, 1, APIC_NMI << 8 | BIT(14));
	ipi(f, 0, 1, APIC_SMI << 8 | BIT(14));
	ipi(f, 0, 1, APIC_INIT << 8 | BIT(14));
	ipi(f, 0, 1, APIC_STARTUP << 8 | BIT(14) | 0x9a);
	assert_int_equal(f->cpu[1].nmis, 1);
	assert_int_equal(f->cpu[1].smis, 1);
	assert_int_equal(f->cpu[1].inits, 1);
	assert_int_equal(f->cpu[1].sipis, 1);
	assert_int_equal(f->cpu[1].sipi_vector, 0x9a);
	ipi(f, 1, 0, 0x55);
	assert_int_equal(take(f, 0), 0x55);
}

static void test_ipi_shorthands(void **state)
{
	struct fixture *f = *state;
	static const struct {
		u32 shorthand;
		bool got[FIXTURE_CPUS];
	} rows[] = {
		{ APIC_NO_SHORTHAND, { false, false, true, false } },
		{ APIC_SELF, { false, true, false, false } },
		{ APIC_ALL, { true, true, true, true } },
		{ APIC_ALL_BUT_SELF, { true, false, true, true } },
	};

	for (unsigned x2apic = 0; x2apic < 2; x2apic++) {
		for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
			if (x2apic)
				assert_true(wrmsr(f, 1, LAPIC_ICR, 2ull << 32 | rows[i].shorthand << 18 | 0x50));
			else
				ipi(f, 1, 2, rows[i].shorthand << 18 | 0x50);
			for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++) {
				assert_int_equal(take(f, cpu), rows[i].got[cpu] ? 0x50 : -1);
				lapic_eoi(&f->cpu[cpu].l);
			}
		}
		assert_true(x2apic || !(apic_read(f, 1, LAPIC_ICR) & BIT(12))); /* never busy */
		for (unsigned cpu = 0; cpu < FIXTURE_CPUS && !x2apic; cpu++)
			enter_x2apic(f, cpu);
	}
	assert_true(wrmsr(f, 3, LAPIC_SELF_IPI, 0x66));
	assert_int_equal(take(f, 3), 0x66);
	assert_int_equal(take(f, 2), -1);
}

static void test_init_deassert(void **state)
{
	struct fixture *f = *state;

	ipi(f, 0, 0, APIC_ALL_BUT_SELF << 18 | APIC_INIT << 8 | BIT(15) | BIT(14));
	ipi(f, 0, 0, APIC_ALL_BUT_SELF << 18 | APIC_INIT << 8 | BIT(15)); /* level de-assert: nothing */
	for (unsigned cpu = 1; cpu < FIXTURE_CPUS; cpu++)
		assert_int_equal(f->cpu[cpu].inits, 1);
	assert_int_equal(f->cpu[0].inits, 0);
	/* For other modes the trigger bits do not count: an IPI is an edge. */
	ipi(f, 0, 1, 0x8050);
	assert_int_equal(take(f, 1), 0x50);
	assert_false(bit_of(f, 1, LAPIC_TMR, 0x50));
	/* ExtINT and remote read are no messages that a processor takes. */
	ipi(f, 0, 1, APIC_EXTINT << 8 | 0x51);
	ipi(f, 0, 1, APIC_REMOTE_READ << 8 | 0x51);
	assert_int_equal(take(f, 1), -1);
}

static struct apic_msg to(u32 dest, bool logical)
{
	return (struct apic_msg){ .vector = 0x50, .assert = true, .dest = dest, .logical = logical };
}

static unsigned matched(struct fixture *f, const struct lapic *src, u32 dest, bool logical)
{
	struct apic_msg msg = to(dest, logical);
	unsigned mask = 0;

	for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++)
		mask |= lapic_match(&f->cpu[cpu].l, src, &msg) << cpu;
	return mask;
}

static void test_xapic_destinations(void **state)
{
	struct fixture *f = *state;
	static const u8 cluster_ldr[] = { 0x11, 0x12, 0x21, 0x28 };

	assert_int_equal(matched(f, NULL, 2, false), 0x4);
	assert_int_equal(matched(f, NULL, 0xff, false), 0xf);
	assert_int_equal(matched(f, NULL, 9, false), 0);
	apic_write(f, 2, LAPIC_ID, 0x09000000); /* software may change the id */
	assert_int_equal(matched(f, NULL, 9, false), 0x4);
	assert_int_equal(matched(f, NULL, 2, false), 0);
	for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++)
		apic_write(f, cpu, LAPIC_LDR, BIT(24 + cpu));
	assert_int_equal(matched(f, NULL, 0x5, true), 0x5);
	assert_int_equal(matched(f, NULL, 0x80, true), 0);
	assert_int_equal(matched(f, NULL, 0xff, true), 0xf);
	for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++) {
		apic_write(f, cpu, LAPIC_DFR, 0);
		apic_write(f, cpu, LAPIC_LDR, (u32)cluster_ldr[cpu] << 24);
	}
	assert_int_equal(matched(f, NULL, 0x13, true), 0x3);
	assert_int_equal(matched(f, NULL, 0x12, true), 0x2);
	assert_int_equal(matched(f, NULL, 0x29, true), 0xc);
	assert_int_equal(matched(f, NULL, 0x33, true), 0);
	apic_write(f, 0, LAPIC_DFR, 0x50000000); /* a model that does not exist */
	assert_int_equal(matched(f, NULL, 0x13, true), 0x2);
}

static void test_x2apic_destinations(void **state)
{
	struct fixture *f = *state;

	lapic_fini(&f->cpu[3].l);
	assert_int_equal(lapic_init(&f->cpu[3].l, &f->chip, &f->cpu[3], 0x123, false), 0);
	/* An id that xAPIC mode cannot hold is reached even so. */
	assert_int_equal(matched(f, NULL, 0x123, false), 0x8);
	for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++)
		enter_x2apic(f, cpu);
	assert_int_equal(matched(f, NULL, 1, false), 0x2);
	assert_int_equal(matched(f, NULL, 0x123, false), 0x8);
	assert_int_equal(matched(f, NULL, 0xffffffff, false), 0xf);
	assert_int_equal(matched(f, NULL, 0xffffffff, true), 0xf);
	assert_int_equal(matched(f, NULL, 0x00000005, true), 0x5);
	assert_int_equal(matched(f, NULL, 0x00120008, true), 0x8); /* cluster 12h, bit 3 */
	assert_int_equal(matched(f, NULL, 0x0012000f, true), 0x8);
	assert_int_equal(matched(f, NULL, 0x00010001, true), 0);
	/* ffh from a device is a broadcast, from a processor an id; the client can make it an id throughout. */
	assert_int_equal(matched(f, NULL, 0xff, false), 0xf);
	assert_int_equal(matched(f, &f->cpu[0].l, 0xff, false), 0);
	f->chip.no_broadcast_quirk = true;
	assert_int_equal(matched(f, NULL, 0xff, false), 0);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;

	apic_write(f, 1, LAPIC_LVT_ERROR, 0xe0);
	ipi(f, 1, 0, 0x0f); /* illegal vector: not sent */
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(apic_read(f, 1, LAPIC_ESR), 0); /* shown by a write */
	assert_int_equal(take(f, 1), 0xe0);
	lapic_eoi(&f->cpu[1].l);
	apic_write(f, 1, LAPIC_ESR, 0);
	assert_int_equal(apic_read(f, 1, LAPIC_ESR), BIT(5));
	apic_write(f, 1, LAPIC_ESR, 0xffffffff);
	assert_int_equal(apic_read(f, 1, LAPIC_ESR), 0);
	assert_int_equal(send(f, 1, 0x0f), -1); /* received */
	assert_int_equal(take(f, 1), 0xe0);
	apic_write(f, 1, LAPIC_ESR, 0);
	assert_int_equal(apic_read(f, 1, LAPIC_ESR), BIT(6));
	lapic_eoi(&f->cpu[1].l);
	apic_read(f, 1, 0x40); /* reserved */
	apic_write(f, 1, LAPIC_VERSION, 0); /* read-only is no error */
	assert_int_equal(take(f, 1), 0xe0);
	apic_write(f, 1, LAPIC_ESR, 0);
	assert_int_equal(apic_read(f, 1, LAPIC_ESR), BIT(7));
	/* An illegal vector in the error entry itself ends there. */
	lapic_eoi(&f->cpu[1].l);
	apic_write(f, 1, LAPIC_LVT_ERROR, 0x01);
	apic_write(f, 1, 0x40, 0);
	apic_write(f, 1, LAPIC_ESR, 0);
	assert_int_equal(apic_read(f, 1, LAPIC_ESR), BIT(7) | BIT(6));
	assert_int_equal(take(f, 1), -1);
}

static void test_local_vectors(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = &f->cpu[1].l;

	assert_int_equal(lapic_local(l, LAPIC_LVT_LINT1), -1);
	apic_write(f, 1, LAPIC_LVT_LINT1, APIC_NMI << 8);
	assert_int_equal(lapic_local(l, LAPIC_LVT_LINT1), 1);
	assert_int_equal(f->cpu[1].nmis, 1);
	apic_write(f, 1, LAPIC_LVT_THERMAL, 0x71);
	assert_int_equal(lapic_local(l, LAPIC_LVT_THERMAL), 1);
	assert_int_equal(take(f, 1), 0x71);
	/* The performance counter entry masks itself. */
	apic_write(f, 1, LAPIC_LVT_PERF, 0x82);
	assert_int_equal(lapic_local(l, LAPIC_LVT_PERF), 1);
	assert_int_equal(apic_read(f, 1, LAPIC_LVT_PERF), LAPIC_LVT_MASKED | 0x82);
	assert_int_equal(lapic_local(l, LAPIC_LVT_PERF), -1);
	assert_int_equal(take(f, 1), 0x82);
	/* Who takes ExtINT. */
	assert_true(lapic_accepts_extint(&f->cpu[0].l));
	assert_false(lapic_accepts_extint(l));
	apic_write(f, 1, LAPIC_LVT_LINT0, APIC_EXTINT << 8 | LAPIC_LVT_MASKED);
	assert_false(lapic_accepts_extint(l));
	apic_write(f, 1, LAPIC_LVT_LINT0, APIC_EXTINT << 8);
	assert_true(lapic_accepts_extint(l));
}

static void test_lowest_priority(void **state)
{
	struct fixture *f = *state;
	unsigned got[FIXTURE_CPUS] = { 0 };

	for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++)
		apic_write(f, cpu, LAPIC_LDR, BIT(24 + cpu));
	apic_write(f, 3, LAPIC_SVR, 0xff); /* software-disabled ones do not take part */
	for (unsigned i = 0; i < 9; i++) {
		ipi(f, 0, 0xff, APIC_LOWEST << 8 | BIT(11) | 0x60);
		for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++)
			if (take(f, cpu) == 0x60) {
				got[cpu]++;
				lapic_eoi(&f->cpu[cpu].l);
			}
	}
	assert_int_equal(got[0], 3);
	assert_int_equal(got[1], 3);
	assert_int_equal(got[2], 3);
	assert_int_equal(got[3], 0);
	/* An MSI with a redirection hint goes to one of them too. */
	assert_int_equal(irqchip_send_msi(&f->chip, 0xfee0700c, 0x61), 1);
	/* Physical broadcast has no arbitration. */
	assert_int_equal(irqchip_send_msi(&f->chip, 0xfeeff000, APIC_LOWEST << 8 | 0x62), 3);
}

static void test_pv_eoi(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = &f->cpu[1].l;
	u32 select = 0x10 + 2 * 7, low = 0x8061;

	assert_false(lapic_pv_eoi_allowed(l)); /* nothing in service */
	send(f, 1, 0x45);
	assert_false(lapic_pv_eoi_allowed(l));
	take(f, 1);
	assert_true(lapic_pv_eoi_allowed(l));
	send(f, 1, 0x41); /* the guest must come here to get this one */
	assert_false(lapic_pv_eoi_allowed(l));
	lapic_eoi(l);
	take(f, 1);
	send(f, 1, 0x92);
	take(f, 1); /* nested */
	assert_false(lapic_pv_eoi_allowed(l));
	lapic_eoi(l);
	assert_true(lapic_pv_eoi_allowed(l));
	lapic_eoi(l);
	/* The IOAPIC waits for this one. */
	irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE, &select, 4);
	irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE + 0x10, &low, 4);
	send(f, 1, 0x61);
	take(f, 1);
	assert_false(lapic_pv_eoi_allowed(l));
}

static u32 page_get(const struct kvm_lapic_state *s, unsigned offset)
{
	u32 value;

	memcpy(&value, s->regs + offset, 4);
	return value;
}

static void page_set(struct kvm_lapic_state *s, unsigned offset, u32 value)
{
	memcpy(s->regs + offset, &value, 4);
}

static void test_state(void **state)
{
	struct fixture *f = *state, *g = fixture_new(false);
	struct kvm_lapic_state s, again;
	struct lapic *l = &f->cpu[1].l;

	apic_write(f, 1, LAPIC_LDR, 0x02000000);
	apic_write(f, 1, LAPIC_TPR, 0x20);
	ipi(f, 1, 3, 0x4050);
	send(f, 1, 0x91);
	take(f, 1);
	send(f, 1, 0x45);
	lapic_get_state(l, &s);
	assert_int_equal(page_get(&s, LAPIC_ID), 0x01000000);
	assert_int_equal(page_get(&s, LAPIC_VERSION), 0x50014);
	assert_int_equal(page_get(&s, LAPIC_PPR), 0x90);
	assert_int_equal(page_get(&s, LAPIC_ICR), 0x4050);
	assert_int_equal(page_get(&s, LAPIC_ICR2), 0x03000000);
	g->cpu[1].kicks = 0;
	assert_int_equal(lapic_set_state(&g->cpu[1].l, &s), 0);
	lapic_get_state(&g->cpu[1].l, &again);
	assert_memory_equal(&s, &again, sizeof(s));
	assert_int_equal(g->cpu[1].kicks, 0); /* 45h waits behind 91h */
	apic_write(g, 1, LAPIC_EOI, 0);
	assert_int_equal(take(g, 1), 0x45);
	/* Any page is safe. */
	for (unsigned fill = 0; fill < 256; fill++) {
		memset(&s, fill, sizeof(s));
		assert_int_equal(lapic_set_state(&g->cpu[2].l, &s), 0);
		for (unsigned i = 0; i < 300 && take(g, 2) >= 0; i++)
			lapic_eoi(&g->cpu[2].l);
		assert_int_equal(lapic_pending_vector(&g->cpu[2].l), -1);
		lapic_expire(&g->cpu[2].l, g->now + fill * 1000000000ull);
	}
	fixture_teardown((void **)&g);
}

/* In x2APIC mode the page has the id in xAPIC's place or whole, by the client's choice, and the ICR in two halves. */
static void test_x2apic_state(void **state)
{
	struct fixture *f = *state;
	struct kvm_lapic_state s;
	struct lapic *l = &f->cpu[2].l;
	u64 value = 0;

	enter_x2apic(f, 2);
	assert_true(wrmsr(f, 2, LAPIC_ICR, 0x0000000300000050));
	lapic_get_state(l, &s);
	assert_int_equal(page_get(&s, LAPIC_ID), 0x02000000);
	assert_int_equal(page_get(&s, LAPIC_LDR), 0x4);
	assert_int_equal(page_get(&s, LAPIC_ICR), 0x50);
	assert_int_equal(page_get(&s, LAPIC_ICR2), 3);
	page_set(&s, LAPIC_ID, 0x77000000); /* cannot be changed */
	page_set(&s, LAPIC_LDR, 0x12345678);
	page_set(&s, LAPIC_ICR2, 0x9abcdef0);
	assert_int_equal(lapic_set_state(l, &s), 0);
	assert_true(rdmsr(f, 2, LAPIC_ID, &value));
	assert_int_equal(value, 2);
	assert_true(rdmsr(f, 2, LAPIC_LDR, &value));
	assert_int_equal(value, 4);
	assert_true(rdmsr(f, 2, LAPIC_ICR, &value));
	assert_true(value == 0x9abcdef000000050);
	f->chip.x2apic_ids = true;
	lapic_get_state(l, &s);
	assert_int_equal(page_get(&s, LAPIC_ID), 2);
	assert_int_equal(lapic_set_state(l, &s), 0);
	page_set(&s, LAPIC_ID, 3);
	assert_int_equal(lapic_set_state(l, &s), -EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reset), TEST(test_writable_bits), TEST(test_access_sizes), TEST(test_base_msr),
		TEST(test_x2apic_registers), TEST(test_priorities), TEST(test_trigger_mode), TEST(test_tpr),
		TEST(test_software_disable), TEST(test_ipi_shorthands), TEST(test_init_deassert),
		TEST(test_xapic_destinations), TEST(test_x2apic_destinations), TEST(test_errors),
		TEST(test_local_vectors), TEST(test_lowest_priority), TEST(test_pv_eoi), TEST(test_state),
		TEST(test_x2apic_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
