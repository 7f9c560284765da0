/* What the TLB keeps and what it must forget (SDM vol. 3A, 4.10): INVLPG, CR3, global pages, PCIDs, dropped rights. */
#include "cpu_fixture.h"

#define LA 0x00c3a000ull /* 4 KiB page under test */

static u64 read_byte(struct cpu *c, u64 la)
{
	u64 v = 0;

	ASSERT_FINE(c, v = mem_read(c, SEG_DS, la, 1));
	return v;
}

/* Pages 0x10000 and 0x11000 hold 1 and 2; @at is a PTE that maps the first, and is pointed at the second. */
static void remap(struct fixture *f, u64 at)
{
	put(f, 0x10000, 1, 1);
	put(f, 0x11000, 1, 2);
	put(f, at, 8, (get(f, at, 8) & ~0xffffffff000ull) | 0x11000);
}

static void test_invlpg(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	put(f, 0x10000, 1, 1);
	paging_on(f, PAGING_4);
	u64 at = map_page(f, PAGING_4, LA, 0x10000, 12, P_W, P_W | P_G);
	assert_int_equal(read_byte(c, LA), 1);
	remap(f, at);
	tlb_flush_page(c, LA + 0xfff);
	assert_int_equal(read_byte(c, LA), 2);
	/* Without rights any more. */
	put(f, at, 8, 0);
	tlb_flush_page(c, LA);
	ASSERT_FAULT(c, VEC_PF, 0, mem_read(c, SEG_DS, LA, 1));
}

/* Pages that share an entry of the TLB take turns without walks; what has been flushed does not come back. */
static void test_turns(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 other = LA + ((u64)TLB_SIZE << PAGE_SHIFT);

	put(f, 0x10000, 1, 1);
	put(f, 0x30000, 1, 3);
	paging_on(f, PAGING_4);
	u64 at = map_page(f, PAGING_4, LA, 0x10000, 12, P_W, P_W);
	map_page(f, PAGING_4, other, 0x30000, 12, P_W, P_W);
	assert_int_equal(read_byte(c, LA), 1);
	assert_int_equal(read_byte(c, other), 3);
	u64 walks = c->stat.tlb_misses;
	for (unsigned n = 0; n < 10; n++) {
		assert_int_equal(read_byte(c, LA), 1);
		assert_int_equal(read_byte(c, other), 3);
	}
	assert_int_equal(c->stat.tlb_misses, walks);
	/* A read is no right to write: that walk sets the dirty bit. */
	assert_int_equal(read_byte(c, LA), 1);
	assert_int_equal(read_byte(c, other), 3);
	ASSERT_FINE(c, mem_write(c, SEG_DS, LA, 1, 1));
	assert_int_equal(c->stat.tlb_misses, walks + 1);
	assert_true(get(f, at, 8) & P_D);
	assert_int_equal(read_byte(c, other), 3);
	remap(f, at);
	tlb_flush_page(c, LA);
	assert_int_equal(read_byte(c, LA), 2);
	/* Nor is a write that was: somebody watches now. */
	ASSERT_FINE(c, mem_write(c, SEG_DS, LA, 1, 7));
	assert_int_equal(read_byte(c, other), 3);
	walks = c->stat.tlb_misses;
	tlb_drop_writes(c, f->ram);
	ASSERT_FINE(c, mem_write(c, SEG_DS, LA, 1, 8));
	assert_int_equal(c->stat.tlb_misses, walks + 1);
}

/* However many addresses a page is written at, and pages are: it has no write tag any more, the others have theirs. */
static void test_drop_writes_many(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_4);
	for (unsigned n = 0; n < 16; n++) {
		map_page(f, PAGING_4, LA + n * PAGE_SIZE, n % 2 ? 0x10000 : 0x11000 + n / 2 * 0x1000, 12, P_W, P_W);
		ASSERT_FINE(c, mem_write(c, SEG_DS, LA + n * PAGE_SIZE, 1, n));
	}
	for (unsigned turn = 0; turn < 2; turn++) {
		tlb_drop_writes(c, f->ram + 0x10000);
		for (unsigned n = 0; n < 16; n++)
			assert_int_equal(tlb_has(c->tlb, LA + n * PAGE_SIZE, ACC_WRITE), n % 2 == 0);
		/* Some write again. */
		for (unsigned n = 1; n < 6; n += 2)
			ASSERT_FINE(c, mem_write(c, SEG_DS, LA + n * PAGE_SIZE, 1, n));
	}
}

