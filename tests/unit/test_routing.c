/* GSI routing after api.rst (KVM_SET_GSI_ROUTING) and MSI messages after the SDM, vol. 3A, 11.11. */
#include <errno.h>

#include "irqchip_fixture.h"

static struct kvm_irq_routing_entry pin_entry(u32 gsi, u32 chip, u32 pin)
{
	struct kvm_irq_routing_entry e = { .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP };

	e.u.irqchip.irqchip = chip;
	e.u.irqchip.pin = pin;
	return e;
}

static struct kvm_irq_routing_entry msi_entry(u32 gsi, u64 address, u32 data)
{
	struct kvm_irq_routing_entry e = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };

	e.u.msi.address_lo = address;
	e.u.msi.address_hi = address >> 32;
	e.u.msi.data = data;
	return e;
}

static void test_default(void **state)
{
	struct fixture *f = *state;
	u32 nr;

	for (u32 gsi = 0; gsi < 24; gsi++) {
		const struct route *r = routing_of(f->chip.routing, gsi, &nr);
		bool ioapic = false, pic = false;

		assert_int_equal(nr, gsi < 16 ? 2 : 1);
		for (u32 i = 0; i < nr; i++) {
			assert_int_equal(r[i].pin, gsi);
			ioapic |= r[i].chip == KVM_IRQCHIP_IOAPIC;
			pic |= r[i].chip == (gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE);
		}
		assert_true(ioapic);
		assert_int_equal(pic, gsi < 16);
		assert_int_equal(routing_find_gsi(f->chip.routing, KVM_IRQCHIP_IOAPIC, gsi), gsi);
	}
	assert_int_equal(routing_find_gsi(f->chip.routing, KVM_IRQCHIP_PIC_SLAVE, 12), 12);
	assert_int_equal(routing_find_gsi(f->chip.routing, KVM_IRQCHIP_PIC_MASTER, 12), -1);
	assert_int_equal(routing_find_gsi(f->chip.routing, 3, 0), -1);
	assert_int_equal(routing_find_gsi(f->chip.routing, KVM_IRQCHIP_IOAPIC, 24), -1);
	routing_of(f->chip.routing, 24, &nr);
	assert_int_equal(nr, 0);
	routing_of(f->chip.routing, ~0u, &nr);
	assert_int_equal(nr, 0);
}

static void test_unrouted(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 24, true), -1);
	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, ~0u, true), -1);
	assert_int_equal(irqchip_set_irq(&f->chip, 1000, 3, true), 1); /* any source number is safe */
}

