/* Modes, segment loads and limits, from SDM vol. 3A, chapters 3 and 5, and the instructions' pages in vol. 2. */
#include "seg_fixture.h"

static void test_reset(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	/* SDM vol. 3A, table 10-1 */
	c->xcr0 = 7;
	c->star = 1;
	c->cr0 |= CR0_PE | CR0_PG;
	cpu_reset(c, false);
	assert_int_equal(c->rip, 0xfff0);
	assert_int_equal(c->seg[SEG_CS].selector, 0xf000);
	assert_int_equal(c->seg[SEG_CS].base, 0xffff0000);
	assert_int_equal(c->rflags, 2);
	assert_int_equal(c->cr0, 0x60000010);
	assert_int_equal(c->dr6, 0xffff0ff0);
	assert_int_equal(c->dr7, 0x400);
	assert_int_equal(c->xcr0, 1);
	assert_int_equal(c->star, 0);
	assert_int_equal(c->idtr.limit, 0xffff);
	assert_int_equal(c->mode, MODE_REAL);
	/* INIT keeps caches' mode, MSRs and the FPU. */
	c->star = 5;
	c->xcr0 = 7;
	c->cr0 = CR0_PE | CR0_ET;
	c->fpu.mxcsr = 0x1fa0;
	cpu_reset(c, true);
	assert_int_equal(c->cr0, CR0_ET);
	assert_int_equal(c->star, 5);
	assert_int_equal(c->xcr0, 7);
	assert_int_equal(c->fpu.mxcsr, 0x1fa0);
}

static void test_modes(void **state)
{
	static const struct {
		u64 cr0, efer, rflags;
		u8 l, db, ss_db, dpl;
		u8 mode, code, stack, cpl;
	} row[] = {
		{0, 0, 0, 0, 0, 0, 0, MODE_REAL, 16, 16, 0},
		{CR0_PE, 0, 0, 0, 0, 0, 0, MODE_PROT16, 16, 16, 0},
		{CR0_PE, 0, 0, 0, 0, 1, 2, MODE_PROT16, 16, 32, 2},
		{CR0_PE, 0, 0, 0, 1, 0, 3, MODE_PROT32, 32, 16, 3},
		{CR0_PE, 0, 0, 0, 1, 1, 3, MODE_PROT32, 32, 32, 3},
		{CR0_PE, 0, 0, 1, 1, 1, 0, MODE_PROT32, 32, 32, 0}, /* L means nothing outside long mode */
		{CR0_PE, 0, FL_VM, 0, 0, 0, 3, MODE_VM86, 16, 16, 3},
		{CR0_PE | CR0_PG, EFER_LMA | EFER_LME, 0, 0, 0, 0, 3, MODE_COMPAT16, 16, 16, 3},
		{CR0_PE | CR0_PG, EFER_LMA | EFER_LME, 0, 0, 1, 1, 3, MODE_COMPAT32, 32, 32, 3},
		{CR0_PE | CR0_PG, EFER_LMA | EFER_LME, 0, 1, 0, 1, 0, MODE_64, 64, 64, 0},
		{CR0_PE | CR0_PG, EFER_LMA | EFER_LME, 0, 1, 0, 0, 3, MODE_64, 64, 64, 3},
	};
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		c->cr0 = row[n].cr0;
		c->efer = row[n].efer;
		c->rflags = FL_FIXED1 | row[n].rflags;
		c->seg[SEG_CS].l = row[n].l;
		c->seg[SEG_CS].db = row[n].db;
		c->seg[SEG_SS].db = row[n].ss_db;
		c->seg[SEG_SS].dpl = row[n].dpl;
		cpu_update_mode(c);
		assert_int_equal(c->mode, row[n].mode);
		assert_int_equal(c->code_bits, row[n].code);
		assert_int_equal(c->stack_bits, row[n].stack);
		assert_int_equal(c->cpl, row[n].cpl);
	}
}

#define FINE 0xff

