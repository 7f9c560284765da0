/*
 * bits: 32. 32-bit paging (4 KiB, 4 MiB, PSE-36), PAE paging, CR0.PG off and on, 5-level paging where CPUID has it
 * (SDM vol. 3A, chapter 4).
 */
#include "guest.h"

#define FRAME 0x1000000u /* RAM of the tests */
#define VA 0x40000000u   /* addresses of the tests */
#define RW ((u32)(PG_P | PG_W | PG_U))

static u32 pd[1024] __attribute__((aligned(4096))), pt[1024] __attribute__((aligned(4096)));
static u64 pdpt[512] __attribute__((aligned(4096))), pae_pd[4][512] __attribute__((aligned(4096))),
	pae_pt[512] __attribute__((aligned(4096)));
static u64 pml5[512] __attribute__((aligned(4096))), pml4[512] __attribute__((aligned(4096)));

#define READ(la) EXPECT("movb (%0), %%al", "S"((u32)(la)))
#define WRITE(la) EXPECT("movb %%al, (%0)", "S"((u32)(la)))

static u32 read32(u32 la)
{
	return *(volatile u32 *)la;
}

static void write32(u32 la, u32 v)
{
	*(volatile u32 *)la = v;
}

static void paging(bool on)
{
	unsigned long cr0 = read_cr0() & ~0x80010000ul;

	write_cr0(on ? cr0 | 0x80010000 : cr0);
}

/* --- 32-bit ------------------------------------------------------------------------------------------------------- */

static void test_32(void)
{
	for (u32 n = 0; n < 1024; n++)
		pd[n] = n << 22 | RW | (u32)PG_PS;
	for (u32 n = 0; n < 1024; n++)
		pt[n] = (FRAME + n * 4096) | RW;
	pd[VA >> 22] = (u32)pt | RW;
	write32(FRAME + 0x3004, 0x33333333);
	write32(FRAME + 0x400000 + 0x3004, 0x44444444);
	write_cr3((u32)pd);
	write_cr4(read_cr4() | 0x10);
	paging(true);
	check_eq(read32(FRAME + 0x3004), 0x33333333, "4 MiB pages");
	check_eq(read32(VA + 0x3004), 0x33333333, "4 KiB pages");
	check(*(volatile u32 *)&pt[3] & PG_A && !(*(volatile u32 *)&pt[3] & PG_D), "... A");
	write32(VA + 0x3004, 0x31313131);
	check(*(volatile u32 *)&pt[3] & PG_D, "... D");
	check(*(volatile u32 *)&pd[FRAME >> 22] & PG_A, "... A of a 4 MiB page");
	pd[(VA >> 22) + 1] = (FRAME + 0x400000) | RW | (u32)PG_PS;
	check_eq(read32(VA + 0x403004), 0x44444444, "a 4 MiB page elsewhere");
	pt[4] = 0;
	invlpg(VA + 0x4000);
	READ(VA + 0x4001);
	expect(14, 0, "not present");
	check_eq(trap_last.cr2, VA + 0x4001, "... CR2");
	pt[4] = (FRAME + 0x4000) | (u32)PG_P;
	WRITE(VA + 0x4001);
	expect(14, 3, "read-only");
	pd[(VA >> 22) + 1] = (FRAME + 0x400000) | RW | (u32)PG_PS | 1 << 21;
	invlpg(VA + 0x403004);
	READ(VA + 0x403004);
	expect(14, 9, "bit 21 of a 4 MiB PDE is reserved");
	/* PSE-36: address bit 32 in bit 13. Nothing is there, but it is no fault; the harness answers with ones. */
	pd[(VA >> 22) + 1] = (FRAME + 0x400000) | RW | (u32)PG_PS | 1 << 13;
	invlpg(VA + 0x403004);
	EXPECT("movl (%0), %%edi", "S"(VA + 0x403004));
	check(!trap_last.taken, "PSE-36: bit 13 is an address bit");
	pd[(VA >> 22) + 1] = (FRAME + 0x400000) | RW | (u32)PG_PS;
	invlpg(VA + 0x403004);
	check_eq(read32(VA + 0x403004), 0x44444444, "... without it, it is the RAM again");
	/* Without CR4.PSE, PS is ignored: the PDE is a table's. */
	pd[(VA >> 22) + 2] = (u32)pt | RW | (u32)PG_PS;
	write32(FRAME + 0x5000, 0x55555555);
	paging(false);
	/* An identity map of the first 4 MiB by 4 KiB pages carries the code meanwhile. */
	for (u32 n = 0; n < 1024; n++)
		((volatile u32 *)(FRAME + 0x800000))[n] = n << 12 | RW;
	u32 saved = pd[0];
	pd[0] = (FRAME + 0x800000) | RW;
	write_cr4(read_cr4() & ~0x10ul);
	paging(true);
	check_eq(read32(VA + 0x805000), 0x55555555, "PS is ignored without CR4.PSE");
	paging(false);
	check_eq(read32(FRAME + 0x5000), 0x55555555, "PG off: linear addresses are physical");
	pd[0] = saved;
	write_cr4(read_cr4() | 0x10);
	paging(true);
	check_eq(read32(VA + 0x5000), 0x55555555, "PG on again");

	/* Level 3 */
	pd[0] &= ~(u32)PG_U;
	pd[FRAME >> 22] &= ~(u32)PG_U;
	write_cr3(read_cr3());
	READ(FRAME);
	check(!trap_last.taken, "U does not matter at level 0");
	pt[6] = (FRAME + 0x6000) | RW;
	write32(VA + 0x6000, 0xa1); /* movl FRAME, %eax */
	*(volatile u32 *)(VA + 0x6001) = FRAME;
	EXPECT("pushl $0x33; pushl $0x41000000 - 16; pushl $2; pushl $0x2b; pushl %0; movw $0x33, %%ax; "
	       "movw %%ax, %%ds; iretl",
	       "S"(VA + 0x6000));
	expect(14, 5, "level 3 and a supervisor page");
	check_eq(trap_last.cr2, FRAME, "... CR2");
	paging(false);
}

