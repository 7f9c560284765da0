/* Delivery of exceptions and interrupts, double and triple faults: SDM vol. 3A, chapter 6. */
#include "seg_fixture.h"

#define RIP 0x5000ull
#define HANDLER 0x6000u

static struct event exception(enum vector v)
{
	return (struct event){.type = EV_EXCEPTION, .vector = (u8)v};
}

static struct event error(enum vector v, u32 code)
{
	return (struct event){.type = EV_EXCEPTION, .vector = (u8)v, .has_error = true, .error = code};
}

static struct event irq(u8 vector)
{
	return (struct event){.type = EV_EXTINT, .vector = vector};
}

static struct event soft(u8 vector)
{
	return (struct event){.type = EV_SOFTINT, .vector = vector, .insn_len = 2};
}

#define DELIVER(c, ...)                                             \
	do {                                                        \
		struct event e_ = __VA_ARGS__;                      \
		ASSERT_FINE(c, event_deliver(c, &e_));              \
		assert_int_equal((c)->delivering.type, EV_NONE);    \
	} while (0)
#define DELIVERY_FAULT(c, vec, err, ...)                            \
	do {                                                        \
		struct event e_ = __VA_ARGS__;                      \
		ASSERT_FAULT(c, vec, err, event_deliver(c, &e_));   \
		assert_int_equal((c)->delivering.vector, e_.vector); \
		assert_int_equal((c)->rip, RIP);                    \
	} while (0)

static void test_real(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	put(f, 0x21 * 4, 4, 0x12345678);
	c->gpr[RSP] = 0x9000;
	c->rip = RIP;
	c->rflags = FL_FIXED1 | FL_IF | FL_TF | FL_AC | FL_CF;
	DELIVER(c, soft(0x21));
	assert_int_equal(c->seg[SEG_CS].base, 0x12340);
	assert_int_equal(c->rip, 0x5678);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_CF);
	assert_int_equal(c->gpr[RSP], 0x8ffa);
	assert_int_equal(frame(f, 2, 0), RIP + 2);
	assert_int_equal(frame(f, 2, 1), 0xf000);
	assert_int_equal(frame(f, 2, 2), FL_FIXED1 | FL_IF | FL_TF | FL_CF);
	/* No error codes, and the vector table ends at its limit. */
	DELIVER(c, error(VEC_GP, 0));
	assert_int_equal(c->gpr[RSP], 0x8ff4);
	c->idtr.limit = 0x20 * 4 + 2;
	struct event e = irq(0x20);
	assert_int_equal(CATCH(c, event_deliver(c, &e)), UNWIND_FAULT);
	assert_int_equal(c->fault.vector, VEC_GP);
	/* A table elsewhere. */
	c->idtr = (struct dtable){0x4000, 0x3ff};
	put(f, 0x4000 + 8 * 4, 4, 0x00100020);
	DELIVER(c, irq(8));
	assert_int_equal(c->seg[SEG_CS].base, 0x100);
}

static void test_protected_same(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	set_idt(f, 0x30, S_CODE0, 0x12346000, G_INT32, 0, 0);
	set_idt(f, 0x31, S_CODE0, HANDLER, G_TRAP32, 0, 0);
	set_idt(f, VEC_GP, S_CODE0, HANDLER, G_INT16, 0, 0);
	c->rflags = FL_FIXED1 | FL_IF | FL_TF | FL_NT | FL_AC;
	DELIVER(c, irq(0x30));
	assert_int_equal(c->rip, 0x12346000);
	assert_int_equal(c->gpr[RSP], STACK3 - 12);
	assert_int_equal(frame(f, 4, 0), RIP);
	assert_int_equal(frame(f, 4, 1), S_CODE0);
	assert_int_equal(frame(f, 4, 2), FL_FIXED1 | FL_IF | FL_TF | FL_NT | FL_AC);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_AC);
	/* A trap gate leaves IF. */
	c->rflags |= FL_IF;
	DELIVER(c, irq(0x31));
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF | FL_AC);
	/* 16-bit gate: 16-bit frame, 16-bit offset, error code too; a fault pushes RF, which 16 bits cut off. */
	c->gpr[RSP] = STACK3;
	DELIVER(c, error(VEC_GP, 0x18));
	assert_int_equal(c->gpr[RSP], STACK3 - 8);
	assert_int_equal(frame(f, 2, 0), 0x18);
	assert_int_equal(frame(f, 2, 1), HANDLER);
	assert_int_equal(c->rip, HANDLER);
}

