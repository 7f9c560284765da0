/* bits: 32. Segmentation, privilege levels, call gates, virtual-8086 and real mode (SDM vol. 3A, chapters 3, 5, 21). */
#include "guest.h"

#define FREE(n) ((u16)((GDT_FREE + (n)) * 8))
#define GDT(n) gdt[GDT_FREE + (n)]
#define STR2(x) #x
#define STR(x) STR2(x)

static u8 area[0x12000] __attribute__((aligned(4096)));

/* --- Data segments ---------------------------------------------------------------------------------------- */

/* One access at @off of segment @selector in ES, or FS for reads through SS. */
static bool reads(u16 selector, u32 off)
{
	EXPECT("movw %w0, %%es; movl %%es:(%1), %%eax", "S"(selector), "D"(off));
	return !trap_last.taken;
}

static bool writes(u16 selector, u32 off)
{
	EXPECT("movw %w0, %%es; movl $1, %%es:(%1)", "S"(selector), "D"(off));
	return !trap_last.taken;
}

static void test_data_segments(void)
{
	u32 base = (u32)area;

	GDT(0) = descriptor(base, 0xfff, 0x92, 4);
	check(reads(FREE(0), 0xffc), "the last bytes within the limit");
	check_eq(GDT(0) >> 40 & 1, 1, "loading a segment sets its accessed bit");
	check(!reads(FREE(0), 0xffd), "an access over the limit");
	expect(13, 0, "... raises #GP(0)");
	check(!reads(FREE(0), 0xffffffff), "an access that wraps around 4 GiB");
	/* The handler's frame must fit in the stack segment, too. */
	GDT(0) = descriptor(0, 0x7f, 0x92, 12);
	EXPECT("movw %w0, %%ss; movl %%ss:0x7fffd, %%eax", "S"(FREE(0)));
	expect(12, 0, "by SS it is #SS(0)");
	EXPECT("movw %w0, %%ss; movl $0x80000, %%ebp; movl 0(%%ebp), %%eax", "S"(FREE(0)));
	expect(12, 0, "EBP addresses by SS");
	GDT(0) = descriptor(base, 0x10, 0x92, 12);
	check(reads(FREE(0), 0x10ffc) && !reads(FREE(0), 0x10ffd), "G scales the limit to pages and adds 0xfff");
	GDT(0) = descriptor(base, 0xfff, 0x96, 4);
	check(!reads(FREE(0), 0xffc) && !reads(FREE(0), 0xfff) && reads(FREE(0), 0x1000),
	      "expand-down: valid above the limit");
	check(reads(FREE(0), 0x10000), "expand-down with B: up to 4 GiB");
	GDT(0) = descriptor(base, 0xfff, 0x96, 0);
	check(reads(FREE(0), 0xfffc) && !reads(FREE(0), 0xfffd), "expand-down without B: up to 64 KiB");
	GDT(0) = descriptor(base, 0xfff, 0x90, 4);
	check(reads(FREE(0), 0) && !writes(FREE(0), 0), "read-only data");
	expect(13, 0, "... a write raises #GP(0)");
	GDT(0) = descriptor(base, 0xfff, 0x98, 4);
	EXPECT("movw %w0, %%es", "S"(FREE(0)));
	expect(13, FREE(0), "execute-only code cannot be loaded as data");
	GDT(0) = descriptor(base, 0xfff, 0x9a, 4);
	check(reads(FREE(0), 0) && !writes(FREE(0), 0), "readable code can be read, not written");
	EXPECT("xorl %%eax, %%eax; movw %%ax, %%es; movl %%es:0x8000, %%eax");
	expect(13, 0, "a null selector can be loaded, not used");
	EXPECT("xorl %%eax, %%eax; movw %%ax, %%ss");
	expect(13, 0, "but not in SS");
	*(volatile u32 *)(area + 0x20) = 0x12345678;
	GDT(0) = descriptor(base + 0x1000, 0xfffff, 0x92, 12);
	EXPECT("movw %w0, %%es; movl %%es:0xfffff020, %%edi; movl %%edi, %1", "S"(FREE(0)), "m"(*(u32 *)(area + 0x40)));
	check_eq(*(volatile u32 *)(area + 0x40), 0x12345678, "base + offset wrap at 4 GiB");
}

