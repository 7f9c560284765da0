/* Far transfers, call gates, IRET, SYSCALL and SYSENTER: SDM vol. 2, their pages; vol. 3A, 5.8. */
#include "seg_fixture.h"

#include "cpu/cpuid.h"

#define NEXT 0x5005ull

static void test_real(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	c->gpr[RSP] = 0xdead1000;
	ASSERT_FINE(c, far_call(c, 0x1234, 0x56789, 2, 0xfff5));
	assert_int_equal(c->seg[SEG_CS].base, 0x12340);
	assert_int_equal(c->rip, 0x6789);
	assert_int_equal(c->gpr[RSP], 0xdead0ffc); /* a 16-bit stack leaves the rest of ESP alone */
	assert_int_equal(get(f, 0xffc, 4), 0xf000fff5);
	ASSERT_FINE(c, far_ret(c, 2, 6));
	assert_int_equal(c->seg[SEG_CS].selector, 0xf000);
	assert_int_equal(c->rip, 0xfff5);
	assert_int_equal(c->gpr[RSP], 0xdead1006);
	ASSERT_FAULT(c, VEC_GP, 0, far_jmp(c, 0, 0x10000, 4));
	/* IRET takes IOPL and IF from the frame. */
	put(f, 0x2000, 2, 0x100);
	put(f, 0x2002, 2, 0x40);
	put(f, 0x2004, 2, FL_IF | FL_IOPL | FL_CF);
	c->gpr[RSP] = 0x2000;
	c->nmi_blocked = true;
	ASSERT_FINE(c, far_iret(c, 2));
	assert_int_equal(c->rip, 0x100);
	assert_int_equal(c->seg[SEG_CS].base, 0x400);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF | FL_IOPL | FL_CF);
	assert_int_equal(c->gpr[RSP], 0x2006);
	assert_false(c->nmi_blocked);
}

static void test_near_limit(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	use_segments(f, S_CODE_SMALL, S_DATA0);
	ASSERT_FINE(c, branch_check(c, 0xfff));
	ASSERT_FAULT(c, VEC_GP, 0, branch_check(c, 0x1000));
	enter_long(f, 0);
	ASSERT_FINE(c, branch_check(c, 0xffff800000000000));
	ASSERT_FAULT(c, VEC_GP, 0, branch_check(c, 0x0000800000000000));
}

static void test_direct(void **state)
{
	static const struct { unsigned cpl; bool lma; u16 selector; u8 vector; u32 error; u8 mode; } row[] = {
		{0, false, S_CODE0, 0xff, 0, MODE_PROT32},
		{0, false, S_CODE0 | 3, VEC_GP, S_CODE0, 0},   /* RPL > CPL */
		{3, false, S_CODE0, VEC_GP, S_CODE0, 0},
		{3, false, S_CODE3, 0xff, 0, MODE_PROT32},     /* RPL below CPL is fine */
		{0, false, S_CODE3 | 3, VEC_GP, S_CODE3, 0},   /* not to an outer level */
		{3, false, S_CONF0, 0xff, 0, MODE_PROT32},
		{0, false, S_CODE16, 0xff, 0, MODE_PROT16},
		{0, false, S_CODE_NP, VEC_NP, S_CODE_NP, 0},
		{0, false, S_DATA0, VEC_GP, S_DATA0, 0},
		{0, false, 0, VEC_GP, 0, 0},
		{0, false, S_OUTSIDE, VEC_GP, S_OUTSIDE, 0},
		{0, false, S_LDT, VEC_GP, S_LDT, 0},
		{0, true, S_CODE64, 0xff, 0, MODE_64},
		{0, true, S_CODE0, 0xff, 0, MODE_COMPAT32},
		{0, true, S_CODE_LD, VEC_GP, S_CODE_LD, 0},
		{0, true, S_TSS2, VEC_GP, S_TSS2, 0},	       /* no task switches in long mode */
		{0, false, S_CODE_LD, 0xff, 0, MODE_PROT32},   /* L is ignored there */
	};

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++)
		for (unsigned call = 0; call < 2; call++) {
			struct fixture *f;

			fixture_setup((void **)&f);
			struct cpu *c = &f->cpu;
			row[n].lma ? enter_long(f, row[n].cpl) : enter_protected(f, row[n].cpl);
			u16 was = c->seg[SEG_CS].selector;
#define GO (call ? far_call(c, row[n].selector, 0x7000, 4, NEXT) : far_jmp(c, row[n].selector, 0x7000, 4))
			if (row[n].vector == 0xff) {
				ASSERT_FINE(c, GO);
				assert_int_equal(c->seg[SEG_CS].selector, (row[n].selector & ~3u) | row[n].cpl);
				assert_int_equal(c->mode, row[n].mode);
				assert_int_equal(c->cpl, row[n].cpl);
				assert_int_equal(c->rip, 0x7000);
				assert_int_equal(c->gpr[RSP], STACK3 - (call ? 8 : 0));
				if (call) {
					assert_int_equal(get(f, STACK3 - 8, 4), NEXT);
					assert_int_equal(get(f, STACK3 - 4, 4), was);
				}
			} else {
				ASSERT_FAULT(c, row[n].vector, row[n].error, GO);
				assert_int_equal(c->rip, 0x5000);
				assert_int_equal(c->gpr[RSP], STACK3);
				assert_int_equal(c->seg[SEG_CS].selector, was);
			}
			fixture_teardown((void **)&f);
		}
}

