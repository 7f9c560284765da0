/* bits: 32. Hardware task switches: JMP, CALL, IRET, gates, busy bits, links, #TS (SDM vol. 3A, chapter 7). */
#include "guest.h"

#define FREE(n) ((u16)((GDT_FREE + (n)) * 8))
#define GDT(n) gdt[GDT_FREE + (n)]
#define TASK FREE(0)   /* the second task */
#define GATE FREE(1)   /* a task gate to it */
#define TASK16 FREE(2) /* a 16-bit one */
#define LDT FREE(3)
#define ABSENT FREE(4) /* data, not present */
#define BUSY 2u

static struct tss32 second;
static u8 second_stack[2048] __attribute__((aligned(16)));
struct tss16 {
	u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};
static struct tss16 task16;
static u64 ldt[2];

static unsigned type_of(u16 selector)
{
	return gdt[selector / 8] >> 40 & 15;
}

static u16 task_register(void)
{
	u32 v;
	asm volatile("str %0" : "=r"(v));
	return (u16)v;
}

/* The tasks as they are at the start of each test: the first in TR and busy, the second ready to run @eip. */
static void set_up(void *eip)
{
	asm volatile("pushfl; andl $~0x4000, (%%esp); popfl" : : : "cc", "memory");
	gdt[TSS_SELECTOR / 8] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
	asm volatile("ltr %w0" : : "r"(TSS_SELECTOR));
	second = (struct tss32){.eip = (u32)eip, .eflags = 2, .eax = 0xa1, .ecx = 0xc1, .edx = 0xd1, .ebx = 0xb1,
				.esp = (u32)(second_stack + sizeof(second_stack)), .ebp = 0xb2, .esi = 0x51,
					.edi = 0xd2,
				.es = DATA32, .cs = CODE32, .ss = DATA32, .ds = DATA32, .fs = DATA32, .gs = 0,
				.iomap = sizeof(second), .cr3 = 0};
	GDT(0) = descriptor((u32)&second, sizeof(second) - 1, 0x89, 0);
	GDT(1) = call_gate(TASK, 0, 0xe5, 0);
	asm volatile("clts");
}

/* --- Code of the second task --------------------------------------------------------------------------------- */

asm(".text\n"
    "back_by_iret: movl %eax, saw; movl %edi, saw+4; pushfl; popl saw+8; str saw+12; movl %cr0, %eax; "
    "movl %eax, saw+16\n"
    "movl %fs, %eax; movl %eax, saw+20; movl %esp, saw+24\n"
    "iret\nmovl $2, saw+28; iret\n"
    "back_by_jmp: ljmp $0x38, $0\n"
    "by_int: int $0x80\n"
    "error_task: popl %eax; movl %eax, saw; orb $0x80, gdt + 8 * (8 + 4) + 5; str saw+12; movl %esp, saw+24; iret\n"
    " jmp error_task\n"
    ".code16\n"
    "task16_code: movl $saw16, %esi; movw %ax, (%esi); movw %di, 2(%esi); iretw\n"
    ".code32\n");
extern u8 back_by_iret[], back_by_jmp[], by_int[], error_task[], task16_code[];
static volatile u32 saw[8] __attribute__((used));
static volatile u16 saw16[2] __attribute__((used));

/* --- JMP, CALL, IRET ---------------------------------------------------------------------------------------------- */

static void test_call(void)
{
	u32 ebx = 0x1357, esi = 0x2468, flags;

	set_up(back_by_iret);
	asm volatile("stc; lcall %3, $0; pushfl; popl %2" : "+b"(ebx), "+S"(esi), "=r"(flags) : "i"(TASK) : "memory",
		     "cc");
	check(saw[0] == 0xa1 && saw[1] == 0xd2, "CALL to a TSS: registers come from it");
	check_eq(saw[2] & 0x4002, 0x4002, "... NT is set");
	check_eq(saw[3] & 0xffff, TASK, "... TR is its selector");
	check_eq(saw[4] & 8, 8, "... CR0.TS is set");
	check_eq(saw[5], DATA32, "... segments are loaded");
	check(ebx == 0x1357 && esi == 0x2468 && (flags & 1) && !(flags & 0x4000),
	      "IRET with NT comes back behind the CALL");
	check_eq(second.link, TSS_SELECTOR, "the back link names the caller");
	check_eq(task_register(), TSS_SELECTOR, "TR is the first task's again");
	check(type_of(TSS_SELECTOR) == (9 | BUSY) && type_of(TASK) == 9,
	      "busy bits: the first's set, the second's clear");
	check(*(u8 *)(second.eip - 1) == 0xcf && !(second.eflags & 0x4000),
	      "IRET saves the second task behind it, with NT clear");
	saw[7] = 0;
	asm volatile("lcall %0, $0" : : "i"(TASK) : "memory", "cc", "eax");
	check_eq(saw[7], 2, "the second CALL goes on behind the IRET");
	asm volatile("clts");

	set_up(back_by_iret);
	asm volatile("lcall %0, $0" : : "i"(GATE) : "memory", "cc", "eax");
	check_eq(saw[3] & 0xffff, TASK, "CALL through a task gate");

	set_up(back_by_jmp);
	u32 nt;
	asm volatile("ljmp %1, $0; pushfl; popl %0" : "=r"(nt) : "i"(TASK) : "memory", "cc");
	check(type_of(TSS_SELECTOR) == (9 | BUSY) && type_of(TASK) == 9 && !(nt & 0x4000),
	      "JMP there and back: no NT, busy bits move");
	check_eq(tss.cs, CODE32, "the old task's state is in its TSS");
}

