/* Blocks by guest address, links between them, and their end. Everything here runs outside of generated code. */
#include "engine/jit/jit.h"

#include "cpu/gpa.h"
#include "cpu/mmu.h"

static unsigned hash_code(const u8 *p)
{
	return (unsigned)(((u64)p ^ (u64)p >> JIT_HASH_BITS) & ((1u << JIT_HASH_BITS) - 1));
}

static unsigned hash_page(const u8 *p)
{
	u64 n = (u64)p >> PAGE_SHIFT;
	return (unsigned)((n ^ n >> JIT_HASH_BITS) & ((1u << JIT_HASH_BITS) - 1));
}

void *jit_data(struct jit *j, size_t size)
{
	size = ALIGN_UP(size, 8);
	if (j->data_p + size > j->data + j->data_size)
		return NULL;
	void *p = j->data_p;
	j->data_p += size;
	return p;
}

struct jit_block *jit_find(struct jit *j, u64 rip, const u8 *p)
{
	bool fixed = jit_fixed(j->mode, rip);

	for (struct jit_block *b = j->hash[hash_code(p)]; b; b = b->next)
		if (b->code == p && b->mode == j->mode && b->fixed == fixed && (!fixed || b->rip == rip))
			return b;
	return NULL;
}

/* The counter of the page at host address @p in slot @s: see gpa_slot.code. NULL: it is not there. */
static _Atomic u16 *mark_in(const struct gpa_slot *s, const u8 *p)
{
	u64 off = (u64)(p - s->hva);

	return s->code && off < s->size ? &s->code[off >> PAGE_SHIFT] : NULL;
}

bool jit_marks_full(const struct jit *j)
{
	return !j->free_mark && j->nr_marks + 1 >= JIT_MARKS;
}

/* This vCPU has translated something of the page at @p, for the first time since it had nothing of it. */
static struct jit_mark *mark_page(struct jit *j, const u8 *p)
{
	const struct gpa_map *m = j->cpu->map;
	u32 nr = j->free_mark;
	bool fresh = false;

	if (nr)
		j->free_mark = j->mark[nr].next;
	else
		nr = ++j->nr_marks;
	struct jit_mark *k = &j->mark[nr];
	*k = (struct jit_mark){.page = (const u8 *)((u64)p & PAGE_MASK), .verified = j->client_gen};
	/* Several slots may show the same memory. */
	for (u32 n = 0; n < m->nr; n++) {
		_Atomic u16 *mark = mark_in(&m->slot[n], k->page);
		if (!mark)
			continue;
		fresh |= atomic_fetch_add(mark, 1) == 0;
		k->id = MAX(k->id, m->slot[n].code_id);
	}
	if (fresh) {
		tlb_drop_writes(j->cpu, p);
		hub_watch(j, p);
	}
	return k;
}

/* Its last block there is gone. So is the counter where the memory slot was deleted; newer slots were not marked. */
static void unmark_page(struct jit *j, struct jit_mark *k)
{
	const struct gpa_map *m = j->cpu->map;

	for (u32 n = 0; m && n < m->nr; n++) {
		_Atomic u16 *mark = mark_in(&m->slot[n], k->page);
		if (mark && m->slot[n].code_id <= k->id)
			atomic_fetch_sub(mark, 1);
	}
	*k = (struct jit_mark){.next = j->free_mark};
	j->free_mark = (u32)(k - j->mark);
}

/* That of the page at @p; NULL: it has no blocks. */
static struct jit_mark *mark_of(struct jit *j, const u8 *p)
{
	for (const struct jit_block *b = j->page[hash_page(p)]; b; b = b->page_next)
		if (((u64)b->code ^ (u64)p) < PAGE_SIZE)
			return &j->mark[b->mark];
	return NULL;
}

static u64 fold(u64 a, u64 b)
{
	u128 m = (u128)a * b;

	return (u64)m ^ (u64)(m >> 64);
}

/*
 * The page's content as a number other than 0, and a copy of it: somebody may be writing there. With a key that nobody
 * knows, nobody makes two pages that are taken for the same.
 */
