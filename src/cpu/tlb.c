#include "cpu/tlb.h"

#include <string.h>

#include "base/bits.h"

/* What entry @i is without a page. */
static struct tlb_entry entry_none(unsigned i)
{
	return (struct tlb_entry){.tag = {tag_none(i), tag_none(i), tag_none(i)}};
}

static bool tag_set(const struct tlb_array *a, unsigned i, enum access acc)
{
	return a->tag[acc][i] != tag_none(i);
}

static bool entry_empty(const struct tlb_array *a, unsigned i)
{
	return !tag_set(a, i, ACC_READ) && !tag_set(a, i, ACC_WRITE) && !tag_set(a, i, ACC_EXEC);
}

/* Before any number of entries change. */
static void tell(struct cpu *c)
{
	tlb_forget_stack(c->tlbs);
	if (c->journal)
		c->journal->tlb_flush(c);
}

/* An entry as the journal names it. */
#define ID(idx, i) ((u32)((idx) << TLB_BITS | (i)))
#define ID_IDX(id) ((unsigned)(id) >> TLB_BITS)
#define ID_I(id) ((unsigned)(id) & (TLB_SIZE - 1))

/* Entries that have been filled are found by chunks: see tlb.touched. */
#define CHUNK (TLB_SIZE / 64)

static bool entry_within(const struct tlb_entry *e, u64 mask, u64 base)
{
	return (e->tag[ACC_READ] & mask) == base || (e->tag[ACC_WRITE] & mask) == base ||
	       (e->tag[ACC_EXEC] & mask) == base;
}

/* Entries put aside for want of room go with the others: the non-global ones, and those of a page. */
static void victims_clear_local(struct tlb *tlb)
{
	for (unsigned n = 0; n < TLB_VICTIMS; n++)
		if (!tlb->victim_global[n])
			tlb->victim[n] = entry_none(ID_I(tlb->victim_at[n]));
}

static void victims_clear_page(struct tlb *tlb, u64 mask, u64 base)
{
	for (unsigned n = 0; n < TLB_VICTIMS; n++)
		if (entry_within(&tlb->victim[n], mask, base))
			tlb->victim[n] = entry_none(ID_I(tlb->victim_at[n]));
}

static bool chunk_touched(const struct tlb *tlb, unsigned idx, unsigned i)
{
	return tlb->touched[idx] >> (i / CHUNK) & 1;
}

/* --- Names for the present translations of code: cpu->exec_gen ----------------------------------------------- */

/* Index into exec_gen: the supervisor's code is apart from the user's. */
static unsigned exec_class(unsigned idx)
{
	return idx != MMU_USER && idx != MMU_USER_ALIGN;
}

static void gone_copy(struct tlb_gone *to, const struct tlb_gone *from)
{
	if (to->any || from->any)
		*to = *from;
}

static void exec_forget(struct cpu *c, unsigned class)
{
	static const struct tlb_gone none;

	c->exec_gen[class] = ++c->exec_gen_last;
	gone_copy(&c->tlbs->exec_gone[class], &none);
}

/* The non-global entries have gone. */
static void exec_forget_local(struct cpu *c)
{
	exec_forget(c, 0);
	if (c->tlbs->exec_local)
		exec_forget(c, 1);
	c->tlbs->exec_local = false;
}

static void exec_note(struct tlb *tlb, unsigned idx, bool global)
{
	if (exec_class(idx))
		tlb->exec_local |= !global;
	else
		tlb->exec_shared |= global;
}

/* The entry makes way for another, but what was derived from it is still in use. */
static void exec_gone(struct tlb *tlb, unsigned idx, unsigned i)
{
	struct tlb_gone *g = &tlb->exec_gone[exec_class(idx)];
	const struct tlb_array *a = &tlb->array[idx];

	if (!tag_set(a, i, ACC_EXEC))
		return;
	g->any = true;
	bit_set(g->bit[a->tag[ACC_EXEC][i] >> 63], i % TLB_GONE, true);
}

/* --- Who writes to a host page ----------------------------------------------------------------------------------- */

/*
 * tlb.writers: 1 + each entry that has the write tag of a page with this hash, and some that had; or the first is MANY:
 * there are more. So to find the write tags of a page rarely needs a look at all entries.
 */
#define WRITERS_MANY 0xffffffffu
_Static_assert(NR_MMU_INDEX << TLB_BITS < WRITERS_MANY, "the number of an entry and one more");