static void test_load_checks(void **state)
{
	static const struct {
		unsigned cpl;
		enum seg_reg seg;
		u16 selector;
		u8 vector; /* FINE, or what it raises */
		u32 error;
	} row[] = {
		{0, SEG_DS, S_DATA0, FINE, 0},
		{0, SEG_DS, S_DATA0 | 3, VEC_GP, S_DATA0},	 /* RPL > DPL */
		{3, SEG_DS, S_DATA0, VEC_GP, S_DATA0},		 /* CPL > DPL */
		{3, SEG_ES, S_DATA3 | 3, FINE, 0},
		{0, SEG_ES, S_DATA3 | 3, FINE, 0},
		{0, SEG_DS, S_CODE0, FINE, 0},			 /* readable code */
		{3, SEG_FS, S_CONF0 | 3, FINE, 0},		 /* conforming: no privilege check */
		{3, SEG_GS, S_XONLY3 | 3, VEC_GP, S_XONLY3},
		{0, SEG_DS, S_DATA_NP, VEC_NP, S_DATA_NP},
		{0, SEG_DS, S_TSS, VEC_GP, S_TSS},
		{0, SEG_DS, S_OUTSIDE, VEC_GP, S_OUTSIDE},
		{0, SEG_DS, 0, FINE, 0},
		{3, SEG_DS, 3, FINE, 0},
		{3, SEG_DS, 0x0c | 3, VEC_GP, 0x0c},		 /* LDT entry 1: DPL 0 */
		{0, SEG_DS, 0x0c, FINE, 0},
		{0, SEG_DS, 0x1c, VEC_GP, 0x1c},		 /* beyond the LDT */
		{0, SEG_SS, S_DATA0, FINE, 0},
		{0, SEG_SS, 0, VEC_GP, 0},
		{0, SEG_SS, S_DATA0 | 1, VEC_GP, S_DATA0},
		{0, SEG_SS, S_DATA3, VEC_GP, S_DATA3},
		{3, SEG_SS, S_DATA3 | 3, FINE, 0},
		{3, SEG_SS, S_RODATA3 | 3, VEC_GP, S_RODATA3},
		{0, SEG_SS, S_CODE0, VEC_GP, S_CODE0},
		{0, SEG_SS, S_DATA_NP, VEC_SS, S_DATA_NP},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		struct fixture *f;

		fixture_setup((void **)&f);
		struct cpu *c = &f->cpu;
		enter_protected(f, row[n].cpl);
		if (row[n].vector == FINE) {
			ASSERT_FINE(c, seg_load(c, row[n].seg, row[n].selector));
			assert_int_equal(c->seg[row[n].seg].selector, row[n].selector);
			bool null = row[n].selector < 4;
			assert_int_equal(c->seg[row[n].seg].unusable, null);
			/* The accessed bit, in memory too. */
			if (!null && !(row[n].selector & 4))
				assert_true(get(f, GDT + (row[n].selector & ~7u) + 5, 1) & 1);
		} else {
			struct segment was = c->seg[row[n].seg];
			ASSERT_FAULT(c, row[n].vector, row[n].error, seg_load(c, row[n].seg, row[n].selector));
			assert_memory_equal(&was, &c->seg[row[n].seg], sizeof(was));
		}
		fixture_teardown((void **)&f);
	}
}

/* All 8 bytes of a descriptor lie within its table (SDM vol. 3A, 3.5.1). */
static void test_table_limit(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	c->gdtr.limit = S_DATA0 + 7;
	ASSERT_FINE(c, seg_load(c, SEG_DS, S_DATA0));
	c->gdtr.limit = S_DATA0 + 6;
	ASSERT_FAULT(c, VEC_GP, S_DATA0, seg_load(c, SEG_DS, S_DATA0));
	/* The second half of a system descriptor in long mode counts too. */
	enter_long(f, 0);
	set_desc(f, S_LDT + 8, 0);
	c->gdtr.limit = S_LDT + 14;
	ASSERT_FAULT(c, VEC_GP, S_LDT, seg_load_ldt(c, S_LDT));
	c->gdtr.limit = S_LDT + 15;
	ASSERT_FINE(c, seg_load_ldt(c, S_LDT));
}

