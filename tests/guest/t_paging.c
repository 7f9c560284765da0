/*
 * Paging of long mode: rights at every level, accessed and dirty bits, WP, NX, SMEP, SMAP, large pages, global pages,
 * PCID, INVLPG, accesses over two pages (SDM vol. 3A, chapter 4). 32-bit and PAE paging: t_paging32.c; INVPCID:
 * t_invpcid.c.
 */
#include "guest.h"

/* Another 2 MiB of linear addresses, with tables that these tests make and unmake. */
#define BIG_VA 0x40200000ull
#define BIG_PDE boot_pd[513]

static u64 spare_pt[512] __attribute__((aligned(4096)));
static u64 pml4_b[512] __attribute__((aligned(4096))), pdpt_b[512] __attribute__((aligned(4096))),
	pd_b[512] __attribute__((aligned(4096))), pt_b[512] __attribute__((aligned(4096)));

static u64 read64(u64 la)
{
	return *(volatile u64 *)la;
}

static void write64(u64 la, u64 v)
{
	*(volatile u64 *)la = v;
}

/* The identity map serves as a second way to the same memory. */
static void phys_set(u64 pa, u64 v)
{
	*(volatile u64 *)pa = v;
}

#define READ(la) EXPECT("movb (%0), %%al", "r"((u64)(la)))
#define WRITE(la) EXPECT("movb %%al, (%0)", "r"((u64)(la)))
#define FETCH(la) EXPECT("call *%0", "r"((u64)(la)))

static u64 entry(u64 *e)
{
	return *(volatile u64 *)e;
}

/* --- Accessed and dirty ----------------------------------------------------------------------------------------- */

static void test_accessed_dirty(void)
{
	test_map(1, PHYS(1) | RW);
	boot_pd[512] &= ~PG_A;
	invlpg(PAGE(1));
	read64(PAGE(1));
	check_eq(entry(&test_pt[1]) & (PG_A | PG_D), PG_A, "a read sets A, not D");
	check_eq(entry(&boot_pd[512]) & (PG_A | PG_D), PG_A, "... and A in the entries above");
	write64(PAGE(1), 1);
	check_eq(entry(&test_pt[1]) & (PG_A | PG_D), PG_A | PG_D, "a write after a read sets D");
	test_map(1, PHYS(1) | RW);
	write64(PAGE(1), 1);
	check_eq(entry(&test_pt[1]) & (PG_A | PG_D), PG_A | PG_D, "a write after INVLPG sets both again");
	test_map(1, PHYS(1) | PG_P | PG_U);
	WRITE(PAGE(1));
	check_eq(entry(&test_pt[1]) & PG_D, 0, "a write that faults does not set D");
	test_map(1, PHYS(1) | RW);
	*(volatile u8 *)PHYS(1) = 0xc3;
	FETCH(PAGE(1));
	check_eq(entry(&test_pt[1]) & (PG_A | PG_D), PG_A, "a fetch sets A");
	test_map(1, PHYS(1) | RW);
	asm volatile("lock cmpxchgl %%ecx, (%0)" : : "r"(PAGE(1)), "a"(1), "c"(2) : "memory", "cc");
	check_eq(entry(&test_pt[1]) & PG_D, PG_D, "a CMPXCHG that does not match sets D");
}

/* --- Rights ------------------------------------------------------------------------------------------------------- */