static void test_protected_inner(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 3);
	set_idt(f, VEC_PF, S_CODE0, HANDLER, G_INT32, 0, 0);
	DELIVER(c, (struct event){.type = EV_EXCEPTION, .vector = VEC_PF, .has_error = true, .error = PF_U | PF_W,
				  .has_payload = true, .payload = 0xdeadb000});
	assert_int_equal(c->cr2, 0xdeadb000);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[SEG_CS].selector, S_CODE0);
	assert_int_equal(c->seg[SEG_SS].selector, S_DATA0);
	assert_int_equal(c->gpr[RSP], STACK0 - 24);
	assert_int_equal(frame(f, 4, 0), PF_U | PF_W);
	assert_int_equal(frame(f, 4, 1), RIP);
	assert_int_equal(frame(f, 4, 2), S_CODE3 | 3);
	assert_int_equal(frame(f, 4, 3), FL_FIXED1 | FL_IF | FL_RF); /* a fault: restart without breakpoint */
	assert_int_equal(frame(f, 4, 4), STACK3);
	assert_int_equal(frame(f, 4, 5), S_DATA3 | 3);
	/* Data segments stay, unlike on the way out of virtual-8086 mode. */
	assert_int_equal(c->seg[SEG_DS].selector, S_DATA3 | 3);
	/* And back with IRET, after the error code. */
	c->gpr[RSP] += 4;
	ASSERT_FINE(c, far_iret(c, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, RIP);
	assert_int_equal(c->gpr[RSP], STACK3);
	/* A conforming handler runs where it is. */
	set_idt(f, 0x40, S_CONF0, HANDLER, G_INT32, 0, 0);
	c->rflags = FL_FIXED1 | FL_IF;
	DELIVER(c, irq(0x40));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[SEG_CS].selector, S_CONF0 | 3);
	assert_int_equal(c->gpr[RSP], STACK3 - 12);
}

static void test_vm86(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_vm86(f);
	set_idt(f, VEC_GP, S_CODE0, HANDLER, G_INT32, 0, 0);
	u64 flags = c->rflags;
	DELIVER(c, error(VEC_GP, 0));
	assert_int_equal(c->mode, MODE_PROT32);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->gpr[RSP], STACK0 - 40);
	assert_int_equal(frame(f, 4, 1), RIP);
	assert_int_equal(frame(f, 4, 2), 0x110);	      /* CS */
	assert_int_equal(frame(f, 4, 3), flags | FL_RF);
	assert_int_equal(frame(f, 4, 4), 0x4000);	      /* ESP */
	assert_int_equal(frame(f, 4, 5), 0x120);	      /* SS */
	assert_int_equal(frame(f, 4, 6), 0x100);	      /* ES */
	assert_int_equal(frame(f, 4, 7), 0x130);	      /* DS */
	assert_int_equal(frame(f, 4, 8), 0x140);	      /* FS */
	assert_int_equal(frame(f, 4, 9), 0x150);	      /* GS */
	assert_true(c->seg[SEG_DS].unusable && c->seg[SEG_GS].unusable);
	c->gpr[RSP] += 4;
	ASSERT_FINE(c, far_iret(c, 4));
	assert_int_equal(c->mode, MODE_VM86);
	assert_int_equal(c->seg[SEG_GS].base, 0x1500);
	assert_int_equal(c->gpr[RSP], 0x4000);
	assert_int_equal(c->rflags, flags | FL_RF);
	/* The handler must be of level 0. */
	set_idt(f, 0x40, S_CODE3, HANDLER, G_INT32, 3, 0);
	c->rip = RIP;
	DELIVERY_FAULT(c, VEC_GP, S_CODE3, soft(0x40));
	set_idt(f, 0x40, S_CONF0, HANDLER, G_INT32, 3, 0);
	DELIVERY_FAULT(c, VEC_GP, S_CONF0, soft(0x40));
}

