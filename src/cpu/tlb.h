/*
 * The TLB (struct tlb in cpu.h): what goes in, what is forgotten when (SDM vol. 3A, 4.10).
 * It holds the global translations and those of the present PCID. At a MOV CR3 that keeps them, the translations of
 * the old PCID are put aside in a struct tlb_space, and those of the new one come back from theirs.
 */
#ifndef CPU_TLB_H
#define CPU_TLB_H

#include "cpu/cpu.h"

/*
 * What an empty tag is depends on the entry: it names a page that cannot be in that entry, so that neither equality nor
 * a distance of less than a page (generated code compares so) ever hits it.
 */
static inline u64 tag_none(unsigned i)
{
	return i ? 0 : ~0ull;
}

/* An empty one below 2 GiB, if it may be; or NULL. tlb_free() takes NULL too. */
struct tlb *tlb_new(void);
void tlb_free(struct tlb *tlb);
/* Makes the view of array @idx wide, if that can be done. The array must be empty. */
void tlb_widen(struct tlb *tlb, enum mmu_index idx);

static inline unsigned tlb_index(u64 la)
{
	return la >> PAGE_SHIFT & (TLB_SIZE - 1);
}

/* An access to @la may go straight to tlb_host(); that is valid until the TLB changes. */
static inline bool tlb_has(const struct tlb_array *a, u64 la, enum access acc)
{
	return a->tag[acc][tlb_index(la)] == (la & PAGE_MASK);
}
static inline u8 *tlb_host(const struct tlb_array *a, u64 la)
{
	return (u8 *)(a->host[tlb_index(la)] | (la & (PAGE_SIZE - 1)));
}

/* An entry taken out and put back, for who knows what that means. */
static inline struct tlb_entry tlb_get(const struct tlb_array *a, unsigned i)
{
	return (struct tlb_entry){{a->tag[ACC_READ][i], a->tag[ACC_WRITE][i], a->tag[ACC_EXEC][i]}, a->host[i]};
}
static inline void tlb_put(struct tlb_array *a, unsigned i, const struct tlb_entry *e)
{
	for (unsigned acc = 0; acc < NR_ACCESS; acc++)
		a->tag[acc][i] = e->tag[acc];
	a->host[i] = e->host;
}

static inline void tlb_clear(struct tlb_array *a, unsigned i)
{
	for (unsigned acc = 0; acc < NR_ACCESS; acc++)
		a->tag[acc][i] = tag_none(i);
}

/* tlb.stack: whatever takes the right to write to a page of the TLB takes it from there. */
static inline void tlb_forget_stack(struct tlb *tlb)
{
	for (unsigned idx = 0; idx < NR_MMU_INDEX; idx++)
		tlb->stack[idx].tag = tlb->no_stack;
}

/* A page of 4 KiB to be entered, and what accesses may go straight to it. A write tag that it has stays. */
struct tlb_page {
	u64 la, host;
	u8 page_bits; /* of the page in the paging structures that it is part of */
	bool global;
	bool read, exec;
	bool write; /* only after a write: it has set the dirty bit */
};
void tlb_enter(struct cpu *c, enum mmu_index idx, const struct tlb_page *page);

/*
 * Where many accesses take turns at pages that share an entry: the page of @la comes back, if it was there a moment ago
 * and allowed @acc. False: it has to be entered.
 */
bool tlb_recall(struct cpu *c, enum mmu_index idx, u64 la, enum access acc);

void tlb_flush_all(struct cpu *c);          /* global ones too: CR0/CR4 changes, map changes, dirty log */
void tlb_flush_nonglobal(struct cpu *c);    /* of every PCID */
void tlb_flush_page(struct cpu *c, u64 la); /* INVLPG: of the present PCID, and global ones */
/*
 * A page fault at @la: its handler need not say INVLPG (SDM vol. 3A, 4.10.4.1). Not as thorough: code whose page has
 * left the TLB in the meantime may stay in use.
 */
void tlb_flush_fault(struct cpu *c, u64 la);
void tlb_flush_pcid(struct cpu *c, unsigned pcid); /* its non-global ones */
void tlb_flush_pkru(struct cpu *c);         /* PKRU has changed (WRPKRU, XRSTOR) */

/*
 * MOV CR3: to be called before cpu->cr3 becomes @cr3 (bit 63 clear). With @keep what is known of its PCID stays, unless
 * it was another CR3's.
 */
void tlb_switch(struct cpu *c, u64 cr3, bool keep);

/* The page at @host gets no write tag any more until it is filled anew: something watches writes to it. */
void tlb_drop_writes(struct cpu *c, const u8 *host);

/* Whether the code at @la, in use now, is in a page that outlives MOV CR3. */
bool tlb_code_is_global(const struct cpu *c, u64 la);

/* The PCID in use: 0 without CR4.PCIDE. */
static inline unsigned tlb_pcid(const struct cpu *c)
{
	return c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

#endif