/* --- Code segments ---------------------------------------------------------------------------------------------- */

asm(".text\ncode16:\n.code16\n"
    "movw $0x1234, %ax\n" /* B8 with a 16-bit immediate */
    "pushw %ax\npushl $0x55667788\npopl %ecx\npopw %dx\n"
    "movl $0x7ff0, %edi\nleaw 0x20(%edi), %si\n"
    "lretl\ncode16_ud:\nnop\nud2\n.code32\n");

/* A segment that begins at its code, so that its limit is the code's. */
asm(".text\n.balign 16\nlimited:\nnop; nop; nop; nop\nlimited_end:\nnop; nop; int $0x80\n");
extern u8 code16[], code16_ud[], limited[], limited_end[];

static void test_code_segments(void)
{
	u32 far[2] = {(u32)code16, CODE16}, eax, ecx, edx, esi;
	u8 *above = (u8 *)0x300000;

	memcpy(above, code16, (u32)(limited - code16));
	for (int flat = 0; flat < 2; flat++) {
		/* With its usual limit a 16-bit code segment has no offsets above 64 KiB; with a larger one it has. */
		GDT(1) = flat ? descriptor(0, 0xfffff, 0x9a, 8) : descriptor((u32)code16, 0xffff, 0x9a, 0);
		far[0] = flat ? (u32)above : 0, far[1] = FREE(1);
		asm volatile("lcall *%4" : "=a"(eax), "=c"(ecx), "=d"(edx), "=S"(esi) : "m"(far) : "edi", "memory", "cc");
		check((u16)eax == 0x1234 && ecx == 0x55667788 && (u16)edx == 0x1234 && (u16)esi == 0x8010,
		      flat ? "16-bit code above 64 KiB" : "16-bit code in a 16-bit segment");
	}
	far[0] = (u32)(above + (code16_ud - code16));
	EXPECT("ljmp *%0", "m"(far));
	check(trap_last.vector == 6 && trap_last.eip == far[0] + 1, "a fault of 16-bit code above 64 KiB");
	GDT(1) = descriptor((u32)limited, 3, 0x9a, 4);
	far[0] = 1;
	EXPECT("ljmp *%0", "m"(far));
	check(trap_last.vector == 13 && trap_last.error == 0 && trap_last.eip == 4,
	      "code that runs over its limit: #GP(0) there");
	far[0] = 4;
	EXPECT("ljmp *%0", "m"(far));
	expect(13, 0, "a far jump beyond the limit raises #GP(0)");
	check_eq(trap_last.frame.cs, CODE32, "... before it");
	GDT(1) = descriptor(0, 0xfffff, 0x1a, 12);
	EXPECT("ljmp *%0", "m"(far));
	expect(11, FREE(1), "a code segment that is not present raises #NP");
	far[1] = DATA32;
	EXPECT("ljmp *%0", "m"(far));
	expect(13, DATA32, "a far jump to data raises #GP");
	far[1] = USER_CODE32;
	EXPECT("ljmp *%0", "m"(far));
	expect(13, USER_CODE32 & ~3, "a far jump to a lower level raises #GP");
	EXPECT(".byte 0x9a; .long 0; .word 0");
	expect(13, 0, "a far call to a null selector raises #GP(0)");
}

/* --- Levels ------------------------------------------------------------------------------------------------------- */

/* Starts user code at level 3: it ends by INT 0x80 or a fault, ESP is the top of its stack. */
#define RUN_USER(label)                                                                                        \
	EXPECT("movw $" STR(USER_DATA32) ", %%ax; movw %%ax, %%ds; movw %%ax, %%es; movw %%ax, %%fs\n" \
	       "movw %%ax, %%gs\n"                                                                            \
	       "pushl $" STR(USER_DATA32) "; pushl $user_stack + 4096; pushl $0x2; pushl $" STR(USER_CODE32) "\n" \
	       "pushl $" label "; iretl")