static struct tlb_writers *writers_of(struct tlb *tlb, u64 host)
{
	u64 page = host >> PAGE_SHIFT;
	return &tlb->writers[(page ^ page >> 14) % ARRAY_SIZE(tlb->writers)];
}

static bool is_writer(struct tlb *tlb, const struct tlb_writers *w, u32 id)
{
	const struct tlb_array *a = &tlb->array[ID_IDX(id)];
	unsigned i = ID_I(id);

	return tag_set(a, i, ACC_WRITE) && writers_of(tlb, a->host[i]) == w;
}

static void writer_note(struct tlb *tlb, u32 id)
{
	struct tlb_writers *w = writers_of(tlb, tlb->array[ID_IDX(id)].host[ID_I(id)]);
	u32 *place = NULL;

	if (w->id[0] == WRITERS_MANY)
		return;
	for (unsigned n = 0; n < ARRAY_SIZE(w->id); n++) {
		if (w->id[n] == id + 1)
			return;
		if (!w->id[n] || !is_writer(tlb, w, w->id[n] - 1))
			place = &w->id[n];
	}
	if (place)
		*place = id + 1;
	else
		w->id[0] = WRITERS_MANY;
}

static void drop_write(struct tlb *tlb, u32 id, u64 host)
{
	struct tlb_array *a = &tlb->array[ID_IDX(id)];
	unsigned i = ID_I(id);

	if (a->host[i] == host)
		a->tag[ACC_WRITE][i] = tag_none(i);
}

void tlb_drop_writes(struct cpu *c, const u8 *host)
{
	struct tlb *tlb = c->tlbs;
	u64 page = (u64)host & PAGE_MASK;
	struct tlb_writers *w = writers_of(tlb, page);

	tlb->write_gen++;
	tlb->nr_victims = 0;
	tlb_forget_stack(tlb);
	if (w->id[0] != WRITERS_MANY) {
		for (unsigned n = 0; n < ARRAY_SIZE(w->id); n++)
			if (w->id[n])
				drop_write(tlb, w->id[n] - 1, page);
		return;
	}
	memset(w, 0, sizeof(*w));
	for (unsigned idx = 0; idx < NR_MMU_INDEX; idx++)
		for (unsigned i = 0; i < TLB_SIZE; i++) {
			if (!chunk_touched(tlb, idx, i)) {
				i += CHUNK - 1;
				continue;
			}
			if (!tag_set(&tlb->array[idx], i, ACC_WRITE))
				continue;
			drop_write(tlb, ID(idx, i), page);
			if (is_writer(tlb, w, ID(idx, i)))
				writer_note(tlb, ID(idx, i));
		}
}

/* --- What is put aside ------------------------------------------------------------------------------------------- */

static void space_drop(struct tlb_space *s)
{
	s->exec_gen = 0;
	s->nr = 0;
}

static struct tlb_space *space_find(struct tlb *tlb, u64 pcid)
{
	for (unsigned n = 0; n < TLB_SPACES; n++)
		if (tlb->space[n].exec_gen && (tlb->space[n].cr3 & 0xfff) == pcid)
			return &tlb->space[n];
	return NULL;
}

static void spaces_drop(struct tlb *tlb)
{
	for (unsigned n = 0; n < TLB_SPACES; n++)
		space_drop(&tlb->space[n]);
}

static struct tlb_space *space_new(struct tlb *tlb)
{
	for (unsigned n = 0; n < TLB_SPACES; n++)
		if (!tlb->space[n].exec_gen)
			return &tlb->space[n];
	return &tlb->space[tlb->space_next++ % TLB_SPACES];
}

/* Takes what is journaled out of the TLB, into @s unless NULL. */
static void journal_empty(struct tlb *tlb, struct tlb_space *s)
{
	for (unsigned n = 0; n < MIN(tlb->journal_n, TLB_JOURNAL); n++) {
		u32 id = tlb->journal[n];
		unsigned idx = ID_IDX(id), i = ID_I(id);
		struct tlb_array *a = &tlb->array[idx];

		bit_set(tlb->noted[idx], i, false);
		if (bit_get(tlb->global[idx], i))
			continue;
		if (s && !entry_empty(a, i)) {
			s->at[s->nr] = id;
			s->e[s->nr++] = tlb_get(a, i);
		}
		tlb_clear(a, i);
	}
}