static void test_null_ss_long(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_long(f, 0);
	ASSERT_FINE(c, seg_load(c, SEG_SS, 0));
	assert_int_equal(c->cpl, 0);
	ASSERT_FAULT(c, VEC_GP, 0, seg_load(c, SEG_SS, 1));
	use_segments(f, S_CODE64_3 | 3, S_DATA3 | 3);
	ASSERT_FAULT(c, VEC_GP, 0, seg_load(c, SEG_SS, 3));
}

static void test_real_loads(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	/* The limit of before stays: a 4 GiB segment is usable in real mode. */
	c->seg[SEG_DS].limit = 0xffffffff;
	ASSERT_FINE(c, seg_load(c, SEG_DS, 0x1234));
	assert_int_equal(c->seg[SEG_DS].base, 0x12340);
	assert_int_equal(c->seg[SEG_DS].limit, 0xffffffff);
	u64 la = 0;
	ASSERT_FINE(c, la = seg_la_slow(c, SEG_DS, 0x100000, 4, ACC_WRITE));
	assert_int_equal(la, 0x112340);
	ASSERT_FINE(c, seg_load(c, SEG_ES, 0x1000));
	ASSERT_FAULT(c, VEC_GP, 0, seg_la_slow(c, SEG_ES, 0xffff, 2, ACC_READ));
	ASSERT_FAULT(c, VEC_SS, 0, seg_la_slow(c, SEG_SS, 0xffff, 2, ACC_READ));
	/* Code segments can be written in real mode. */
	ASSERT_FINE(c, seg_la_slow(c, SEG_CS, 0, 2, ACC_WRITE));
	enter_vm86(f);
	ASSERT_FINE(c, seg_load(c, SEG_DS, 0xffff));
	assert_int_equal(c->seg[SEG_DS].base, 0xffff0);
	assert_int_equal(c->seg[SEG_DS].limit, 0xffff);
	assert_int_equal(c->seg[SEG_DS].dpl, 3);
}

static void test_limits(void **state)
{
	static const struct { u16 selector; u32 off; unsigned size; enum access acc; bool ok; } row[] = {
		{S_DATA_SMALL, 0xfff, 1, ACC_READ, true},   {S_DATA_SMALL, 0xffc, 4, ACC_WRITE, true},
		{S_DATA_SMALL, 0xffd, 4, ACC_READ, false},  {S_DATA_SMALL, 0x1000, 1, ACC_READ, false},
		{S_DATA_SMALL, 0xffffffff, 2, ACC_READ, false},
		{S_DATA_DOWN, 0x8fff, 1, ACC_READ, false},  {S_DATA_DOWN, 0x9000, 1, ACC_WRITE, true},
		{S_DATA_DOWN, 0xffff, 1, ACC_READ, true},   {S_DATA_DOWN, 0xffff, 2, ACC_READ, false},
		{S_DATA_DOWN, 0x10000, 1, ACC_READ, false},
		{S_DATA0, 0xfffffffc, 4, ACC_READ, true},   {S_DATA0, 0xfffffffd, 4, ACC_READ, false},
		{S_RODATA3, 0, 1, ACC_READ, true},	    {S_RODATA3, 0, 1, ACC_WRITE, false},
		{S_CODE0, 0, 1, ACC_READ, true},	    {S_CODE0, 0, 1, ACC_WRITE, false},
		{0, 0, 1, ACC_READ, false},
	};
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		u64 la = 0;
		ASSERT_FINE(c, seg_load(c, SEG_DS, row[n].selector));
		if (row[n].ok) {
			ASSERT_FINE(c, la = seg_la(c, SEG_DS, row[n].off, row[n].size, row[n].acc));
			assert_int_equal(la, (u32)(c->seg[SEG_DS].base + row[n].off));
		} else {
			ASSERT_FAULT(c, VEC_GP, 0, seg_la(c, SEG_DS, row[n].off, row[n].size, row[n].acc));
		}
	}
	ASSERT_FINE(c, seg_load(c, SEG_SS, S_DATA_SMALL));
	ASSERT_FAULT(c, VEC_SS, 0, seg_la(c, SEG_SS, 0x1000, 4, ACC_WRITE));
	/* An execute-only segment cannot be read through CS. */
	use_segments(f, S_XONLY3 | 3, S_DATA3 | 3);
	ASSERT_FAULT(c, VEC_GP, 0, seg_la(c, SEG_CS, 0, 1, ACC_READ));
}