/* Selectors of the gates: call32 FREE(2) = 0x50, call16 0x58, conforming code 0x60. */
asm(".text\n"
    "user_gate32: pushl $3; pushl $2; pushl $1; lcall $0x53, $0; int $0x80\n"
    "user_gate16: pushw $3; pushw $2; pushw $1; lcall $0x5b, $0; int $0x80\n"
    "user_conforming: lcall $0x63, $in_conforming; int $0x80\n"
    "in_conforming: movl %cs, %esi; lret\n"
    "user_nothing: int $0x80\n"
    "user_sgdt: sgdt user_stack; int $0x80\n"
    "user_smsw: smsw %esi; int $0x80\n"
    "user_sysenter: movl %esp, %ecx; leal 1f, %edx; sysenter; 1: int $0x80\n"
    "user_inner_jump: ljmp $8, $user_nothing\n"
    "user_bad_return: pushl $8; pushl $user_nothing; lret\n"
    "user_cli: cli\n"
    "user_in: inb $0x80, %al; int $0x80\n"
    /* ESI counts parameters seen; returns to the outer level with its parameters dropped. */
    "gate32: movl %esp, gate_esp; movl (%esp), %eax; movl %eax, gate_saw; movl 4(%esp), %eax; movl %eax, gate_saw+4\n"
    "movl 8(%esp), %eax; movl %eax, gate_saw+8; movl 12(%esp), %eax; movl %eax, gate_saw+12; movl 16(%esp), %eax\n"
    "movl %eax, gate_saw+16; movl 20(%esp), %eax; movl %eax, gate_saw+20; movl 24(%esp), %eax; movl %eax, gate_saw+24\n"
    "movl %cs, %eax; movl %eax, gate_saw+28; movw $0x10, %ax; movw %ax, %es; lret $12\n"
    ".section .start, \"ax\"\ngate16: movl %esp, gate_esp; movl (%esp), %eax; movl %eax, gate_saw; "
    "movl 4(%esp), %eax; movl %eax, gate_saw+4\n"
    "movl 8(%esp), %eax; movl %eax, gate_saw+8; movl 12(%esp), %eax; movl %eax, gate_saw+12; movl %cs, %eax; "
    "movl %eax, gate_saw+28\n"
    ".byte 0x66; lret $6\n.text\n"
    "sysenter_target: movl %esp, gate_saw; movl %cs, %eax; movl %eax, gate_saw+4; movl %ss, %eax; "
    "movl %eax, gate_saw+8; pushfl; popl gate_saw+12; sysexit\n");
extern u8 user_gate32[], gate32[], gate16[], in_conforming[], sysenter_target[];
static volatile u32 gate_saw[8] __attribute__((used)), gate_esp __attribute__((used));

static void test_call_gates(void)
{
	GDT(2) = call_gate(CODE32, (u32)gate32, 0xec, 3);
	GDT(3) = call_gate(CODE32, (u32)gate16 & 0xffff, 0xe4, 3);
	GDT(4) = descriptor(0, 0xfffff, 0x9e, 12);
	RUN_USER("user_gate32");
	expect(0x80, 0, "call gate, 32 bits");
	check(gate_saw[1] == USER_CODE32 && gate_saw[2] == 1 && gate_saw[3] == 2 && gate_saw[4] == 3,
	      "... return address and the parameters in their order");
	check(gate_saw[5] == (u32)user_stack + 4096 - 12 && (u16)gate_saw[6] == USER_DATA32, "... the outer stack");
	check_eq(gate_saw[7], CODE32, "... level 0");
	check_eq(gate_esp, tss.esp0 - 7 * 4, "... on the stack of the TSS");
	check(trap_last.frame.esp == (u32)user_stack + 4096, "RET n drops the parameters of both stacks");
	check(trap_last.frame.es == 0 && (u16)trap_last.frame.ds == USER_DATA32,
	      "a return outwards clears what is too privileged");

	RUN_USER("user_gate16");
	expect(0x80, 0, "call gate, 16 bits");
	check(gate_saw[0] >> 16 == USER_CODE32 && (u16)gate_saw[1] == 1 && gate_saw[1] >> 16 == 2 &&
	      (u16)gate_saw[2] == 3,
	      "... return address and parameters");
	check(gate_saw[2] >> 16 == (u16)((u32)user_stack + 4096 - 6) && (u16)gate_saw[3] == USER_DATA32,
	      "... the outer stack");
	check_eq(gate_esp, tss.esp0 - 7 * 2, "... on the stack of the TSS");
	RUN_USER("user_conforming");
	expect(0x80, 0, "conforming code of level 0 can be called from level 3");
	check_eq((u16)trap_last.frame.esi, 0x63, "... and runs at level 3");
	GDT(2) = call_gate(CODE32, (u32)gate32, 0x8c, 3);
	RUN_USER("user_gate32");
	expect(13, 0x50, "a gate of level 0 raises #GP at level 3");
	GDT(2) = call_gate(CODE32, (u32)gate32, 0x6c, 3);
	RUN_USER("user_gate32");
	expect(11, 0x50, "a gate that is not present raises #NP");
	GDT(2) = call_gate(DATA32, (u32)gate32, 0xec, 3);
	RUN_USER("user_gate32");
	expect(13, DATA32, "a gate to data raises #GP with the data's selector");
	GDT(2) = call_gate(0, (u32)gate32, 0xec, 3);
	RUN_USER("user_gate32");
	expect(13, 0, "a gate to null raises #GP(0)");
	GDT(2) = call_gate(CODE32, (u32)gate32, 0xec, 3);
	RUN_USER("user_inner_jump");
	expect(13, CODE32, "a jump inwards raises #GP");
	RUN_USER("user_bad_return");
	expect(13, CODE32, "a return inwards raises #GP");
}