static void test_target_limit(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	ASSERT_FINE(c, far_jmp(c, S_CODE_SMALL, 0xfff, 4));
	ASSERT_FAULT(c, VEC_GP, 0, far_jmp(c, S_CODE_SMALL, 0x1000, 4));
	/* A 16-bit operand size cuts the offset. */
	ASSERT_FINE(c, far_jmp(c, S_CODE_SMALL, 0x10123, 2));
	assert_int_equal(c->rip, 0x123);
}

/* --- Call gates -------------------------------------------------------------------------------------------------- */

static void test_gate_inner32(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 3);
	set_desc(f, S_GATE, make_gate(S_CODE0, 0x12345678, G_CALL32, 3, 2));
	put(f, STACK3, 4, 0xaaaa0001);
	put(f, STACK3 + 4, 4, 0xaaaa0002);
	ASSERT_FINE(c, far_call(c, S_GATE | 3, 0, 4, NEXT));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->rip, 0x12345678);
	assert_int_equal(c->seg[SEG_CS].selector, S_CODE0);
	assert_int_equal(c->seg[SEG_SS].selector, S_DATA0);
	assert_int_equal(c->gpr[RSP], STACK0 - 24);
	assert_int_equal(frame(f, 4, 0), NEXT);
	assert_int_equal(frame(f, 4, 1), S_CODE3 | 3);
	assert_int_equal(frame(f, 4, 2), 0xaaaa0001);
	assert_int_equal(frame(f, 4, 3), 0xaaaa0002);
	assert_int_equal(frame(f, 4, 4), STACK3);
	assert_int_equal(frame(f, 4, 5), S_DATA3 | 3);
	/* And back, releasing the parameters on both stacks; DS of level 0 is lost on the way. */
	ASSERT_FINE(c, seg_load(c, SEG_DS, S_DATA0));
	ASSERT_FINE(c, far_ret(c, 4, 8));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->gpr[RSP], STACK3 + 8);
	assert_int_equal(c->seg[SEG_SS].selector, S_DATA3 | 3);
	assert_true(c->seg[SEG_DS].unusable);
	assert_false(c->seg[SEG_ES].unusable);
}

static void test_gate_same_and_jmp(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	set_desc(f, S_GATE, make_gate(S_CODE0, 0x71234, G_CALL16, 0, 0));
	ASSERT_FINE(c, far_call(c, S_GATE, 0, 4, NEXT));
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->gpr[RSP], STACK3 - 4); /* the gate's size, not the operand's */
	assert_int_equal(frame(f, 2, 0), NEXT);
	assert_int_equal(frame(f, 2, 1), S_CODE0);
	ASSERT_FINE(c, far_jmp(c, S_GATE, 0, 4));
	assert_int_equal(c->gpr[RSP], STACK3 - 4);
	enter_protected(f, 3);
	set_desc(f, S_GATE, make_gate(S_CODE0, 0x1000, G_CALL32, 3, 0));
	ASSERT_FAULT(c, VEC_GP, S_CODE0, far_jmp(c, S_GATE | 3, 0, 4)); /* JMP does not change level */
}

