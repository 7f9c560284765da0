/* Translation, from SDM vol. 3A, chapter 4: every paging mode, rights, A/D bits. */
#include "cpu_fixture.h"

#define LA 0x00c3a000ull /* 4 KiB page under test; below 16 MiB in every mode */

/* --- Walks in every mode and page size ------------------------------------------------------------------------- */

struct shape {
	enum paging paging;
	unsigned page_bits;
	u64 la;
};
static const struct shape shapes[] = {
	{PAGING_32, 12, 0xfffc3000},
	{PAGING_32, 22, 0xd0400000},
	{PAGING_PAE, 12, 0xfffc3000},
	{PAGING_PAE, 21, 0x80200000},
	{PAGING_4, 12, 0xffff800012345000},
	{PAGING_4, 21, 0x00007fffffe00000},
	{PAGING_4, 30, 0xffffffffc0000000},
	{PAGING_5, 12, 0xff00000012345000},
	{PAGING_5, 21, 0x00fffffffe200000},
	{PAGING_5, 30, 0x0080000000000000},
};

static void test_walk_shapes(void **state)
{
	for (unsigned n = 0; n < ARRAY_SIZE(shapes); n++) {
		const struct shape *s = &shapes[n];
		struct fixture *f;

		fixture_setup((void **)&f);
		paging_on(f, s->paging);
		u64 size = 1ull << s->page_bits, gpa = s->page_bits == 30 ? 0 : s->page_bits > 12 ? 0x400000 : 0x123000;
		map_page(f, s->paging, s->la, gpa, s->page_bits, P_W | P_U, P_W | P_U);
		u64 offset = (size - 8) & (RAM_SIZE / 2 - 1), v = 0;
		put(f, gpa + offset, 8, 0x1122334455667788);
		ASSERT_FINE(&f->cpu, v = mem_read(&f->cpu, SEG_DS, s->la + offset, 8));
		assert_int_equal(v, 0x1122334455667788);
		/* The page before is not mapped; the walk of the one behind in the same large page is the same. */
		u64 before = s->la - 1;
		ASSERT_FAULT(&f->cpu, VEC_PF, 0, mem_read(&f->cpu, SEG_DS, before, 1));
		assert_int_equal(f->cpu.fault.payload, before);
		u64 to;
		bool w, u;
		assert_true(mmu_translate(&f->cpu, s->la + 5, &to, &w, &u));
		assert_int_equal(to, gpa + 5);
		assert_true(w && u);
		assert_false(mmu_translate(&f->cpu, before, &to, &w, &u));
		fixture_teardown((void **)&f);
	}
}

static void test_pse36(void **state)
{
	struct fixture *f = *state;
	u64 v = 0;

	paging_on(f, PAGING_32);
	map_page(f, PAGING_32, 0x40000000, HIGH_GPA, 22, P_W, P_W);
	f->high[16] = 0x77;
	ASSERT_FINE(&f->cpu, v = mem_read(&f->cpu, SEG_DS, 0x40000010, 1));
	assert_int_equal(v, 0x77);
	/* Without PSE such an entry names a page table: this one maps page 0 to 0x5000. */
	map_page(f, PAGING_32, 0x40400000, 0x400000, 22, P_W, P_W);
	put(f, 0x400000, 4, 0x5000 | P_W | 1);
	put(f, 0x5010, 1, 0x33);
	f->cpu.cr4 &= ~CR4_PSE;
	tlb_flush_all(&f->cpu);
	ASSERT_FINE(&f->cpu, v = mem_read(&f->cpu, SEG_DS, 0x40400010, 1));
	assert_int_equal(v, 0x33);
	ASSERT_FAULT(&f->cpu, VEC_PF, 0, mem_read(&f->cpu, SEG_DS, 0x40401010, 1));
}

static void test_no_paging(void **state)
{
	struct fixture *f = *state;
	u64 v = 0;

	put(f, 0xfff, 4, 0xcafebabe);
	ASSERT_FINE(&f->cpu, v = mem_read(&f->cpu, SEG_DS, 0xfff, 4));
	assert_int_equal(v, 0xcafebabe);
	/* CR4.SMAP and SMEP mean nothing without paging. */
	f->cpu.cr4 |= CR4_SMAP | CR4_SMEP;
	cpu_update_mode(&f->cpu);
	ASSERT_FINE(&f->cpu, v = mem_read(&f->cpu, SEG_DS, 0, 1));
	assert_true(f->cpu.tlb->tag[ACC_READ][0] == 0);
}

