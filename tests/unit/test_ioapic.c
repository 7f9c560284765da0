/* The IOAPIC against the 82093AA data sheet (290566), and KVM's results of KVM_IRQ_LINE_STATUS. */
#include "irqchip_fixture.h"

#define LEVEL BIT(15)
#define MASKED BIT(16)
#define LOGICAL BIT(11)
#define REMOTE_IRR BIT(14)

static u32 reg_read(struct fixture *f, u8 reg)
{
	u32 select = reg, value = 0;

	assert_true(irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE, &select, 4));
	assert_true(irqchip_mmio_read(&f->chip, IOAPIC_DEFAULT_BASE + 0x10, &value, 4));
	return value;
}

static void reg_write(struct fixture *f, u8 reg, u32 value)
{
	u32 select = reg;

	assert_true(irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE, &select, 4));
	assert_true(irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE + 0x10, &value, 4));
}

/* As Linux does it: high half first. */
static void redirect(struct fixture *f, unsigned pin, u8 dest, u32 low)
{
	reg_write(f, 0x11 + 2 * pin, (u32)dest << 24);
	reg_write(f, 0x10 + 2 * pin, low);
}

static u32 entry(struct fixture *f, unsigned pin)
{
	return reg_read(f, 0x10 + 2 * pin);
}

static int line(struct fixture *f, unsigned pin, bool level)
{
	return ioapic_set_irq(&f->chip.ioapic, pin, IRQ_SOURCE_RESAMPLE, level);
}

static void eoi(struct fixture *f, unsigned cpu)
{
	apic_write(f, cpu, LAPIC_EOI, 0);
}

static void test_registers(void **state)
{
	struct fixture *f = *state;
	u32 value = 0;
	u64 wide = 0;

	assert_int_equal(reg_read(f, 0x01), 0x00170011); /* 24 pins, version 11h */
	reg_write(f, 0x00, 0xff123456);
	assert_int_equal(reg_read(f, 0x00), 0x0f000000);
	assert_int_equal(reg_read(f, 0x02), 0x0f000000); /* arbitration id follows */
	reg_write(f, 0x01, 0);
	assert_int_equal(reg_read(f, 0x01), 0x00170011);
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		assert_int_equal(entry(f, pin), MASKED);
		assert_int_equal(reg_read(f, 0x11 + 2 * pin), 0);
	}
	redirect(f, 23, 0xa5, 0xffffffff);
	assert_int_equal(entry(f, 23), 0x1afff); /* status and remote IRR are read-only, the rest is reserved */
	assert_int_equal(reg_read(f, 0x11 + 2 * 23), 0xa5000000);
	assert_int_equal(reg_read(f, 0x40), ~0u);
	reg_write(f, 0x40, 0);
	reg_write(f, 0xff, 0);
	/* Other places and sizes. */
	assert_false(irqchip_mmio_read(&f->chip, IOAPIC_DEFAULT_BASE + 0x100, &value, 4));
	assert_false(irqchip_mmio_read(&f->chip, IOAPIC_DEFAULT_BASE - 1, &value, 1));
	value = 5;
	assert_true(irqchip_mmio_read(&f->chip, IOAPIC_DEFAULT_BASE + 0x20, &value, 4));
	assert_int_equal(value, 0);
	reg_read(f, 0x01);
	assert_true(irqchip_mmio_read(&f->chip, IOAPIC_DEFAULT_BASE + 0x10, &wide, 8));
	assert_int_equal(wide, 0x00170011);
	assert_true(irqchip_mmio_read(&f->chip, IOAPIC_DEFAULT_BASE + 0x10, &wide, 1));
	assert_int_equal(wide & 0xff, 0x11);
	value = 0xff000010;
	assert_true(irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE, &value, 1));
	assert_int_equal(f->chip.ioapic.state.ioregsel, 0x10);
	assert_true(irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE, &value, 3)); /* no access of a processor */
	assert_int_equal(f->chip.ioapic.state.ioregsel, 0x10);
}

