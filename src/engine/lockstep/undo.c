#include "engine/lockstep/undo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "cpu/mmu.h"

static struct undo *undo_of(const struct cpu *c)
{
	return (struct undo *)c->journal;
}

/* --- Memory ----------------------------------------------------------------------------------------------------- */

static struct undo_page *page_find(struct undo *u, const u8 *host)
{
	for (unsigned n = u->nr_pages; n-- > 0;)
		if (u->page[n].host == host)
			return &u->page[n];
	return NULL;
}

static struct undo_page *page_add(struct undo *u, u8 *host)
{
	struct undo_page *p = page_find(u, host);

	if (!p) {
		if (u->nr_pages == UNDO_PAGES_MAX) {
			u->lost = true;
			return NULL;
		}
		p = &u->page[u->nr_pages++];
		p->host = host;
		p->run = 0;
		p->killed = false;
		memcpy(p->old, host, PAGE_SIZE);
		if (u->run == 2)
			memcpy(p->first, host, PAGE_SIZE); /* which the first run did not write */
	}
	if (p->run != u->run)
		u->pages_now++;
	p->run = u->run;
	return p;
}

static void on_page(struct cpu *c, const u8 *host)
{
	struct undo *u = undo_of(c);

	if (!u->run)
		return;
	const struct undo_page *p = page_add(u, (u8 *)((u64)host & PAGE_MASK));
	/* A string instruction that changes translated code pauses, in the first run; so it does in the second. */
	if (u->pages_now > UNDO_PAGES_ENOUGH || (p && p->killed))
		c->smc = true;
}

static void on_code_write(struct cpu *c, const struct gpa_slot *slot, u64 gpa, u8 *host, unsigned size)
{
	struct undo *u = undo_of(c);
	bool before = c->smc;

	c->smc = false;
	u->code_write(c, slot, gpa, host, size);
	struct undo_page *p = u->run ? page_add(u, (u8 *)((u64)host & PAGE_MASK)) : NULL;
	if (p && u->run == 1)
		p->killed |= c->smc;
	c->smc |= before;
}

/* --- The TLB ---------------------------------------------------------------------------------------------------- */

static void on_tlb_entry(struct cpu *c, unsigned idx, unsigned i)
{
	struct undo *u = undo_of(c);

	if (u->nr_filled < UNDO_ENTRIES_MAX)
		u->filled[u->nr_filled] = idx << TLB_BITS | i;
	if (u->nr_filled <= UNDO_ENTRIES_MAX)
		u->nr_filled++;
	if (u->run != 1 || u->flushed)
		return;
	if (u->nr_entries == UNDO_ENTRIES_MAX) {
		c->journal->tlb_flush(c);
		return;
	}
	u->entry[u->nr_entries++] = (struct undo_entry){
		.idx = (u8)idx, .i = (u16)i, .global = bit_get(c->tlbs->global[idx], i),
		.noted = bit_get(c->tlbs->noted[idx], i), .old = tlb_get(&c->tlbs->array[idx], i),
	};
}

static void on_tlb_flush(struct cpu *c)
{
	struct undo *u = undo_of(c);

	if (u->run != 1 || u->flushed)
		return;
	u->flushed = true;
	memcpy(u->tlb, c->tlbs, sizeof(*u->tlb));
}

static void tlb_restore(struct undo *u, struct cpu *c)
{
	struct tlb *t = c->tlbs;

	if (u->flushed)
		memcpy(t, u->tlb, sizeof(*t));
	tlb_forget_stack(t);
	while (u->nr_entries) {
		const struct undo_entry *e = &u->entry[--u->nr_entries];

		tlb_put(&t->array[e->idx], e->i, &e->old);
		bit_set(t->global[e->idx], e->i, e->global);
		bit_set(t->noted[e->idx], e->i, e->noted);
	}
	t->journal_n = u->journal_n;
}

static void drop_write_tags(struct undo *u, struct cpu *c)
{
	tlb_forget_stack(c->tlbs);
	for (unsigned n = 0; n < u->nr_filled && u->nr_filled <= UNDO_ENTRIES_MAX; n++) {
		unsigned i = u->filled[n] & (TLB_SIZE - 1);
		c->tlbs->array[u->filled[n] >> TLB_BITS].tag[ACC_WRITE][i] = tag_none(i);
	}
	for (unsigned idx = 0; idx < NR_MMU_INDEX && u->nr_filled > UNDO_ENTRIES_MAX; idx++)
		for (unsigned i = 0; i < TLB_SIZE && c->tlbs->touched[idx]; i++)
			c->tlbs->array[idx].tag[ACC_WRITE][i] = tag_none(i);
	u->nr_filled = 0;
}

/* --- Two runs --------------------------------------------------------------------------------------------------- */

void undo_begin(struct undo *u, struct cpu *c)
{
	drop_write_tags(u, c);
	u->run = 1;
	u->lost = u->flushed = false;
	u->nr_pages = u->pages_now = u->nr_entries = 0;
	u->journal_n = c->tlbs->journal_n;
}

bool undo_again(struct undo *u, struct cpu *c)
{
	if (u->lost)
		return false;
	for (unsigned n = 0; n < u->nr_pages; n++) {
		struct undo_page *p = &u->page[n];

		memcpy(p->first, p->host, PAGE_SIZE);
		/* Only what differs: devices write here too. */
		for (unsigned at = 0; at < PAGE_SIZE; at += 8) {
			u64 was, is;
			memcpy(&was, p->old + at, 8);
			memcpy(&is, p->first + at, 8);
			if (was != is)
				memcpy(p->host + at, &was, 8);
		}
	}
	tlb_restore(u, c);
	u->run = 2;
	u->pages_now = 0;
	return true;
}

void undo_end(struct undo *u)
{
	u->run = 0;
}

int undo_init(struct undo *u, struct cpu *c)
{
	u->hooks = (struct cpu_journal){on_page, on_tlb_entry, on_tlb_flush};
	u->page = malloc(UNDO_PAGES_MAX * sizeof(*u->page));
	u->entry = malloc(UNDO_ENTRIES_MAX * sizeof(*u->entry));
	u->tlb = aligned_alloc(64, ALIGN_UP(sizeof(*u->tlb), 64));
	u->nr_filled = UNDO_ENTRIES_MAX + 1;
	if (!u->page || !u->entry || !u->tlb)
		return -ENOMEM;
	u->code_write = c->code_write;
	c->code_write = on_code_write;
	c->journal = &u->hooks;
	return 0;
}

void undo_fini(struct undo *u)
{
	free(u->page);
	free(u->entry);
	free(u->tlb);
}
