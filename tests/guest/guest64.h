/* Exceptions, descriptor tables and paging of 64-bit guest programs. */
#ifndef GUEST64_H
#define GUEST64_H

struct frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error;
	u64 rip, cs, rflags, rsp, ss;
};

#define CR4_PCIDE (1ul << 17)
#define KEEP (1ull << 63) /* of a MOV to CR3 with PCIDs: what is known of this one stays */

void ap_main(int index); /* optional: started CPUs */

/* Handler of a vector; NULL (at start): an exception that nobody expects ends the guest with a report. */
typedef void trap_fn(struct frame *f);
extern trap_fn *trap_table[256];

/* The last exception taken inside EXPECT(). */
struct trap_record {
	bool taken;
	u64 vector, error, cr2, rip, rflags;
	struct frame frame; /* as the handler found it */
};
extern volatile struct trap_record trap_last;
extern volatile u64 trap_resume;

extern volatile u64 trap_stack[2];

/*
 * Executes one asm statement; an exception in it is recorded in trap_last and execution goes on behind it, with RSP and
 * RBP as they were before. The statement may use RAX, RCX, RDX and R11 freely; its inputs go in others.
 * EXPECT("ud2") then check_eq(trap_last.vector, 6, ...).
 */
#define EXPECT(insns, ...)                                                                                     \
	do {                                                                                                   \
		trap_last.taken = false;                                                                       \
		trap_last.vector = ~0ull;                                                                      \
		asm volatile("leaq 771f(%%rip), %%r11; movq %%r11, trap_resume(%%rip)\n"                       \
			     "movq %%rsp, trap_stack(%%rip); movq %%rbp, trap_stack+8(%%rip)\n" insns          \
			     "\n771: movq trap_stack(%%rip), %%rsp; movq trap_stack+8(%%rip), %%rbp\n"         \
			     "movq $0, trap_resume(%%rip)"                                                     \
			     : : __VA_ARGS__ : "rax", "rcx", "rdx", "r11", "memory", "cc");                    \
	} while (0)

#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

extern u64 gdt[];
extern u64 boot_pml4[512], boot_pdpt[512], boot_pd[2048];
extern u8 trap_stubs[];
extern struct idt_gate { u64 low, high; } idt[256];
extern u8 idt_ptr[10];
void idt_set(int vector, void *handler, int type, int dpl, int ist);

/* Linear addresses with page tables of their own: test_map() gives page @n of the 2 MiB at TEST_VA the entry @pte. */
#define TEST_VA 0x40000000ull
#define TEST_PHYS 0x1000000ull /* RAM that nobody uses */
extern u64 test_pt[512];
#define PAGE(n) (TEST_VA + (n) * 4096ull)
#define PHYS(n) (TEST_PHYS + (n) * 4096ull)
#define RW (PG_P | PG_W | PG_U)
void test_map_init(void); /* all pages mapped to TEST_PHYS and up, P W U */
void test_map(unsigned n, u64 pte);

/* A 64-bit TSS with RSP0 and IST1, loaded in TR by guest_init(). */
struct tss64 {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, iomap;
	u8 io[8193];
} __attribute__((packed));
extern struct tss64 tss;

/* Runs @fn at CPL 3 (64-bit) until it executes int $0x80, or an exception arrives inside EXPECT(). */
void run_user(void (*fn)(void));

/* Software-enables it with spurious vector 0xff. */
void apic_enable(void);
/* INIT, SIPI, SIPI to all others; waits until @n of them have arrived. */
void start_aps(int n);

#endif