/* What generated code reads: every index with the same low bits is the same entry. */
static void test_wide(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	const u64 page = LA >> PAGE_SHIFT;

	paging_on(f, PAGING_4);
	tlb_flush_all(c);
	tlb_widen(c->tlbs, (enum mmu_index)c->mmu_index);
	const struct tlb_view *view = &c->tlbs->view[c->mmu_index];
	if (!view->wide)
		skip(); /* no room below 1 GiB */
	map_page(f, PAGING_4, LA, 0x10000, 12, P_W, P_W);
	ASSERT_FINE(c, mem_write(c, SEG_DS, LA, 1, 7));
	for (u64 i = page % TLB_SIZE; i < 1u << TLB_WIDE_BITS; i += TLB_SIZE) {
		assert_true(view->tag[ACC_READ][i] == LA && view->tag[ACC_WRITE][i] == LA);
		assert_ptr_equal(view->host[i], f->ram + 0x10000);
		assert_true(view->tag[ACC_READ][i ^ 1] != LA);
	}
	tlb_flush_page(c, LA);
	for (u64 i = page % TLB_SIZE; i < 1u << TLB_WIDE_BITS; i += TLB_SIZE)
		assert_true(view->tag[ACC_READ][i] != LA && view->tag[ACC_WRITE][i] != LA);
	/* The first entry, which is not empty by zeros, of whichever turn. */
	for (u64 i = 0; i < 1u << TLB_WIDE_BITS; i += TLB_SIZE)
		assert_true(view->tag[ACC_READ][i] == tag_none(0));
}

static void test_cr3_write(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	put(f, 0x10000, 1, 1);
	paging_on(f, PAGING_4);
	u64 local = map_page(f, PAGING_4, LA, 0x10000, 12, P_W, P_W);
	u64 global = map_page(f, PAGING_4, LA + 0x1000, 0x10000, 12, P_W, P_W | P_G);
	assert_int_equal(read_byte(c, LA), 1);
	assert_int_equal(read_byte(c, LA + 0x1000), 1);
	remap(f, local);
	remap(f, global);
	ASSERT_FINE(c, cr3_write(c, c->cr3));
	assert_int_equal(read_byte(c, LA), 2);
	/* Global ones stay, which is what they are for ... */
	assert_int_equal(read_byte(c, LA + 0x1000), 1);
	/* ... until PGE changes. */
	ASSERT_FINE(c, cr4_write(c, c->cr4 & ~CR4_PGE));
	assert_int_equal(read_byte(c, LA + 0x1000), 2);
	/* With PGE off the G bit means nothing. */
	put(f, global, 8, (get(f, global, 8) & ~0xff000ull) | 0x10000);
	ASSERT_FINE(c, cr3_write(c, c->cr3));
	assert_int_equal(read_byte(c, LA + 0x1000), 1);
}

/* A global page that took the place of a local one in the TLB stays as well. */
static void test_cr3_write_replaced(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 la = LA + (u64)TLB_SIZE * PAGE_SIZE;

	put(f, 0x10000, 1, 1);
	paging_on(f, PAGING_4);
	u64 local = map_page(f, PAGING_4, LA, 0x10000, 12, P_W, P_W);
	u64 global = map_page(f, PAGING_4, la, 0x10000, 12, P_W, P_W | P_G);
	assert_int_equal(read_byte(c, LA), 1);
	assert_int_equal(read_byte(c, la), 1);
	remap(f, local);
	remap(f, global);
	ASSERT_FINE(c, cr3_write(c, c->cr3));
	assert_int_equal(read_byte(c, la), 1);
	/* And the other way round it goes. */
	assert_int_equal(read_byte(c, LA), 2);
	put(f, local, 8, 0x10000 | P_W | 1);
	ASSERT_FINE(c, cr3_write(c, c->cr3));
	assert_int_equal(read_byte(c, LA), 1);
}

