/*
 * Interrupts: shadows and windows, NMI, priorities, the two 8259s, IOAPIC edge and level, x2APIC
 * (SDM vol. 3A, chapters 6 and 11; 82093AA and 8259A data sheets). Timers: t_timer.c.
 */
#include "guest.h"

#define IOAPIC 0xfec00000ull

static volatile u32 count[256];
static volatile u8 order[16];
static volatile u32 nr_order;
static volatile u64 last_rip;
static bool x2apic;

static void reset_counts(void)
{
	for (int v = 0; v < 256; v++)
		count[v] = 0;
	nr_order = 0;
	last_rip = 0;
}

static void eoi(void)
{
	if (x2apic)
		wrmsr(0x80b, 0);
	else
		apic_write(APIC_EOI, 0);
}

static void on_irq(struct frame *f)
{
	count[f->vector]++;
	last_rip = f->rip;
	if (nr_order < 16)
		order[nr_order++] = (u8)f->vector;
	eoi();
}

/* Long enough for an interrupt that is on its way to arrive. */
static void settle(void)
{
	for (u64 end = rdtsc() + 3000000; rdtsc() < end;)
		pause();
}

static void self_ipi(u32 vector)
{
	apic_write(APIC_ICR, ICR_SELF | vector);
}

/* --- Shadows -------------------------------------------------------------------------------------------------- */

/* Executes the code with an interrupt pending; the label after which it must arrive is "2:". */
#define SHADOW(insns, name)                                                                                            \
	do {                                                                                                          \
		u64 want;                                                                                             \
		reset_counts();                                                                                       \
		self_ipi(0x51);                                                                                       \
		asm volatile("movl %%ss, %%ecx; leaq 2f(%%rip), %0\n" insns "\ncli" : "=&r"(want)                     \
			     : : "rax", "rcx", "memory", "cc"); \
		check(count[0x51] == 1 && last_rip == want, name);                                                    \
	} while (0)

static void test_shadows(void)
{
	reset_counts();
	self_ipi(0x51);
	settle();
	check_eq(count[0x51], 0, "nothing is taken with IF clear");
	sti();
	asm volatile("nop; cli");
	check_eq(count[0x51], 1, "... but afterwards");

	SHADOW("sti; nop; 2: nop", "STI holds interrupts off for one instruction");
	SHADOW("sti; sti; 2: nop", "a second STI does not prolong it");
	SHADOW("pushfq; orl $0x200, (%%rsp); popfq; 2: nop; nop", "POPF has no shadow");
	SHADOW("pushfq; orl $0x200, (%%rsp); movl %%ecx, %%ss; popfq; 2: nop",
	       "MOV SS before POPF: the interrupt comes behind POPF");
	SHADOW("sti; movl %%ecx, %%ss; nop; 2: nop", "MOV SS in the shadow of STI holds them off further");
	SHADOW("sti; hlt; 2: nop", "STI; HLT wakes up behind HLT");
	SHADOW("pushq $0x10; leaq 3f(%%rip), %%rax; movq %%rsp, %%rcx; pushq $0x10; pushq %%rcx; pushfq; "
	       "orl $0x200, (%%rsp);"
	       "pushq $8; pushq %%rax; iretq; 3: 2: nop; popq %%rax", "IRET with IF has no shadow");

	reset_counts();
	self_ipi(0x51);
	asm volatile("sti; cli");
	settle();
	check_eq(count[0x51], 0, "STI; CLI takes nothing");
	asm volatile("sti; nop; cli");
	check_eq(count[0x51], 1, "... it stays pending");
}

/* --- NMI --------------------------------------------------------------------------------------------------------- */

static volatile u32 nmi_depth, nmi_max_depth;

static void send_nmi(void)
{
	apic_write(0x310, apic_read(0x20));
	apic_write(APIC_ICR, 0x400);
}

static void on_nmi(struct frame *f)
{
	nmi_depth++;
	if (nmi_depth > nmi_max_depth)
		nmi_max_depth = nmi_depth;
	if (count[2]++ == 0) {
		send_nmi();
		settle();
		/* INT3 and its IRET end the blocking: SDM vol. 3A, 6.7.1. */
		if (count[3])
			asm volatile("int $0x70");
	}
	last_rip = f->rip;
	nmi_depth--;
}

static void on_soft(struct frame *f)
{
	count[f->vector]++;
}

