/* The 8259A pair against its data sheet (231468), and KVM's results of KVM_IRQ_LINE_STATUS. */
#include "irqchip_fixture.h"

#define MASTER 0x20
#define SLAVE 0xa0
#define VECTOR 0x30 /* IR0 of the master; the slave's are 8 higher */

static void init_one(struct fixture *f, u16 port, u8 base, u8 icw4)
{
	port_write(f, port, 0x11);
	port_write(f, port + 1, base);
	port_write(f, port + 1, port == MASTER ? 0x04 : 0x02);
	port_write(f, port + 1, icw4);
	port_write(f, port + 1, 0x00);
}

/* As a BIOS does it: 30h and 38h, nothing masked. */
static struct fixture *start(void **state, u8 icw4)
{
	struct fixture *f = *state;

	init_one(f, MASTER, VECTOR, icw4);
	init_one(f, SLAVE, VECTOR + 8, icw4);
	return f;
}

static int line(struct fixture *f, unsigned irq, bool level)
{
	return i8259_set_irq(&f->chip.pic, irq, IRQ_SOURCE_USERSPACE, level);
}

static void pulse(struct fixture *f, unsigned irq)
{
	line(f, irq, true);
	line(f, irq, false);
}

static u8 isr(struct fixture *f, u16 port)
{
	port_write(f, port, 0x0b);
	return port_read(f, port);
}

static u8 irr(struct fixture *f, u16 port)
{
	port_write(f, port, 0x0a);
	return port_read(f, port);
}

static void test_edge(void **state)
{
	struct fixture *f = start(state, 0x01);

	assert_int_equal(take(f, 0), -1);
	assert_int_equal(line(f, 3, true), 1);
	assert_int_equal(irr(f, MASTER), 0x08);
	assert_int_equal(line(f, 3, true), 1); /* still high: no new edge, and none lost */
	assert_int_equal(take(f, 0), VECTOR + 3);
	assert_int_equal(isr(f, MASTER), 0x08);
	assert_int_equal(irr(f, MASTER), 0x00);
	port_write(f, MASTER, 0x20);
	assert_int_equal(isr(f, MASTER), 0x00);
	assert_int_equal(take(f, 0), -1); /* high all the time */
	line(f, 3, false);
	line(f, 3, true);
	assert_int_equal(take(f, 0), VECTOR + 3);
}

static void test_result_codes(void **state)
{
	struct fixture *f = start(state, 0x01);

	assert_int_equal(line(f, 4, true), 1);
	line(f, 4, false);
	assert_int_equal(line(f, 4, true), 0); /* the first is not taken yet */
	port_write(f, MASTER + 1, 0x20);
	assert_int_equal(line(f, 5, true), -1);
	assert_int_equal(port_read(f, MASTER + 1), 0x20);
	port_write(f, MASTER + 1, 0x00);
	assert_int_equal(take(f, 0), VECTOR + 4);
	port_write(f, MASTER, 0x20);
	assert_int_equal(take(f, 0), VECTOR + 5); /* latched while masked */
}

static void test_priority_and_nesting(void **state)
{
	struct fixture *f = start(state, 0x01);

	pulse(f, 5);
	pulse(f, 1);
	assert_int_equal(take(f, 0), VECTOR + 1);
	assert_int_equal(take(f, 0), -1); /* 5 is lower than what is in service */
	pulse(f, 0);
	assert_int_equal(take(f, 0), VECTOR + 0);
	port_write(f, MASTER, 0x20); /* non-specific: ends 0 */
	assert_int_equal(isr(f, MASTER), 0x02);
	port_write(f, MASTER, 0x61); /* specific: ends 1 */
	assert_int_equal(take(f, 0), VECTOR + 5);
}