static void test_long(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_long(f, 3);
	set_idt(f, VEC_GP, S_CODE64, 0xffffffff80006000, G_INT32, 0, 0);
	set_idt(f, VEC_NMI, S_CODE64, HANDLER, G_INT32, 0, 1);
	set_idt(f, 0x50, S_CODE64, HANDLER, G_TRAP32, 0, 0);
	c->gpr[RSP] = STACK3 + 3;
	c->int_shadow = SHADOW_STI;
	DELIVER(c, error(VEC_GP, 0x1234));
	assert_int_equal(c->rip, 0xffffffff80006000);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[SEG_SS].selector, 0);
	assert_true(c->seg[SEG_SS].unusable);
	assert_int_equal(c->gpr[RSP], STACK0 - 48);
	assert_int_equal(frame(f, 8, 0), 0x1234);
	assert_int_equal(frame(f, 8, 1), RIP);
	assert_int_equal(frame(f, 8, 2), S_CODE64_3 | 3);
	assert_int_equal(frame(f, 8, 3), FL_FIXED1 | FL_IF | FL_RF);
	assert_int_equal(frame(f, 8, 4), STACK3 + 3);
	assert_int_equal(frame(f, 8, 5), S_DATA3 | 3);
	assert_false(c->rflags & FL_IF);
	assert_int_equal(c->int_shadow, 0);
	/* At the same level: aligned, and SS stays. */
	use_segments(f, S_CODE64, S_DATA0);
	c->gpr[RSP] = 0x7009;
	DELIVER(c, irq(0x50));
	assert_int_equal(c->gpr[RSP], 0x7000 - 40);
	assert_int_equal(frame(f, 8, 3), 0x7009);
	assert_int_equal(frame(f, 8, 4), S_DATA0);
	assert_int_equal(c->seg[SEG_SS].selector, S_DATA0);
	/* IST: whatever the level; NMIs are blocked until IRET. */
	c->rip = RIP;
	DELIVER(c, (struct event){.type = EV_NMI, .vector = VEC_NMI});
	assert_int_equal(c->gpr[RSP], IST1 - 40);
	assert_true(c->nmi_blocked);
	ASSERT_FINE(c, far_iret(c, 8));
	assert_false(c->nmi_blocked);
	assert_int_equal(c->gpr[RSP], 0x7000 - 40);
	/* From compatibility mode the frame is the same. */
	use_segments(f, S_CODE3 | 3, S_DATA3 | 3);
	c->gpr[RSP] = 0xfffff000;
	c->rip = RIP;
	DELIVER(c, irq(0x50));
	assert_int_equal(c->mode, MODE_64);
	assert_int_equal(frame(f, 8, 3), 0xfffff000);
	assert_int_equal(frame(f, 8, 1), S_CODE3 | 3);
	ASSERT_FINE(c, far_iret(c, 8));
	assert_int_equal(c->mode, MODE_COMPAT32);
	assert_int_equal(c->gpr[RSP], 0xfffff000);
}

/* --- Faults on the way: vectors, error codes with IDT, EXT and TI (SDM vol. 3A, 6.13) ---------------------------- */

#define IDT_ERROR(v) ((v) * 8u + 2)

static void test_gate_faults(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 3);
	/* No gate there, for hardware (EXT) and for INT n. */
	DELIVERY_FAULT(c, VEC_GP, IDT_ERROR(0x30) + 1, irq(0x30));
	DELIVERY_FAULT(c, VEC_GP, IDT_ERROR(0x30), soft(0x30));
	DELIVERY_FAULT(c, VEC_GP, IDT_ERROR(VEC_UD) + 1, exception(VEC_UD));
	c->idtr.limit = 0x30 * 8 + 6;
	DELIVERY_FAULT(c, VEC_GP, IDT_ERROR(0x30) + 1, irq(0x30));
	c->idtr.limit = 0x7ff;
	/* INT n respects the gate's DPL, hardware does not. */
	set_idt(f, 0x30, S_CODE0, HANDLER, G_INT32, 0, 0);
	DELIVERY_FAULT(c, VEC_GP, IDT_ERROR(0x30), soft(0x30));
	set_idt(f, VEC_BP, S_CODE0, HANDLER, G_INT32, 0, 0);
	DELIVERY_FAULT(c, VEC_GP, IDT_ERROR(VEC_BP),
		       (struct event){.type = EV_SOFTEXC, .vector = VEC_BP, .insn_len = 1});
	/* Not present. */
	put(f, IDT + 0x30 * 8, 8, make_gate(S_CODE0, HANDLER, G_INT32, 3, 0) & ~BIT64(47));
	DELIVERY_FAULT(c, VEC_NP, IDT_ERROR(0x30), soft(0x30));
	/* The code segment. */
	static const struct { u16 selector; u8 vector; u32 error; } cs[] = {
		{0, VEC_GP, 0}, {S_OUTSIDE, VEC_GP, S_OUTSIDE}, {S_DATA0, VEC_GP, S_DATA0},
		{S_CODE_NP, VEC_NP, S_CODE_NP},
		{0x1c, VEC_GP, 0x1c},
	};
	for (unsigned n = 0; n < ARRAY_SIZE(cs); n++) {
		set_idt(f, 0x30, cs[n].selector, HANDLER, G_INT32, 3, 0);
		DELIVERY_FAULT(c, cs[n].vector, cs[n].error, soft(0x30));
		DELIVERY_FAULT(c, cs[n].vector, cs[n].error + 1, irq(0x30));
	}
	set_idt(f, 0x30, S_CODE_SMALL, 0x1000, G_INT32, 3, 0);
	DELIVERY_FAULT(c, VEC_GP, 1, irq(0x30));
	/* The stack. */
	set_idt(f, 0x30, S_CODE0, HANDLER, G_INT32, 3, 0);
	static const struct { u16 selector; u8 vector; u32 error; } ss[] = {
		{0, VEC_TS, 0}, {S_OUTSIDE, VEC_TS, S_OUTSIDE}, {S_DATA0 | 1, VEC_TS, S_DATA0},
		{S_DATA3, VEC_TS, S_DATA3},
		{S_CODE0, VEC_TS, S_CODE0}, {S_DATA_NP, VEC_SS, S_DATA_NP}, {S_DATA_SMALL, VEC_SS, S_DATA_SMALL},
	};
	for (unsigned n = 0; n < ARRAY_SIZE(ss); n++) {
		put(f, TSS + 8, 4, ss[n].selector);
		DELIVERY_FAULT(c, ss[n].vector, ss[n].error, soft(0x30));
		DELIVERY_FAULT(c, ss[n].vector, ss[n].error + 1, irq(0x30));
	}
	c->seg[SEG_TR].limit = 10;
	DELIVERY_FAULT(c, VEC_TS, S_TSS + 1, irq(0x30));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], STACK3);
}

