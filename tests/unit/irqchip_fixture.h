/*
 * A VM of interrupt controllers for tests: a clock that the test moves, vCPUs that count what they are told, and
 * shorthands for registers.
 */
#ifndef TESTS_UNIT_IRQCHIP_FIXTURE_H
#define TESTS_UNIT_IRQCHIP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "irqchip/irqchip.h"

#define FIXTURE_CPUS 4
/* Guest TSC cycles per ns. */
#define FIXTURE_TSC_PER_NS 3

struct fixture;

struct fixture_vcpu {
	struct fixture *f;
	struct lapic l;
	unsigned kicks, nmis, smis, inits, sipis, rearms, eoi_exits;
	u8 sipi_vector, eoi_vector;
};

struct fixture {
	struct irqchip chip;
	struct fixture_vcpu cpu[FIXTURE_CPUS];
	u64 now;
	u64 tsc_offset;
	unsigned rearms;
	unsigned acks[KVM_IOAPIC_NUM_PINS];
	int lower_on_ack; /* the device on this GSI is quiet once its interrupt has ended; -1 for none */
};

static u64 fixture_now(void *owner) { return ((struct fixture *)owner)->now; }
static u64 fixture_tsc(void *vcpu)
{
	struct fixture *f = ((struct fixture_vcpu *)vcpu)->f;

	return f->now * FIXTURE_TSC_PER_NS + f->tsc_offset;
}
static u64 fixture_tsc_to_ns(void *vcpu, u64 tsc)
{
	struct fixture *f = ((struct fixture_vcpu *)vcpu)->f;
	u64 t = fixture_tsc(vcpu);

	return tsc <= t ? f->now : f->now + (tsc - t) / FIXTURE_TSC_PER_NS + ((tsc - t) % FIXTURE_TSC_PER_NS != 0);
}
static void fixture_kick(void *vcpu) { ((struct fixture_vcpu *)vcpu)->kicks++; }
static void fixture_rearm_lapic(void *vcpu) { ((struct fixture_vcpu *)vcpu)->rearms++; }
static void fixture_rearm(void *owner) { ((struct fixture *)owner)->rearms++; }
static void fixture_nmi(void *vcpu) { ((struct fixture_vcpu *)vcpu)->nmis++; }
static void fixture_smi(void *vcpu) { ((struct fixture_vcpu *)vcpu)->smis++; }
static void fixture_init(void *vcpu) { ((struct fixture_vcpu *)vcpu)->inits++; }
static void fixture_sipi(void *vcpu, u8 vector)
{
	((struct fixture_vcpu *)vcpu)->sipis++;
	((struct fixture_vcpu *)vcpu)->sipi_vector = vector;
}
static void fixture_ack(void *owner, u32 gsi)
{
	struct fixture *f = owner;

	if (gsi < ARRAY_SIZE(f->acks))
		f->acks[gsi]++;
	if ((int)gsi == f->lower_on_ack)
		irqchip_set_irq(&f->chip, IRQ_SOURCE_RESAMPLE, gsi, false);
}
static void fixture_ioapic_eoi(void *vcpu, u8 vector)
{
	((struct fixture_vcpu *)vcpu)->eoi_exits++;
	((struct fixture_vcpu *)vcpu)->eoi_vector = vector;
}

static const struct irqchip_host fixture_host = {
	.now = fixture_now, .guest_tsc = fixture_tsc, .tsc_to_ns = fixture_tsc_to_ns, .kick = fixture_kick,
	.rearm_lapic = fixture_rearm_lapic, .rearm = fixture_rearm, .nmi = fixture_nmi, .smi = fixture_smi,
	.init = fixture_init, .sipi = fixture_sipi, .ack = fixture_ack, .ioapic_eoi = fixture_ioapic_eoi,
};

/* APIC ids 0 to 3, all software-enabled, spurious vector ffh; nothing runs on the clock at 1 s. */
static inline struct fixture *fixture_new(bool split)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->now = 1000000000;
	f->lower_on_ack = -1;
	assert_int_equal(irqchip_init(&f->chip, &fixture_host, f, split, split ? 24 : 0), 0);
	for (u32 i = 0; i < FIXTURE_CPUS; i++) {
		f->cpu[i].f = f;
		assert_int_equal(lapic_init(&f->cpu[i].l, &f->chip, &f->cpu[i], i, i == 0), 0);
		f->cpu[i].l.reg[LAPIC_SVR / 4] |= LAPIC_SVR_ENABLE;
	}
	return f;
}

static inline int fixture_setup(void **state)
{
	*state = fixture_new(false);
	return 0;
}

static inline int fixture_setup_split(void **state)
{
	*state = fixture_new(true);
	return 0;
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	irqchip_fini(&f->chip);
	free(f);
	return 0;
}

static inline u32 apic_read(struct fixture *f, unsigned cpu, unsigned offset)
{
	u32 value = 0xdeadbeef;

	assert_true(lapic_mmio_read(&f->cpu[cpu].l, LAPIC_DEFAULT_BASE + offset, &value, 4));
	return value;
}

static inline void apic_write(struct fixture *f, unsigned cpu, unsigned offset, u32 value)
{
	assert_true(lapic_mmio_write(&f->cpu[cpu].l, LAPIC_DEFAULT_BASE + offset, &value, 4));
}

static inline void port_write(struct fixture *f, u16 port, u8 value)
{
	assert_true(irqchip_pio_write(&f->chip, port, &value, 1));
}

static inline u8 port_read(struct fixture *f, u16 port)
{
	u8 value = 0x5a;

	assert_true(irqchip_pio_read(&f->chip, port, &value, 1));
	return value;
}

/* The vector that a vCPU takes now, -1 for none. */
static inline int take(struct fixture *f, unsigned cpu)
{
	bool has = irqchip_has_interrupt(&f->chip, &f->cpu[cpu].l);
	int vector = irqchip_ack_interrupt(&f->chip, &f->cpu[cpu].l);

	assert_int_equal(has, vector >= 0);
	return vector;
}

static inline bool bit_of(struct fixture *f, unsigned cpu, unsigned base, u8 vector)
{
	return apic_read(f, cpu, base + vector / 32 * 16) >> vector % 32 & 1;
}

#endif