static void test_edge(void **state)
{
	struct fixture *f = *state;

	redirect(f, 4, 1, 0x51);
	assert_int_equal(line(f, 4, true), 1);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(take(f, 1), 0x51);
	assert_false(bit_of(f, 1, LAPIC_TMR, 0x51));
	assert_int_equal(line(f, 4, true), 0); /* no edge */
	eoi(f, 1);
	assert_int_equal(take(f, 1), -1);
	assert_int_equal(line(f, 4, false), 1);
	assert_int_equal(line(f, 4, true), 1);
	line(f, 4, false);
	assert_int_equal(line(f, 4, true), 0); /* pending in the LAPIC: coalesced */
	assert_int_equal(take(f, 1), 0x51);
	eoi(f, 1);
	assert_int_equal(take(f, 1), -1);
	assert_int_equal(f->acks[4], 2);
}

static void test_level(void **state)
{
	struct fixture *f = *state;

	redirect(f, 10, 0, LEVEL | 0x61);
	assert_int_equal(line(f, 10, true), 1);
	assert_int_equal(entry(f, 10), REMOTE_IRR | LEVEL | 0x61);
	assert_int_equal(take(f, 0), 0x61);
	assert_true(bit_of(f, 0, LAPIC_TMR, 0x61));
	assert_int_equal(line(f, 10, true), -1); /* until the EOI */
	eoi(f, 0);
	assert_int_equal(f->acks[10], 1);
	assert_int_equal(entry(f, 10), REMOTE_IRR | LEVEL | 0x61); /* the line is high: sent again */
	assert_int_equal(take(f, 0), 0x61);
	line(f, 10, false);
	eoi(f, 0);
	assert_int_equal(entry(f, 10), LEVEL | 0x61);
	assert_int_equal(take(f, 0), -1);
}

static void test_resample(void **state)
{
	struct fixture *f = *state;

	f->lower_on_ack = 10;
	redirect(f, 10, 0, LEVEL | 0x61);
	irqchip_set_irq(&f->chip, IRQ_SOURCE_RESAMPLE, 10, true);
	assert_int_equal(take(f, 0), 0x61);
	eoi(f, 0);
	assert_int_equal(f->acks[10], 1);
	assert_int_equal(take(f, 0), -1); /* lowered by the callback before the pin was looked at again */
	assert_int_equal(entry(f, 10), LEVEL | 0x61);
}

static void test_shared_line(void **state)
{
	struct fixture *f = *state;

	redirect(f, 11, 0, LEVEL | 0x61);
	irqchip_set_irq(&f->chip, IRQ_SOURCE_RESAMPLE, 11, true);
	irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 11, true);
	assert_int_equal(take(f, 0), 0x61);
	irqchip_set_irq(&f->chip, IRQ_SOURCE_RESAMPLE, 11, false);
	eoi(f, 0);
	assert_int_equal(take(f, 0), 0x61);
	irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 11, false);
	eoi(f, 0);
	assert_int_equal(take(f, 0), -1);
}

static void test_two_pins_one_vector(void **state)
{
	struct fixture *f = *state;

	redirect(f, 10, 0, LEVEL | 0x61);
	redirect(f, 11, 0, LEVEL | 0x61);
	assert_int_equal(line(f, 10, true), 1);
	assert_int_equal(line(f, 11, true), 0);
	assert_true(entry(f, 11) & REMOTE_IRR); /* in the one message that is pending */
	assert_int_equal(take(f, 0), 0x61);
	line(f, 10, false);
	eoi(f, 0);
	assert_int_equal(entry(f, 10) & REMOTE_IRR, 0);
	assert_int_equal(take(f, 0), 0x61); /* pin 11 */
}