/* --- Reserved bits (SDM vol. 3A, tables 4-5 to 4-20): error code P and RSVD -------------------------------------- */

static void test_reserved(void **state)
{
	static const struct {
		enum paging paging;
		unsigned page_bits, level; /* which entry, 1 is the leaf of a 4 KiB page */
		u64 bit;
		bool fault;
	} row[] = {
		{PAGING_32, 22, 2, BIT64(21), true},
		{PAGING_PAE, 12, 1, BIT64(62), true},
		{PAGING_PAE, 12, 1, BIT64(52), true},
		{PAGING_PAE, 12, 1, BIT64(40), true},
		{PAGING_PAE, 12, 1, BIT64(39), false},
		{PAGING_PAE, 21, 2, BIT64(13), true},
		{PAGING_PAE, 21, 2, BIT64(12), false}, /* PAT */
		{PAGING_4, 12, 1, BIT64(40), true},
		{PAGING_4, 12, 1, BIT64(51), true},
		{PAGING_4, 12, 1, BIT64(52), false},
		{PAGING_4, 12, 1, BIT64(62), false},
		{PAGING_4, 21, 2, BIT64(20), true},
		{PAGING_4, 30, 3, BIT64(29), true},
		{PAGING_4, 12, 4, BIT64(7), true},
		{PAGING_4, 12, 4, BIT64(45), true},
		{PAGING_5, 12, 5, BIT64(7), true},
		{PAGING_5, 12, 5, BIT64(11), false},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		struct fixture *f;
		u64 la = 0x40000000, at, table;

		fixture_setup((void **)&f);
		struct cpu *c = &f->cpu;
		paging_on(f, row[n].paging);
		at = map_page(f, row[n].paging, la, 0, row[n].page_bits, P_W, P_W);
		unsigned bytes = row[n].paging == PAGING_32 ? 4 : 8;
		if (row[n].level >= 4) {
			table = c->cr3;
			at = table + (la >> (12 + 9 * (row[n].level - 1)) & 511) * 8;
		}
		put(f, at, bytes, get(f, at, bytes) | row[n].bit);
		if (row[n].fault) {
			ASSERT_FAULT(c, VEC_PF, PF_P | PF_RSVD, mem_read(c, SEG_DS, la, 1));
			ASSERT_FAULT(c, VEC_PF, PF_P | PF_RSVD | PF_W, mem_write(c, SEG_DS, la, 1, 0));
		} else {
			/* What it maps may not be memory: only the walk counts. */
			struct translation t;
			assert_int_equal(mmu_walk(c, la, ACC_READ, MMU_KERNEL, false, &t), 0);
		}
		fixture_teardown((void **)&f);
	}
}

static void test_nx_reserved_without_nxe(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_4);
	map_page(f, PAGING_4, LA, 0, 12, P_W, P_W | P_NX);
	ASSERT_FINE(c, mem_read(c, SEG_DS, LA, 1));
	assert_true(efer_write(c, c->efer & ~EFER_NX));
	ASSERT_FAULT(c, VEC_PF, PF_P | PF_RSVD, mem_read(c, SEG_DS, LA, 1));
}

static void test_pdptes(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_PAE);
	map_page(f, PAGING_PAE, LA, 0x5000, 12, P_W, P_W);
	/* A change of a PDPTE in memory counts only at the next load of CR3 (SDM vol. 3A, 4.4.1). */
	u64 was = get(f, c->cr3, 8);
	put(f, c->cr3, 8, 0);
	tlb_flush_all(c);
	ASSERT_FINE(c, mem_read(c, SEG_DS, LA, 1));
	ASSERT_FINE(c, cr3_write(c, c->cr3));
	ASSERT_FAULT(c, VEC_PF, 0, mem_read(c, SEG_DS, LA, 1));
	/* Reserved bits: #GP, and CR3 stays. */
	static const unsigned bad[] = {1, 2, 5, 8, 40, 63};
	for (unsigned n = 0; n < ARRAY_SIZE(bad); n++) {
		put(f, c->cr3, 8, was | BIT64(bad[n]));
		u64 cr3 = c->cr3;
		ASSERT_FAULT(c, VEC_GP, 0, cr3_write(c, cr3 | 0x18));
		assert_int_equal(c->cr3, cr3);
	}
}

