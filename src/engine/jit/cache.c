/* Blocks by guest address, links between them, and their end. Everything here runs outside of generated code. */
#include "engine/jit/jit.h"

#include "cpu/gpa.h"

static unsigned hash_rip(u64 rip)
{
	return (unsigned)((rip ^ rip >> JIT_HASH_BITS) & ((1u << JIT_HASH_BITS) - 1));
}

static unsigned hash_page(const u8 *p)
{
	u64 n = (u64)p >> PAGE_SHIFT;
	return (unsigned)((n ^ n >> JIT_HASH_BITS) & ((1u << JIT_HASH_BITS) - 1));
}

void *jit_data(struct jit *j, size_t size)
{
	size = ALIGN_UP(size, 8);
	if (j->data_p + size > j->data + JIT_DATA_SIZE)
		return NULL;
	void *p = j->data_p;
	j->data_p += size;
	return p;
}

void jit_flush(struct jit *j)
{
	memset(j->hash, 0, sizeof(j->hash));
	memset(j->page, 0, sizeof(j->page));
	memset(j->jump, 0, sizeof(j->jump));
	j->e.p = j->code_start;
	j->data_p = j->data;
	j->flush = false;
	j->stat.flushes++;
	copy_arena_reset(&j->copy);
}

struct jit_block *jit_find(struct jit *j, u64 rip, const u8 *p)
{
	for (struct jit_block *b = j->hash[hash_rip(rip)]; b; b = b->next)
		if (b->rip == rip && b->code == p && b->mmu_index == j->cpu->mmu_index)
			return b;
	return NULL;
}

void jit_insert(struct jit *j, struct jit_block *b)
{
	struct jit_block **h = &j->hash[hash_rip(b->rip)], **page = &j->page[hash_page(b->code)];

	b->next = *h;
	*h = b;
	b->page_next = *page;
	*page = b;
}

void jit_link_set(struct jit_link *l, struct jit_block *to)
{
	l->to = to;
	if (!to) {
		emit_patch(l->jump, l->stub);
		return;
	}
	l->next = to->incoming;
	to->incoming = l;
	emit_patch(l->jump, (u8 *)(to->entry - l->rx));
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
	unchain(&j->hash[hash_rip(b->rip)], b, false);
	unchain(&j->page[hash_page(b->code)], b, true);
	for (struct jit_link *l = b->incoming; l; l = l->next)
		if (l->to == b)
			jit_link_set(l, NULL);
	b->incoming = NULL;
	struct jump_entry *e = &j->jump[b->rip & ((1u << JUMP_BITS) - 1)];
	if (e->code == b->entry)
		e->key = e->code = 0;
}

unsigned jit_invalidate(struct jit *j, const u8 *p, unsigned size, bool *empty)
{
	struct jit_block *next;
	unsigned killed = 0;

	*empty = true;
	for (struct jit_block *b = j->page[hash_page(p)]; b; b = next) {
		next = b->page_next;
		if (p < b->code + b->len && p + size > b->code) {
			jit_block_kill(j, b);
			killed++;
		} else if (((u64)b->code ^ (u64)p) < PAGE_SIZE) {
			*empty = false;
		}
	}
	return killed;
}
