/*
 * Short loops: a block that ends in a branch back to its beginning holds several turns. So they poll once, look once
 * whether vectors are ready, and above all one check of the TLB serves the accesses of all of them (tr_window.c), which
 * mostly move on by a constant.
 */
#include "engine/jit/tr.h"

#define TURNS_MAX 4

bool tr_is_loop(const struct tr *t, unsigned len)
{
	const struct insn *last = &t->insn[t->nr - 1];
	bool access = false;

	if (len + last->imm != 0 || t->nr > JIT_INSNS_MAX / 2 || (t->b->mode & JIT_MODE_NO_WINDOWS))
		return false;
	for (unsigned n = 0; n + 1 < t->nr; n++) {
		const struct insn *i = &t->insn[n];
		const struct insn_row *r = &insn_rows[i->row];

		if (tr_is_jcc(i))
			continue;
		if (r->class_ != CLASS_COPY || i->faults)
			return false;
		access |= i->is_mem && r->sem != &sem_lea;
	}
	return access;
}

void tr_unroll(struct tr *t)
{
	struct insn *insn = t->j->insns;
	unsigned turns = MIN(TURNS_MAX, JIT_INSNS_MAX / t->b->nr);

	for (; turns > 1; turns--) {
		memcpy(&insn[t->nr], insn, t->b->nr * sizeof(*insn));
		t->nr += t->b->nr;
	}
}