static void test_gate_faults(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 3);
	set_desc(f, S_GATE, make_gate(S_CODE0, 0x1000, G_CALL32, 2, 0));
	ASSERT_FAULT(c, VEC_GP, S_GATE, far_call(c, S_GATE | 3, 0, 4, NEXT));
	set_desc(f, S_GATE, make_gate(S_CODE0, 0x1000, G_CALL32, 3, 0) & ~BIT64(47));
	ASSERT_FAULT(c, VEC_NP, S_GATE, far_call(c, S_GATE | 3, 0, 4, NEXT));
	set_desc(f, S_GATE, make_gate(0, 0x1000, G_CALL32, 3, 0));
	ASSERT_FAULT(c, VEC_GP, 0, far_call(c, S_GATE | 3, 0, 4, NEXT));
	set_desc(f, S_GATE, make_gate(S_CODE_NP, 0x1000, G_CALL32, 3, 0));
	ASSERT_FAULT(c, VEC_NP, S_CODE_NP, far_call(c, S_GATE | 3, 0, 4, NEXT));
	set_desc(f, S_GATE, make_gate(S_CODE0, 0x1000, G_CALL32, 3, 0));
	put(f, TSS + 8, 4, S_DATA3 | 3);
	ASSERT_FAULT(c, VEC_TS, S_DATA3, far_call(c, S_GATE | 3, 0, 4, NEXT));
	put(f, TSS + 8, 4, S_DATA_NP);
	ASSERT_FAULT(c, VEC_SS, S_DATA_NP, far_call(c, S_GATE | 3, 0, 4, NEXT));
	put(f, TSS + 8, 4, S_DATA_SMALL);
	put(f, TSS + 4, 4, 0x2000); /* beyond its limit */
	ASSERT_FAULT(c, VEC_SS, S_DATA_SMALL, far_call(c, S_GATE | 3, 0, 4, NEXT));
	c->seg[SEG_TR].limit = 7;
	ASSERT_FAULT(c, VEC_TS, S_TSS, far_call(c, S_GATE | 3, 0, 4, NEXT));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], STACK3);
}

static void test_gate_long(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_long(f, 3);
	set_desc(f, S_GATE, make_gate(S_CODE64, 0x12345678, G_CALL32, 3, 0));
	set_desc(f, S_GATE + 8, 0xffff8000);
	ASSERT_FINE(c, far_call(c, S_GATE | 3, 0, 4, NEXT));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->rip, 0xffff800012345678);
	assert_int_equal(c->seg[SEG_SS].selector, 0);
	assert_true(c->seg[SEG_SS].unusable);
	assert_int_equal(c->gpr[RSP], STACK0 - 32);
	assert_int_equal(frame(f, 8, 0), NEXT);
	assert_int_equal(frame(f, 8, 1), S_CODE64_3 | 3);
	assert_int_equal(frame(f, 8, 2), STACK3);
	assert_int_equal(frame(f, 8, 3), S_DATA3 | 3);
	ASSERT_FINE(c, far_ret(c, 8, 0));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], STACK3);
	/* Only to 64-bit code. */
	set_desc(f, S_GATE, make_gate(S_CODE0, 0x1000, G_CALL32, 3, 0));
	ASSERT_FAULT(c, VEC_GP, S_CODE0, far_call(c, S_GATE | 3, 0, 4, NEXT));
	set_desc(f, S_GATE, make_gate(S_CODE64, 0x1000, G_CALL16, 3, 0));
	ASSERT_FAULT(c, VEC_GP, S_GATE, far_call(c, S_GATE | 3, 0, 4, NEXT));
}

/* --- RET and IRET ------------------------------------------------------------------------------------------------ */

static void push(struct fixture *f, unsigned size, u64 v)
{
	f->cpu.gpr[RSP] -= size;
	put(f, f->cpu.gpr[RSP], size, v);
}