/* Those for which the journal had no room. */
static void local_sweep(struct tlb *tlb)
{
	for (unsigned idx = 0; idx < NR_MMU_INDEX; idx++)
		for (unsigned i = 0; i < TLB_SIZE; i++)
			if (!chunk_touched(tlb, idx, i)) {
				i += CHUNK - 1;
			} else if (!bit_get(tlb->global[idx], i)) {
				exec_gone(tlb, idx, i);
				tlb_clear(&tlb->array[idx], i);
			}
}

static void local_clear(struct tlb *tlb, struct tlb_space *s)
{
	victims_clear_local(tlb);
	journal_empty(tlb, s);
	if (tlb->journal_n > TLB_JOURNAL)
		local_sweep(tlb);
	tlb->journal_n = 0;
}

/* Puts the entry in the journal, if it is non-global and not there yet. */
static void journal_note(struct tlb *tlb, unsigned idx, unsigned i, bool global)
{
	bit_set(tlb->global[idx], i, global);
	tlb->touched[idx] |= BIT64(i / CHUNK);
	if (global || bit_get(tlb->noted[idx], i) || tlb->journal_n > TLB_JOURNAL)
		return;
	if (tlb->journal_n < TLB_JOURNAL) {
		tlb->journal[tlb->journal_n] = ID(idx, i);
		bit_set(tlb->noted[idx], i, true);
	}
	tlb->journal_n++;
}

/* The TLB has no non-global entries. */
static void space_restore(struct cpu *c, struct tlb_space *s)
{
	struct tlb *tlb = c->tlbs;
	/* Whoever undoes writes has them told by mmu_fill(). */
	bool writes = s->write_gen == tlb->write_gen && !c->journal;

	for (unsigned n = 0; n < s->nr; n++) {
		unsigned idx = ID_IDX(s->at[n]), i = ID_I(s->at[n]);
		struct tlb_array *a = &tlb->array[idx];

		exec_gone(tlb, idx, i);
		tlb_put(a, i, &s->e[n]);
		if (!writes)
			a->tag[ACC_WRITE][i] = tag_none(i);
		journal_note(tlb, idx, i, false);
		if (tag_set(a, i, ACC_WRITE))
			writer_note(tlb, s->at[n]);
		if (tag_set(a, i, ACC_EXEC))
			exec_note(tlb, idx, false);
	}
	gone_copy(&tlb->exec_gone[0], &s->exec_gone);
	c->exec_gen[0] = s->exec_gen;
	space_drop(s);
}

void tlb_switch(struct cpu *c, u64 cr3, bool keep)
{
	struct tlb *tlb = c->tlbs;
	u64 pcid = cr3 & 0xfff;

	tell(c);
	c->stat.tlb_flushes++;
	if (!(c->cr4 & CR4_PCIDE)) {
		local_clear(tlb, NULL);
		exec_forget_local(c);
		return;
	}
	if (pcid == tlb_pcid(c)) {
		if (!keep || cr3 != c->cr3)
			tlb_flush_pcid(c, (unsigned)pcid);
		return;
	}
	struct tlb_space *to = space_find(tlb, pcid), *from = space_new(tlb);
	if (to && (!keep || to->cr3 != cr3)) {
		space_drop(to);
		to = NULL;
	}
	if (from == to) /* all are in use: what comes back is not given away */
		from = space_new(tlb);
	space_drop(from);
	local_clear(tlb, from);
	from->cr3 = c->cr3;
	from->write_gen = tlb->write_gen;
	/* Where global pages are the user's code as well, nobody would tell the names put aside that one has gone. */
	from->exec_gen = tlb->exec_shared ? ++c->exec_gen_last : c->exec_gen[0];
	gone_copy(&from->exec_gone, &tlb->exec_gone[0]);
	exec_forget_local(c);
	if (to)
		space_restore(c, to);
}

/* --- Flushes ------------------------------------------------------------------------------------------------------ */