static void test_rights(void)
{
	u64 pde = boot_pd[512];

	test_map(2, PHYS(2) | RW);
	boot_pd[512] = pde & ~PG_W;
	write_cr3(read_cr3());
	WRITE(PAGE(2));
	expect(14, 3, "W clear in the PDE");
	write_cr0(read_cr0() & ~(1ul << 16));
	test_map(2, PHYS(2) | PG_P);
	WRITE(PAGE(2));
	check(!trap_last.taken, "without CR0.WP level 0 writes read-only pages");
	check_eq(entry(&test_pt[2]) & PG_D, PG_D, "... and sets D");
	write_cr0(read_cr0() | 1ul << 16);
	WRITE(PAGE(2));
	expect(14, 3, "... and no more with WP");
	boot_pd[512] = pde | PG_NX;
	write_cr3(read_cr3());
	FETCH(PAGE(2));
	expect(14, 0x11, "NX in the PDE");
	boot_pd[512] = 0;
	write_cr3(read_cr3());
	READ(PAGE(2));
	expect(14, 0, "PDE not present");
	boot_pd[512] = pde;
	write_cr3(read_cr3());

	test_map(2, PHYS(2) | RW | PG_NX);
	READ(PAGE(2));
	check(!trap_last.taken, "NX does not matter to reads");
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~(1ull << 11));
	invlpg(PAGE(2));
	READ(PAGE(2));
	expect(14, 9, "NX is reserved without EFER.NXE");
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1ull << 11);
	boot_pml4[1] = (u64)spare_pt | RW | PG_PS;
	READ(1ull << 39);
	expect(14, 9, "PS is reserved in a PML4 entry");
	boot_pml4[1] = 0;
	BIG_PDE = TEST_PHYS | RW | PG_PS | 1 << 13;
	READ(BIG_VA);
	expect(14, 9, "bit 13 is reserved in a PDE of 2 MiB");
	BIG_PDE = 0;
	invlpg(BIG_VA);
	EXPECT("movq %%cr3, %%rax; btsq $51, %%rax; movq %%rax, %%cr3");
	expect(13, 0, "reserved bits of CR3 raise #GP");
}

/* SMEP and SMAP need a kernel in supervisor pages. */
static void test_smep_smap(void)
{
	u32 id[4];
	u64 cr4 = read_cr4(), pde = boot_pd[0];

	cpuid(7, 0, id);
	test_map(3, PHYS(3) | RW);
	*(volatile u8 *)PHYS(3) = 0xc3;
	phys_set(PHYS(3) + 8, 0x00cf93000000ffff);
	boot_pd[0] &= ~PG_U;
	write_cr3(read_cr3());
	if (id[1] >> 7 & 1) {
		write_cr4(cr4 | 1 << 20);
		FETCH(PAGE(3));
		expect(14, 0x11, "SMEP: a fetch from a user page");
		READ(PAGE(3));
		check(!trap_last.taken, "SMEP: reads are free");
		write_cr4(cr4);
		FETCH(PAGE(3));
		check(!trap_last.taken, "SMEP off again");
	} else {
		print("ok - SMEP # SKIP not in CPUID\n");
	}
	if (id[1] >> 20 & 1) {
		write_cr4(cr4 | 1 << 21);
		READ(PAGE(3));
		expect(14, 1, "SMAP: a read of a user page");
		WRITE(PAGE(3));
		expect(14, 3, "SMAP: a write of one");
		EXPECT("stac; movb (%0), %%al; movb %%al, (%0); clac", "r"(PAGE(3)));
		check(!trap_last.taken, "SMAP: free with AC");
		READ(PAGE(3));
		expect(14, 1, "SMAP: CLAC closes it again");
		/* Descriptor tables are read as the system does, whatever AC says. */
		gdt[12] = 15ull | (PAGE(3) & 0xffffff) << 16 | 0x82ull << 40 | (PAGE(3) >> 24 & 0xff) << 56;
		gdt[13] = 0;
		asm volatile("lldt %w0" : : "r"(0x60));
		EXPECT("stac; movl $0xc, %%eax; movw %%ax, %%fs");
		asm volatile("clac");
		expect(14, 1, "SMAP: a descriptor in a user page, AC set");
		asm volatile("lldt %w0" : : "r"(0));
		write_cr4(cr4);
	} else {
		print("ok - SMAP # SKIP not in CPUID\n");
	}
	boot_pd[0] = pde;
	write_cr3(read_cr3());
}

/* --- Large pages -------------------------------------------------------------------------------------------------- */

