/*
 * What a guest program has: console, checks, small CPU accessors here; exceptions, descriptor tables and paging in
 * guest64.h, or in guest32.h for programs that say "bits: 32" in their first comment. Ring 0, freestanding.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#include "harness.h"

void guest_main(void);
_Noreturn void guest_exit(int status);
void guest_init(void);

void *memset(void *p, int v, unsigned long n);
void *memcpy(void *to, const void *from, unsigned long n);

void print(const char *s);
void print_hex(u64 v);

/* One TAP line; a failed one shows both values. */
void check(bool ok, const char *name);
void check_eq(u64 got, u64 want, const char *name);
/* What EXPECT() has recorded: that exception, or none. */
void expect(u64 vector, u64 error, const char *name);
void expect_none(const char *name);
/* Ends the guest with a report. */
_Noreturn void unexpected(u64 vector, u64 error, u64 at);

static inline void outb(u16 port, u8 v) { asm volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outw(u16 port, u16 v) { asm volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { asm volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 v; asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 inl(u16 port) { u32 v; asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u64 rdmsr(u32 i) { u32 a, d; asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(i)); return (u64)d << 32 | a; }
static inline void wrmsr(u32 i, u64 v) { asm volatile("wrmsr" : : "c"(i), "a"((u32)v), "d"((u32)(v >> 32))
						      : "memory"); }
static inline u64 rdtsc(void) { u32 a, d; asm volatile("rdtsc" : "=a"(a), "=d"(d)); return (u64)d << 32 | a; }
static inline unsigned long read_cr0(void) { unsigned long v; asm volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline unsigned long read_cr2(void) { unsigned long v; asm volatile("mov %%cr2, %0" : "=r"(v)); return v; }
static inline unsigned long read_cr3(void) { unsigned long v; asm volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline unsigned long read_cr4(void) { unsigned long v; asm volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline void write_cr0(unsigned long v) { asm volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
static inline void write_cr3(unsigned long v) { asm volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static inline void write_cr4(unsigned long v) { asm volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
static inline void invlpg(unsigned long la) { asm volatile("invlpg (%0)" : : "r"(la) : "memory"); }
static inline void cpuid(u32 f, u32 x, u32 out[4]) { asm volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]),
								  "=d"(out[3]) : "a"(f), "c"(x)); }
static inline void cli(void) { asm volatile("cli" : : : "memory"); }
static inline void sti(void) { asm volatile("sti" : : : "memory"); }
static inline void pause(void) { asm volatile("pause" : : : "memory"); }

/* Local APIC, xAPIC mode at its usual place. */
#define APIC_BASE 0xfee00000ul
#define APIC_EOI 0xb0
#define APIC_ICR 0x300
#define ICR_SELF 0x40000u
static inline u32 apic_read(u32 reg) { return *(volatile u32 *)(APIC_BASE + reg); }
static inline void apic_write(u32 reg, u32 v) { *(volatile u32 *)(APIC_BASE + reg) = v; }

/* Bits of a paging-structure entry. */
#define PG_P 1ull
#define PG_W 2ull
#define PG_U 4ull
#define PG_A 0x20ull
#define PG_D 0x40ull
#define PG_PS 0x80ull
#define PG_G 0x100ull
#define PG_NX (1ull << 63)

#ifdef __x86_64__
#include "guest64.h"
#else
#include "guest32.h"
#endif

#endif