static void test_levels(void)
{
	u32 id[4];

	RUN_USER("user_cli");
	expect(13, 0, "CLI at level 3");
	RUN_USER("user_in");
	expect(13, 0, "IN at level 3 without an I/O bitmap");
	cpuid(7, 0, id);
	if (id[2] >> 2 & 1) {
		write_cr4(read_cr4() | 1 << 11);
		RUN_USER("user_sgdt");
		expect(13, 0, "UMIP: SGDT at level 3");
		RUN_USER("user_smsw");
		expect(13, 0, "UMIP: SMSW at level 3");
		write_cr4(read_cr4() & ~(1ul << 11));
	}
	RUN_USER("user_smsw");
	check(trap_last.vector == 0x80 && trap_last.frame.esi == read_cr0(), "SMSW at level 3 without UMIP");
	wrmsr(0x174, CODE32);
	wrmsr(0x175, 0x6f00);
	wrmsr(0x176, (u32)sysenter_target);
	RUN_USER("user_sysenter");
	/* SYSEXIT goes to CS + 16 and + 24: CODE16 and DATA16 with RPL 3 as far as selectors go, but flat. */
	expect(0x80, 0, "SYSENTER and SYSEXIT");
	check(gate_saw[0] == 0x6f00 && gate_saw[1] == CODE32 && (u16)gate_saw[2] == DATA32 && !(gate_saw[3] & 0x20200),
	      "... ESP, CS, SS from the MSRs, IF and VM clear");
	check(trap_last.frame.cs == (CODE32 + 16 + 3) && (u16)trap_last.frame.ss == CODE32 + 24 + 3,
	      "... and back to CS + 16, SS + 24");
	wrmsr(0x174, 0);
	RUN_USER("user_sysenter");
	expect(13, 0, "SYSENTER with a null CS raises #GP(0)");
}

/* --- LAR, LSL, VERR, VERW, ARPL ----------------------------------------------------------------------------------- */

static bool zf_of(u32 flags)
{
	return flags & 0x40;
}

#define SELECTOR_OP(insn, selector, out)                                                                       \
	({                                                                                                     \
		u32 _f;                                                                                        \
		asm volatile(insn "; pushfl; popl %0" : "=r"(_f), "+a"(out) : "r"((u32)(selector)) : "cc");    \
		zf_of(_f);                                                                                     \
	})