static void test_ldt_and_tr(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	ASSERT_FAULT(c, VEC_GP, S_DATA0, seg_load_ldt(c, S_DATA0));
	ASSERT_FAULT(c, VEC_GP, 0x0c, seg_load_ldt(c, 0x0c));
	ASSERT_FINE(c, seg_load_ldt(c, S_LDT));
	assert_int_equal(c->seg[SEG_LDTR].base, LDT);
	ASSERT_FINE(c, seg_load_ldt(c, 0));
	ASSERT_FAULT(c, VEC_GP, 0x0c, seg_load(c, SEG_DS, 0x0c));
	ASSERT_FAULT(c, VEC_GP, 0, seg_load_tr(c, 0));
	ASSERT_FAULT(c, VEC_GP, S_TSS, seg_load_tr(c, S_TSS)); /* busy */
	ASSERT_FAULT(c, VEC_GP, S_LDT, seg_load_tr(c, S_LDT));
	ASSERT_FINE(c, seg_load_tr(c, S_TSS2));
	assert_int_equal(c->seg[SEG_TR].base, TSS2);
	assert_int_equal(get(f, GDT + S_TSS2 + 5, 1) & 15, 11);
	/* 16 bytes in long mode: bases above 4 GiB, and canonical. */
	enter_long(f, 0);
	set_desc(f, S_TSS2, make_desc(0x3200, 0x67, 0x89));
	set_desc(f, S_TSS2 + 8, 0xffff8000);
	ASSERT_FINE(c, seg_load_tr(c, S_TSS2));
	assert_int_equal(c->seg[SEG_TR].base, 0xffff800000003200);
	set_desc(f, S_TSS2, make_desc(0x3200, 0x67, 0x89));
	set_desc(f, S_TSS2 + 8, 0x8000);
	ASSERT_FAULT(c, VEC_GP, S_TSS2, seg_load_tr(c, S_TSS2));
}

/* VERR, LAR, LSL: SDM vol. 2, tables of their pages. */
static void test_visible(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 d, h;

	enter_protected(f, 3);
	assert_true(desc_visible(c, S_DATA3 | 3, false, &d, &h));
	assert_false(desc_visible(c, S_DATA0, false, &d, &h));
	assert_true(desc_visible(c, S_CONF0, false, &d, &h));
	assert_false(desc_visible(c, 0, false, &d, &h));
	assert_false(desc_visible(c, S_OUTSIDE, false, &d, &h));
	enter_protected(f, 0);
	set_desc(f, S_GATE, make_gate(S_CODE0, 0, G_CALL32, 0, 0));
	assert_true(desc_visible(c, S_GATE, false, &d, &h));
	assert_false(desc_visible(c, S_GATE, true, &d, &h));
	assert_true(desc_visible(c, S_LDT, true, &d, &h));
	assert_false(desc_visible(c, S_DATA0 | 1, true, &d, &h));
	set_desc(f, S_GATE, make_gate(S_CODE0, 0, G_INT32, 0, 0));
	assert_false(desc_visible(c, S_GATE, false, &d, &h));
}