static void test_call_busy(void)
{
	set_up(by_int);
	EXPECT("lcall %0, $0", "i"(TSS_SELECTOR));
	expect(13, TSS_SELECTOR, "CALL to a busy TSS (the current one) raises #GP");
	check_eq(task_register(), TSS_SELECTOR, "... in the old task");
	EXPECT("lcall %0, $0", "i"(TASK));
	expect(0x80, 0, "an interrupt in a nested task");
	check(trap_last.frame.eflags & 0x4000, "... has NT in its frame");
	check(type_of(TSS_SELECTOR) == (9 | BUSY) && type_of(TASK) == (9 | BUSY), "nested: both are busy");
	check_eq(task_register(), TASK, "TR stays the nested task's");
	EXPECT("ljmp %0, $0", "i"(TSS_SELECTOR));
	expect(13, TSS_SELECTOR, "JMP to a busy caller raises #GP");

	set_up(by_int);
	EXPECT("ljmp %0, $0", "i"(TASK));
	expect(0x80, 0, "JMP to a TSS");
	check(type_of(TSS_SELECTOR) == 9 && type_of(TASK) == (9 | BUSY) && !(trap_last.frame.eflags & 0x4000),
	      "... the old one is not busy, NT is clear");
	set_up(by_int);
	tss.link = TASK; /* not busy */
	EXPECT("pushfl; orl $0x4000, (%%esp); popfl; iret");
	expect(10, TASK, "IRET with NT to a task that is not busy raises #TS");
	tss.link = 0;
	EXPECT("pushfl; orl $0x4000, (%%esp); popfl; iret");
	expect(10, 0, "IRET with NT to null raises #TS(0)");
}

/* --- Task gates in the IDT ---------------------------------------------------------------------------------------- */

/* The task returns by IRET to the instruction that faulted, which by then has a descriptor to load. */
static void test_idt_gate(void)
{
	u32 at = 0;

	set_up(error_task);
	idt[11] = call_gate(TASK, 0, 0x85, 0);
	asm volatile("movl $1f, %0; 1: movw %w1, %%gs" : "=&r"(at) : "r"(ABSENT) : "memory");
	check_eq(saw[0], ABSENT, "a task gate pushes the error code on the new stack");
	check_eq(saw[3] & 0xffff, TASK, "... in the new task");
	check_eq(saw[6], second.esp, "... a doubleword");
	check_eq(tss.eip, at, "... the old EIP is that of the fault");
	check_eq(tss.eflags & 0x10000, 0x10000, "... with RF");
	check(type_of(TASK) == 9 && task_register() == TSS_SELECTOR, "IRET ends the task");
	GDT(4) = descriptor(0, 0xfffff, 0x72, 12);

	/* Again, for an external cause whose task is busy: the gate's fault has EXT. */
	GDT(0) |= (u64)BUSY << 40;
	EXPECT("movw %w0, %%fs", "S"(ABSENT));
	expect(8, 0, "#NP, then #GP for a busy task: #DF");
	idt[11] = 0;
	idt_set(11, trap_stubs + 16 * 11, 14, 0);
	idt[0x85] = call_gate(TASK, 0, 0x85, 0);
	EXPECT("int $0x85");
	expect(13, TASK, "INT through a task gate to a busy task: #GP without EXT");
	idt[6] = call_gate(TASK, 0, 0x85, 0);
	EXPECT("ud2");
	expect(13, TASK + 1, "#UD through one: #GP with EXT");
	idt_set(6, trap_stubs + 16 * 6, 14, 0);
	idt_set(0x85, trap_stubs + 16 * 0x85, 14, 0);
}