static void test_selector_queries(void)
{
	u32 v = 0, none = 0;

	GDT(0) = descriptor(0x12345678, 0x54321, 0xb2, 12);
	check(SELECTOR_OP("lar %2, %1", FREE(0), v) && v == 0x00c5b200, "LAR: access rights");
	check(SELECTOR_OP("lsl %2, %1", FREE(0), v) && v == 0x54321fff, "LSL: limit in bytes");
	check(SELECTOR_OP("verr %w2", FREE(0), none) && SELECTOR_OP("verw %w2", FREE(0), none), "VERR, VERW: data");
	check(!SELECTOR_OP("verw %w2", CODE32, none) && SELECTOR_OP("verr %w2", CODE32, none), "VERR, VERW: code");
	v = 77;
	check(!SELECTOR_OP("lar %2, %1", 0, v) && v == 77, "LAR: null leaves the destination");
	check(!SELECTOR_OP("lar %2, %1", 0xfff8, v), "LAR: beyond the table");
	check(!SELECTOR_OP("lsl %2, %1", FREE(0) | 3, v), "LSL: RPL below DPL");
	GDT(0) = call_gate(CODE32, 0x1000, 0x8c, 0);
	check(SELECTOR_OP("lar %2, %1", FREE(0), v) && (v & 0xff00) == 0x8c00, "LAR knows call gates");
	check(!SELECTOR_OP("lsl %2, %1", FREE(0), v), "LSL does not");
	check(!SELECTOR_OP("verr %w2", FREE(0), none), "VERR: nor does it");
	GDT(0) = call_gate(CODE32, 0x1000, 0x8e, 0);
	check(!SELECTOR_OP("lar %2, %1", FREE(0), v), "LAR: interrupt gates are none");
	check(SELECTOR_OP("lsl %2, %1", TSS_SELECTOR, v) && v == sizeof(struct tss32) - 1, "LSL: a TSS");
	v = 0x50;
	check(SELECTOR_OP("movl $3, %%ecx; arpl %%cx, %w1", 0, v) && v == 0x53, "ARPL raises the RPL");
	check(!SELECTOR_OP("movl $1, %%ecx; arpl %%cx, %w1", 0, v) && v == 0x53, "ARPL does not lower it");
}

static void test_faults32(void)
{
	static const u32 bounds[2] = {5, 10};

	EXPECT("movl $11, %%eax; boundl %%eax, %0", "m"(bounds));
	expect(5, 0, "#BR: BOUND");
	check(*(u8 *)trap_last.eip == 0x62, "... is a fault: EIP is at it");
	EXPECT("movl $10, %%eax; boundl %%eax, %0", "m"(bounds));
	check(!trap_last.taken, "BOUND: the upper bound is within");
	EXPECT("movl $0x7fffffff, %%eax; incl %%eax; into");
	expect(4, 0, "#OF: INTO");
	EXPECT("xorl %%eax, %%eax; into");
	check(!trap_last.taken, "INTO without OF");
	EXPECT("movb $5, %%al; .byte 0xd4, 0");
	expect(0, 0, "#DE: AAM 0");
	u32 cr0 = (u32)read_cr0();
	asm volatile("lmsw %w0" : : "r"(cr0 & ~1u));
	check_eq(read_cr0(), cr0, "LMSW does not clear PE");
	asm volatile("lmsw %w0" : : "r"(cr0 | 8));
	check_eq(read_cr0(), cr0 | 8, "LMSW sets TS");
	asm volatile("clts");
	EXPECT("movl $0x81, %%eax; movl %%eax, %%cr0; movl $0x80000000, %%eax; movl %%eax, %%cr0");
	expect(13, 0, "#GP: PG without PE");
}

/* --- Virtual-8086 mode -------------------------------------------------------------------------------------------- */

/* Runs the code below 64 KiB with CS 0; it ends by a fault or INT 0x81. */
static void run_vm86(u32 code, u32 eflags)
{
	EXPECT("pushl $0x3333; pushl $0x2222; pushl $0x1111; pushl $0x4444\n" /* GS FS DS ES */
	       "pushl $0x600; pushl $0x1000; pushl %1; pushl $0; pushl %0; movl $0xcafe, %%edi; iretl",
	       "S"(code), "D"(eflags | 0x20002));
}

asm(".section .start, \"ax\"\n.code16\n"
    "vm_int: int $0x81\n"
    "vm_cli: cli; sti; int $0x81\n"
    "vm_pushf: pushf; popw %si; int $0x81\n"
    "vm_hlt: hlt\n"
    "vm_in: inb $0x80, %al\n"
    "vm_lar: lar %ax, %ax\n"
    "vm_edge: movw 0xffff, %ax\n"
    "vm_mov_cr: movl %cr0, %eax\n"
    "vm_store: movw $0x700, %ax; movw %ax, %ds; movb $0x5a, 0x123; movw %ds, %si; int $0x81\n"
    "vm_iret: movw $0, %ax; pushw %ax; pushw %cs; pushw $1f; iret; 1: int $0x81\n"
    "vm_popf: pushl $0x00270000; popfl; pushfl; popl %esi; int $0x81\n"
    ".code32\n.text\n");