/* More pages than the journal holds, then one flush. */
static void test_cr3_write_many(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	enum { NR = 1500 };
	u64 at[NR];

	put(f, 0x10000, 1, 1);
	paging_on(f, PAGING_4);
	for (unsigned n = 0; n < NR; n++)
		at[n] = map_page(f, PAGING_4, LA + n * 0x1000ull, 0x10000, 12, P_W, P_W | (n % 3 ? 0 : P_G));
	for (unsigned limit = 100; limit <= NR; limit += 700) {
		for (unsigned n = 0; n < limit; n++) {
			put(f, at[n], 8, 0x10000 | P_W | 1 | (n % 3 ? 0 : P_G));
			tlb_flush_page(c, LA + n * 0x1000ull);
			assert_int_equal(read_byte(c, LA + n * 0x1000ull), 1);
			remap(f, at[n]);
		}
		ASSERT_FINE(c, cr3_write(c, c->cr3));
		for (unsigned n = 0; n < limit; n++)
			assert_int_equal(read_byte(c, LA + n * 0x1000ull), n % 3 ? 2 : 1);
	}
}

/* INVLPG anywhere in a large page drops all of it, in either half of the address space; and of other pages none. */
static void test_invlpg_large(void **state)
{
	static const u64 at_la[] = {0xffff888000200000, 0x40200000};
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_4);
	put(f, 0x200000 + 0x5000, 1, 1);
	put(f, 0x400000 + 0x5000, 1, 2);
	put(f, 0x10000, 1, 3);
	for (unsigned n = 0; n < ARRAY_SIZE(at_la); n++) {
		u64 la = at_la[n], beside = la + 0x200000;
		u64 at = map_page(f, PAGING_4, la, 0x200000, 21, P_W, P_W | P_G);
		map_page(f, PAGING_4, beside, 0x10000, 12, P_W, P_W | P_G);
		assert_int_equal(read_byte(c, la + 0x5000), 1);
		assert_int_equal(read_byte(c, beside), 3);
		put(f, at, 8, 0x400000 | P_W | P_PS | P_G | 1);
		tlb_flush_page(c, beside + 0x1000);
		assert_int_equal(read_byte(c, la + 0x5000), 1);
		tlb_flush_page(c, la + 0x123456);
		assert_int_equal(read_byte(c, la + 0x5000), 2);
		u64 walks = c->stat.tlb_misses;
		assert_int_equal(read_byte(c, beside), 3);
		assert_int_equal(c->stat.tlb_misses, walks);
	}
}

static void test_pcid(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	put(f, 0x10000, 1, 1);
	paging_on(f, PAGING_4);
	c->cr4 |= CR4_PCIDE;
	u64 at = map_page(f, PAGING_4, LA, 0x10000, 12, P_W, P_W);
	assert_int_equal(read_byte(c, LA), 1);
	/* The PCID is no part of the address; bit 63 is not kept. */
	ASSERT_FINE(c, cr3_write(c, c->cr3 | 0xabc | BIT64(63)));
	assert_false(c->cr3 >> 63);
	assert_int_equal(c->cr3 & 0xfff, 0xabc);
	assert_int_equal(read_byte(c, LA), 1);
	remap(f, at);
	/* Another address space must never see the entries of this one. */
	ASSERT_FINE(c, cr3_write(c, (c->cr3 & ~0xfffull) | 0x111 | BIT64(63)));
	assert_int_equal(read_byte(c, LA), 2);
	c->cr4 &= ~CR4_PCIDE;
	ASSERT_FAULT(c, VEC_GP, 0, cr3_write(c, c->cr3 | BIT64(63)));
}

/* --- Several PCIDs (SDM vol. 3A, 4.10.2 to 4.10.4): each test starts with pages known under PCIDs 1 and 2 ------ */

#define KEEP BIT64(63)

/* LA is a local page, LA + 0x1000 a global one; both tables say page 1, then page 2, while the TLB knows page 1. */
static u64 two_pcids(struct fixture *f)
{
	struct cpu *c = &f->cpu;

	put(f, 0x10000, 1, 1);
	paging_on(f, PAGING_4);
	ASSERT_FINE(c, cr4_write(c, c->cr4 | CR4_PCIDE));
	u64 local = map_page(f, PAGING_4, LA, 0x10000, 12, P_W, P_W);
	u64 global = map_page(f, PAGING_4, LA + 0x1000, 0x10000, 12, P_W, P_W | P_G), root = c->cr3;
	for (unsigned pcid = 2; pcid; pcid--) {
		ASSERT_FINE(c, cr3_write(c, root | pcid));
		assert_int_equal(read_byte(c, LA), 1);
		assert_int_equal(read_byte(c, LA + 0x1000), 1);
	}
	remap(f, local);
	remap(f, global);
	return root;
}