/* --- Faults of a switch ------------------------------------------------------------------------------------------- */

static void fault_of(const char *name, u32 vector, u32 error, bool in_new)
{
	EXPECT("lcall %0, $0", "i"(TASK));
	expect(vector, error, name);
	check_eq(task_register(), in_new ? TASK : TSS_SELECTOR, in_new ? "... in the new task" : "... in the old task");
}

/* At level 3, so that the fault finds a stack: that of the new TSS. */
static void set_up_user(void)
{
	set_up(by_int);
	second.cs = USER_CODE32;
	second.ss = USER_DATA32;
	second.ds = second.es = second.fs = USER_DATA32;
	second.ss0 = DATA32;
	second.esp0 = (u32)(ring0_stack + sizeof(ring0_stack));
}

static void test_faults(void)
{
	set_up(by_int);
	GDT(0) = descriptor((u32)&second, 0x66, 0x89, 0);
	fault_of("a TSS that is too short raises #TS", 10, TASK, false);
	set_up(by_int);
	GDT(0) = descriptor((u32)&second, sizeof(second) - 1, 0x09, 0);
	fault_of("a TSS that is not present raises #NP", 11, TASK, false);
	set_up_user();
	second.ss = USER_CODE32;
	fault_of("code in SS raises #TS", 10, USER_CODE32 & ~3, true);
	set_up_user();
	second.cs = USER_DATA32;
	fault_of("data in CS raises #TS", 10, USER_DATA32 & ~3, true);
	set_up_user();
	second.ds = ABSENT | 3;
	fault_of("a DS that is not present raises #NP", 11, ABSENT, true);
	set_up_user();
	second.ss = ABSENT | 3;
	fault_of("an SS that is not present raises #SS", 12, ABSENT, true);
	set_up_user();
	second.gs = 0x3f8;
	fault_of("a GS beyond the GDT raises #TS", 10, 0x3f8, true);
	set_up_user();
	second.ldt = DATA32;
	fault_of("data in LDTR raises #TS", 10, DATA32, true);
}

static void test_ldt(void)
{
	set_up(back_by_iret);
	ldt[1] = descriptor(0, 0xfffff, 0x92, 12);
	GDT(3) = descriptor((u32)ldt, sizeof(ldt) - 1, 0x82, 0);
	second.ldt = LDT;
	second.fs = 8 | 4;
	asm volatile("lcall %0, $0" : : "i"(TASK) : "memory", "cc", "eax");
	check_eq(saw[5], 12, "the new LDT serves the new segments");
	u32 now;
	asm volatile("sldt %0" : "=r"(now));
	check_eq(now & 0xffff, 0, "the old LDT comes back");
	asm volatile("clts");
}

static void test_trap_bit(void)
{
	set_up(by_int);
	second.trap = 1;
	asm volatile("movl %0, %%db6" : : "r"(0));
	EXPECT("lcall %0, $0", "i"(TASK));
	u32 dr6;
	asm volatile("movl %%db6, %0" : "=r"(dr6));
	expect(1, 0, "T in the TSS raises #DB");
	check(trap_last.eip == (u32)by_int && (dr6 & 0x8000), "... before the first instruction, DR6.BT set");
}

static void test_tss16(void)
{
	set_up(by_int);
	task16 = (struct tss16){.ip = 0, .flags = 2, .ax = 0x1a1a, .di = 0x1d1d, .sp = 0x6f00, .es = DATA32,
				.cs = FREE(5),
				.ss = DATA32, .ds = DATA32};
	GDT(5) = descriptor((u32)task16_code, 0xffff, 0x9a, 0);
	GDT(2) = descriptor((u32)&task16, sizeof(task16) - 1, 0x81, 0);
	asm volatile("lcall %0, $0" : : "i"(TASK16) : "memory", "cc", "eax", "edi");
	check(saw16[0] == 0x1a1a && saw16[1] == 0x1d1d, "CALL to a 16-bit TSS");
	check(task16.link == TSS_SELECTOR && type_of(TASK16) == 1 && task_register() == TSS_SELECTOR,
	      "... and IRET from it");
	asm volatile("clts");
}

void guest_main(void)
{
	GDT(4) = descriptor(0, 0xfffff, 0x72, 12);
	test_call();
	test_call_busy();
	test_idt_gate();
	test_faults();
	test_ldt();
	test_trap_bit();
	test_tss16();
}
