/* Address translation: page walks for every paging mode (SDM vol. 3A, chapter 4). */
#ifndef CPU_MMU_H
#define CPU_MMU_H

#include "cpu/cpu.h"
#include "cpu/tlb.h"

struct translation {
	u64 gpa;
	u8 page_bits;  /* 12, 21, 22, 30 */
	bool writable, user, nx, global, dirty;
	u8 pkey;
};

/*
 * Walks the page tables for linear address @la as @mmu_index does, sets accessed and dirty bits when
 * @set_ad (atomically), fills @t. Returns 0, or the page-fault error code with MMU_FAULT set.
 * Page-table reads that hit no memory slot return all ones, as on a bus with nobody there.
 */
#define MMU_FAULT BIT(31)
u32 mmu_walk(struct cpu *c, u64 la, enum access acc, enum mmu_index idx, bool set_ad, struct translation *t);

/* Translation without side effects for KVM_TRANSLATE and debuggers. False when not mapped. */
bool mmu_translate(struct cpu *c, u64 la, u64 *gpa, bool *writable, bool *user);

/* How an access at privilege level @cpl looks at memory now. */
static inline enum mmu_index mmu_index_at(const struct cpu *c, unsigned cpl)
{
	if (cpl == 3)
		return (c->cr0 & CR0_AM) && (c->rflags & FL_AC) ? MMU_USER_ALIGN : MMU_USER;
	bool smap = (c->cr4 & CR4_SMAP) && !(c->rflags & FL_AC);
	return c->cr0 & CR0_WP ? MMU_KERNEL + smap : MMU_KERNEL_NOWP + smap;
}

/* Implicit supervisor accesses: AC does not lift SMAP for them (SDM vol. 3A, 4.6.1). */
static inline enum mmu_index mmu_index_system(const struct cpu *c)
{
	return (c->cr0 & CR0_WP ? MMU_KERNEL : MMU_KERNEL_NOWP) + !!(c->cr4 & CR4_SMAP);
}

static inline bool la_canonical(const struct cpu *c, u64 la)
{
	unsigned unused = 64 - c->maxlinear;
	return (u64)((s64)(la << unused) >> unused) == la;
}

/*
 * Slow half of every access: walk, fill the TLB, return the host address of @la, whose @size bytes lie in one page.
 * NULL: MMIO, and *@gpa says where. Raises #PF, or #GP/#SS for a non-canonical address (@seg tells which).
 */
void *mmu_fill(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, enum access acc, enum mmu_index idx, u64 *gpa);

/*
 * Host address of the code byte at linear address @la, which must be canonical; NULL with *@gpa for MMIO. #PF when
 * not executable.
 */
const u8 *mmu_code(struct cpu *c, u64 la, u64 *gpa);

/* Loads PDPTEs after a CR3 write under PAE. False: a reserved bit is set, #GP(0). */
bool mmu_load_pdptes(struct cpu *c, u64 cr3);

#endif
