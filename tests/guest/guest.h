/* What a guest program has: console, checks, exceptions, descriptor tables, small CPU accessors. 64-bit, ring 0, freestanding. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

/* Ports of the harness. */
#define PORT_CONSOLE 0xe9
#define PORT_EXIT 0xf4

struct frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error;
	u64 rip, cs, rflags, rsp, ss;
};

void guest_main(void);
void ap_main(int index); /* optional: started CPUs */
_Noreturn void guest_exit(int status);
void guest_init(void);

void print(const char *s);
void print_hex(u64 v);

/* One TAP line; a failed one shows both values. */
void check(bool ok, const char *name);
void check_eq(u64 got, u64 want, const char *name);

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
#define EXPECT(insns, ...)                                                                                             \
	do {                                                                                                          \
		trap_last.taken = false;                                                                              \
		trap_last.vector = ~0ull;                                                                             \
		asm volatile("leaq 771f(%%rip), %%r11; movq %%r11, trap_resume(%%rip)\n"                              \
			     "movq %%rsp, trap_stack(%%rip); movq %%rbp, trap_stack+8(%%rip)\n" insns                 \
			     "\n771: movq trap_stack(%%rip), %%rsp; movq trap_stack+8(%%rip), %%rbp\n"                 \
			     "movq $0, trap_resume(%%rip)"                                                            \
			     : : __VA_ARGS__ : "rax", "rcx", "rdx", "r11", "memory", "cc");                             \
	} while (0)

static inline void outb(u16 port, u8 v) { asm volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outw(u16 port, u16 v) { asm volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { asm volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 v; asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 inl(u16 port) { u32 v; asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u64 rdmsr(u32 i) { u32 a, d; asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(i)); return (u64)d << 32 | a; }
static inline void wrmsr(u32 i, u64 v) { asm volatile("wrmsr" : : "c"(i), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }
static inline u64 rdtsc(void) { u32 a, d; asm volatile("rdtsc" : "=a"(a), "=d"(d)); return (u64)d << 32 | a; }
static inline u64 read_cr0(void) { u64 v; asm volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline u64 read_cr2(void) { u64 v; asm volatile("mov %%cr2, %0" : "=r"(v)); return v; }
static inline u64 read_cr3(void) { u64 v; asm volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline u64 read_cr4(void) { u64 v; asm volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline void write_cr0(u64 v) { asm volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
static inline void write_cr3(u64 v) { asm volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static inline void write_cr4(u64 v) { asm volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
static inline void invlpg(u64 la) { asm volatile("invlpg (%0)" : : "r"(la) : "memory"); }
static inline void cpuid(u32 f, u32 x, u32 out[4]) { asm volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(f), "c"(x)); }
static inline void cli(void) { asm volatile("cli" : : : "memory"); }
static inline void sti(void) { asm volatile("sti" : : : "memory"); }
static inline void pause(void) { asm volatile("pause" : : : "memory"); }

extern u64 gdt[];
extern u64 boot_pml4[512], boot_pdpt[512], boot_pd[2048];
extern u8 trap_stubs[];
extern struct idt_gate { u64 low, high; } idt[256];
extern u8 idt_ptr[10];
void idt_set(int vector, void *handler, int type, int dpl, int ist);

/* Linear addresses with page tables of their own: test_map() gives page @n of the 2 MiB at TEST_VA the entry @pte. */
#define TEST_VA 0x40000000ull
#define TEST_PHYS 0x1000000ull /* RAM that nobody uses */
#define PG_P 1ull
#define PG_W 2ull
#define PG_U 4ull
#define PG_A 0x20ull
#define PG_D 0x40ull
#define PG_PS 0x80ull
#define PG_G 0x100ull
#define PG_NX (1ull << 63)
extern u64 test_pt[512];
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

/* Local APIC, xAPIC mode at its usual place. */
#define APIC_BASE 0xfee00000ull
static inline u32 apic_read(u32 reg) { return *(volatile u32 *)(APIC_BASE + reg); }
static inline void apic_write(u32 reg, u32 v) { *(volatile u32 *)(APIC_BASE + reg) = v; }
/* Software-enables it with spurious vector 0xff. */
void apic_enable(void);
/* INIT, SIPI, SIPI to all others; waits until @n of them have arrived. */
void start_aps(int n);

#endif
