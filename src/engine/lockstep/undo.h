/*
 * What generated code and C functions change outside of struct cpu - guest memory, accessed and dirty bits, the TLB -
 * so that the same instructions can run twice from one state. Pages are kept whole: a write that strays within them is
 * seen too.
 *
 * No entry of the TLB has its write tag when a run begins, so the first write to each page goes through mmu_fill(),
 * which tells cpu->journal; later ones in the same run are the engine's fast path.
 */
#ifndef ENGINE_LOCKSTEP_UNDO_H
#define ENGINE_LOCKSTEP_UNDO_H

#include "cpu/cpu.h"

#define UNDO_PAGES_MAX 512
#define UNDO_PAGES_ENOUGH 64 /* string instructions are made to pause here */
#define UNDO_ENTRIES_MAX 1024

struct undo_page {
	u8 *host;
	u8 run;      /* the latest that wrote it: 1 or 2 */
	bool killed; /* the first run ended translations there */
	u8 old[PAGE_SIZE], first[PAGE_SIZE]; /* before, and after the first run */
};

struct undo_entry {
	u8 idx;
	bool global, noted;
	u16 i;
	struct tlb_entry old;
};

struct undo {
	struct cpu_journal hooks; /* first: cpu->journal */
	void (*code_write)(struct cpu *c, const struct gpa_slot *slot, u64 gpa, u8 *host, unsigned size);
	u8 run;             /* 0: nothing is undone now */
	bool lost;          /* more than there is room for */
	unsigned nr_pages, pages_now; /* pages_now: of the run under way */
	struct undo_page *page;
	unsigned nr_entries;
	struct undo_entry *entry;
	bool flushed;       /* @tlb holds all of it, as it was behind the entries in the list */
	struct tlb *tlb;
	u16 journal_n;      /* of the TLB at the beginning */
	unsigned nr_filled; /* > UNDO_ENTRIES_MAX: too many to know */
	u32 filled[UNDO_ENTRIES_MAX]; /* entries that may have a write tag: idx << TLB_BITS | i */
};

/* Takes the place of cpu->code_write, which the engine has set before. 0 or -ENOMEM. */
int undo_init(struct undo *u, struct cpu *c);
void undo_fini(struct undo *u);

/* Before the first run. */
void undo_begin(struct undo *u, struct cpu *c);
/* Keeps what the first run left, brings back what was before, for the second run. False: u->lost. */
bool undo_again(struct undo *u, struct cpu *c);
/* After the second; or instead of undo_again(), when the first is to stand. */
void undo_end(struct undo *u);

#endif
