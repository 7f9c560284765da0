/*
 * Interrupt controllers under any sequence of register accesses, messages, saved states and time steps. Besides what
 * the sanitizers find, each step must keep the promises of irqchip.h: a vCPU that gets something to take is told, a
 * new deadline is told, an expiry leaves no deadline in the past, and what is announced can be taken.
 */
#include "input.h"
#include "irqchip/irqchip.h"

#define CPUS 3

struct vcpu {
	struct vm *vm;
	struct lapic l;
	unsigned kicks, rearms;
	bool had;
	u64 deadline;
};

struct vm {
	struct irqchip chip;
	struct vcpu cpu[CPUS];
	u64 now, tsc_offset, deadline;
	unsigned rearms;
	u32 resample; /* GSIs that the device lowers when their interrupt has ended */
};

static u64 host_now(void *owner) { return ((struct vm *)owner)->now; }
static u64 host_tsc(void *vcpu) { return ((struct vcpu *)vcpu)->vm->now * 2 + ((struct vcpu *)vcpu)->vm->tsc_offset; }
static u64 host_tsc_to_ns(void *vcpu, u64 tsc)
{
	u64 now = host_tsc(vcpu);

	return ((struct vcpu *)vcpu)->vm->now + (tsc > now ? (tsc - now + 1) / 2 : 0);
}
static void host_kick(void *vcpu) { ((struct vcpu *)vcpu)->kicks++; }
static void host_rearm_lapic(void *vcpu) { ((struct vcpu *)vcpu)->rearms++; }
static void host_rearm(void *owner) { ((struct vm *)owner)->rearms++; }
static void host_ignore(void *vcpu) { }
static void host_init(void *vcpu) { }
static void host_sipi(void *vcpu, u8 vector) { }
static void host_ack(void *owner, u32 gsi)
{
	struct vm *vm = owner;

	if (gsi < 32 && vm->resample & BIT(gsi))
		irqchip_set_irq(&vm->chip, IRQ_SOURCE_RESAMPLE, gsi, false);
}

static const struct irqchip_host host = {
	.now = host_now, .guest_tsc = host_tsc, .tsc_to_ns = host_tsc_to_ns, .kick = host_kick,
	.rearm_lapic = host_rearm_lapic, .rearm = host_rearm, .nmi = host_ignore, .smi = host_ignore,
	.init = host_init, .sipi = host_sipi, .ack = host_ack, .ioapic_eoi = host_sipi,
};

static void check(struct vm *vm)
{
	u64 deadline = irqchip_next_deadline(&vm->chip);

	require(deadline == vm->deadline || vm->rearms);
	vm->deadline = deadline;
	vm->rearms = 0;
	for (unsigned i = 0; i < CPUS; i++) {
		struct vcpu *v = &vm->cpu[i];
		bool has = irqchip_has_interrupt(&vm->chip, &v->l);

		require(!has || v->had || v->kicks);
		require(lapic_next_deadline(&v->l) == v->deadline || v->rearms);
		v->had = has;
		v->kicks = v->rearms = 0;
		v->deadline = lapic_next_deadline(&v->l);
	}
}

static void expire(struct vm *vm)
{
	irqchip_expire(&vm->chip, vm->now);
	require(irqchip_next_deadline(&vm->chip) > vm->now);
	for (unsigned i = 0; i < CPUS; i++) {
		lapic_expire(&vm->cpu[i].l, vm->now);
		require(lapic_next_deadline(&vm->cpu[i].l) > vm->now);
	}
}

static void set_state(struct vm *vm, struct vcpu *v, struct input *in)
{
	union {
		struct kvm_lapic_state lapic;
		struct kvm_irqchip chip;
		struct kvm_pit_state2 pit;
	} u;

	switch (number(in, 1) % 3) {
	case 0:
		lapic_get_state(&v->l, &u.lapic);
		take(in, u.lapic.regs + number(in, 2) % 1020, 4);
		lapic_set_state(&v->l, &u.lapic);
		break;
	case 1:
		take(in, &u.chip, sizeof(u.chip));
		u.chip.chip_id &= 3;
		irqchip_set_state(&vm->chip, &u.chip);
		irqchip_get_state(&vm->chip, &u.chip);
		break;
	case 2:
		take(in, &u.pit, sizeof(u.pit));
		if (!vm->chip.has_pit)
			break;
		i8254_set_state(&vm->chip.pit, &u.pit);
		i8254_get_state(&vm->chip.pit, &u.pit);
	}
}

static void set_routes(struct vm *vm, struct input *in)
{
	struct kvm_irq_routing_entry e[8];

	take(in, e, sizeof(e));
	for (unsigned i = 0; i < ARRAY_SIZE(e); i++) {
		e[i].type &= 3;
		e[i].flags &= 1;
	}
	routing_set(&vm->chip, e, number(in, 1) % (ARRAY_SIZE(e) + 1));
}

