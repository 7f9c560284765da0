/*
 * bits: 32. What the same code does while segments change under it: bases, limits, types, the width of the stack
 * (SDM vol. 3A, 3.4.5 and 5.3 to 5.5). Every piece of code is run with flat segments before and after.
 */
#include "guest.h"

#define SEG (GDT_FREE * 8)

static u8 bytes[0x3000] __attribute__((aligned(4096), used));

/* EBX is the offset, EDX what is stored. What was loaded is in EAX. */
asm(".text\n"
    "load_ds: movl (%ebx), %eax; ret\n"
    "load_ds_abs: movl bytes+0x20, %eax; ret\n"
    "load_es: movl %es:(%ebx), %eax; ret\n"
    "load_cs: movl %cs:(%ebx), %eax; ret\n"
    "load_ss: movl (%esp,%ebx), %eax; ret\n"
    "load_fs: movl %fs:(%ebx), %eax; ret\n"
    "load_gs: movl %gs:(%ebx), %eax; addl %gs:4(%ebx), %eax; subl %gs:4(%ebx), %eax; ret\n"
    "load_gs_abs: movl %gs:0x20, %eax; ret\n"
    "load_gs_moffs: .byte 0x65, 0xa1; .long 0x20; ret\n"
    "store_ds: movl %edx, (%ebx); ret\n"
    "store_gs: movl %edx, %gs:(%ebx); ret\n"
    "store_cs: movl %edx, %cs:(%ebx); ret\n"
    "push_gs_mem: pushl %gs:(%ebx); popl %eax; ret\n");

static void put(u32 at, u32 v)
{
	*(volatile u32 *)(bytes + at) = v;
}

static u32 at(u32 offset)
{
	return *(volatile u32 *)(bytes + offset);
}

static void set_segment(u32 base, u32 limit, u8 access, u8 flags)
{
	gdt[GDT_FREE] = descriptor(base, limit, access, flags);
}

static void set_gs(u16 selector)
{
	asm volatile("movw %w0, %%gs" : : "r"(selector));
}

/* Ends in INT 0x80 with EAX in the frame, so that nothing has to be addressed with the segments as they are. */
#define RUN(code, off) EXPECT("movl $0x77, %%edx; call " code "; int $0x80", "b"((u32)(off)))
#define RUN_WITH(seg, code, off)                                                                              \
	EXPECT("movw $0x40, %%cx; movw %%cx, %%" seg "; movl $0x77, %%edx; call " code "; int $0x80", "b"((u32)(off)))

static void ended(u32 eax, const char *name)
{
	check(trap_last.vector == 0x80 && trap_last.frame.eax == eax, name);
	if (trap_last.vector != 0x80 || trap_last.frame.eax != eax)
		check_eq(trap_last.frame.eax, eax, "... the value");
}

static void faulted(u32 vector, const char *name)
{
	check_eq(trap_last.vector, vector, name);
	check_eq(trap_last.error, 0, "... error code");
}

static void test_gs(void)
{
	/* A base that is not that of a page, as of thread-local storage. */
	set_segment((u32)bytes + 0x1004, 0xfffff, 0x93, 0xc);
	set_gs(SEG);
	for (unsigned n = 0; n < 3; n++)
		RUN("load_gs", 0xffc);
	ended(at(0x2000), "GS: base and offset");
	RUN("load_gs", -4);
	ended(at(0x1000), "... an offset below the base");
	RUN("load_gs", 0x10 - 0x1004);
	ended(at(0x10), "... and far below");
	RUN("load_gs_abs", 0);
	ended(at(0x1024), "... absolute");
	RUN("load_gs_moffs", 0);
	ended(at(0x1024), "... by MOV EAX, moffs");
	RUN("push_gs_mem", 0x20);
	ended(at(0x1024), "... pushed");
	RUN("store_gs", 0x40);
	check_eq(at(0x1044), 0x77, "... stored");
	RUN("load_gs", -3);
	faulted(13, "GS: beyond 4 GiB");
	RUN("load_gs", 0xffffffff);
	faulted(13, "... by the last byte");
	RUN("store_gs", 0xfffffffe);
	faulted(13, "... a store");
	check_eq(at(0x1000), 0x01001000, "... which stores nothing");

	set_segment((u32)bytes + 0x1004, 0x1f, 0x93, 4);
	RUN("load_gs", 0x40);
	ended(at(0x1044), "GS: a descriptor counts when it is loaded");
	set_gs(SEG);
	RUN("load_gs", 0x18);
	ended(at(0x101c), "GS: within the limit");
	RUN("load_gs", 0x19);
	faulted(13, "... beyond it");
	RUN("load_gs_abs", 0);
	faulted(13, "... absolute");
	RUN("load_gs_moffs", 0);
	faulted(13, "... by moffs");
	RUN("push_gs_mem", 0x20);
	faulted(13, "... pushed");

	set_segment((u32)bytes, 0xfff, 0x97, 4);
	set_gs(SEG);
	RUN("load_gs", 0x1000);
	ended(at(0x1000), "GS: expand-down");
	RUN("load_gs", 0xfff);
	faulted(13, "... below");
	set_segment((u32)bytes, 0xfffff, 0x91, 0xc);
	set_gs(SEG);
	RUN("load_gs", 0x1000);
	ended(at(0x1000), "GS: read only");
	RUN("store_gs", 0x1000);
	faulted(13, "... a store");
	set_segment((u32)bytes, 0xfffff, 0x9b, 0xc);
	set_gs(SEG);
	RUN("load_gs", 0x1000);
	ended(at(0x1000), "GS: readable code");
	RUN("store_gs", 0x1000);
	faulted(13, "... a store");
	set_gs(0);
	RUN("load_gs", 0x1000);
	faulted(13, "GS: null");
	set_gs(DATA32);
	RUN("load_gs", (u32)bytes + 0x1000);
	ended(at(0x1000), "GS: flat");

	set_segment((u32)bytes + 0x800, 0xfffff, 0x93, 0xc);
	RUN_WITH("fs", "load_fs", 0x10);
	ended(at(0x810), "FS: base and offset");
}