static u64 page_content(const struct jit *j, const u8 *p, u8 copy[PAGE_SIZE])
{
	u64 h[4], word[8];

	memcpy(copy, (const u8 *)((u64)p & PAGE_MASK), PAGE_SIZE);
	/* Nothing is symmetric: the same words elsewhere in the page are another content. */
	for (unsigned n = 0; n < 4; n++)
		h[n] = fold(j->hash_key, JUMP_HASH + n);
	for (unsigned at = 0; at < PAGE_SIZE; at += sizeof(word)) {
		memcpy(word, copy + at, sizeof(word));
		for (unsigned n = 0; n < 4; n++)
			h[n] = fold(word[2 * n] ^ j->hash_key, word[2 * n + 1] ^ h[n]);
	}
	u64 all = j->hash_key;
	for (unsigned n = 0; n < 4; n++)
		all = fold(all ^ h[n], j->hash_key);
	return all | 1;
}

static bool is_in(const struct jit_block *b, const u8 page[PAGE_SIZE])
{
	return block_same_bytes(page + ((u64)b->code & (PAGE_SIZE - 1)), b->bytes, b->len);
}

/* Those that begin in the page of @p and are not in @page, its content. */
static void kill_changed(struct jit *j, const u8 *p, const u8 *page)
{
	struct jit_block *next;

	for (struct jit_block *b = j->page[hash_page(p)]; b; b = next) {
		next = b->page_next;
		if (((u64)b->code ^ (u64)p) < PAGE_SIZE && !is_in(b, page))
			jit_block_kill(j, b);
	}
}

void jit_verify_blocks(struct jit *j, const u8 *p)
{
	kill_changed(j, p, (const u8 *)((u64)p & PAGE_MASK));
}

void jit_verify_page(struct jit *j, const u8 *p)
{
	struct jit_mark *k = mark_of(j, p);
	u8 page[PAGE_SIZE];

	if (!k || k->verified == j->client_gen)
		return;
	u64 content = page_content(j, p, page);
	k->verified = j->client_gen;
	if (content == k->content)
		return;
	k->content = content;
	kill_changed(j, p, page);
}

void jit_insert(struct jit *j, struct jit_block *b)
{
	struct jit_block **h = &j->hash[hash_code(b->code)], **page = &j->page[hash_page(b->code)];
	u8 copy[PAGE_SIZE];

	/* What is known of the page holds for the new block too, if the client has not written since. */
	jit_verify_page(j, b->code);
	struct jit_mark *k = mark_of(j, b->code);
	if (!k) {
		k = mark_page(j, b->code);
		u64 content = page_content(j, b->code, copy);
		k->content = is_in(b, copy) ? content : 0;
	}
	b->mark = (u32)(k - j->mark);
	b->settled_at = hub_now(j);
	b->next = *h;
	*h = b;
	b->page_next = *page;
	*page = b;
}

#define SAVER_SIZE 23 /* of jit_emit_save_flags() and a jump */

/* Of @l, which is about to lead to @to. True: it has led there before, from another address or in another epoch. */
static bool set_key(struct jit *j, struct jit_link *l, const struct jit_block *to)
{
	struct jit_block *before = low_at(l->to);

	l->key->key = to ? (j->cpu->rip - l->place + l->key->of) ^ j->epoch : 0;
	if (to && !l->key->listed) {
		l->key->next = j->keyed;
		l->key->listed = true;
		j->keyed = low_ref(l);
	}
	if (!to || !before || before == to)
		return before == to;
	u32 *at = &before->incoming;
	while (low_at(*at) != l)
		at = &((struct jit_link *)low_at(*at))->next;
	*at = l->next;
	return false;
}

/* Where @l is to lead for @to; NULL: there is no room for the code that should save the flags. */
static u8 *way_to(struct jit *j, struct jit_link *l, const struct jit_block *to)
{
	u8 *entry = emit_place(&j->e, to->entry) + (l->back ? 0 : to->poll);

	if (!l->in_host || !to->flags_live)
		return entry;
	if (!l->saver) {
		if (j->e.p + SAVER_SIZE > j->rw + j->code_size)
			return NULL;
		l->saver = (u32)(j->e.p - j->rw);
		jit_emit_save_flags(j);
		emit_jmp_later(&j->e);
	}
	u8 *saver = j->rw + l->saver;
	emit_patch(saver + SAVER_SIZE - 4, entry);
	return saver;
}