static void access_memory(struct vm *vm, struct vcpu *v, u64 gpa, unsigned len, u64 value, bool write)
{
	u8 data[8];

	memcpy(data, &value, 8);
	if (write) {
		if (!lapic_mmio_write(&v->l, gpa, data, len))
			irqchip_mmio_write(&vm->chip, gpa, data, len);
	} else if (!lapic_mmio_read(&v->l, gpa, data, len)) {
		irqchip_mmio_read(&vm->chip, gpa, data, len);
	}
}

static void step(struct vm *vm, struct input *in)
{
	static const u16 ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x60 };
	u8 op = number(in, 1), arg = number(in, 1);
	struct vcpu *v = &vm->cpu[arg % CPUS];
	unsigned size = op & 16 ? 1 : 1 + (op >> 6); /* of a port */
	bool write = arg & 0x80;
	u64 value;
	int vector;

	switch (op % 16) {
	case 0:
		access_memory(vm, v, (v->l.base_msr & ~0xfffull) + number(in, 1) * 16, 4, number(in, 4), write);
		break;
	case 1:
		access_memory(vm, v, (v->l.base_msr & ~0xfffull) + number(in, 2), 1 + (arg >> 3 & 7), number(in, 8),
			      write);
		break;
	case 2: /* an IOAPIC register through its window */
		access_memory(vm, v, IOAPIC_DEFAULT_BASE, 4, number(in, 1), true);
		access_memory(vm, v, IOAPIC_DEFAULT_BASE + 0x10, 1 + (arg >> 3 & 7), number(in, 8), write);
		break;
	case 3:
		if (write)
			lapic_msr_write(&v->l, 0x800 + number(in, 1), number(in, 8));
		else
			lapic_msr_read(&v->l, 0x800 + number(in, 1), &value);
		break;
	case 4:
	case 5:
		value = number(in, 4);
		if (write)
			irqchip_pio_write(&vm->chip, ports[arg % ARRAY_SIZE(ports)], &value, size);
		else
			irqchip_pio_read(&vm->chip, ports[arg % ARRAY_SIZE(ports)], &value, size);
		break;
	case 6:
		irqchip_set_irq(&vm->chip, op >> 5, arg & 0x1f, write);
		break;
	case 7:
		irqchip_send_msi(&vm->chip, number(in, 8), number(in, 4));
		break;
	case 8:
		vm->now += number(in, 4) << (arg & 15);
		expire(vm);
		break;
	case 9:
	case 10:
		vector = irqchip_ack_interrupt(&vm->chip, &v->l);
		require((vector >= 0) == v->had && vector < 256);
		lapic_pv_eoi_allowed(&v->l);
		if (write)
			lapic_eoi(&v->l);
		break;
	case 11:
		value = number(in, 2);
		lapic_set_base(&v->l, (v->l.base_msr & ~0xfffull) | (value & 0xd00), ~0ull << 46, value & 1);
		break;
	case 12:
		lapic_set_tsc_deadline(&v->l, number(in, 8));
		vm->tsc_offset += op & 0x80 ? number(in, 4) : 0;
		lapic_tsc_changed(&v->l);
		break;
	case 13:
		set_state(vm, v, in);
		break;
	case 14:
		set_routes(vm, in);
		break;
	case 15:
		lapic_set_cr8(&v->l, arg >> 4);
		if (op & 0x80)
			lapic_reset(&v->l, write);
		if (vm->chip.has_pit && op & 0x40)
			i8254_set_reinject(&vm->chip.pit, write);
		lapic_local(&v->l, LAPIC_LVT_THERMAL + (arg & 3) * 0x10);
	}
	/* Time passes a little with everything, and whoever was told acts on it. */
	vm->now += arg;
	expire(vm);
	check(vm);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct vm vm;
	struct input in = { data, size };
	u8 flags = number(&in, 1);

	vm = (struct vm){ .now = 1000000000, .deadline = IRQCHIP_NEVER, .resample = (u32)number(&in, 3) };
	require(irqchip_init(&vm.chip, &host, &vm, flags & 1, 24) == 0);
	vm.chip.x2apic_ids = flags & 2;
	vm.chip.no_broadcast_quirk = flags & 4;
	vm.chip.no_lint0_quirk = flags & 8;
	vm.chip.no_mmio_hole_quirk = flags & 16;
	vm.chip.bus_cycle_ns = flags & 32 ? 40 : 1;
	if (flags & 64)
		irqchip_create_pit(&vm.chip, KVM_PIT_SPEAKER_DUMMY);
	for (u32 i = 0; i < CPUS; i++) {
		vm.cpu[i].vm = &vm;
		vm.cpu[i].deadline = IRQCHIP_NEVER;
		require(lapic_init(&vm.cpu[i].l, &vm.chip, &vm.cpu[i], flags & 128 ? i * 200 : i, i == 0) == 0);
		vm.cpu[i].l.nr_lvt = 6 + (i & 1);
	}
	for (unsigned n = 0; in.size && n < 2000; n++)
		step(&vm, &in);
	irqchip_fini(&vm.chip);
	return 0;
}
