/* Hardware task switches: SDM vol. 3A, chapter 7. */
#include "seg_fixture.h"

#define NEXT 0x5005ull

/* Offsets in the 32-bit TSS, figure 7-2. */
#define T_LINK 0
#define T_CR3 0x1c
#define T_EIP 0x20
#define T_EFLAGS 0x24
#define T_EAX 0x28
#define T_ESP 0x38
#define T_EDI 0x44
#define T_ES 0x48
#define T_CS 0x4c
#define T_SS 0x50
#define T_GS 0x5c
#define T_LDT 0x60
#define T_TRAP 0x64

static unsigned tss_type(struct fixture *f, u16 selector)
{
	return get(f, GDT + selector + 5, 1) & 15;
}

/* TSS2: a task at level 3, with an LDT. */
static void fill_tss2(struct fixture *f)
{
	enter_protected(f, 0);
	memset(f->ram + TSS2, 0, 0x68);
	put(f, TSS2 + T_EIP, 4, 0x6000);
	put(f, TSS2 + T_EFLAGS, 4, FL_IF | FL_CF);
	for (unsigned n = 0; n < 8; n++)
		put(f, TSS2 + T_EAX + n * 4, 4, 0x1000 + n);
	put(f, TSS2 + T_ESP, 4, 0x7000);
	for (unsigned n = 0; n < 6; n++)
		put(f, TSS2 + T_ES + n * 4, 2, n == 1 ? S_CODE3 | 3 : S_DATA3 | 3);
	put(f, TSS2 + T_LDT, 2, S_LDT);
}

static void check_in_tss2(struct fixture *f)
{
	struct cpu *c = &f->cpu;

	assert_int_equal(c->seg[SEG_TR].selector, S_TSS2);
	assert_int_equal(c->seg[SEG_TR].base, TSS2);
	assert_int_equal(c->rip, 0x6000);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RAX], 0x1000);
	assert_int_equal(c->gpr[RDI], 0x1007);
	assert_int_equal(c->seg[SEG_CS].selector, S_CODE3 | 3);
	assert_int_equal(c->seg[SEG_GS].selector, S_DATA3 | 3);
	assert_int_equal(c->seg[SEG_LDTR].selector, S_LDT);
	assert_true(c->cr0 & CR0_TS);
	assert_int_equal(tss_type(f, S_TSS2), 11);
}

static void test_jmp(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	fill_tss2(f);
	c->gpr[RBX] = 0xbbbb;
	c->dr7 |= 0x55 | 2;
	ASSERT_FINE(c, task_switch(c, S_TSS2, TASK_JMP, NEXT, false, 0));
	check_in_tss2(f);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF | FL_CF);
	assert_int_equal(c->gpr[RSP], 0x7000);
	assert_int_equal(tss_type(f, S_TSS), 9); /* available again */
	assert_int_equal(c->dr7, 0x402);	 /* local breakpoints are off */
	assert_int_equal(get(f, TSS + T_EIP, 4), NEXT);
	assert_int_equal(get(f, TSS + T_EAX + 12, 4), 0xbbbb);
	assert_int_equal(get(f, TSS + T_ESP, 4), STACK3);
	assert_int_equal(get(f, TSS + T_CS, 2), S_CODE0);
	assert_int_equal(get(f, TSS + T_GS, 2), S_DATA0);
	assert_int_equal(get(f, TSS2 + T_LINK, 2), 0);
	/* From level 3 the TSS cannot be named: far JMP checks DPL. And a busy one not at all. */
	ASSERT_FAULT(c, VEC_GP, S_TSS, far_jmp(c, S_TSS, 0, 4));
	ASSERT_FAULT(c, VEC_GP, S_TSS2, task_switch(c, S_TSS2, TASK_JMP, NEXT, false, 0));
}

