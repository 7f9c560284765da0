/*
 * The checked accessors: the only way to guest memory.
 *
 * seg_la() turns segment and offset into a linear address with the segment's checks; ld*, st* go through the TLB.
 * A hit costs a compare of tag and page offset; everything else (miss, page crossing, MMIO, a fault) is out of line.
 */
#ifndef CPU_MEM_H
#define CPU_MEM_H

#include <string.h>

#include "cpu/cpu.h"
#include "cpu/insn.h"
#include "cpu/mmu.h"

/* Out of line: page crossing, TLB miss, MMIO. @size 1 to 8; values little endian in the low bytes. */
u64 mem_read_slow(struct cpu *c, enum seg_reg seg, u64 la, unsigned size);
void mem_write_slow(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, u64 value);

/* Supervisor accesses whatever CPL is (descriptor tables, TSS; SDM vol. 3A, 4.6.1: implicit). */
u64 mem_read_system(struct cpu *c, u64 la, unsigned size);
void mem_write_system(struct cpu *c, u64 la, unsigned size, u64 value);

/* As code at another privilege level would: the stack that a transfer is about to switch to. */
u64 mem_read_as(struct cpu *c, enum mmu_index idx, enum seg_reg seg, u64 la, unsigned size);
void mem_write_as(struct cpu *c, enum mmu_index idx, enum seg_reg seg, u64 la, unsigned size, u64 value);

/*
 * Any size, any crossing. mem_write_block checks every page before it writes one byte, so that it
 * either faults or is whole. mem_probe raises what an access of @size bytes would raise.
 */
void mem_read_block(struct cpu *c, enum seg_reg seg, u64 la, void *to, unsigned size);
void mem_write_block(struct cpu *c, enum seg_reg seg, u64 la, const void *from, unsigned size);
void mem_probe(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, enum access acc);

/*
 * Host address for @size bytes at @la that lie in one page of RAM, for reading (ACC_READ) or reading and writing
 * (ACC_WRITE: dirty bits are set, the code page is looked after). NULL when it crosses a page or is MMIO:
 * use the block accessors. Valid until the instruction ends.
 */
void *mem_host_slow(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, enum access acc);

static inline bool tlb_in_page(u64 la, unsigned size)
{
	return (la & (PAGE_SIZE - 1)) + size <= PAGE_SIZE;
}

/* Where @size bytes at @la are on the host, if an access under @idx may go straight there; else NULL. */
static inline u8 *tlb_hit(const struct cpu *c, enum mmu_index idx, u64 la, unsigned size, enum access acc)
{
	const struct tlb_array *a = &c->tlbs->array[idx];

	return likely(tlb_has(a, la, acc) && tlb_in_page(la, size)) ? tlb_host(a, la) : NULL;
}

/* After a store through host address @p: the running block may have changed itself. */
static inline void mem_stored(struct cpu *c, const u8 *p)
{
	if (unlikely(((u64)p & PAGE_MASK) == c->code_page))
		c->smc = true;
}

static inline void *mem_host(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, enum access acc)
{
	if (likely(tlb_has(c->tlb, la, acc) && tlb_in_page(la, size))) {
		u8 *p = tlb_host(c->tlb, la);

		if (acc == ACC_WRITE)
			mem_stored(c, p);
		return p;
	}
	return mem_host_slow(c, seg, la, size, acc);
}

/* @size is a constant in every caller on a hot path. */
static inline __attribute__((always_inline)) u64 mem_read(struct cpu *c, enum seg_reg seg, u64 la, unsigned size)
{
	if (likely(tlb_has(c->tlb, la, ACC_READ) && tlb_in_page(la, size))) {
		u64 v = 0;
		memcpy(&v, tlb_host(c->tlb, la), size);
		return v;
	}
	return mem_read_slow(c, seg, la, size);
}

static inline __attribute__((always_inline))
void mem_write(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, u64 v)
{
	if (likely(tlb_has(c->tlb, la, ACC_WRITE) && tlb_in_page(la, size))) {
		u8 *p = tlb_host(c->tlb, la);
		memcpy(p, &v, size);
		mem_stored(c, p);
		return;
	}
	mem_write_slow(c, seg, la, size, v);
}

/* Checks of a legacy-mode access that is not to a flat segment; raises #GP or #SS. Returns the linear address. */
u64 seg_la_slow(struct cpu *c, enum seg_reg seg, u64 off, unsigned size, enum access acc);

/* Linear address of @off in @seg. @off is already cut to the address size. */
static inline u64 seg_la(struct cpu *c, enum seg_reg seg, u64 off, unsigned size, enum access acc)
{
	if (likely(c->code_bits == 64))
		return seg >= SEG_FS ? off + c->seg[seg].base : off;
	return seg_la_slow(c, seg, off, size, acc);
}

/* Effective address (offset) of the memory operand of @i. */
static inline u64 insn_ea(const struct cpu *c, const struct insn *i)
{
	u64 ea = (u64)i->disp;

	if (i->base != NO_REG)
		ea += likely(i->base != RIP_BASE) ? c->gpr[i->base] : c->rip + i->len;
	if (i->index != NO_REG)
		ea += c->gpr[i->index] << i->scale;
	if (unlikely(i->addrsize != 8))
		ea = i->addrsize == 4 ? (u32)ea : (u16)ea;
	return ea;
}

/* Linear address of the memory operand of @i. */
static inline u64 insn_la(struct cpu *c, const struct insn *i, unsigned size, enum access acc)
{
	return seg_la(c, i->seg, insn_ea(c, i), size, acc);
}

/* --- General registers ---------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) u64 gpr_get(const struct cpu *c, u8 off, unsigned size)
{
	u64 v = 0;
	memcpy(&v, (const char *)c->gpr + off, size);
	return v;
}

/* A 4-byte write clears the upper half (SDM vol. 1, 3.4.1.1). */
static inline __attribute__((always_inline)) void gpr_set(struct cpu *c, u8 off, unsigned size, u64 v)
{
	if (size == 4) {
		v = (u32)v;
		size = 8;
	}
	memcpy((char *)c->gpr + off, &v, size);
}

/* --- Stack ------------------------------------------------------------------------------------------ */

static inline u64 stack_mask(const struct cpu *c)
{
	return c->stack_bits == 64 ? ~0ull : c->stack_bits == 32 ? 0xffffffffull : 0xffffull;
}

/* Sets rSP as wide as the stack is. */
static inline void stack_set(struct cpu *c, u64 sp)
{
	u64 m = stack_mask(c);
	if (m == 0xffff)
		c->gpr[RSP] = (c->gpr[RSP] & ~m) | (sp & m);
	else
		c->gpr[RSP] = sp & m;
}

/* Pushes @size bytes (2, 4, 8); rSP changes only when the store succeeded. */
static inline void stack_push(struct cpu *c, unsigned size, u64 v)
{
	u64 sp = (c->gpr[RSP] - size) & stack_mask(c);
	mem_write(c, SEG_SS, seg_la(c, SEG_SS, sp, size, ACC_WRITE), size, v);
	stack_set(c, sp);
}

/* What is @depth bytes above the top, without popping. */
static inline u64 stack_peek(struct cpu *c, unsigned size, unsigned depth)
{
	u64 sp = (c->gpr[RSP] + depth) & stack_mask(c);
	return mem_read(c, SEG_SS, seg_la(c, SEG_SS, sp, size, ACC_READ), size);
}

#endif