/* --- Rights: the whole matrix (SDM vol. 3A, 4.6.1), through the TLB's fast path ---------------------------------- */

struct rights {
	bool u, w, nx;
};

/* What the SDM's lists say, written down once more. */
static u32 expect(const struct cpu *c, unsigned cpl, const struct rights *r, enum access acc)
{
	bool ok;

	if (cpl == 3) {
		ok = r->u && (acc != ACC_WRITE || r->w) && (acc != ACC_EXEC || !r->nx);
	} else if (acc == ACC_EXEC) {
		ok = !r->nx && !(r->u && (c->cr4 & CR4_SMEP));
	} else if (r->u) {
		bool smap = (c->cr4 & CR4_SMAP) && !(c->rflags & FL_AC);
		ok = !smap && (acc == ACC_READ || r->w || !(c->cr0 & CR0_WP));
	} else {
		ok = acc == ACC_READ || r->w || !(c->cr0 & CR0_WP);
	}
	bool fetch_bit = (c->cr4 & CR4_SMEP) || (c->efer & EFER_NX);
	return ok ? 0 : PF_P | (acc == ACC_WRITE ? PF_W : 0) | (cpl == 3 ? PF_U : 0) |
			(acc == ACC_EXEC && fetch_bit ? PF_I : 0);
}

static void access_once(struct cpu *c, u64 la, enum access acc)
{
	u64 gpa;

	if (acc == ACC_READ)
		mem_read(c, SEG_DS, la, 4);
	else if (acc == ACC_WRITE)
		mem_write(c, SEG_DS, la, 4, 1);
	else
		mmu_code(c, la, &gpa);
}

static void check_all_modes(struct fixture *f, const u64 *la, const struct rights *rights, unsigned nr)
{
	struct cpu *c = &f->cpu;
	u32 seed = 1;

	/* CPL, WP, AC, SMAP in random order without a flush between; SMEP flushes as CR4 writes do. */
	for (unsigned round = 0; round < 20000; round++) {
		seed = seed * 1664525 + 1013904223;
		unsigned cpl = seed >> 28 & 1 ? 3 : (seed >> 26 & 3) % 3;
		const unsigned n = (seed >> 16) % nr;
		enum access acc = (seed >> 8 & 0xff) % 3;

		c->cr0 = (c->cr0 & ~CR0_WP) | (seed >> 30 & 1 ? CR0_WP : 0);
		c->rflags = FL_FIXED1 | (seed >> 29 & 1 ? FL_AC : 0);
		if (round % 16 == 0) {
			u64 cr4 = c->cr4 & ~(CR4_SMAP | CR4_SMEP);
			cr4 |= (seed >> 5 & 1 ? CR4_SMAP : 0) | (seed >> 6 & 1 ? CR4_SMEP : 0);
			ASSERT_FINE(c, cr4_write(c, cr4));
		}
		set_cpl(c, cpl);
		u32 want = expect(c, cpl, &rights[n], acc);
		int how = CATCH(c, access_once(c, la[n], acc));
		u32 got = how ? c->fault.error : 0;
		if ((how != 0) != (want != 0) || got != want)
			fail_msg("page u%d w%d nx%d: cpl %u access %d wp %d smap %d smep %d ac %d: error %#x, not %#x",
				 rights[n].u, rights[n].w, rights[n].nx, cpl, acc, !!(c->cr0 & CR0_WP),
				 !!(c->cr4 & CR4_SMAP),
				 !!(c->cr4 & CR4_SMEP), !!(c->rflags & FL_AC), got, want);
	}
}