static void test_long_faults(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_long(f, 3);
	set_idt(f, 0x30, S_CODE0, HANDLER, G_INT32, 3, 0);
	DELIVERY_FAULT(c, VEC_GP, S_CODE0, soft(0x30)); /* not 64-bit code */
	set_idt(f, 0x30, S_CODE_LD, HANDLER, G_INT32, 3, 0);
	DELIVERY_FAULT(c, VEC_GP, S_CODE_LD + 1, irq(0x30));
	set_idt(f, 0x30, S_CODE64, HANDLER, G_INT16, 3, 0);
	DELIVERY_FAULT(c, VEC_GP, IDT_ERROR(0x30) + 1, irq(0x30));
	set_idt(f, 0x30, S_CODE64, HANDLER, G_TASK, 3, 0);
	DELIVERY_FAULT(c, VEC_GP, IDT_ERROR(0x30) + 1, irq(0x30));
	set_idt(f, 0x30, S_CODE64, 0x800000000000, G_INT32, 3, 0);
	DELIVERY_FAULT(c, VEC_GP, 1, irq(0x30));
	set_idt(f, 0x30, S_CODE64, HANDLER, G_INT32, 3, 2);
	put(f, TSS + 0x2c, 8, 0x800000001000);
	DELIVERY_FAULT(c, VEC_SS, 1, irq(0x30));
	c->seg[SEG_TR].limit = 0x2c + 6;
	DELIVERY_FAULT(c, VEC_TS, S_TSS + 1, irq(0x30));
	/* A stack that is not mapped is a page fault of the supervisor. */
	c->seg[SEG_TR].limit = 0x67;
	put(f, TSS + 0x2c, 8, 0x700000001000);
	DELIVERY_FAULT(c, VEC_PF, PF_W, irq(0x30));
	assert_int_equal(c->fault.payload, 0x700000000ff8);
}

/* --- What a fault becomes (SDM vol. 3A, table 6-5) --------------------------------------------------------------- */