void tlb_flush_all(struct cpu *c)
{
	struct tlb *tlb = c->tlbs;

	tell(c);
	for (unsigned idx = 0; idx < NR_MMU_INDEX; idx++) {
		struct tlb_array *a = &tlb->array[idx];

		for (unsigned n = 0; n < NR_ACCESS * 64; n++)
			if (tlb->touched[idx] >> n % 64 & 1)
				memset(&a->tag[n / 64][n % 64 * CHUNK], 0, CHUNK * sizeof(u64));
		tlb_clear(a, 0);
		tlb->touched[idx] = 0;
	}
	memset(tlb->noted, 0, sizeof(tlb->noted));
	memset(tlb->large_bits, 0, sizeof(tlb->large_bits));
	memset(tlb->large_2m, 0, sizeof(tlb->large_2m));
	tlb->journal_n = tlb->nr_victims = 0;
	spaces_drop(tlb);
	tlb->exec_local = tlb->exec_shared = false;
	exec_forget(c, 0);
	exec_forget(c, 1);
	c->stat.tlb_flushes++;
}

void tlb_flush_nonglobal(struct cpu *c)
{
	tell(c);
	spaces_drop(c->tlbs);
	local_clear(c->tlbs, NULL);
	exec_forget_local(c);
	c->stat.tlb_flushes++;
}

void tlb_flush_pcid(struct cpu *c, unsigned pcid)
{
	struct tlb_space *s = space_find(c->tlbs, pcid);

	tell(c);
	if (s)
		space_drop(s);
	if (pcid != tlb_pcid(c))
		return;
	local_clear(c->tlbs, NULL);
	exec_forget_local(c);
	c->stat.tlb_flushes++;
}

/*
 * Pages that are larger than 4 KiB are remembered, the supervisor's half of the address space apart: a kernel has many.
 * Those of 2 MiB by a hash of where they are, larger ones by a hash of the GiB that they are in.
 */
static u8 *large_bits(struct tlb *tlb, u64 la)
{
	u64 gib = la >> 30;
	return &tlb->large_bits[la >> 63][(gib ^ gib >> 5 ^ gib >> 10) & (ARRAY_SIZE(tlb->large_bits[0]) - 1)];
}

static unsigned hash_2m(u64 la)
{
	u64 n = la >> 21;
	return (unsigned)(n ^ n >> 12 ^ n >> 24) & (TLB_2M_SIZE - 1);
}

static void large_note(struct tlb *tlb, u64 la, unsigned page_bits)
{
	u8 *bits = large_bits(tlb, la);

	if (page_bits == 21)
		bit_set(tlb->large_2m[la >> 63], hash_2m(la), true);
	else
		*bits = (u8)MAX(*bits, page_bits);
}

/* The largest page that @la may be in. */
static unsigned large_at(struct tlb *tlb, u64 la)
{
	unsigned bits = *large_bits(tlb, la);

	return bits ? bits : bit_get(tlb->large_2m[la >> 63], hash_2m(la)) ? 21 : PAGE_SHIFT;
}

/* Of @nr bits from @first on, 1 or a power of 2 that @first is a multiple of. */
static bool any_bit(const u8 *map, unsigned first, unsigned nr)
{
	if (nr < 8)
		return bit_get(map, first);
	for (unsigned n = 0; n < nr / 8; n++)
		if (map[first / 8 + n])
			return true;
	return false;
}

void tlb_flush_page(struct cpu *c, u64 la)
{
	struct tlb *tlb = c->tlbs;
	/* The page may be part of a larger one, of which any 4 KiB may be in the TLB. */
	unsigned page_bits = large_at(tlb, la);
	u64 mask = ~(BIT64(page_bits) - 1), base = la & mask;
	unsigned nr = page_bits - PAGE_SHIFT >= TLB_BITS ? TLB_SIZE : 1u << (page_bits - PAGE_SHIFT);
	unsigned first = tlb_index(base);
	bool exec[2] = {false, false};

	tell(c);
	victims_clear_page(tlb, mask, base);
	for (unsigned class = 0; class < 2; class++)
		exec[class] = any_bit(tlb->exec_gone[class].bit[la >> 63], first % TLB_GONE, MIN(nr, TLB_GONE));
	for (unsigned idx = 0; idx < NR_MMU_INDEX; idx++)
		for (unsigned i = first; i < first + nr; i++) {
			struct tlb_array *a = &tlb->array[idx];
			if (!chunk_touched(tlb, idx, i)) {
				i |= CHUNK - 1;
				continue;
			}
			struct tlb_entry e = tlb_get(a, i);
			if (!entry_within(&e, mask, base))
				continue;
			exec[exec_class(idx)] |= tag_set(a, i, ACC_EXEC);
			tlb_clear(a, i);
		}
	if (exec[0])
		exec_forget(c, 0);
	if (exec[1])
		exec_forget(c, 1);
}