static void test_cascade(void **state)
{
	struct fixture *f = start(state, 0x01);

	pulse(f, 12);
	assert_int_equal(take(f, 0), VECTOR + 12);
	assert_int_equal(isr(f, MASTER), 0x04);
	assert_int_equal(isr(f, SLAVE), 0x10);
	pulse(f, 3); /* below IR2 */
	assert_int_equal(take(f, 0), -1);
	port_write(f, SLAVE, 0x20);
	port_write(f, MASTER, 0x20);
	assert_int_equal(take(f, 0), VECTOR + 3);
}

static void test_spurious(void **state)
{
	struct fixture *f = start(state, 0x01);

	pulse(f, 6);
	assert_true(f->chip.pic.output);
	port_write(f, MASTER + 1, 0x40);
	/* INT is gone, but the processor has seen it: IR7, and nothing in service. */
	assert_int_equal(i8259_ack(&f->chip.pic), VECTOR + 7);
	assert_int_equal(isr(f, MASTER), 0x00);
	port_write(f, MASTER + 1, 0x00);
	assert_int_equal(take(f, 0), VECTOR + 6);
	port_write(f, MASTER, 0x20);
	/* The same on the slave: the master has IR2 in service, the slave nothing. */
	pulse(f, 9);
	port_write(f, SLAVE + 1, 0x02);
	assert_int_equal(i8259_ack(&f->chip.pic), VECTOR + 15);
	assert_int_equal(isr(f, MASTER), 0x04);
	assert_int_equal(isr(f, SLAVE), 0x00);
}

static void test_level(void **state)
{
	struct fixture *f = start(state, 0x01);

	port_write(f, 0x4d0, 0xff);
	port_write(f, 0x4d1, 0xff);
	assert_int_equal(port_read(f, 0x4d0), 0xf8); /* 0, 1, 2 are always edges */
	assert_int_equal(port_read(f, 0x4d1), 0xde); /* 8 and 13 too */
	line(f, 11, true);
	assert_int_equal(take(f, 0), VECTOR + 11);
	port_write(f, SLAVE, 0x20);
	port_write(f, MASTER, 0x20);
	assert_int_equal(take(f, 0), VECTOR + 11); /* still asserted */
	line(f, 11, false);
	port_write(f, SLAVE, 0x20);
	port_write(f, MASTER, 0x20);
	assert_int_equal(isr(f, SLAVE), 0);
	assert_int_equal(irr(f, SLAVE), 0);
}

static void test_sources_are_ored(void **state)
{
	struct fixture *f = start(state, 0x01);
	struct i8259 *pic = &f->chip.pic;

	port_write(f, 0x4d0, 0x20);
	i8259_set_irq(pic, 5, IRQ_SOURCE_USERSPACE, true);
	i8259_set_irq(pic, 5, IRQ_SOURCE_RESAMPLE, true);
	i8259_set_irq(pic, 5, IRQ_SOURCE_USERSPACE, false);
	assert_int_equal(irr(f, MASTER), 0x20);
	i8259_set_irq(pic, 5, IRQ_SOURCE_RESAMPLE, false);
	assert_int_equal(irr(f, MASTER), 0x00);
}

static void test_auto_eoi(void **state)
{
	struct fixture *f = start(state, 0x03);

	pulse(f, 5);
	assert_int_equal(take(f, 0), VECTOR + 5);
	assert_int_equal(isr(f, MASTER), 0x00);
	assert_int_equal(f->acks[5], 1);
	/* Rotation in automatic EOI mode: 5 has become the lowest. */
	port_write(f, MASTER, 0x80);
	pulse(f, 5);
	assert_int_equal(take(f, 0), VECTOR + 5);
	pulse(f, 5);
	pulse(f, 6);
	assert_int_equal(take(f, 0), VECTOR + 6);
	assert_int_equal(take(f, 0), VECTOR + 5);
}

