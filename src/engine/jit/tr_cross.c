/*
 * An instruction that goes on in the next page: a block of its own. Writes to the first page end it, as they end any
 * block; the rest of its bytes is compared with memory each time, wherever that is then, so it may be mapped and
 * written as it likes. Whatever is not there or not the same is the interpreter's to fetch.
 */
#include "engine/jit/tr.h"

/* The linear address of the next page. */
static jit_place next_page(const struct tr *t, u64 place)
{
	return jit_cut(t->b, (place & PAGE_MASK) + PAGE_SIZE);
}

unsigned tr_cross_fetch(struct tr *t, u8 *bytes, unsigned room)
{
	struct cpu *c = t->j->cpu;
	u64 la = next_page(t, c->rip);

	if (!tlb_has(c->tlb, la, ACC_EXEC))
		return room;
	t->cross = (u8)room;
	memcpy(bytes + room, tlb_host(c->tlb, la), 15 - room);
	return 15;
}

static void emit_compare(struct tr *t, const struct insn *i, unsigned at, unsigned size, const u8 *bytes)
{
	if (size == 2)
		emit8(t->e, 0x66);
	emit_bytes(t->e, size == 1 ? "\x41\x80\x7e" : "\x41\x81\x7e", 3); /* cmp [r14 + at], bytes */
	emit8(t->e, at);
	emit_bytes(t->e, bytes, size);
	tr_emit_c_path(t, i, CC_NE);
}

/* The host's address of the next page into S0, or to C. */
static void emit_next_page(struct tr *t, const struct insn *i, jit_place next)
{
	struct emit *e = t->e;
	const struct tlb_array *array = &t->j->cpu->tlbs->array[jit_mmu_index(t->b)];

	tr_emit_rip(t, S0, next);
	if (t->b->fixed) {
		emit_ra(e, 1, 0x3b, S0, &array->tag[ACC_EXEC][tlb_index(next)]); /* cmp */
		tr_emit_c_path(t, i, CC_NE);
		emit_load_abs(e, S0, &array->host[tlb_index(next)]);
	} else {
		jit_emit_tlb_index(t->j, false);
		emit_r_of8(e, 0x3b, S0, S1, array->tag[ACC_EXEC]);
		tr_emit_c_path(t, i, CC_NE);
		emit_r_of8(e, 0x8b, S0, S1, array->host);
	}
}

void tr_cross_check(struct tr *t, const struct insn *i)
{
	struct emit *e = t->e;
	struct cpu *c = t->j->cpu;
	jit_place next = next_page(t, t->place);
	u8 *same = NULL;

	if (t->far) {
		/* As long as the supervisor's translations have their name, the page is where it was. */
		emit_mov_imm(e, S1, c->exec_gen[1]);
		emit_mov_imm(e, S0, (u64)tlb_host(c->tlb, next));
		emit_ra(e, 1, 0x3b, S1, &c->exec_gen[1]); /* cmp */
		same = emit_jcc(e, CC_E);
	}
	emit_next_page(t, i, next);
	if (same)
		emit_patch(same, e->p);
	for (unsigned at = 0, left = i->len - t->cross; left;) {
		unsigned size = left >= 4 ? 4 : left >= 2 ? 2 : 1;

		emit_compare(t, i, at, size, t->b->bytes + t->cross + at);
		at += size;
		left -= size;
	}
}