static void test_merge(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	static const struct { enum vector first, second; char becomes; } row[] = {
		/* second, double, triple */
		{VEC_DB, VEC_PF, '2'}, {VEC_UD, VEC_GP, '2'}, {VEC_AC, VEC_PF, '2'}, {VEC_NM, VEC_NP, '2'},
		{VEC_GP, VEC_GP, 'd'}, {VEC_DE, VEC_NP, 'd'}, {VEC_TS, VEC_SS, 'd'}, {VEC_SS, VEC_TS, 'd'},
		{VEC_NP, VEC_GP, 'd'},
		{VEC_GP, VEC_PF, '2'}, {VEC_GP, VEC_UD, '2'}, {VEC_GP, VEC_DB, '2'},
		{VEC_PF, VEC_PF, 'd'}, {VEC_PF, VEC_GP, 'd'}, {VEC_PF, VEC_UD, '2'},
		{VEC_DF, VEC_GP, 't'}, {VEC_DF, VEC_PF, 't'}, {VEC_DF, VEC_TS, 't'}, {VEC_DF, VEC_DB, '2'},
	};
	struct event out;

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		struct event second = error(row[n].second, 0x77);
		c->delivering = exception(row[n].first);
		bool alive = event_merge(c, &second, &out);
		assert_int_equal(alive, row[n].becomes != 't');
		if (row[n].becomes == 't')
			continue;
		assert_int_equal(out.vector, row[n].becomes == 'd' ? VEC_DF : row[n].second);
		assert_true(out.has_error);
		assert_int_equal(out.error, row[n].becomes == 'd' ? 0 : 0x77);
	}
	/* Interrupts, NMIs and INT n are benign, whatever their vector. */
	static const u8 types[] = {EV_NONE, EV_EXTINT, EV_NMI, EV_SOFTINT, EV_SOFTEXC, EV_ICEBP};
	for (unsigned n = 0; n < ARRAY_SIZE(types); n++) {
		struct event second = error(VEC_GP, 1);
		c->delivering = (struct event){.type = types[n], .vector = VEC_GP};
		assert_true(event_merge(c, &second, &out));
		assert_int_equal(out.vector, VEC_GP);
	}
	/* The second page fault's address is in CR2 when both become a #DF. */
	struct event pf = {.type = EV_EXCEPTION, .vector = VEC_PF, .has_error = true, .has_payload = true,
			   .payload = 0x1234};
	c->delivering = pf;
	assert_true(event_merge(c, &pf, &out));
	assert_int_equal(out.vector, VEC_DF);
	assert_int_equal(c->cr2, 0x1234);
}

static void test_debug_event(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	set_idt(f, VEC_DB, S_CODE0, HANDLER, G_INT32, 0, 0);
	set_idt(f, VEC_BP, S_CODE0, HANDLER, G_INT32, 0, 0);
	c->dr6 = 0xffff0ff0 | BIT64(0) | BIT64(15);
	c->dr7 |= BIT64(13);
	/* B0 to B3 are those of this exception, the others collect; GD is cleared; a trap pushes no RF. */
	DELIVER(c, (struct event){.type = EV_EXCEPTION, .vector = VEC_DB, .has_payload = true,
				  .payload = BIT64(14) | BIT64(2)});
	assert_int_equal(c->dr6, 0xffff0ff0 | BIT64(2) | BIT64(14) | BIT64(15));
	assert_int_equal(c->dr7, 0x400);
	assert_int_equal(frame(f, 4, 2), FL_FIXED1 | FL_IF);
	/* General detect is a fault. */
	DELIVER(c, (struct event){.type = EV_EXCEPTION, .vector = VEC_DB, .has_payload = true, .payload = BIT64(13)});
	assert_true(frame(f, 4, 2) & FL_RF);
	/* INT1 and INT3 push the address behind them. */
	c->rip = RIP;
	c->rflags = FL_FIXED1;
	DELIVER(c, (struct event){.type = EV_ICEBP, .vector = VEC_DB, .insn_len = 1});
	assert_int_equal(frame(f, 4, 0), RIP + 1);
	c->rip = RIP;
	DELIVER(c, (struct event){.type = EV_SOFTEXC, .vector = VEC_BP, .insn_len = 1});
	assert_int_equal(frame(f, 4, 0), RIP + 1);
	assert_false(frame(f, 4, 2) & FL_RF);
}

/* A stack in MMIO space: delivery waits for the outside and starts again. */
static void test_mmio_stack(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	set_idt(f, 0x30, S_CODE0, HANDLER, G_INT32, 0, 0);
	c->gpr[RSP] = 0xd0001000;
	struct event e = irq(0x30);
	for (unsigned n = 0; n < 3; n++) {
		assert_int_equal(CATCH(c, event_deliver(c, &e)), UNWIND_EXIT);
		assert_int_equal(c->exit.reason, EXIT_IO);
		assert_int_equal(c->io.op[n].kind, IO_MMIO_WRITE);
		assert_int_equal(c->io.op[n].addr, 0xd0000ffc - n * 4);
		assert_int_equal(c->gpr[RSP], 0xd0001000);
		assert_int_equal(c->rip, RIP);
		c->io.done = (u8)(n + 1);
		c->io.pending = false;
	}
	DELIVER(c, irq(0x30));
	assert_int_equal(c->gpr[RSP], 0xd0000ff4);
	assert_int_equal(c->io.done, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_real), TEST(test_protected_same), TEST(test_protected_inner), TEST(test_vm86),
		TEST(test_long), TEST(test_gate_faults), TEST(test_long_faults), TEST(test_merge),
		TEST(test_debug_event), TEST(test_mmio_stack),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
