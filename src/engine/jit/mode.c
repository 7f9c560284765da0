/* Which code has translations, and of what kind. */
#include "engine/jit/jit.h"

/* Offsets below may be read and written (SDM vol. 3A, 5.3 and 5.5); from here on accesses need C. 0: all of them. */
static u64 end_of(const struct segment *s)
{
	bool data_up_writable = (s->type & 0xe) == 2;

	return !s->unusable && s->present && data_up_writable ? s->limit + 1ull : 0;
}

static bool is_flat(const struct segment *s)
{
	return end_of(s) == BIT64(32) && (u32)s->base == 0;
}

static u8 mode_of(const struct cpu *c)
{
	const struct segment *cs = &c->seg[SEG_CS];

	if (likely(c->mode == MODE_64))
		return jit_has_key(c->rip) ? c->mmu_index : JIT_MODE_NONE;
	if ((c->mode != MODE_PROT32 && c->mode != MODE_COMPAT32) || (u32)cs->base || cs->limit != ~0u ||
	    c->stack_bits != 32 || !is_flat(&c->seg[SEG_SS]) || !is_flat(&c->seg[SEG_DS]) || !is_flat(&c->seg[SEG_ES]))
		return JIT_MODE_NONE;
	return JIT_MODE_32 | c->mmu_index;
}

void jit_mode_sync(struct jit *j)
{
	j->mode = mode_of(j->cpu);
	if (j->mode & JIT_MODE_32) {
		j->seg_end[0] = end_of(&j->cpu->seg[SEG_FS]);
		j->seg_end[1] = end_of(&j->cpu->seg[SEG_GS]);
	}
}