static void test_rotation(void **state)
{
	struct fixture *f = start(state, 0x01);

	pulse(f, 4);
	assert_int_equal(take(f, 0), VECTOR + 4);
	port_write(f, MASTER, 0xa0); /* rotate on non-specific EOI */
	assert_int_equal(isr(f, MASTER), 0x00);
	pulse(f, 4);
	pulse(f, 7);
	assert_int_equal(take(f, 0), VECTOR + 7);
	port_write(f, MASTER, 0x67);
	assert_int_equal(take(f, 0), VECTOR + 4);
	port_write(f, MASTER, 0x64);
	port_write(f, MASTER, 0xc2); /* set priority: IR2 lowest, IR3 highest */
	pulse(f, 0);
	pulse(f, 3);
	assert_int_equal(take(f, 0), VECTOR + 3);
	port_write(f, MASTER, 0xe3); /* rotate on specific EOI: IR3 lowest */
	assert_int_equal(isr(f, MASTER), 0x00);
	pulse(f, 3);
	assert_int_equal(take(f, 0), VECTOR + 0);
}

static void test_special_mask(void **state)
{
	struct fixture *f = start(state, 0x01);

	pulse(f, 3);
	assert_int_equal(take(f, 0), VECTOR + 3);
	pulse(f, 6);
	assert_int_equal(take(f, 0), -1);
	port_write(f, MASTER + 1, 0x08); /* mask what is in service */
	assert_int_equal(take(f, 0), -1);
	port_write(f, MASTER, 0x68); /* special mask mode: lower ones may come */
	assert_int_equal(take(f, 0), VECTOR + 6);
	port_write(f, MASTER, 0x48); /* off */
	assert_int_equal(isr(f, MASTER), 0x48);
}

static void test_special_fully_nested(void **state)
{
	struct fixture *f = start(state, 0x11);

	pulse(f, 12);
	assert_int_equal(take(f, 0), VECTOR + 12);
	pulse(f, 8); /* higher on the slave: passes the master, whose IR2 is in service */
	assert_int_equal(take(f, 0), VECTOR + 8);
	assert_int_equal(isr(f, SLAVE), 0x11);
	port_write(f, SLAVE, 0x20);
	assert_int_equal(isr(f, SLAVE), 0x10);
}

static void test_poll(void **state)
{
	struct fixture *f = start(state, 0x01);

	port_write(f, MASTER, 0x0c);
	assert_int_equal(port_read(f, MASTER) & 0x80, 0);
	pulse(f, 4);
	port_write(f, MASTER, 0x0c);
	assert_int_equal(port_read(f, MASTER), 0x84);
	assert_int_equal(isr(f, MASTER), 0x10); /* a poll acknowledges */
	assert_int_equal(take(f, 0), -1);
}

static void test_init_sequence(void **state)
{
	struct fixture *f = start(state, 0x01);

	pulse(f, 4);
	take(f, 0);
	pulse(f, 5);
	port_write(f, MASTER, 0xc5); /* IR5 lowest */
	port_write(f, MASTER + 1, 0xff);
	port_write(f, MASTER, 0x10); /* ICW1 without ICW4 */
	assert_int_equal(port_read(f, MASTER + 1), 0x00); /* clears IMR, ISR, edges */
	assert_int_equal(f->acks[4], 1);
	port_write(f, MASTER + 1, 0x47);
	port_write(f, MASTER + 1, 0x04);
	port_write(f, MASTER + 1, 0xbf); /* already OCW1 */
	assert_int_equal(port_read(f, MASTER + 1), 0xbf);
	port_write(f, MASTER + 1, 0x00);
	assert_int_equal(take(f, 0), -1); /* the edge of IR5 is gone */
	pulse(f, 6);
	pulse(f, 5); /* and IR0 is the highest again */
	assert_int_equal(take(f, 0), 0x45); /* low bits of ICW2 do not count */
}

static void test_ack_notification(void **state)
{
	struct fixture *f = start(state, 0x01);

	port_write(f, 0x4d1, 0x04);
	f->lower_on_ack = 10;
	irqchip_set_irq(&f->chip, IRQ_SOURCE_RESAMPLE, 10, true);
	assert_int_equal(take(f, 0), VECTOR + 10);
	assert_int_equal(f->acks[10], 0);
	port_write(f, SLAVE, 0x20);
	port_write(f, MASTER, 0x20);
	assert_int_equal(f->acks[10], 1);
	assert_int_equal(take(f, 0), -1);
}