static void test_large(void)
{
	u32 id[4];

	phys_set(TEST_PHYS + 0x5008, 0x5555);
	phys_set(TEST_PHYS + 0x200000 + 0x5008, 0x6666);
	BIG_PDE = TEST_PHYS | RW | PG_PS;
	check_eq(read64(BIG_VA + 0x5008), 0x5555, "2 MiB page");
	write64(BIG_VA + 0x7000, 1);
	check_eq(entry(&BIG_PDE) & (PG_A | PG_D), PG_A | PG_D, "... A and D are in its PDE");
	for (unsigned n = 0; n < 512; n++)
		spare_pt[n] = (TEST_PHYS + n * 4096) | RW;
	spare_pt[5] = (TEST_PHYS + 0x205000) | RW;
	BIG_PDE = (u64)spare_pt | RW;
	invlpg(BIG_VA + 0x100000);
	check_eq(read64(BIG_VA + 0x5008), 0x6666, "split in 4 KiB pages: INVLPG of any of its addresses is enough");
	BIG_PDE = (TEST_PHYS + 0x200000) | RW | PG_PS;
	for (unsigned n = 0; n < 512; n++)
		invlpg(BIG_VA + n * 4096);
	check_eq(read64(BIG_VA + 0x5008), 0x6666, "... and joined again");
	BIG_PDE = TEST_PHYS | RW | PG_PS;
	write_cr3(read_cr3());
	check_eq(read64(BIG_VA + 0x5008), 0x5555, "... and moved");
	BIG_PDE = 0;
	write_cr3(read_cr3());

	cpuid(0x80000001, 0, id);
	if (!(id[3] >> 26 & 1)) {
		print("ok - 1 GiB pages # SKIP not in CPUID\n");
		return;
	}
	boot_pdpt[4] = 0 | RW | PG_PS;
	check_eq(read64(0x100000000 + TEST_PHYS + 0x5008), 0x5555, "1 GiB page");
	boot_pdpt[4] = (u64)boot_pd | RW;
	boot_pd[8] = (TEST_PHYS + 0x200000) | RW | PG_PS;
	invlpg(0x100000000);
	check_eq(read64(0x100000000 + TEST_PHYS + 0x5008), 0x6666, "... split in 2 MiB pages");
	boot_pd[8] = TEST_PHYS | RW | PG_PS;
	boot_pdpt[4] = 1 << 13 | RW | PG_PS;
	write_cr3(read_cr3());
	READ(0x100000000);
	expect(14, 9, "... bit 13 is reserved");
	boot_pdpt[4] = 0;
	write_cr3(read_cr3());
}

/* --- What stays in the TLB and what must not ---------------------------------------------------------------------- */

static void test_invalidation(void)
{
	u32 id[4];
	u64 cr3 = read_cr3();

	phys_set(PHYS(4), 4);
	phys_set(PHYS(5), 5);
	test_map(4, PHYS(4) | RW);
	read64(PAGE(4));
	test_pt[4] = PHYS(5) | RW;
	write_cr3(cr3);
	check_eq(read64(PAGE(4)), 5, "MOV to CR3 forgets");
	write_cr4(read_cr4() | 1 << 7);
	test_map(4, PHYS(4) | RW | PG_G);
	read64(PAGE(4));
	test_pt[4] = PHYS(5) | RW | PG_G;
	invlpg(PAGE(4));
	check_eq(read64(PAGE(4)), 5, "INVLPG forgets a global page");
	test_pt[4] = PHYS(4) | RW | PG_G;
	write_cr4(read_cr4() & ~(1ul << 7));
	check_eq(read64(PAGE(4)), 4, "a change of CR4.PGE forgets global pages");
	write_cr4(read_cr4() | 1 << 7);
	test_map(4, PHYS(4) | RW);
	read64(PAGE(4));
	write_cr0(read_cr0() & ~(1ul << 16));
	write_cr0(read_cr0() | 1ul << 16);
	invlpg(PAGE(4));

	cpuid(1, 0, id);
	bool pcid = id[2] >> 17 & 1;
	if (!pcid) {
		EXPECT("movq %%cr4, %%rax; btsq $17, %%rax; movq %%rax, %%cr4");
		expect(13, 0, "CR4.PCIDE without PCID raises #GP");
		return;
	}
	/* Two address spaces that differ in page 4. */
	memcpy(pml4_b, boot_pml4, 4096);
	memcpy(pdpt_b, boot_pdpt, 4096);
	memcpy(pd_b, boot_pd + 512, 4096);
	memcpy(pt_b, test_pt, 4096);
	pml4_b[0] = (u64)pdpt_b | RW;
	pdpt_b[1] = (u64)pd_b | RW;
	pd_b[0] = (u64)pt_b | RW;
	pt_b[4] = PHYS(5) | RW;
	test_pt[4] = PHYS(4) | RW;
	write_cr3(cr3);
	write_cr4(read_cr4() | 1 << 17);
	bool ok = true;
	for (unsigned n = 0; n < 20; n++) {
		write_cr3((u64)boot_pml4 | 1 | 1ull << 63);
		ok &= read64(PAGE(4)) == 4;
		write_cr3((u64)pml4_b | 2 | 1ull << 63);
		ok &= read64(PAGE(4)) == 5;
	}
	check(ok, "PCID: two address spaces, switched without a flush");
	check_eq(read_cr3(), (u64)pml4_b | 2, "PCID: bit 63 of CR3 is not kept");
	phys_set(PHYS(6), 6);
	test_pt[4] = PHYS(6) | RW;
	write_cr3((u64)boot_pml4 | 1);
	check_eq(read64(PAGE(4)), 6, "PCID: MOV to CR3 without bit 63 forgets those of its PCID");
	test_pt[4] = PHYS(4) | RW;
	EXPECT("movq %%cr0, %%rax; btrq $31, %%rax; movq %%rax, %%cr0");
	expect(13, 0, "PCID: PG cannot be cleared");
	write_cr3((u64)boot_pml4);
	write_cr4(read_cr4() & ~(1ul << 17));
	EXPECT("movq %%cr3, %%rax; orl $1, %%eax; movq %%rax, %%cr3; movq %%cr4, %%rax; btsq $17, %%rax; "
	       "movq %%rax, %%cr4");
	expect(13, 0, "CR4.PCIDE with a PCID in CR3 raises #GP");
	EXPECT("movq %%cr3, %%rax; btsq $63, %%rax; movq %%rax, %%cr3");
	expect(13, 0, "bit 63 of CR3 without PCIDE raises #GP");
	write_cr3((u64)boot_pml4);
}