static void test_nmi(void)
{
	trap_table[2] = on_nmi;
	trap_table[0x70] = on_soft;
	reset_counts();
	nmi_max_depth = 0;
	send_nmi();
	settle();
	check_eq(count[2], 2, "NMIs arrive with IF clear");
	check_eq(nmi_max_depth, 1, "the second waits for the IRET of the first");
	reset_counts();
	nmi_max_depth = 0;
	count[3] = 1;
	send_nmi();
	settle();
	check_eq(count[2], 2, "both arrive");
	check_eq(nmi_max_depth, 2, "any IRET unblocks NMIs");
}

/* --- Priorities --------------------------------------------------------------------------------------------------- */


static void on_nesting(struct frame *f)
{
	order[nr_order++ & 15] = (u8)f->vector;
	self_ipi(0x71);
	self_ipi(0xa1);
	sti();
	asm volatile("nop; nop");
	cli();
	order[nr_order++ & 15] = 1;
	eoi();
}

static u64 read_cr8(void)
{
	u64 v;
	asm volatile("mov %%cr8, %0" : "=r"(v));
	return v;
}

static void write_cr8(u64 v)
{
	asm volatile("mov %0, %%cr8" : : "r"(v) : "memory");
}

static void test_priorities(void)
{
	reset_counts();
	self_ipi(0x51);
	self_ipi(0x91);
	self_ipi(0x71);
	self_ipi(0x71);
	check_eq(apic_read(0x200 + 0x10 * (0x91 / 32)), 1u << (0x91 % 32), "IRR shows what waits");
	asm volatile("sti; nop; nop; nop; nop; cli");
	check(nr_order == 3 && order[0] == 0x91 && order[1] == 0x71 && order[2] == 0x51,
	      "highest vector first, each once");

	reset_counts();
	trap_table[0x91] = on_nesting;
	self_ipi(0x91);
	asm volatile("sti; nop; nop; nop; nop; cli");
	trap_table[0x91] = on_irq;
	check(nr_order == 4 && order[0] == 0x91 && order[1] == 0xa1 && order[2] == 1 && order[3] == 0x71,
	      "a handler is interrupted by higher classes only");

	reset_counts();
	write_cr8(8);
	check_eq(apic_read(0x80), 0x80, "CR8 is bits 7:4 of TPR");
	check_eq(apic_read(0xa0), 0x80, "... and PPR follows");
	self_ipi(0x85);
	self_ipi(0x91);
	asm volatile("sti; nop; nop; cli");
	check(count[0x85] == 0 && count[0x91] == 1, "TPR holds its class and those below off");
	sti();
	write_cr8(7);
	asm volatile("nop; cli");
	check_eq(count[0x85], 1, "... until it is lowered");
	apic_write(0x80, 0x35);
	check_eq(read_cr8(), 3, "TPR's upper half is CR8");
	write_cr8(0);
	check_eq(apic_read(0x80), 0, "CR8 clears TPR's lower half");
	apic_write(0x280, 0);
	self_ipi(5);
	apic_write(0x280, 0);
	check_eq(apic_read(0x280) & 0x20, 0x20, "ESR: a vector below 16 cannot be sent");
}

/* --- 8259 --------------------------------------------------------------------------------------------------------- */

static void pic_init(u8 mask0, u8 mask1)
{
	outb(0x20, 0x11), outb(0x21, 0x40), outb(0x21, 4), outb(0x21, 1);
	outb(0xa0, 0x11), outb(0xa1, 0x48), outb(0xa1, 2), outb(0xa1, 1);
	outb(0x21, mask0), outb(0xa1, mask1);
}