static void test_set(void **state)
{
	struct fixture *f = *state;
	struct kvm_irq_routing_entry e[] = {
		msi_entry(4095, 0xfee01000, 0x45),
		pin_entry(0, KVM_IRQCHIP_IOAPIC, 2),
		pin_entry(100, KVM_IRQCHIP_PIC_SLAVE, 3),
		msi_entry(24, 0xfee02000, 0x46),
		pin_entry(0, KVM_IRQCHIP_PIC_MASTER, 0),
	};

	assert_int_equal(routing_set(&f->chip, e, ARRAY_SIZE(e)), 0);
	assert_int_equal(routing_find_gsi(f->chip.routing, KVM_IRQCHIP_IOAPIC, 2), 0);
	assert_int_equal(routing_find_gsi(f->chip.routing, KVM_IRQCHIP_PIC_SLAVE, 11), 100);
	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 4095, true), 1);
	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 4095, true), 0); /* coalesced */
	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 4095, false), -1);
	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 24, true), 1);
	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 5, true), -1);
	assert_int_equal(take(f, 1), 0x45);
	assert_int_equal(take(f, 2), 0x46);
	assert_int_equal(routing_set(&f->chip, NULL, 0), 0);
	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 0, true), -1);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	const struct routing *before = f->chip.routing;
	struct kvm_irq_routing_entry flagged = pin_entry(0, KVM_IRQCHIP_IOAPIC, 0), strange = { .type = 9 };
	struct kvm_irq_routing_entry *many = calloc(4097, sizeof(*many));
	const struct {
		struct kvm_irq_routing_entry e[3];
		u32 nr;
	} bad[] = {
		{ { pin_entry(4096, KVM_IRQCHIP_IOAPIC, 0) }, 1 },
		{ { pin_entry(0, KVM_IRQCHIP_IOAPIC, 24) }, 1 },
		{ { pin_entry(0, KVM_IRQCHIP_PIC_MASTER, 8) }, 1 },
		{ { pin_entry(0, KVM_IRQCHIP_PIC_SLAVE, 8) }, 1 },
		{ { pin_entry(0, 3, 0) }, 1 },
		{ { pin_entry(7, KVM_IRQCHIP_IOAPIC, 1), pin_entry(7, KVM_IRQCHIP_IOAPIC, 2) }, 2 },
		{ { pin_entry(7, KVM_IRQCHIP_IOAPIC, 1), msi_entry(7, 0xfee00000, 0x40) }, 2 },
		{ { msi_entry(7, 0xfee00000, 0x40), msi_entry(7, 0xfee00000, 0x41) }, 2 },
		{ { pin_entry(7, 2, 1), pin_entry(7, KVM_IRQCHIP_PIC_MASTER, 1), pin_entry(7, 2, 2) }, 3 },
		{ { strange }, 1 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(routing_set(&f->chip, bad[i].e, bad[i].nr), -EINVAL);
	flagged.flags = 1;
	assert_int_equal(routing_set(&f->chip, &flagged, 1), -EINVAL);
	flagged = msi_entry(0, 0xfee00000, 0x40);
	flagged.flags = 2;
	assert_int_equal(routing_set(&f->chip, &flagged, 1), -EINVAL);
	assert_int_equal(routing_set(&f->chip, many, 4097), -EINVAL);
	assert_ptr_equal(f->chip.routing, before);
	for (u32 i = 0; i < 4096; i++)
		many[i] = msi_entry(4095 - i, 0xfee00000, 0x40);
	assert_int_equal(routing_set(&f->chip, many, 4096), 0);
	free(many);
}

static void test_msi_decode(void **state)
{
	struct apic_msg m;

	assert_true(msi_decode(0xfee12000, 0x0041, false, &m));
	assert_int_equal(m.dest, 0x12);
	assert_int_equal(m.vector, 0x41);
	assert_int_equal(m.mode, APIC_FIXED);
	assert_false(m.logical || m.level || m.redirect);
	assert_true(m.assert);
	assert_true(msi_decode(0xfeeff00c, 0xc1a2, false, &m));
	assert_int_equal(m.dest, 0xff);
	assert_int_equal(m.mode, APIC_LOWEST);
	assert_true(m.logical && m.level && m.redirect);
	/* The upper half counts only with 32-bit ids, and has reserved bits then. */
	assert_true(msi_decode(0x12345678fee9a000, 0x41, false, &m));
	assert_int_equal(m.dest, 0x9a);
	assert_true(msi_decode(0x12345600fee9a000, 0x41, true, &m));
	assert_int_equal(m.dest, 0x1234569a);
	assert_false(msi_decode(0x12345601fee9a000, 0x41, true, &m));
}

static void test_msi_delivery(void **state)
{
	struct fixture *f = *state;
	struct kvm_irq_routing_entry e = msi_entry(30, 0x1fee00000, 0x40);

	assert_int_equal(irqchip_send_msi(&f->chip, 0xfee03000, 0x40), 1);
	assert_int_equal(take(f, 3), 0x40);
	assert_int_equal(irqchip_send_msi(&f->chip, 0xfeeff000, 0x41), 4);
	assert_int_equal(irqchip_send_msi(&f->chip, 0xfee09000, 0x41), -1);
	assert_int_equal(irqchip_send_msi(&f->chip, 0xfee01000, APIC_NMI << 8), 1);
	assert_int_equal(f->cpu[1].nmis, 1);
	f->chip.x2apic_ids = true;
	assert_int_equal(irqchip_send_msi(&f->chip, 0x1fee00000, 0x40), -EINVAL);
	assert_int_equal(routing_set(&f->chip, &e, 1), -EINVAL);
	assert_int_equal(irqchip_send_msi(&f->chip, 0x100fee00000, 0x40), -1); /* id 100h */
}

/* With LAPICs alone, pins belong to the client: MSIs can be routed, pins cannot, and EOIs of its pins are told. */
static void test_split(void **state)
{
	struct fixture *f = *state;
	struct kvm_irq_routing_entry pin = pin_entry(0, KVM_IRQCHIP_IOAPIC, 0);
	struct kvm_irq_routing_entry msi[] = {
		msi_entry(5, 0xfee01000, 0x8000 | 0x61), msi_entry(6, 0xfee01000, 0x62),
		msi_entry(24, 0xfee01000, 0x8000 | 0x63),
	};
	u32 value = 0;

	assert_int_equal(f->chip.routing->nr, 0);
	assert_int_equal(routing_set(&f->chip, &pin, 1), -EINVAL);
	assert_int_equal(routing_set(&f->chip, msi, ARRAY_SIZE(msi)), 0);
	assert_int_equal(irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 5, true), 1);
	assert_int_equal(take(f, 1), 0x61);
	apic_write(f, 1, LAPIC_EOI, 0);
	assert_int_equal(f->cpu[1].eoi_exits, 1);
	assert_int_equal(f->cpu[1].eoi_vector, 0x61);
	/* Not for an edge, and not for a GSI beyond the client's pins. */
	irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 6, true);
	assert_int_equal(take(f, 1), 0x62);
	apic_write(f, 1, LAPIC_EOI, 0);
	irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 24, true);
	assert_int_equal(take(f, 1), 0x63);
	apic_write(f, 1, LAPIC_EOI, 0);
	assert_int_equal(f->cpu[1].eoi_exits, 1);
	/* Directed EOI: the version says it is there, and the SVR bit holds the broadcast back. */
	assert_true(apic_read(f, 1, LAPIC_VERSION) & BIT(24));
	apic_write(f, 1, LAPIC_SVR, LAPIC_SVR_ENABLE | LAPIC_SVR_NO_EOI_BROADCAST | 0xff);
	irqchip_set_irq(&f->chip, IRQ_SOURCE_USERSPACE, 5, true);
	assert_int_equal(take(f, 1), 0x61);
	apic_write(f, 1, LAPIC_EOI, 0);
	assert_int_equal(f->cpu[1].eoi_exits, 1);
	/* No chips. */
	assert_false(irqchip_pio_read(&f->chip, 0x21, &value, 1));
	assert_false(irqchip_mmio_read(&f->chip, IOAPIC_DEFAULT_BASE, &value, 4));
	assert_int_equal(irqchip_get_state(&f->chip, &(struct kvm_irqchip){ 0 }), -EINVAL);
	assert_int_equal(irqchip_create_pit(&f->chip, 0), -ENOENT);
}

static void test_init_errors(void **state)
{
	struct fixture *f = *state;
	struct irqchip *chip = calloc(1, sizeof(*chip));
	struct lapic l;

	assert_int_equal(irqchip_init(chip, &fixture_host, f, true, 4097), -EINVAL);
	free(chip);
	assert_int_equal(lapic_init(&l, &f->chip, &f->cpu[0], 2, false), -EEXIST);
	lapic_fini(&f->cpu[2].l);
	assert_int_equal(f->chip.nr_lapic, 3);
	assert_null(irqchip_find_lapic(&f->chip, 2));
	assert_ptr_equal(irqchip_find_lapic(&f->chip, 3), &f->cpu[3].l);
	assert_int_equal(lapic_init(&f->cpu[2].l, &f->chip, &f->cpu[2], 2, false), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_default), TEST(test_unrouted), TEST(test_set), TEST(test_refused), TEST(test_msi_decode),
		TEST(test_msi_delivery), TEST(test_init_errors),
		cmocka_unit_test_setup_teardown(test_split, fixture_setup_split, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