static void test_call_and_return(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	fill_tss2(f);
	set_desc(f, S_TASK_GATE, make_gate(S_TSS2, 0, G_TASK, 0, 0));
	c->gpr[RBX] = 0xbbbb;
	ASSERT_FINE(c, far_call(c, S_TASK_GATE, 0, 4, NEXT));
	check_in_tss2(f);
	assert_true(c->rflags & FL_NT);
	assert_int_equal(tss_type(f, S_TSS), 11); /* stays busy */
	assert_int_equal(get(f, TSS2 + T_LINK, 2), S_TSS);
	/* IRET goes back along the link. */
	c->rip = 0x6100;
	ASSERT_FINE(c, far_iret(c, 4));
	assert_int_equal(c->seg[SEG_TR].selector, S_TSS);
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->gpr[RBX], 0xbbbb);
	assert_int_equal(tss_type(f, S_TSS2), 9);
	assert_int_equal(tss_type(f, S_TSS), 11);
	assert_int_equal(get(f, TSS2 + T_EIP, 4), 0x6100);
	assert_false(get(f, TSS2 + T_EFLAGS, 4) & FL_NT);
	/* A link to a task that is not busy. */
	c->rflags |= FL_NT;
	put(f, TSS + T_LINK, 2, S_TSS2);
	ASSERT_FAULT(c, VEC_TS, S_TSS2, far_iret(c, 4));
}

static void test_exception_gate(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	fill_tss2(f);
	set_idt(f, VEC_DF, S_TSS2, 0, G_TASK, 0, 0);
	struct event e = {.type = EV_EXCEPTION, .vector = VEC_DF, .has_error = true, .error = 0};
	put(f, 0x6ffc, 4, 0xffffffff);
	ASSERT_FINE(c, event_deliver(c, &e));
	check_in_tss2(f);
	assert_true(c->rflags & FL_NT);
	assert_int_equal(c->gpr[RSP], 0x6ffc);
	assert_int_equal(get(f, 0x6ffc, 4), 0);
	assert_int_equal(get(f, TSS + T_EIP, 4), 0x5000);
	/* EXT is set in error codes when hardware goes through the gate. */
	set_idt(f, 0x30, S_TSS2, 0, G_TASK, 0, 0);
	struct event irq = {.type = EV_EXTINT, .vector = 0x30};
	ASSERT_FAULT(c, VEC_GP, S_TSS2 + 1, event_deliver(c, &irq)); /* busy */
}

/* Faults in the new task's context: it is the current one by then. */
static void test_segment_faults(void **state)
{
	static const struct { unsigned at; u16 selector; u8 vector; u32 error; } row[] = {
		{T_LDT, S_DATA0, VEC_TS, S_DATA0},
		{T_CS, 0, VEC_TS, 0},
		{T_CS, S_DATA3 | 3, VEC_TS, S_DATA3},
		{T_CS, S_CODE0 | 3, VEC_TS, S_CODE0},
		{T_CS, S_CODE_NP, VEC_NP, S_CODE_NP},
		{T_SS, S_DATA0 | 3, VEC_TS, S_DATA0},
		{T_SS, 0, VEC_TS, 0},
		{T_ES, S_XONLY3 | 3, VEC_TS, S_XONLY3},
		{T_ES, S_DATA0, VEC_TS, S_DATA0},
		{T_GS, S_OUTSIDE, VEC_TS, S_OUTSIDE},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		struct fixture *f;

		fixture_setup((void **)&f);
		struct cpu *c = &f->cpu;
		fill_tss2(f);
		put(f, TSS2 + row[n].at, 2, row[n].selector);
		ASSERT_FAULT(c, row[n].vector, row[n].error, task_switch(c, S_TSS2, TASK_CALL, NEXT, false, 0));
		assert_int_equal(c->seg[SEG_TR].selector, S_TSS2);
		assert_int_equal(c->rip, 0x6000);
		assert_int_equal(c->gpr[RAX], 0x1000);
		/* What is derived from the segments is up to date: the run may end before the fault is delivered. */
		u8 mode = c->mode, bits = c->code_bits;
		cpu_update_mode(c);
		assert_true(c->mode == mode && c->code_bits == bits);
		fixture_teardown((void **)&f);
	}
}