extern u8 vm_int[], vm_cli[], vm_pushf[], vm_hlt[], vm_in[], vm_lar[], vm_edge[], vm_mov_cr[], vm_store[], vm_iret[],
	vm_popf[];

static void test_vm86(void)
{
	const volatile struct frame *f = &trap_last.frame;

	run_vm86((u32)vm_int, 0x3000);
	expect(13, 0x81 * 8 + 2, "VM86: INT with IOPL 3 through a gate of level 0 raises #GP");
	idt_set(0x81, trap_stubs + 16 * 0x81, 14, 3);
	run_vm86((u32)vm_int, 0x3000);
	expect(0x81, 0, "VM86: INT with IOPL 3 by a gate of level 3");
	check((u16)f->vm_gs == 0x3333 && (u16)f->vm_fs == 0x2222 && (u16)f->vm_ds == 0x1111 && (u16)f->vm_es == 0x4444,
	      "VM86: the segments are in the frame");
	check(f->ss == 0x600 && f->esp == 0x1000 && f->cs == 0 && f->eip == (u32)vm_int + 2,
	      "VM86: CS:EIP and SS:ESP too");
	check((f->eflags & 0x23000) == 0x23000, "VM86: VM and IOPL are in the flags");
	check(f->ds == 0 && f->es == 0 && f->fs == 0 && f->gs == 0, "VM86: the handler starts with null segments");
	run_vm86((u32)vm_int, 0);
	expect(13, 0, "VM86: INT with IOPL 0 raises #GP(0)");
	run_vm86((u32)vm_cli, 0);
	expect(13, 0, "VM86: CLI with IOPL 0 raises #GP(0)");
	run_vm86((u32)vm_cli, 0x3000);
	check(trap_last.vector == 0x81 && (f->eflags & 0x200), "VM86: CLI and STI with IOPL 3");
	run_vm86((u32)vm_pushf, 0);
	expect(13, 0, "VM86: PUSHF with IOPL 0 raises #GP(0)");
	run_vm86((u32)vm_pushf, 0x3000);
	check(trap_last.vector == 0x81 && (f->esi & 0x3002) == 0x3002, "VM86: PUSHF with IOPL 3");
	run_vm86((u32)vm_hlt, 0x3000);
	expect(13, 0, "VM86: HLT raises #GP(0)");
	run_vm86((u32)vm_in, 0x3000);
	expect(13, 0, "VM86: IN asks the I/O bitmap whatever IOPL");
	run_vm86((u32)vm_lar, 0x3000);
	expect(6, 0, "VM86: LAR raises #UD");
	run_vm86((u32)vm_edge, 0x3000);
	expect(13, 0, "VM86: a word at offset 0xffff raises #GP(0)");
	run_vm86((u32)vm_mov_cr, 0x3000);
	expect(13, 0, "VM86: MOV from CR0 raises #GP(0)");
	*(volatile u8 *)0x7123 = 0;
	run_vm86((u32)vm_store, 0x3000);
	check(*(volatile u8 *)0x7123 == 0x5a && (u16)f->esi == 0x700, "VM86: a segment is its selector times 16");
	run_vm86((u32)vm_iret, 0x3000);
	check(trap_last.vector == 0x81 && (f->eflags & 0x23000) == 0x23000, "VM86: IRET keeps IOPL and VM");
	run_vm86((u32)vm_popf, 0x3000);
	check(trap_last.vector == 0x81 && (f->eflags & 0x23000) == 0x23000 && (f->esi & 0x240000) == 0x240000 &&
	      !(f->esi & 0x30000),
	      "VM86: POPFL sets AC and ID, not VM; PUSHFL hides VM and RF");
}

/* --- Real mode ---------------------------------------------------------------------------------------------------- */