static void push_frame(struct fixture *f, unsigned size, u16 ss, u64 rsp, u64 flags, u16 cs, u64 rip)
{
	push(f, size, ss);
	push(f, size, rsp);
	push(f, size, flags);
	push(f, size, cs);
	push(f, size, rip);
}

static void test_ret_faults(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	static const struct { unsigned cpl; u16 cs; u8 vector; u32 error; } row[] = {
		{0, 0, VEC_GP, 0}, {3, S_CODE0, VEC_GP, S_CODE0}, {0, S_CODE3, VEC_GP, S_CODE3},
		{0, S_DATA0, VEC_GP, S_DATA0},
		{0, S_CODE_NP, VEC_NP, S_CODE_NP}, {0, S_OUTSIDE, VEC_GP, S_OUTSIDE},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		enter_protected(f, row[n].cpl);
		push(f, 4, row[n].cs);
		push(f, 4, NEXT);
		ASSERT_FAULT(c, row[n].vector, row[n].error, far_ret(c, 4, 0));
	}
	/* To level 3, with stack segments that are not of level 3. */
	static const struct { u16 ss; u8 vector; u32 error; } stack[] = {
		{0, VEC_GP, 0}, {S_DATA0, VEC_GP, S_DATA0}, {S_DATA3, VEC_GP, S_DATA3},
		{S_RODATA3 | 3, VEC_GP, S_RODATA3},
	};
	for (unsigned n = 0; n < ARRAY_SIZE(stack); n++) {
		enter_protected(f, 0);
		push_frame(f, 4, stack[n].ss, 0x8800, FL_FIXED1, S_CODE3 | 3, NEXT);
		u64 sp = c->gpr[RSP];
		ASSERT_FAULT(c, stack[n].vector, stack[n].error, far_iret(c, 4));
		assert_int_equal(c->gpr[RSP], sp);
		assert_int_equal(c->cpl, 0);
	}
}

static void test_iret_outer(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	push_frame(f, 4, S_DATA3 | 3, 0x8800, FL_IF | FL_IOPL | FL_AC | FL_ID, S_CODE3 | 3, NEXT);
	c->rflags = FL_FIXED1;
	ASSERT_FINE(c, far_iret(c, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->gpr[RSP], 0x8800);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF | FL_IOPL | FL_AC | FL_ID);
	assert_true(c->seg[SEG_DS].unusable);

	/* At level 3 with IOPL 0 neither IF nor IOPL change. */
	c->rflags = FL_FIXED1 | FL_IF;
	push(f, 4, FL_IOPL | FL_CF | FL_VIP);
	push(f, 4, S_CODE3 | 3);
	push(f, 4, 0x100);
	ASSERT_FINE(c, far_iret(c, 4));
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF | FL_CF);
	assert_int_equal(c->gpr[RSP], 0x8800);
}

static void test_iret_long(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	/* SS:RSP are popped at the same level too. */
	enter_long(f, 0);
	push_frame(f, 8, S_DATA0, 0x8801, FL_IF, S_CODE64, 0xffff800000001000);
	ASSERT_FINE(c, far_iret(c, 8));
	assert_int_equal(c->rip, 0xffff800000001000);
	assert_int_equal(c->gpr[RSP], 0x8801);
	/* SS may be null for 64-bit code, but not at level 3. */
	c->gpr[RSP] = STACK3;
	push_frame(f, 8, 0, 0x8800, FL_IF, S_CODE64, NEXT);
	ASSERT_FINE(c, far_iret(c, 8));
	assert_true(c->seg[SEG_SS].unusable);
	assert_int_equal(c->cpl, 0);
	c->gpr[RSP] = STACK3;
	push_frame(f, 8, 3, 0x8800, FL_IF, S_CODE64_3 | 3, NEXT);
	ASSERT_FAULT(c, VEC_GP, 0, far_iret(c, 8));
	/* Into compatibility mode. */
	c->gpr[RSP] = STACK3;
	push_frame(f, 8, S_DATA3 | 3, 0x1234567800008800, FL_IF, S_CODE3 | 3, NEXT);
	ASSERT_FINE(c, far_iret(c, 8));
	assert_int_equal(c->mode, MODE_COMPAT32);
	assert_int_equal(c->gpr[RSP], 0x8800);
	/* Not canonical: #GP before anything changes. */
	enter_long(f, 0);
	push_frame(f, 8, S_DATA3 | 3, 0x8800, FL_IF, S_CODE64_3 | 3, 0x800000000000);
	ASSERT_FAULT(c, VEC_GP, 0, far_iret(c, 8));
	assert_int_equal(c->cpl, 0);
	/* NT is no nested task in long mode. */
	c->rflags |= FL_NT;
	ASSERT_FAULT(c, VEC_GP, 0, far_iret(c, 8));
}