static void test_desc_faults(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	fill_tss2(f);
	ASSERT_FAULT(c, VEC_GP, S_DATA0, task_switch(c, S_DATA0, TASK_JMP, NEXT, false, 0));
	ASSERT_FAULT(c, VEC_GP, 0x0c, task_switch(c, 0x0c, TASK_JMP, NEXT, false, 0));
	set_desc(f, S_TSS2, make_desc(TSS2, 0x66, 0x89));
	ASSERT_FAULT(c, VEC_TS, S_TSS2, task_switch(c, S_TSS2, TASK_JMP, NEXT, false, 0));
	set_desc(f, S_TSS2, make_desc(TSS2, 0x67, 0x09));
	ASSERT_FAULT(c, VEC_NP, S_TSS2, task_switch(c, S_TSS2, TASK_JMP, NEXT, false, 0));
	assert_int_equal(c->seg[SEG_TR].selector, S_TSS);
	assert_int_equal(tss_type(f, S_TSS), 11);
}

static void test_tss16(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	fill_tss2(f);
	memset(f->ram + TSS2, 0, 0x68);
	set_desc(f, S_TSS2, make_desc(TSS2, 0x2b, 0x81));
	put(f, TSS2 + 0x0e, 2, 0x4321);	   /* IP */
	put(f, TSS2 + 0x10, 2, FL_ZF);	   /* flags */
	put(f, TSS2 + 0x12, 2, 0xaaaa);	   /* AX */
	put(f, TSS2 + 0x1a, 2, 0x7000);	   /* SP */
	put(f, TSS2 + 0x22, 2, S_DATA16);  /* ES */
	put(f, TSS2 + 0x24, 2, S_CODE16);  /* CS */
	put(f, TSS2 + 0x26, 2, S_DATA16);  /* SS */
	put(f, TSS2 + 0x28, 2, 0);	   /* DS */
	ASSERT_FINE(c, task_switch(c, S_TSS2, TASK_CALL, NEXT, true, 0x1234));
	assert_int_equal(c->rip, 0x4321);
	assert_int_equal(c->gpr[RAX] & 0xffff, 0xaaaa);
	assert_int_equal(c->mode, MODE_PROT16);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_ZF | FL_NT);
	assert_int_equal(c->gpr[RSP] & 0xffff, 0x6ffe);
	assert_int_equal(get(f, 0x6ffe, 2), 0x1234);
	assert_int_equal(tss_type(f, S_TSS2), 3);
	assert_true(c->seg[SEG_FS].unusable);
	/* And back into the 32-bit one, saving 16 bits. */
	c->gpr[RSP] += 2;
	ASSERT_FINE(c, far_iret(c, 2));
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->mode, MODE_PROT32);
	assert_int_equal(get(f, TSS2 + 0x12, 2), 0xaaaa);
	assert_int_equal(tss_type(f, S_TSS2), 1);
}

static void test_trap_bit_and_paging(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	fill_tss2(f);
	put(f, TSS2 + T_TRAP, 2, 1);
	put(f, TSS2 + T_CR3, 4, 0x123000);
	ASSERT_FAULT(c, VEC_DB, 0, task_switch(c, S_TSS2, TASK_JMP, NEXT, false, 0));
	assert_int_equal(c->fault.payload, BIT64(15));
	check_in_tss2(f);
	/* CR3 is of no interest without paging. */
	assert_int_equal(c->cr3, 0);
}

static void test_vm86_task(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	fill_tss2(f);
	put(f, TSS2 + T_EFLAGS, 4, FL_VM | FL_IF);
	put(f, TSS2 + T_CS, 2, 0x600);
	put(f, TSS2 + T_SS, 2, 0x700);
	ASSERT_FINE(c, task_switch(c, S_TSS2, TASK_JMP, NEXT, false, 0));
	assert_int_equal(c->mode, MODE_VM86);
	assert_int_equal(c->seg[SEG_CS].base, 0x6000);
	assert_int_equal(c->seg[SEG_SS].base, 0x7000);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_jmp), TEST(test_call_and_return), TEST(test_exception_gate),
		cmocka_unit_test(test_segment_faults), TEST(test_desc_faults), TEST(test_tss16),
		TEST(test_trap_bit_and_paging), TEST(test_vm86_task),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