static void test_who_listens(void **state)
{
	struct fixture *f = start(state, 0x01);

	f->cpu[0].kicks = 0;
	pulse(f, 3);
	assert_int_equal(f->cpu[0].kicks, 1);
	assert_int_equal(f->cpu[1].kicks, 0);
	assert_false(irqchip_has_interrupt(&f->chip, &f->cpu[1].l)); /* its LINT0 is masked */
	apic_write(f, 0, LAPIC_LVT_LINT0, LAPIC_LVT_MASKED);
	assert_int_equal(take(f, 0), -1);
	/* Unmasking LINT0 while INT is high is news. */
	f->cpu[1].kicks = 0;
	apic_write(f, 1, LAPIC_LVT_LINT0, APIC_EXTINT << 8);
	assert_int_equal(f->cpu[1].kicks, 1);
	assert_int_equal(take(f, 1), VECTOR + 3);
	/* A disabled APIC leaves the INTR pin to the PIC. */
	port_write(f, MASTER, 0x20);
	pulse(f, 3);
	assert_true(lapic_set_base(&f->cpu[2].l, LAPIC_DEFAULT_BASE, 0, true));
	assert_int_equal(take(f, 2), VECTOR + 3);
}

static void test_access_sizes(void **state)
{
	struct fixture *f = start(state, 0x01);
	u32 value = 0x11223344;

	assert_true(irqchip_pio_write(&f->chip, MASTER, &value, 2)); /* ignored */
	assert_int_equal(f->chip.pic.pic[0].init_state, 0);
	value = 0xffffffff;
	assert_true(irqchip_pio_read(&f->chip, MASTER, &value, 2));
	assert_int_equal(value, 0xffff0000);
	assert_false(irqchip_pio_read(&f->chip, MASTER + 1, &value, 2)); /* runs out of the chip's ports */
	assert_false(irqchip_pio_write(&f->chip, MASTER, &value, 4));
	assert_false(irqchip_pio_read(&f->chip, 0x22, &value, 1));
	assert_false(irqchip_pio_read(&f->chip, 0x4d1, &value, 2));
}

static void test_state(void **state)
{
	struct fixture *f = start(state, 0x01), *g = fixture_new(false);
	struct kvm_irqchip s[2] = { { .chip_id = KVM_IRQCHIP_PIC_MASTER }, { .chip_id = KVM_IRQCHIP_PIC_SLAVE } };

	port_write(f, 0x4d1, 0x02);
	line(f, 9, true);
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_irqchip again = { .chip_id = i };

		assert_int_equal(irqchip_get_state(&f->chip, &s[i]), 0);
		assert_int_equal(irqchip_set_state(&g->chip, &s[i]), 0);
		assert_int_equal(irqchip_get_state(&g->chip, &again), 0);
		assert_memory_equal(&s[i], &again, sizeof(again));
	}
	assert_int_equal(s[1].chip.pic.elcr, 0x02);
	assert_int_equal(s[1].chip.pic.irr, 0x02);
	assert_int_equal(take(g, 0), VECTOR + 9);
	s[0].chip_id = 3;
	assert_int_equal(irqchip_get_state(&f->chip, &s[0]), -22);
	assert_int_equal(irqchip_set_state(&f->chip, &s[0]), -22);
	fixture_teardown((void **)&g);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_edge), TEST(test_result_codes), TEST(test_priority_and_nesting), TEST(test_cascade),
		TEST(test_spurious), TEST(test_level), TEST(test_sources_are_ored), TEST(test_auto_eoi),
		TEST(test_rotation), TEST(test_special_mask), TEST(test_special_fully_nested), TEST(test_poll),
		TEST(test_init_sequence), TEST(test_ack_notification), TEST(test_who_listens), TEST(test_access_sizes),
		TEST(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