/* --- Over two pages ----------------------------------------------------------------------------------------------- */

static void test_crossing(void)
{
	bool ok = true;

	/* Neighbours whose frames are apart, the second before the first. */
	test_map(10, PHYS(21) | RW);
	test_map(11, PHYS(20) | RW);
	for (unsigned n = 1; n < 8; n++) {
		u64 at = PAGE(11) - n, v = 0x0102030405060708 * n;
		write64(at, v);
		ok &= read64(at) == v;
		u64 low = 0, high = 0;
		for (unsigned i = 0; i < n; i++)
			low |= (u64)*(volatile u8 *)(PHYS(21) + 4096 - n + i) << i * 8;
		for (unsigned i = 0; i < 8 - n; i++)
			high |= (u64)*(volatile u8 *)(PHYS(20) + i) << (n + i) * 8;
		ok &= (low | high) == v;
	}
	check(ok, "quadwords over two pages whose frames are apart");
	write64(PAGE(11) - 4, 0x1111111122222222);
	asm volatile("lock addq %1, (%0)" : : "r"(PAGE(11) - 4), "r"(0x0fffffff00000001ull) : "memory", "cc");
	check_eq(read64(PAGE(11) - 4), 0x2111111022222223, "LOCK ADD over two pages");
	test_map(11, PHYS(20) | PG_P | PG_U);
	write64(PAGE(11) - 8, 0x7777777777777777);
	EXPECT("movq $0, (%0)", "r"(PAGE(11) - 4));
	expect(14, 3, "a write over a read-only second page faults");
	check_eq(trap_last.cr2, PAGE(11), "... there");
	check_eq(read64(PAGE(11) - 8), 0x7777777777777777, "... and the first page is as it was");
	EXPECT("lock addq $1, -4(%0)", "r"(PAGE(11)));
	check(trap_last.taken && read64(PAGE(11) - 8) == 0x7777777777777777, "... nor does LOCK ADD change it");
	test_map(11, PHYS(20) | RW);
	test_map(10, PHYS(21) | PG_P);
	EXPECT("movq $0, (%0)", "r"(PAGE(11) - 4));
	check_eq(trap_last.cr2, PAGE(11) - 4, "a read-only first page: CR2 is the operand");
}

void guest_main(void)
{
	test_map_init();
	test_accessed_dirty();
	test_rights();
	test_smep_smap();
	test_large();
	test_invalidation();
	test_crossing();
}