static u64 read_as(struct cpu *c, u64 cr3, u64 la)
{
	ASSERT_FINE(c, cr3_write(c, cr3 | KEEP));
	return read_byte(c, la);
}

static void test_pcid_cr3(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 root = two_pcids(f);

	/* Each keeps its own; one that was never used has none. */
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(read_as(c, root | 2, LA), 1);
		assert_int_equal(read_as(c, root | 1, LA), 1);
		assert_int_equal(read_as(c, root | 3, LA), 2);
	}
	/* Without bit 63 the new PCID's go, the others' and global ones stay. */
	ASSERT_FINE(c, cr3_write(c, root | 2));
	assert_int_equal(read_byte(c, LA), 2);
	assert_int_equal(read_byte(c, LA + 0x1000), 1);
	assert_int_equal(read_as(c, root | 1, LA), 1);
	/* Of the present PCID likewise. */
	ASSERT_FINE(c, cr3_write(c, root | 1));
	assert_int_equal(read_byte(c, LA), 2);
}

static void test_pcid_invlpg(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 root = two_pcids(f);

	tlb_flush_page(c, LA);
	assert_int_equal(read_byte(c, LA), 2);
	assert_int_equal(read_as(c, root | 2, LA), 1);
	assert_int_equal(read_as(c, root | 1, LA), 2);
	/* Global ones go for everybody. */
	assert_int_equal(read_byte(c, LA + 0x1000), 1);
	tlb_flush_page(c, LA + 0x1000);
	assert_int_equal(read_as(c, root | 2, LA + 0x1000), 2);
}

static void test_pcid_invpcid(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 root = two_pcids(f);

	/* Of another PCID, then of the present one (type 1). */
	tlb_flush_pcid(c, 2);
	assert_int_equal(read_byte(c, LA), 1);
	assert_int_equal(read_as(c, root | 2, LA), 2);
	assert_int_equal(read_as(c, root | 1, LA), 1);
	tlb_flush_pcid(c, 1);
	assert_int_equal(read_byte(c, LA), 2);
	assert_int_equal(read_byte(c, LA + 0x1000), 1);
}

/* All but global ones (type 3), and all (type 2; a change of CR4.PGE; the end of CR4.PCIDE). */
static void test_pcid_flush_many(void **state)
{
	for (unsigned how = 0; how < 4; how++) {
		struct fixture *f;

		fixture_setup((void **)&f);
		struct cpu *c = &f->cpu;
		u64 root = two_pcids(f);
		switch (how) {
		case 0: tlb_flush_nonglobal(c); break;
		case 1: tlb_flush_all(c); break;
		case 2: ASSERT_FINE(c, cr4_write(c, c->cr4 ^ CR4_PGE)); break;
		case 3:
			ASSERT_FINE(c, cr4_write(c, c->cr4 & ~CR4_PCIDE));
			ASSERT_FINE(c, cr3_write(c, root));
			ASSERT_FINE(c, cr4_write(c, c->cr4 | CR4_PCIDE));
			break;
		}
		assert_int_equal(read_as(c, root | 2, LA), 2);
		assert_int_equal(read_as(c, root | 1, LA), 2);
		assert_int_equal(read_byte(c, LA + 0x1000), how ? 2 : 1);
		fixture_teardown((void **)&f);
	}
}

/* More PCIDs than are kept, and more pages than the journal holds: whatever is left must be right. */
static void test_pcid_many(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 root = two_pcids(f);
	enum { NR = TLB_JOURNAL + 100, FROM = 16 };

	for (unsigned pcid = 3; pcid < 40; pcid++)
		assert_int_equal(read_as(c, root | pcid, LA), 2);
	for (unsigned n = FROM; n < NR; n++)
		map_page(f, PAGING_4, LA + n * 0x1000ull, 0x10000, 12, P_W, P_W);
	for (unsigned n = FROM; n < NR; n++)
		assert_int_equal(read_byte(c, LA + n * 0x1000ull), 1);
	ASSERT_FINE(c, cr3_write(c, root | 40));
	for (unsigned n = FROM; n < NR; n++)
		assert_false(tlb_has(c->tlb, LA + n * 0x1000ull, ACC_READ));
	for (unsigned n = FROM; n < NR; n++)
		assert_int_equal(read_as(c, root | 39, LA + n * 0x1000ull), 1);
}