void jit_link_set(struct jit *j, struct jit_link *l, struct jit_block *to)
{
	u8 *jump = j->rw + l->jump, *way;

	if (l->keyed && set_key(j, l, to))
		return;
	emit_patch(jump, jump + l->stub);
	l->to = 0;
	if (!to || !(way = way_to(j, l, to)))
		return;
	l->to = low_ref(to);
	if (l->far && j->nr_far < JIT_FAR_MAX)
		j->far_to[j->nr_far] = to;
	j->nr_far += l->far && j->nr_far <= JIT_FAR_MAX;
	l->next = to->incoming;
	to->incoming = low_ref(l);
	emit_patch(jump, way);
}

/* All the far links to @b. */
static void unlink_far_to(struct jit *j, struct jit_block *b)
{
	struct jit_link *l;
	u32 *at = &b->incoming;

	while ((l = low_at(*at))) {
		if (l->far) {
			*at = l->next;
			jit_link_set(j, l, NULL);
		} else {
			at = &l->next;
		}
	}
}

void jit_unlink_far(struct jit *j)
{
	if (j->nr_far > JIT_FAR_MAX)
		for (struct jit_block *b = j->newest; b; b = b->older)
			unlink_far_to(j, b);
	else
		while (j->nr_far)
			unlink_far_to(j, j->far_to[--j->nr_far]);
	j->nr_far = 0;
}

void jit_forget_keys(struct jit *j)
{
	for (struct jit_link *l; (l = low_at(j->keyed)); j->keyed = l->key->next) {
		l->key->key = 0;
		l->key->listed = false;
	}
}

static void unchain(struct jit_block **at, struct jit_block *b, bool page)
{
	while (*at && *at != b)
		at = page ? &(*at)->page_next : &(*at)->next;
	if (*at)
		*at = page ? b->page_next : b->next;
}

void jit_block_kill(struct jit *j, struct jit_block *b)
{
	if (b->dead)
		return;
	b->dead = true;
	unchain(&j->hash[hash_code(b->code)], b, false);
	unchain(&j->page[hash_page(b->code)], b, true);
	if (!mark_of(j, b->code))
		unmark_page(j, &j->mark[b->mark]);
	for (struct jit_link *l = low_at(b->incoming); l; l = low_at(l->next))
		if (low_at(l->to) == b)
			jit_link_set(j, l, NULL);
	b->incoming = 0;
	struct jump_entry *shared = &j->shared[jit_shared_index(b->code)];
	if (shared->code == b->entry)
		*shared = (struct jump_entry){0};
	/* What the jump cache has of it leads on, by way of its entry. */
	struct emit e = {.p = emit_place(&j->e, b->entry), .rx = j->e.rx};
	emit_jmp(&e, j->stub_miss[1]);
}

unsigned jit_invalidate(struct jit *j, const u8 *p, unsigned size)
{
	struct jit_block *next;
	unsigned killed = 0;
	struct jit_mark *k = mark_of(j, p);

	if (k)
		k->content = 0;
	for (struct jit_block *b = j->page[hash_page(p)]; b; b = next) {
		next = b->page_next;
		if (p < b->code + b->len && p + size > b->code) {
			jit_block_kill(j, b);
			killed++;
		}
	}
	return killed;
}

#define WRITES_MIN 16
#define WRITES_MAX (1u << 15)

bool jit_count_write(struct jit *j, const u8 *p)
{
	struct jit_writes *w = &j->writes[hash_page(p) & ((1u << JIT_WRITES_BITS) - 1)];

	if (++w->nr < MAX(w->limit, (u16)WRITES_MIN))
		return false;
	w->limit = (u16)MIN(2u * MAX(w->limit, (u16)WRITES_MIN), WRITES_MAX);
	w->nr = 0;
	return true;
}

/* All at once: to end a block at a time, with its links, would hold the guest up for many milliseconds. */
void jit_flush(struct jit *j)
{
	if (j->newest) {
		for (u32 n = 1; n <= j->nr_marks; n++)
			if (j->mark[n].page)
				unmark_page(j, &j->mark[n]);
		memset(j->hash, 0, sizeof(j->hash));
		memset(j->page, 0, sizeof(j->page));
		memset(j->jump, 0, sizeof(j->jump));
		memset(j->shared, 0, sizeof(j->shared));
	}
	j->nr_marks = j->free_mark = 0;
	j->e.p = j->code_start;
	j->data_p = j->data;
	j->newest = NULL;
	j->nr_far = 0;
	j->keyed = 0;
	copy_arena_reset(&j->copy);
	j->stat.flushes++;
}