static void test_iret_vm86(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	for (unsigned n = 4; n--;)
		push(f, 4, 0x1000 + n);	/* GS, FS, DS, ES */
	push_frame(f, 4, 0x2000, 0x4444, FL_VM | FL_IF | FL_IOPL, 0x3000, 0x5678);
	ASSERT_FINE(c, far_iret(c, 4));
	assert_int_equal(c->mode, MODE_VM86);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, 0x5678);
	assert_int_equal(c->gpr[RSP], 0x4444);
	assert_int_equal(c->seg[SEG_CS].base, 0x30000);
	assert_int_equal(c->seg[SEG_SS].base, 0x20000);
	assert_int_equal(c->seg[SEG_ES].base, 0x10000);
	assert_int_equal(c->seg[SEG_GS].base, 0x10030);
	assert_int_equal(c->seg[SEG_GS].limit, 0xffff);
	/* IRET there is IOPL-sensitive, and leaves IOPL and VM. */
	put(f, 0x24444, 2, 0x10);
	put(f, 0x24446, 2, 0x3100);
	put(f, 0x24448, 2, FL_CF);
	ASSERT_FINE(c, far_iret(c, 2));
	assert_int_equal(c->rflags, FL_FIXED1 | FL_VM | FL_IOPL | FL_CF);
	c->rflags &= ~FL_IOPL;
	ASSERT_FAULT(c, VEC_GP, 0, far_iret(c, 2));
}

/* --- Fast system calls ------------------------------------------------------------------------------------------- */

static void set_vendor(struct cpu *c, bool amd)
{
	/* "AuthenticAMD" or "GenuineIntel", in EBX. */
	for (u32 n = 0; n < c->nr_cpuid; n++)
		if (c->cpuid[n].function == 0) {
			c->cpuid[n].ebx = amd ? 0x68747541 : 0x756e6547;
			c->cpuid[n].edx = amd ? 0x69746e65 : 0x49656e69;
			c->cpuid[n].ecx = amd ? 0x444d4163 : 0x6c65746e;
		}
}

static void test_syscall(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_long(f, 3);
	c->star = (u64)S_CODE3 << 48 | (u64)S_CODE64 << 32;
	c->lstar = 0xffffffff81000000;
	c->cstar = 0xffffffff82000000;
	c->fmask = FL_IF | FL_AC;
	c->rflags = FL_FIXED1 | FL_IF | FL_CF | FL_AC;
	ASSERT_FINE(c, fast_syscall(c, NEXT));
	assert_int_equal(c->rip, 0xffffffff81000000);
	assert_int_equal(c->gpr[RCX], NEXT);
	assert_int_equal(c->gpr[R11], FL_FIXED1 | FL_IF | FL_CF | FL_AC);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_CF);
	assert_int_equal(c->seg[SEG_CS].selector, S_CODE64);
	assert_int_equal(c->seg[SEG_SS].selector, S_CODE64 + 8);
	assert_int_equal(c->seg[SEG_SS].limit, 0xffffffff);
	assert_int_equal(c->mode, MODE_64);
	assert_int_equal(c->cpl, 0);

	/* Back: 64-bit code is 16 behind, 32-bit code at the base. */
	c->gpr[R11] |= FL_RF | FL_VM | BIT64(3);
	ASSERT_FINE(c, fast_sysret(c, 8));
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->seg[SEG_CS].selector, (S_CODE3 + 16) | 3);
	assert_int_equal(c->seg[SEG_SS].selector, (S_CODE3 + 8) | 3);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF | FL_CF | FL_AC);
	assert_int_equal(c->cpl, 3);
	ASSERT_FAULT(c, VEC_GP, 0, fast_sysret(c, 8));
	enter_long(f, 0);
	c->gpr[RCX] = 0x0000800000000000;
	ASSERT_FAULT(c, VEC_GP, 0, fast_sysret(c, 8));
	assert_int_equal(c->cpl, 0);
	c->gpr[RCX] = 0xffffffff00001234;
	ASSERT_FINE(c, fast_sysret(c, 4));
	assert_int_equal(c->mode, MODE_COMPAT32);
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->seg[SEG_CS].selector, S_CODE3 | 3);

	/* From compatibility mode only AMD's go, and to CSTAR. */
	set_vendor(c, false);
	ASSERT_FAULT(c, VEC_UD, 0, fast_syscall(c, NEXT));
	set_vendor(c, true);
	ASSERT_FINE(c, fast_syscall(c, NEXT));
	assert_int_equal(c->rip, 0xffffffff82000000);
	c->efer &= ~EFER_SCE;
	ASSERT_FAULT(c, VEC_UD, 0, fast_syscall(c, NEXT));
	ASSERT_FAULT(c, VEC_UD, 0, fast_sysret(c, 8));
}

