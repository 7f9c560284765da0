#include "guest.h"

trap_fn *trap_table[256];
volatile struct trap_record trap_last;
volatile u32 trap_resume, trap_context[6];
struct tss32 tss;
u8 user_stack[4096] __attribute__((aligned(16)));
u8 ring0_stack[4096] __attribute__((aligned(16)));

void trap_handler(struct frame *f);
void trap_handler(struct frame *f)
{
	if (trap_table[f->vector]) {
		trap_table[f->vector](f);
		return;
	}
	if (trap_resume) {
		u32 resume = trap_resume;
		trap_last.taken = true;
		trap_last.vector = f->vector;
		trap_last.error = f->error;
		trap_last.cr2 = read_cr2();
		trap_last.eip = f->eip;
		trap_last.esp = (u32)f;
		*(struct frame *)&trap_last.frame = *f;
		trap_resume = 0;
		struct { u32 offset, selector; } far = {resume, CODE32};
		asm volatile("ljmp *%0" : : "m"(far));
	}
	unexpected(f->vector, f->error, (u64)f->cs << 32 | f->eip);
}

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
	       (u64)flags << 52 | (u64)(base >> 24) << 56;
}

u64 call_gate(u16 selector, u32 offset, u8 access, u8 params)
{
	return (offset & 0xffff) | (u64)selector << 16 | (u64)params << 32 | (u64)access << 40 |
	       (u64)(offset >> 16) << 48;
}

void idt_set(int vector, void *handler, int type, int dpl)
{
	idt[vector] = call_gate(CODE32, (u32)handler, (u8)(0x80 | dpl << 5 | type), 0);
}

void guest_init(void)
{
	for (int v = 0; v < 256; v++)
		idt_set(v, trap_stubs + 16 * v, 14, v == 0x80 || v == 3 || v == 4 ? 3 : 0);
	tss.esp0 = (u32)(ring0_stack + sizeof(ring0_stack));
	tss.ss0 = DATA32;
	tss.iomap = sizeof(tss);
	gdt[TSS_SELECTOR / 8] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
	asm volatile("ltr %w0" : : "r"(TSS_SELECTOR));
}