void tlb_flush_fault(struct cpu *c, u64 la)
{
	struct tlb *tlb = c->tlbs;
	unsigned i = tlb_index(la);
	u64 page = la & PAGE_MASK;

	if (large_at(tlb, la) != PAGE_SHIFT) {
		tlb_flush_page(c, la);
		return;
	}
	tlb_forget_stack(tlb);
	victims_clear_page(tlb, PAGE_MASK, page);
	for (unsigned idx = 0; idx < NR_MMU_INDEX; idx++) {
		struct tlb_array *a = &tlb->array[idx];

		/* What may be written or executed may be read, but for PKRU. */
		if (!chunk_touched(tlb, idx, i) || a->tag[ACC_READ][i] != page)
			continue;
		if (c->journal)
			c->journal->tlb_entry(c, (enum mmu_index)idx, i);
		if (tag_set(a, i, ACC_EXEC))
			exec_forget(c, exec_class(idx));
		tlb_clear(a, i);
	}
}

void tlb_flush_pkru(struct cpu *c)
{
	if (c->cr4 & CR4_PKE)
		tlb_flush_all(c);
}

/* --- Filling ----------------------------------------------------------------------------------------------------- */

static void victim_note(struct tlb *tlb, unsigned idx, unsigned i)
{
	unsigned n = tlb->victim_next++ % TLB_VICTIMS;

	tlb->victim[n] = tlb_get(&tlb->array[idx], i);
	tlb->victim_at[n] = ID(idx, i);
	tlb->victim_global[n] = bit_get(tlb->global[idx], i);
	if (tlb->nr_victims < TLB_VICTIMS)
		tlb->nr_victims++;
}

bool tlb_recall(struct cpu *c, enum mmu_index idx, u64 la, enum access acc)
{
	struct tlb *tlb = c->tlbs;
	unsigned i = tlb_index(la);
	u64 page = la & PAGE_MASK;

	for (unsigned k = 0; k < tlb->nr_victims; k++) {
		unsigned n = (u8)(tlb->victim_next - 1 - k) % TLB_VICTIMS;

		if (tlb->victim_at[n] != ID(idx, i))
			continue;
		struct tlb_entry *v = &tlb->victim[n];
		if (v->tag[acc] != page)
			continue;
		struct tlb_page back = {
			.la = page, .host = v->host, .page_bits = PAGE_SHIFT, .global = tlb->victim_global[n],
			.read = v->tag[ACC_READ] == page, .write = v->tag[ACC_WRITE] == page,
			.exec = v->tag[ACC_EXEC] == page,
		};
		*v = entry_none(i);
		tlb_enter(c, idx, &back);
		return true;
	}
	return false;
}

void tlb_enter(struct cpu *c, enum mmu_index idx, const struct tlb_page *p)
{
	struct tlb *tlb = c->tlbs;
	unsigned i = tlb_index(p->la);
	struct tlb_array *a = &tlb->array[idx];
	struct tlb_entry was = tlb_get(a, i);

	if (c->journal)
		c->journal->tlb_entry(c, idx, i);
	if (was.host != p->host || !entry_within(&was, ~0ull, p->la)) {
		exec_gone(tlb, idx, i);
		/* Whoever undoes what is done here knows the entries alone. */
		if (!c->journal && !entry_empty(a, i))
			victim_note(tlb, idx, i);
		a->tag[ACC_WRITE][i] = tag_none(i);
	}
	journal_note(tlb, idx, i, p->global);
	if (p->page_bits > PAGE_SHIFT)
		large_note(tlb, p->la, p->page_bits);
	a->host[i] = p->host;
	a->tag[ACC_READ][i] = p->read ? p->la : tag_none(i);
	if (p->write) {
		a->tag[ACC_WRITE][i] = p->la;
		writer_note(tlb, ID(idx, i));
	}
	a->tag[ACC_EXEC][i] = p->exec ? p->la : tag_none(i);
	if (p->exec)
		exec_note(tlb, idx, p->global);
}

bool tlb_code_is_global(const struct cpu *c, u64 la)
{
	const struct tlb *tlb = c->tlbs;

	return tlb_has(c->tlb, la, ACC_EXEC) && bit_get(tlb->global[c->mmu_index], tlb_index(la));
}