static void test_sysenter(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	set_vendor(c, false);
	c->sysenter_eip = 0x1111222233334444;
	c->sysenter_esp = 0x5555666677778888;
	ASSERT_FAULT(c, VEC_GP, 0, fast_sysenter(c, NEXT));
	enter_protected(f, 3);
	ASSERT_FAULT(c, VEC_GP, 0, fast_sysenter(c, NEXT)); /* SYSENTER_CS is null */
	c->sysenter_cs = S_CODE0;
	ASSERT_FINE(c, fast_sysenter(c, NEXT));
	assert_int_equal(c->rip, 0x33334444);
	assert_int_equal(c->gpr[RSP], 0x77778888);
	assert_int_equal(c->seg[SEG_CS].selector, S_CODE0);
	assert_int_equal(c->seg[SEG_SS].selector, S_DATA0);
	assert_int_equal(c->mode, MODE_PROT32);
	assert_false(c->rflags & FL_IF);
	c->gpr[RDX] = 0x1234;
	c->gpr[RCX] = 0x5678;
	ASSERT_FINE(c, fast_sysexit(c, 4));
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->gpr[RSP], 0x5678);
	assert_int_equal(c->seg[SEG_CS].selector, S_CODE3 | 3);
	assert_int_equal(c->cpl, 3);
	ASSERT_FAULT(c, VEC_GP, 0, fast_sysexit(c, 4));

	enter_long(f, 3);
	c->sysenter_cs = S_CODE64;
	c->sysenter_eip = 0xffffffff81000000;
	c->sysenter_esp = 0xffff888000001000;
	ASSERT_FINE(c, fast_sysenter(c, NEXT));
	assert_int_equal(c->mode, MODE_64);
	assert_int_equal(c->rip, 0xffffffff81000000);
	assert_int_equal(c->gpr[RSP], 0xffff888000001000);
	c->gpr[RDX] = 0x800000000000;
	ASSERT_FAULT(c, VEC_GP, 0, fast_sysexit(c, 8));
	c->gpr[RDX] = 0x7fff00000000;
	ASSERT_FINE(c, fast_sysexit(c, 8));
	assert_int_equal(c->seg[SEG_CS].selector, (S_CODE64 + 32) | 3);
	assert_int_equal(c->seg[SEG_SS].selector, (S_CODE64 + 40) | 3);
	set_vendor(c, true);
	ASSERT_FAULT(c, VEC_UD, 0, fast_sysenter(c, NEXT));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_real), TEST(test_near_limit), cmocka_unit_test(test_direct), TEST(test_target_limit),
		TEST(test_gate_inner32), TEST(test_gate_same_and_jmp), TEST(test_gate_faults), TEST(test_gate_long),
		TEST(test_ret_faults), TEST(test_iret_outer), TEST(test_iret_long), TEST(test_iret_vm86),
		TEST(test_syscall), TEST(test_sysenter),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