static void test_rights(void **state)
{
	/* Rights are the AND of all levels: each is taken away above, or in the leaf. */
	static const enum paging modes[] = {PAGING_32, PAGING_PAE, PAGING_4, PAGING_5};
	static const unsigned levels[] = {[PAGING_32] = 2, [PAGING_PAE] = 3, [PAGING_4] = 4, [PAGING_5] = 5};

	for (unsigned m = 0; m < ARRAY_SIZE(modes); m++) {
		struct fixture *f;
		u64 la[64];
		struct rights rights[64];
		unsigned nr = 0;

		fixture_setup((void **)&f);
		paging_on(f, modes[m]);
		bool has_nx = modes[m] != PAGING_32;
		for (unsigned up = 0; up < 8; up++)
			for (unsigned leaf = 0; leaf < 8; leaf++) {
				if (!has_nx && ((up | leaf) & 4))
					continue;
				u64 upper_flags = (up & 1 ? P_U : 0) | (up & 2 ? P_W : 0) | (up & 4 ? P_NX : 0);
				u64 leaf_flags = (leaf & 1 ? P_U : 0) | (leaf & 2 ? P_W : 0) | (leaf & 4 ? P_NX : 0);
				/* A directory of its own for each: 1 GiB apart would be too far for 32 bits. */
				la[nr] = 0x400000ull * (up + 8) + leaf * 0x1000;
				map_page(f, modes[m], la[nr], 0x10000 + nr * 0x1000ull, 12, P_W | P_U, leaf_flags);
				rights[nr] = (struct rights){up & leaf & 1, (up & leaf & 2) != 0,
							     ((up | leaf) & 4) != 0};
				/* Now the flags of the page directory's entry alone. */
				unsigned shift = modes[m] == PAGING_32 ? 22 : 21, bytes = modes[m] == PAGING_32 ? 4 : 8;
				u64 table = f->cpu.cr3 & ~0xfffull;
				for (unsigned level = levels[modes[m]]; level > 2; level--)
					table = get(f, table + (la[nr] >> (12 + 9 * (level - 1)) & 511) * 8, 8) &
						0xffffffffff000ull;
				u64 at = table + (la[nr] >> shift & (bytes == 4 ? 1023 : 511)) * bytes;
				put(f, at, bytes, (get(f, at, bytes) & ~(P_U | P_W | P_NX)) | upper_flags);
				nr++;
			}
		check_all_modes(f, la, rights, nr);
		fixture_teardown((void **)&f);
	}
}

/* Without NXE and SMEP a fetch has no bit of its own in the error code. */
static void test_fetch_error_code(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 gpa;

	paging_on(f, PAGING_32);
	map_page(f, PAGING_32, LA, 0, 12, P_W, P_W);
	set_cpl(c, 3);
	ASSERT_FAULT(c, VEC_PF, PF_P | PF_U, mmu_code(c, LA, &gpa));
	c->cr4 |= CR4_SMEP;
	ASSERT_FAULT(c, VEC_PF, PF_P | PF_U | PF_I, mmu_code(c, LA, &gpa));
}

/* Protection keys (SDM vol. 3A, 4.6.2). */
static void test_pkeys(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 gpa, key = 5;

	paging_on(f, PAGING_4);
	map_page(f, PAGING_4, LA, 0, 12, P_W | P_U, P_W | P_U | key << 59);
	map_page(f, PAGING_4, LA + 0x1000, 0x1000, 12, P_W | P_U, P_W | key << 59);
	c->cr4 |= CR4_PKE;
	for (unsigned bits = 0; bits < 4; bits++) {
		bool ad = bits & 1, wd = bits & 2;
		c->fpu.pkru = bits << (key * 2);
		tlb_flush_pkru(c);
		for (unsigned wp = 0; wp < 2; wp++) {
			c->cr0 = (c->cr0 & ~CR0_WP) | (wp ? CR0_WP : 0);
			for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
				u32 base = PF_P | PF_PK | (cpl ? PF_U : 0);
				set_cpl(c, cpl);
				if (ad)
					ASSERT_FAULT(c, VEC_PF, base, mem_read(c, SEG_DS, LA, 1));
				else
					ASSERT_FINE(c, mem_read(c, SEG_DS, LA, 1));
				if (ad || (wd && (cpl || wp)))
					ASSERT_FAULT(c, VEC_PF, base | PF_W, mem_write(c, SEG_DS, LA, 1, 0));
				else
					ASSERT_FINE(c, mem_write(c, SEG_DS, LA, 1, 0));
				ASSERT_FINE(c, mmu_code(c, LA, &gpa));
			}
			/* Supervisor pages have no key. */
			set_cpl(c, 0);
			ASSERT_FINE(c, mem_write(c, SEG_DS, LA + 0x1000, 1, 0));
		}
	}
}