/* A page that is watched while its translations are put aside comes back without a write tag. */
static void test_pcid_drop_writes(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 root = two_pcids(f);

	tlb_flush_pcid(c, 1);
	ASSERT_FINE(c, mem_write(c, SEG_DS, LA, 1, 7));
	assert_true(tlb_has(c->tlb, LA, ACC_WRITE));
	ASSERT_FINE(c, cr3_write(c, root | 2 | KEEP));
	ASSERT_FINE(c, cr3_write(c, root | 1 | KEEP));
	assert_true(tlb_has(c->tlb, LA, ACC_WRITE));
	const u8 *host = tlb_host(c->tlb, LA);
	ASSERT_FINE(c, cr3_write(c, root | 2 | KEEP));
	tlb_drop_writes(c, host);
	ASSERT_FINE(c, cr3_write(c, root | 1 | KEEP));
	assert_true(tlb_has(c->tlb, LA, ACC_READ) && !tlb_has(c->tlb, LA, ACC_WRITE));
	/* Two pages that show the same memory both lose theirs. */
	map_page(f, PAGING_4, LA + 0x2000, 0x11000, 12, P_W, P_W);
	ASSERT_FINE(c, mem_write(c, SEG_DS, LA, 1, 7));
	ASSERT_FINE(c, mem_write(c, SEG_DS, LA + 0x2000, 1, 7));
	assert_true(tlb_has(c->tlb, LA, ACC_WRITE) && tlb_has(c->tlb, LA + 0x2000, ACC_WRITE));
	tlb_drop_writes(c, host);
	assert_false(tlb_has(c->tlb, LA, ACC_WRITE) || tlb_has(c->tlb, LA + 0x2000, ACC_WRITE));
}

/* cpu->exec_gen: comes back with the PCID, and changes whenever a page of code may be another. */
static void test_exec_gen(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 root = two_pcids(f), gpa;

	set_cpl(c, 0);
	ASSERT_FINE(c, mmu_code(c, LA + 0x1000, &gpa));
	u64 user = c->exec_gen[0], super = c->exec_gen[1];
	/* A local page that the supervisor can execute makes its code change at switches. */
	ASSERT_FINE(c, mmu_code(c, LA, &gpa));
	ASSERT_FINE(c, cr3_write(c, root | 2 | KEEP));
	assert_true(c->exec_gen[0] != user && c->exec_gen[1] != super);
	ASSERT_FINE(c, cr3_write(c, root | 1 | KEEP));
	assert_true(c->exec_gen[0] == user);
	tlb_flush_pcid(c, 1);
	user = c->exec_gen[0];
	super = c->exec_gen[1];
	/* Global ones do not. */
	ASSERT_FINE(c, mmu_code(c, LA + 0x1000, &gpa));
	ASSERT_FINE(c, cr3_write(c, root | 2));
	ASSERT_FINE(c, cr3_write(c, root | 1));
	assert_true(c->exec_gen[0] != user && c->exec_gen[1] == super);
	user = c->exec_gen[0];
	/* Pages that hold no code; and those that do, even when the TLB had no room for them any more. */
	tlb_flush_page(c, LA + 0x5000);
	assert_true(c->exec_gen[0] == user && c->exec_gen[1] == super);
	map_page(f, PAGING_4, LA + 0x1000 + (u64)TLB_SIZE * PAGE_SIZE, 0x10000, 12, P_W, P_W | P_G | P_NX);
	assert_int_equal(read_byte(c, LA + 0x1000 + (u64)TLB_SIZE * PAGE_SIZE), 1);
	tlb_flush_page(c, LA + 0x1000);
	assert_true(c->exec_gen[0] == user && c->exec_gen[1] != super);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_invlpg), TEST(test_invlpg_large), TEST(test_turns), TEST(test_wide), TEST(test_cr3_write),
		TEST(test_cr3_write_replaced), TEST(test_cr3_write_many), TEST(test_pcid), TEST(test_pcid_cr3),
		TEST(test_pcid_invlpg), TEST(test_pcid_invpcid), cmocka_unit_test(test_pcid_flush_many),
		TEST(test_pcid_many), TEST(test_pcid_drop_writes), TEST(test_drop_writes_many),
		TEST(test_exec_gen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