static void test_masking(void **state)
{
	struct fixture *f = *state;

	redirect(f, 9, 0, MASKED | LEVEL | 0x71);
	assert_int_equal(line(f, 9, true), -1);
	assert_int_equal(take(f, 0), -1);
	redirect(f, 9, 0, LEVEL | 0x71); /* unmasking sends a level that is there */
	assert_int_equal(take(f, 0), 0x71);
	/* Quieted by the device while masked, after the EOI: the source is asked again, nothing is sent. */
	redirect(f, 9, 0, MASKED | LEVEL | 0x71);
	eoi(f, 0);
	f->lower_on_ack = 9;
	redirect(f, 9, 0, LEVEL | 0x71);
	assert_int_equal(take(f, 0), -1);
	/* An edge at a masked pin is lost. */
	redirect(f, 3, 0, MASKED | 0x72);
	assert_int_equal(line(f, 3, true), -1);
	redirect(f, 3, 0, 0x72);
	assert_int_equal(take(f, 0), -1);
}

static void test_remote_irr_reset(void **state)
{
	struct fixture *f = *state;

	redirect(f, 9, 0, LEVEL | 0x71);
	line(f, 9, true);
	assert_int_equal(take(f, 0), 0x71);
	redirect(f, 9, 0, MASKED | LEVEL | 0x71);
	assert_true(entry(f, 9) & REMOTE_IRR);
	redirect(f, 9, 0, MASKED | 0x71); /* to edge and back: how software without an EOI register clears it */
	assert_false(entry(f, 9) & REMOTE_IRR);
}

static void test_delivery_modes(void **state)
{
	struct fixture *f = *state;

	redirect(f, 0, 1, APIC_NMI << 8);
	redirect(f, 1, 2, APIC_SMI << 8);
	redirect(f, 2, 3, APIC_INIT << 8);
	redirect(f, 3, 0, APIC_EXTINT << 8);
	for (unsigned pin = 0; pin < 4; pin++)
		line(f, pin, true);
	assert_int_equal(f->cpu[1].nmis, 1);
	assert_int_equal(f->cpu[2].smis, 1);
	assert_int_equal(f->cpu[3].inits, 1);
	for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++)
		assert_int_equal(take(f, cpu), -1);
}

static void test_destinations(void **state)
{
	struct fixture *f = *state;
	unsigned got[FIXTURE_CPUS] = { 0 };

	redirect(f, 5, 0xff, 0x51);
	assert_int_equal(line(f, 5, true), 4);
	for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++)
		assert_int_equal(take(f, cpu), 0x51);
	redirect(f, 6, 9, 0x52);
	assert_int_equal(line(f, 6, true), -1); /* nobody there */
	for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++) {
		eoi(f, cpu);
		apic_write(f, cpu, LAPIC_LDR, BIT(24 + cpu));
	}
	redirect(f, 7, 0x0a, LOGICAL | 0x53);
	assert_int_equal(line(f, 7, true), 2);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(take(f, 1), 0x53);
	assert_int_equal(take(f, 3), 0x53);
	/* Lowest priority: one each time, in turns among equals, never one that is busy with something higher. */
	eoi(f, 1);
	eoi(f, 3);
	apic_write(f, 2, LAPIC_TPR, 0x20);
	redirect(f, 8, 0x0f, LOGICAL | APIC_LOWEST << 8 | 0x54);
	for (unsigned i = 0; i < 30; i++) {
		line(f, 8, true);
		line(f, 8, false);
		for (unsigned cpu = 0; cpu < FIXTURE_CPUS; cpu++)
			if (take(f, cpu) == 0x54) {
				got[cpu]++;
				eoi(f, cpu);
			}
	}
	assert_int_equal(got[0], 10);
	assert_int_equal(got[1], 10);
	assert_int_equal(got[2], 0);
	assert_int_equal(got[3], 10);
}