static void on_pic(struct frame *f)
{
	count[f->vector]++;
	last_rip = f->rip;
	if (nr_order < 16)
		order[nr_order++] = (u8)f->vector;
	if (f->vector >= 0x48)
		outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

/* The line of a level device falls in its handler. */
static volatile u32 lower_after;
static void on_pic_level(struct frame *f)
{
	if (++count[f->vector] == lower_after)
		outb(PORT_IRQ_LOW, (u8)(f->vector - 0x40));
	if (f->vector >= 0x48)
		outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

static void test_pic(void)
{
	for (int v = 0x40; v < 0x50; v++)
		trap_table[v] = on_pic;
	pic_init(0, 0);
	apic_write(0x350, 0x700); /* LINT0: ExtINT */
	reset_counts();
	outb(PORT_IRQ_HIGH, 12);
	outb(PORT_IRQ_HIGH, 5);
	outb(PORT_IRQ_HIGH, 3);
	outb(0x20, 0x0a);
	check_eq(inb(0x20) & 0xfe, 0x2c, "8259: IRR shows both lines and the cascade");
	sti();
	settle();
	cli();
	check(nr_order == 3 && order[0] == 0x4c && order[1] == 0x43 && order[2] == 0x45,
	      "8259: IRQ 12 by the cascade, then 3, then 5");
	outb(PORT_IRQ_LOW, 12);
	outb(PORT_IRQ_LOW, 5);
	outb(PORT_IRQ_LOW, 3);
	outb(0x21, 0x20);
	reset_counts();
	outb(PORT_IRQ_HIGH, 5);
	sti();
	settle();
	check_eq(count[0x45], 0, "8259: a masked line waits");
	outb(0x21, 0);
	settle();
	check_eq(count[0x45], 1, "8259: ... and comes when unmasked");
	settle();
	cli();
	check_eq(count[0x45], 1, "8259: an edge comes once while the line stays high");
	outb(PORT_IRQ_LOW, 5);

	outb(0x4d0, 0x20); /* ELCR: IRQ 5 by level */
	trap_table[0x45] = on_pic_level;
	reset_counts();
	lower_after = 3;
	outb(PORT_IRQ_HIGH, 5);
	sti();
	settle();
	cli();
	check_eq(count[0x45], 3, "8259: a level comes again until the line falls");
	outb(0x4d0, 0);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	apic_write(0x350, 0x10000);
}

/* --- IOAPIC ------------------------------------------------------------------------------------------------------- */

static u32 ioapic_read(u32 reg)
{
	*(volatile u32 *)IOAPIC = reg;
	return *(volatile u32 *)(IOAPIC + 0x10);
}

static void ioapic_write(u32 reg, u32 v)
{
	*(volatile u32 *)IOAPIC = reg;
	*(volatile u32 *)(IOAPIC + 0x10) = v;
}

static void ioapic_pin(u32 pin, u32 low)
{
	ioapic_write(0x10 + pin * 2, 1 << 16);
	ioapic_write(0x11 + pin * 2, apic_read(0x20)); /* the id is in bits 31:24 in both */
	ioapic_write(0x10 + pin * 2, low);
}

#define LEVEL (1u << 15)
#define REMOTE_IRR (1u << 14)
#define LOGICAL (1u << 11)

static volatile u32 rirr_in_handler;
static void on_level(struct frame *f)
{
	rirr_in_handler = ioapic_read(0x10 + 20 * 2) & REMOTE_IRR;
	if (++count[f->vector] == lower_after)
		outb(PORT_IRQ_LOW, 20);
	eoi();
}

static void test_ioapic(void)
{
	check_eq(ioapic_read(1) >> 16 & 0xff, 23, "IOAPIC: 24 entries");
	ioapic_pin(21, 0x61);
	reset_counts();
	sti();
	outb(PORT_IRQ_HIGH, 21);
	settle();
	check_eq(count[0x61], 1, "IOAPIC: an edge");
	outb(PORT_IRQ_HIGH, 21);
	settle();
	check_eq(count[0x61], 1, "IOAPIC: no edge without a fall");
	outb(PORT_IRQ_LOW, 21);
	outb(PORT_IRQ_HIGH, 21);
	settle();
	check_eq(count[0x61], 2, "IOAPIC: the next edge");
	outb(PORT_IRQ_LOW, 21);

	trap_table[0x62] = on_level;
	ioapic_pin(20, 0x62 | LEVEL);
	reset_counts();
	lower_after = 3;
	outb(PORT_IRQ_HIGH, 20);
	settle();
	check_eq(count[0x62], 3, "IOAPIC: a level comes again after EOI until the line falls");
	check_eq(rirr_in_handler, REMOTE_IRR, "IOAPIC: remote IRR is set until EOI");
	check_eq(ioapic_read(0x10 + 20 * 2) & REMOTE_IRR, 0, "IOAPIC: ... and clear then");
	reset_counts();
	lower_after = 1;
	ioapic_pin(20, 0x62 | LEVEL | 1 << 16);
	outb(PORT_IRQ_HIGH, 20);
	settle();
	check_eq(count[0x62], 0, "IOAPIC: a masked level waits");
	ioapic_write(0x10 + 20 * 2, 0x62 | LEVEL);
	settle();
	check_eq(count[0x62], 1, "IOAPIC: ... and comes when unmasked");
	/* The TMR bit tells the local APIC to broadcast the EOI. */
	cli();
	lower_after = 0;
	outb(PORT_IRQ_HIGH, 20);
	settle();
	check_eq(apic_read(0x180 + 0x10 * (0x62 / 32)) >> (0x62 % 32) & 1, 1,
		 "LAPIC: TMR is set for a level interrupt");
	lower_after = count[0x62] + 1;
	sti();
	settle();
	cli();

	apic_write(0xe0, ~0u);
	apic_write(0xd0, 0x02000000);
	ioapic_write(0x10 + 21 * 2, 1 << 16);
	ioapic_write(0x11 + 21 * 2, 0x03000000);
	ioapic_write(0x10 + 21 * 2, 0x63 | LOGICAL);
	reset_counts();
	outb(PORT_IRQ_HIGH, 21);
	outb(PORT_IRQ_LOW, 21);
	asm volatile("sti; nop; nop; cli");
	check_eq(count[0x63], 1, "IOAPIC: logical destination, flat");
	ioapic_write(0x11 + 21 * 2, 0x04000000);
	outb(PORT_IRQ_HIGH, 21);
	outb(PORT_IRQ_LOW, 21);
	asm volatile("sti; nop; nop; cli");
	check_eq(count[0x63], 1, "IOAPIC: ... of someone else");
	/* Delivery mode NMI */
	ioapic_pin(21, 0x400);
	trap_table[2] = on_soft;
	reset_counts();
	outb(PORT_IRQ_HIGH, 21);
	outb(PORT_IRQ_LOW, 21);
	settle();
	check_eq(count[2], 1, "IOAPIC: delivery mode NMI");
	ioapic_pin(21, 1 << 16);
}

/* --- x2APIC ------------------------------------------------------------------------------------------------------- */

static void test_x2apic(void)
{
	u64 base = rdmsr(0x1b);
	u32 id[4];

	cpuid(1, 0, id);
	if (!(id[2] >> 21 & 1)) {
		print("ok - x2APIC # SKIP not in CPUID\n");
		return;
	}
	EXPECT("movl $0x802, %%ecx; rdmsr");
	check_eq(trap_last.vector, 13, "x2APIC MSRs raise #GP in xAPIC mode");
	wrmsr(0x1b, base | 1 << 10);
	x2apic = true;
	check_eq(rdmsr(0x802), id[1] >> 24, "x2APIC: the whole id");
	check_eq(rdmsr(0x80d), (u64)(id[1] >> 28) << 16 | 1u << (id[1] >> 24 & 15),
		 "x2APIC: the logical id comes from it");
	reset_counts();
	wrmsr(0x83f, 0x51);
	asm volatile("sti; nop; nop; cli");
	check_eq(count[0x51], 1, "x2APIC: SELF IPI register");
	wrmsr(0x830, (u64)(id[1] >> 24) << 32 | 0x52);
	asm volatile("sti; nop; nop; cli");
	check_eq(count[0x52], 1, "x2APIC: ICR in one write");
	wrmsr(0x808, 0x90);
	check_eq(read_cr8(), 9, "x2APIC: TPR");
	wrmsr(0x808, 0);
	EXPECT("movl $0x80b, %%ecx; movl $1, %%eax; xorl %%edx, %%edx; wrmsr");
	check_eq(trap_last.vector, 13, "x2APIC: EOI of other than 0 raises #GP");
	EXPECT("movl $0x80b, %%ecx; rdmsr");
	check_eq(trap_last.vector, 13, "x2APIC: EOI cannot be read");
	EXPECT("movl $0x802, %%ecx; xorl %%eax, %%eax; xorl %%edx, %%edx; wrmsr");
	check_eq(trap_last.vector, 13, "x2APIC: the id is read-only");
	EXPECT("movl $0x80e, %%ecx; rdmsr");
	check_eq(trap_last.vector, 13, "x2APIC: there is no DFR");
	EXPECT("movl $0x808, %%ecx; movl $0x100, %%eax; xorl %%edx, %%edx; wrmsr");
	check_eq(trap_last.vector, 13, "x2APIC: reserved bits of TPR raise #GP");
	EXPECT("movl $0x1b, %%ecx; movl %0, %%eax; movl %1, %%edx; wrmsr", "r"((u32)base), "r"((u32)(base >> 32)));
	check_eq(trap_last.vector, 13, "x2APIC cannot go back to xAPIC directly");
	wrmsr(0x1b, base & ~0xc00ull);
	wrmsr(0x1b, base);
	x2apic = false;
	apic_enable();
	check_eq(apic_read(0x20), id[1] & 0xff000000, "... but by way of disabled");
}

void guest_main(void)
{
	for (int v = 0x50; v < 0x100; v++)
		if (v != 0x80)
			trap_table[v] = on_irq;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	apic_enable();
	test_shadows();
	test_nmi();
	test_priorities();
	test_pic();
	test_ioapic();
	test_x2apic();
}