static void test_control_registers(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	/* SDM vol. 2, MOV control registers: #GP(0). */
	ASSERT_FAULT(c, VEC_GP, 0, cr0_write(c, CR0_PG));
	ASSERT_FAULT(c, VEC_GP, 0, cr0_write(c, CR0_NW));
	ASSERT_FAULT(c, VEC_GP, 0, cr0_write(c, BIT64(32)));
	ASSERT_FAULT(c, VEC_GP, 0, cr4_write(c, BIT64(31)));
	ASSERT_FAULT(c, VEC_GP, 0, cr4_write(c, CR4_VMXE));
	ASSERT_FAULT(c, VEC_GP, 0, cr4_write(c, CR4_PCIDE));
	ASSERT_FINE(c, cr0_write(c, CR0_PE | CR0_TS));
	assert_int_equal(c->cr0, CR0_PE | CR0_TS | CR0_ET);
	assert_int_equal(c->mode, MODE_PROT16);

	/* Into long mode and back: SDM vol. 3A, 10.8.5. */
	assert_true(efer_write(c, EFER_LME | EFER_NX));
	ASSERT_FAULT(c, VEC_GP, 0, cr0_write(c, CR0_PE | CR0_PG)); /* no PAE */
	ASSERT_FINE(c, cr4_write(c, CR4_PAE));
	c->seg[SEG_CS].l = 1;
	ASSERT_FAULT(c, VEC_GP, 0, cr0_write(c, CR0_PE | CR0_PG));
	c->seg[SEG_CS].l = 0;
	c->cr3 = 0x1000;
	ASSERT_FINE(c, cr0_write(c, CR0_PE | CR0_PG));
	assert_true(c->efer & EFER_LMA);
	assert_int_equal(c->mode, MODE_COMPAT16);
	assert_false(efer_write(c, EFER_NX));
	ASSERT_FAULT(c, VEC_GP, 0, cr4_write(c, 0));
	ASSERT_FAULT(c, VEC_GP, 0, cr4_write(c, CR4_PAE | CR4_LA57));
	ASSERT_FAULT(c, VEC_GP, 0, cr3_write(c, BIT64(40)));
	ASSERT_FINE(c, cr3_write(c, 0x5fff));
	ASSERT_FAULT(c, VEC_GP, 0, cr4_write(c, CR4_PAE | CR4_PCIDE)); /* CR3[11:0] is not 0 */
	ASSERT_FINE(c, cr3_write(c, 0x5000));
	ASSERT_FINE(c, cr4_write(c, CR4_PAE | CR4_PCIDE));
	ASSERT_FAULT(c, VEC_GP, 0, cr0_write(c, CR0_PE));
	ASSERT_FINE(c, cr4_write(c, CR4_PAE));
	c->seg[SEG_CS].l = 1;
	cpu_update_mode(c);
	ASSERT_FAULT(c, VEC_GP, 0, cr0_write(c, CR0_PE));
	c->seg[SEG_CS].l = 0;
	cpu_update_mode(c);
	ASSERT_FINE(c, cr0_write(c, CR0_PE));
	assert_false(c->efer & EFER_LMA);

	assert_false(efer_write(c, BIT64(1)));
	assert_false(efer_write(c, EFER_SCE | BIT64(63)));
	/* XCR0: SDM vol. 1, 13.3. */
	assert_false(xcr0_write(c, 0));
	assert_false(xcr0_write(c, 2));
	assert_false(xcr0_write(c, 5));
	assert_false(xcr0_write(c, 1 | BIT64(62)));
	assert_true(xcr0_write(c, 3));
}

static void test_debug_registers(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 v = 0;

	ASSERT_FINE(c, dr_write(c, 6, 0xffffffff));
	assert_int_equal(c->dr6, 0xffffefff);
	ASSERT_FINE(c, dr_write(c, 6, 0));
	ASSERT_FINE(c, v = dr_read(c, 4));
	assert_int_equal(v, 0xffff0ff0);
	ASSERT_FINE(c, dr_write(c, 7, 0));
	assert_int_equal(c->dr7, 0x400);
	ASSERT_FAULT(c, VEC_GP, 0, dr_write(c, 6, BIT64(32)));
	ASSERT_FAULT(c, VEC_GP, 0, dr_write(c, 7, BIT64(32)));
	ASSERT_FINE(c, dr_write(c, 2, 0x1122334455667788));
	assert_int_equal(c->dr[2], 0x1122334455667788);
	c->cr4 |= CR4_DE;
	ASSERT_FAULT(c, VEC_UD, 0, dr_read(c, 5));
	ASSERT_FINE(c, dr_write(c, 7, BIT64(13)));
	ASSERT_FAULT(c, VEC_DB, 0, dr_read(c, 0));
	assert_int_equal(c->fault.payload, BIT64(13));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_reset), TEST(test_modes), cmocka_unit_test(test_load_checks), TEST(test_table_limit),
		TEST(test_null_ss_long), TEST(test_real_loads), TEST(test_limits), TEST(test_ldt_and_tr),
		TEST(test_visible), TEST(test_control_registers), TEST(test_debug_registers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