/* A line that stays high is sent again at each EOI, but not for ever without a pause. */
static void test_storm(void **state)
{
	struct fixture *f = *state;
	unsigned n = 0;

	redirect(f, 9, 0, LEVEL | 0x71);
	line(f, 9, true);
	while (n < 100000 && take(f, 0) == 0x71) {
		eoi(f, 0);
		n++;
	}
	assert_int_equal(n, 10000);
	assert_int_equal(irqchip_next_deadline(&f->chip), f->now + 10000000);
	assert_int_equal(f->rearms, 1);
	irqchip_expire(&f->chip, f->now + 9999999);
	assert_int_equal(take(f, 0), -1);
	irqchip_expire(&f->chip, f->now + 10000000);
	assert_int_equal(take(f, 0), 0x71);
	assert_true(irqchip_next_deadline(&f->chip) == IRQCHIP_NEVER);
	/* EOIs that find the line low start the count again. */
	for (n = 0; n < 18000; n++) {
		line(f, 9, n % 6000 != 5999);
		eoi(f, 0);
		line(f, 9, true);
		assert_int_equal(take(f, 0), 0x71);
	}
	assert_true(irqchip_next_deadline(&f->chip) == IRQCHIP_NEVER);
}

static void test_state(void **state)
{
	struct fixture *f = *state, *g = fixture_new(false);
	struct kvm_irqchip s = { .chip_id = KVM_IRQCHIP_IOAPIC }, again = s;

	redirect(f, 9, 0, LEVEL | 0x71);
	redirect(f, 4, 0, 0x51);
	line(f, 9, true);
	line(f, 4, true);
	assert_int_equal(irqchip_get_state(&f->chip, &s), 0);
	assert_int_equal(s.chip.ioapic.irr, BIT(9)); /* the edge has been sent */
	line(f, 4, true);
	assert_int_equal(irqchip_get_state(&f->chip, &s), 0);
	assert_int_equal(s.chip.ioapic.irr, BIT(9)); /* and there is no other */
	line(f, 4, false);
	redirect(f, 4, 0, MASKED | 0x51);
	line(f, 4, true);
	assert_int_equal(irqchip_get_state(&f->chip, &s), 0);
	assert_int_equal(s.chip.ioapic.irr, BIT(9) | BIT(4)); /* now there is */
	assert_int_equal(irqchip_set_state(&g->chip, &s), 0);
	assert_int_equal(irqchip_get_state(&g->chip, &again), 0);
	assert_memory_equal(&s, &again, sizeof(s));
	assert_int_equal(take(g, 0), -1); /* remote IRR: it is in the LAPIC of the other side */
	/* A level that nobody has taken is sent after loading. */
	s.chip.ioapic.redirtbl[9].bits &= ~(u64)REMOTE_IRR;
	assert_int_equal(irqchip_set_state(&g->chip, &s), 0);
	assert_int_equal(take(g, 0), 0x71);
	/* Any base is safe, the last bytes of the address space included. */
	s.chip.ioapic.base_address = ~0ull - 15;
	s.chip.ioapic.ioregsel = ~0u;
	assert_int_equal(irqchip_set_state(&g->chip, &s), 0);
	assert_true(irqchip_mmio_read(&g->chip, ~0ull - 15, &(u32){ 0 }, 4));
	assert_false(irqchip_mmio_read(&g->chip, IOAPIC_DEFAULT_BASE, &(u32){ 0 }, 4));
	fixture_teardown((void **)&g);
}

/* Symmetric I/O mode: nobody listens to the PIC. */
static int setup(void **state)
{
	fixture_setup(state);
	apic_write(*state, 0, LAPIC_LVT_LINT0, LAPIC_LVT_MASKED);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_registers), TEST(test_edge), TEST(test_level), TEST(test_resample), TEST(test_shared_line),
		TEST(test_two_pins_one_vector), TEST(test_masking), TEST(test_remote_irr_reset),
		TEST(test_delivery_modes), TEST(test_destinations), TEST(test_storm), TEST(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