/* Implicit supervisor accesses: at CPL 3 they are the supervisor's, and AC does not lift SMAP. */
static void test_system_access(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_4);
	map_page(f, PAGING_4, LA, 0, 12, P_W | P_U, P_W);
	map_page(f, PAGING_4, LA + 0x1000, 0x1000, 12, P_W | P_U, P_W | P_U);
	set_cpl(c, 3);
	ASSERT_FINE(c, mem_read_system(c, LA, 8));
	ASSERT_FINE(c, mem_write_system(c, LA + 0x1000, 8, 1));
	c->cr4 |= CR4_SMAP;
	c->rflags |= FL_AC;
	for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
		set_cpl(c, cpl);
		ASSERT_FAULT(c, VEC_PF, PF_P, mem_read_system(c, LA + 0x1000, 8));
		ASSERT_FAULT(c, VEC_PF, PF_P | PF_W, mem_write_system(c, LA + 0x1000, 8, 1));
	}
}

/* --- Accessed and dirty bits (SDM vol. 3A, 4.8) ------------------------------------------------------------------ */

static void test_accessed_dirty(void **state)
{
	static const struct shape *s = shapes;

	for (unsigned n = 0; n < ARRAY_SIZE(shapes); n++) {
		struct fixture *f;

		fixture_setup((void **)&f);
		struct cpu *c = &f->cpu;
		paging_on(f, s[n].paging);
		unsigned bytes = s[n].paging == PAGING_32 ? 4 : 8;
		u64 leaf = map_page(f, s[n].paging, s[n].la, 0, s[n].page_bits, P_W | P_U, P_W | P_U);
		u64 dir = s[n].paging == PAGING_32 ? c->cr3 + (s[n].la >> 22) * 4 :
			  s[n].paging == PAGING_PAE ? 0 :
			  c->cr3 + (s[n].la >> (s[n].paging == PAGING_4 ? 39 : 48) & 511) * 8;
		/* Walks without side effects leave them alone, and so does a fault. */
		struct translation t;
		assert_int_equal(mmu_walk(c, s[n].la, ACC_WRITE, MMU_KERNEL, false, &t), 0);
		assert_int_equal(get(f, leaf, bytes) & (P_A | P_D), 0);
		ASSERT_FINE(c, mem_read(c, SEG_DS, s[n].la, 1));
		assert_int_equal(get(f, leaf, bytes) & (P_A | P_D), P_A);
		if (dir)
			assert_true(get(f, dir, bytes) & P_A);
		assert_true(f->dirty[leaf / PAGE_SIZE / 64] >> (leaf / PAGE_SIZE % 64) & 1);
		ASSERT_FINE(c, mem_write(c, SEG_DS, s[n].la, 1, 0));
		assert_int_equal(get(f, leaf, bytes) & (P_A | P_D), P_A | P_D);
		/* Only a leaf has a dirty bit. */
		if (dir && dir != leaf)
			assert_false(get(f, dir, bytes) & P_D);
		fixture_teardown((void **)&f);
	}
}

static void test_fault_sets_no_bits(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_4);
	u64 leaf = map_page(f, PAGING_4, LA, 0, 12, P_W | P_U, P_U);
	ASSERT_FAULT(c, VEC_PF, PF_P | PF_W, mem_write(c, SEG_DS, LA, 1, 0));
	assert_int_equal(get(f, leaf, 8) & (P_A | P_D), 0);
}

/* The dirty log sees the page of each write, once its log is on, after each flush. */
static void test_dirty_log(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	ASSERT_FINE(c, mem_read(c, SEG_DS, 0x45000, 8));
	assert_int_equal(f->dirty[1], 0);
	ASSERT_FINE(c, mem_write(c, SEG_DS, 0x45ffc, 8, 0));
	assert_int_equal(f->dirty[1], BIT64(5) | BIT64(6));
	f->dirty[1] = 0;
	tlb_flush_all(c);
	ASSERT_FINE(c, mem_write(c, SEG_DS, 0x46000, 1, 0));
	assert_int_equal(f->dirty[1], BIT64(6));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_walk_shapes), TEST(test_pse36), TEST(test_no_paging),
		cmocka_unit_test(test_reserved), TEST(test_nx_reserved_without_nxe), TEST(test_pdptes),
		cmocka_unit_test(test_rights), TEST(test_fetch_error_code), TEST(test_pkeys), TEST(test_system_access),
		cmocka_unit_test(test_accessed_dirty), TEST(test_fault_sets_no_bits), TEST(test_dirty_log),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