/* --- PAE ---------------------------------------------------------------------------------------------------------- */

static void test_pae(void)
{
	for (u32 n = 0; n < 2048; n++)
		pae_pd[n / 512][n % 512] = ((u64)n << 21) | RW | PG_PS;
	for (u32 n = 0; n < 4; n++)
		pdpt[n] = (u32)pae_pd[n] | PG_P;
	for (u32 n = 0; n < 512; n++)
		pae_pt[n] = (FRAME + n * 4096) | RW;
	pae_pd[VA >> 30][VA >> 21 & 511] = (u32)pae_pt | RW;
	write32(FRAME + 0x3004, 0x77777777);
	write_cr4(read_cr4() | 0x20);
	write_cr3((u32)pdpt);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1 << 11);
	paging(true);
	check_eq(read32(FRAME + 0x3004), 0x77777777, "PAE: 2 MiB pages");
	check_eq(read32(VA + 0x3004), 0x77777777, "PAE: 4 KiB pages");
	check_eq(*(volatile u64 *)&pae_pt[3] & (PG_A | PG_D), PG_A, "PAE: A");
	*(volatile u64 *)&pae_pt[4] = (FRAME + 0x4000) | RW | PG_NX;
	invlpg(VA + 0x4000);
	EXPECT("call *%0", "S"(VA + 0x4000));
	expect(14, 0x11, "PAE: NX");
	*(volatile u64 *)&pae_pt[4] = (FRAME + 0x4000) | RW | 1ull << 62;
	invlpg(VA + 0x4000);
	READ(VA + 0x4000);
	expect(14, 9, "PAE: bit 62 is reserved");

	/* The PDPTEs are in the processor: a change in memory shows after MOV to CR3. */
	pdpt[1] = 0;
	invlpg(VA);
	check_eq(read32(VA + 0x3004), 0x77777777, "PAE: PDPTEs are loaded by MOV to CR3 only");
	write_cr3((u32)pdpt);
	READ(VA + 0x3004);
	expect(14, 0, "PAE: PDPTE not present");
	pdpt[1] = (u32)pae_pd[1] | PG_P | 2;
	EXPECT("movl %0, %%cr3", "S"(pdpt));
	expect(13, 0, "PAE: reserved bits in a PDPTE: MOV to CR3 raises #GP");
	READ(VA + 0x3004);
	expect(14, 0, "... and loads none of them");
	pdpt[1] = (u32)pae_pd[1] | PG_P;
	write_cr3((u32)pdpt);
	check_eq(read32(VA + 0x3004), 0x77777777, "PAE: present again");
	/* A PDPT may be anywhere on 32 bytes. */
	memcpy(&pdpt[100], pdpt, 32);
	write_cr3((u32)&pdpt[100]);
	check_eq(read32(VA + 0x3004), 0x77777777, "PAE: a PDPT on a boundary of 32 bytes");
	paging(false);
	pdpt[101] = 2 | PG_P;
	EXPECT("movl %%cr0, %%eax; orl $0x80000000, %%eax; movl %%eax, %%cr0");
	expect(13, 0, "PAE: reserved bits of a PDPTE: setting PG raises #GP");
	check_eq(read_cr0() >> 31, 0, "... PG stays clear");
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~(1ull << 11));
}

