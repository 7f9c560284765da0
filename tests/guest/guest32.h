/* Exceptions and descriptor tables of 32-bit guest programs: flat segments, no paging, until they change that. */
#ifndef GUEST32_H
#define GUEST32_H

struct frame {
	u32 gs, fs, es, ds;
	u32 edi, esi, ebp, unused, ebx, edx, ecx, eax;
	u32 vector, error;
	u32 eip, cs, eflags;
	u32 esp, ss;                         /* from an outer level only */
	u32 vm_es, vm_ds, vm_fs, vm_gs;      /* from virtual-8086 mode only */
};

/* Handler of a vector; NULL (at start): an exception that nobody expects ends the guest with a report. */
typedef void trap_fn(struct frame *f);
extern trap_fn *trap_table[256];

/* The last exception taken inside EXPECT(). */
struct trap_record {
	bool taken;
	u32 vector, error, cr2, eip;
	u32 esp; /* where the handler's stack pointer was below its frame */
	struct frame frame;
};
extern volatile struct trap_record trap_last;
extern volatile u32 trap_resume, trap_context[6];

/*
 * Executes one asm statement. The first exception or interrupt in it (one that has no handler in trap_table), at
 * whatever level and in whatever mode, is recorded in trap_last, and execution goes on behind it at level 0 with flat
 * segments: so code of other modes ends itself by INT 0x80. The statement may use EAX, ECX, EDX freely; inputs go in
 * others.
 */
#define EXPECT(insns, ...)                                                                                     \
	do {                                                                                                   \
		trap_last.taken = false;                                                                       \
		trap_last.vector = ~0u;                                                                        \
		asm volatile("movl $771f, trap_resume; movl %%esp, trap_context; movl %%ebp, trap_context+4\n" \
			     "movl %%ebx, trap_context+8; movl %%esi, trap_context+12\n"                       \
			     "movl %%edi, trap_context+16\n" insns                                             \
			     "\n771: movw $0x10, %%ax; movw %%ax, %%ss; movl %%cs:trap_context, %%esp\n"       \
			     "movw %%ax, %%ds\n"                                                               \
			     "movw %%ax, %%es; movl trap_context+4, %%ebp; movl trap_context+8, %%ebx\n"       \
			     "movl trap_context+12, %%esi; movl trap_context+16, %%edi; movl $0, trap_resume\n" \
			     "pushl $2; popfl"                                                                 \
			     : : __VA_ARGS__ : "eax", "ecx", "edx", "memory", "cc");                           \
	} while (0)

#define CODE32 0x08
#define DATA32 0x10
#define CODE16 0x18
#define DATA16 0x20
#define USER_CODE32 0x2b
#define USER_DATA32 0x33
#define TSS_SELECTOR 0x38
#define GDT_FREE 8 /* first entry for the test's own */

extern u64 gdt[64], idt[256];
extern u8 trap_stubs[], idt_ptr[6], gdt_ptr[6];
void idt_set(int vector, void *handler, int type, int dpl);
/* @type: the access byte; @flags: bits 55:52 (G 8, D 4, L 2, AVL 1). */
u64 descriptor(u32 base, u32 limit, u8 access, u8 flags);
u64 call_gate(u16 selector, u32 offset, u8 access, u8 params);

struct tss32 {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	u32 eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt;
	u16 trap, iomap;
};
extern struct tss32 tss; /* in TR; ring 0 stack, no I/O bitmap */
extern u8 user_stack[4096], ring0_stack[4096];

/*
 * Real mode and back: calls the 16-bit code @code (below 64 KiB, CS 0, near RET), EBX, ESI, EDI as in @regs and
 * back.
 */
void real_call(void (*code)(void), u32 regs[3]);

#endif