static void test_ds(void)
{
	u32 where = (u32)bytes + 0x20;

	for (unsigned n = 0; n < 3; n++)
		RUN("load_ds", where);
	ended(at(0x20), "DS: flat");
	set_segment(0x1000, 0xfffff, 0x93, 0xc);
	RUN_WITH("ds", "load_ds", where);
	ended(at(0x1020), "DS: with a base");
	RUN_WITH("ds", "load_ds_abs", 0);
	ended(at(0x1020), "... absolute");
	RUN("load_ds", where);
	ended(at(0x20), "DS: flat again");
	set_segment(0, where + 2, 0x93, 4);
	RUN_WITH("ds", "load_ds", where);
	faulted(13, "DS: beyond the limit");
	set_segment(0, 0xfffff, 0x91, 0xc);
	RUN_WITH("ds", "load_ds", where);
	ended(at(0x20), "DS: read only");
	RUN_WITH("ds", "store_ds", where);
	faulted(13, "... a store");
	set_segment(0x1000, 0xfffff, 0x93, 0xc);
	RUN_WITH("es", "load_es", where);
	ended(at(0x1020), "ES: with a base");
	RUN("load_es", where);
	ended(at(0x20), "ES: flat");
	RUN("load_ds", -2);
	faulted(13, "DS: the last two bytes of 4 GiB and two more");
	RUN("store_ds", -1);
	faulted(13, "... a store");
	RUN("load_cs", where);
	ended(at(0x20), "CS: read");
	RUN("store_cs", where);
	faulted(13, "CS: written");
	check_eq(at(0x20), 0x00200020, "... nothing is");
}

static void test_ss(void)
{
	u32 stack = (u32)bytes + 0x2800;

	EXPECT("movl %%ebx, %%esp; pushl $0x1234; movl (%%esp), %%eax; int $0x80", "b"(stack));
	ended(0x1234, "SS: flat");
	put(0x17fc, 0);
	set_segment((u32)-0x1000, 0xfffff, 0x93, 0xc);
	EXPECT("movw $0x40, %%ax; movw %%ax, %%ss; movl %%ebx, %%esp; pushl $0x1235; movl (%%esp), %%eax\n"
	       "movw $0x10, %%cx; movw %%cx, %%ss; int $0x80", "b"(stack));
	ended(0x1235, "SS: with a base");
	check_eq(at(0x17fc), 0x1235, "... which counts");
	set_segment((u32)bytes, 0xffff, 0x93, 0);
	EXPECT("movw $0x40, %%ax; movw %%ax, %%ss; movl $0x7ffe2000, %%esp; pushl $0x1236; movl %%esp, %%eax\n"
	       "movw $0x10, %%cx; movw %%cx, %%ss; movl %%ebx, %%esp; int $0x80", "b"(stack));
	ended(0x7ffe1ffc, "SS: a 16-bit stack");
	check_eq(at(0x1ffc), 0x1236, "... of 64 KiB");
	EXPECT("movl %%ebx, %%esp; pushl $0x1234; movl (%%esp), %%eax; int $0x80", "b"(stack));
	ended(0x1234, "SS: flat again");
}

void guest_main(void)
{
	for (u32 n = 0; n < sizeof(bytes); n += 4)
		put(n, n << 16 | n);
	put(0x1000, 0x01001000);
	test_gs();
	test_ds();
	test_ss();
	guest_exit(0);
}