/* --- Long mode, 4 and 5 levels, from here and back ---------------------------------------------------------------- */

/*
 * Switches to long mode with the tables in CR3, reads the quadword at linear address *EDI in 64-bit code, and comes
 * back.
 */
asm(".text\n"
    "long_read: pushl %ebx; pushl %esi; movl $0xc0000080, %ecx; rdmsr; orl $0x100, %eax; wrmsr\n"
    "movl %cr0, %eax; orl $0x80000000, %eax; movl %eax, %cr0; ljmp $0x40, $1f\n"
    ".code64\n1: movq (%rdi), %rax; movq (%rax), %rax; movq %rax, 8(%rdi); movq $0x1234567890, %rsi\n"
    "movl $2f, 16(%rdi); movl $8, 20(%rdi); ljmp *16(%rdi)\n"
    ".code32\n2: movl %cr0, %eax; andl $0x7fffffff, %eax; movl %eax, %cr0\n"
    "movl $0xc0000080, %ecx; rdmsr; andl $~0x100, %eax; wrmsr; popl %esi; popl %ebx; ret\n");
static struct { u64 la, value; u32 offset, selector; } long_arg;

static u64 long_read(u64 la)
{
	long_arg.la = la;
	long_arg.value = 0;
	asm volatile("call long_read" : : "D"(&long_arg) : "eax", "ecx", "edx", "memory", "cc");
	return *(volatile u64 *)&long_arg.value;
}

static void test_long(void)
{
	u32 id[4];

	gdt[GDT_FREE] = descriptor(0, 0xfffff, 0x9a, 0xa);
	for (u32 n = 0; n < 4; n++)
		pdpt[n] = (u32)pae_pd[n] | RW;
	pml4[0] = (u32)pdpt | RW;
	pml4[0x1ff] = (u32)pdpt | RW;
	write32(FRAME + 0x3008, 0x9abcdef0);
	write32(FRAME + 0x300c, 0x12345678);
	write_cr3((u32)pml4);
	check_eq(long_read(VA + 0x3008), 0x123456789abcdef0, "into long mode and back");
	check_eq(long_read(0xffffff8000000000 + VA + 0x3008), 0x123456789abcdef0, "... the upper half");
	check_eq(rdmsr(0xc0000080) & 0x500, 0, "... LMA and LME are clear");
	cpuid(7, 0, id);
	if (!(id[2] >> 16 & 1)) {
		EXPECT("movl %%cr4, %%eax; btsl $12, %%eax; movl %%eax, %%cr4");
		expect(13, 0, "CR4.LA57 raises #GP without 5-level paging in CPUID");
		return;
	}
	pml5[0] = (u32)pml4 | RW;
	pml5[0x1ff] = (u32)pml4 | RW;
	pml5[0xff] = (u32)pml4 | RW;
	write_cr4(read_cr4() | 1 << 12);
	write_cr3((u32)pml5);
	check_eq(long_read(VA + 0x3008), 0x123456789abcdef0, "5 levels");
	check_eq(long_read(0x00ff000000000000ull + VA + 0x3008), 0x123456789abcdef0, "5 levels: 57-bit addresses");
	check_eq(long_read(0xffff000000000000ull + VA + 0x3008), 0x123456789abcdef0, "5 levels: the upper half");
	write_cr4(read_cr4() & ~(1ul << 12));
}

void guest_main(void)
{
	test_32();
	test_pae();
	test_long();
}