asm(".section .start, \"ax\"\n.code16\n"
    /* EBX: what came; each test leaves by RET on 0:7000 */
    "rm_int: movw $0x1234, %ax; movw $0, %bx; int $0x60; ret\n"
    "rm_handler: movw %sp, %bp; movw 2(%bp), %bx; movzwl %sp, %esi; pushf; popw %di; movw $0xabcd, %ax; iret\n"
    "rm_de: xorw %cx, %cx; divw %cx; ret\n"
    "rm_fault: movw %sp, %bp; movzwl (%bp), %ebx; movzwl 4(%bp), %edi; movw $0x6ffe, %sp; ret\n"
    "rm_edge: movw 0xffff, %ax; ret\n"
    "rm_far: movl $0x100000, %eax; movl (%eax), %ebx; ret\n"
    "rm_hma: movw $0xffff, %ax; movw %ax, %es; movl %es:0x20, %ebx; ret\n"
    "rm_arpl: .byte 0x63, 0xc0; ret\n"
    "rm_smsw: smsw %ebx; ret\n"
    "rm_wrap: movw $0x700, %ax; movw %ax, %es; movw $0xffff, %si; addw $0x24, %si; movb %es:(%si), %bl; ret\n"
    "rm_call: lcall $0x800, $(rm_far_target - 0x8000); ret\n"
    "rm_far_target: movw %cs, %bx; lret\n"
    "rm_lidt: lidtl rm_idt; int $2; rm_lidt_next: ret\n"
    "rm_unreal: movl %cr0, %eax; orb $1, %al; movl %eax, %cr0; movw $0x10, %bx; movw %bx, %ds; andb $~1, %al\n"
    "movl %eax, %cr0; xorw %ax, %ax; movw %ax, %ds; movl $0x100000, %eax; movl (%eax), %ebx; ret\n"
    "rm_idt: .word 11; .long 0x7800\n"
    ".code32\n.text\n");
extern u8 rm_int[], rm_handler[], rm_de[], rm_fault[], rm_edge[], rm_far[], rm_hma[], rm_arpl[], rm_smsw[], rm_wrap[],
	rm_call[],
	rm_lidt[], rm_lidt_next[],
	rm_unreal[];

static u32 real[3];
static void run_real(u8 *code)
{
	real[0] = real[1] = real[2] = 0;
	real_call((void (*)(void))code, real);
}

static void ivt(unsigned vector, const u8 *handler)
{
	volatile u32 *at = (volatile u32 *)(vector * 4);
	asm volatile("movl %1, %0" : "=m"(*at) : "r"((u32)handler));
}

static void test_real(void)
{
	for (unsigned v = 0; v < 32; v++)
		ivt(v, rm_fault);
	ivt(0x60, rm_handler);
	run_real(rm_int);
	check((u16)real[0] == 0 && real[1] == 0x7000 - 2 - 6, "real mode: INT pushes FLAGS, CS, IP");
	check(!(real[2] & 0x300), "real mode: ... and clears IF and TF");
	run_real(rm_de);
	check_eq(real[0], (u32)rm_de + 2, "real mode: #DE pushes the IP of the division");
	run_real(rm_edge);
	check_eq(real[0], (u32)rm_edge, "real mode: a word at offset 0xffff faults, without an error code");
	run_real(rm_arpl);
	check_eq(real[0], (u32)rm_arpl, "real mode: ARPL raises #UD");
	*(volatile u32 *)0x100010 = 0x87654321;
	run_real(rm_hma);
	check_eq(real[0], 0x87654321, "real mode: FFFF:0020 is 100010h");
	run_real(rm_smsw);
	check_eq(real[0] & 1, 0, "real mode: PE is clear");
	*(volatile u8 *)0x7023 = 0x77;
	run_real(rm_wrap);
	check_eq(real[0] & 0xff, 0x77, "real mode: 16-bit offsets wrap");
	run_real(rm_call);
	check_eq(real[0] & 0xffff, 0x800, "real mode: far CALL and RET");
	*(volatile u32 *)0x7808 = (u32)rm_fault;
	run_real(rm_lidt);
	check_eq(real[0] & 0xffff, (u32)rm_lidt_next, "real mode: LIDT moves the vectors");
	*(volatile u32 *)0x100000 = 0x31415926;
	run_real(rm_far);
	check_eq(real[0], (u32)rm_far + 6, "real mode: #GP beyond 64 KiB");
	run_real(rm_unreal);
	check_eq(real[0], 0x31415926, "real mode: a limit of 4 GiB from protected mode stays");
}

void guest_main(void)
{
	test_data_segments();
	test_code_segments();
	test_call_gates();
	test_levels();
	test_selector_queries();
	test_faults32();
	test_vm86();
	test_real();
}
