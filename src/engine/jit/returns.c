/*
 * Where returns go: each call notes its return address and the code for it in a ring, and each return looks at the
 * latest note first. What does not match (another stack, a mapping or mode that has changed, more calls than the ring
 * holds) goes through the jump cache. Unlike that, the ring is always in the host's nearest cache.
 *
 * The code is a link of the caller's block, which exists before there is a block that the call comes back to; so the
 * end of a block needs no look at the ring. A note outlives its key's meaning as little as an entry of the jump cache.
 */
#include "engine/jit/tr.h"

/* The ring's next place becomes the one @by bytes on, in @reg. */
static void emit_turn(struct jit *j, unsigned reg, int by)
{
	struct emit *e = &j->e;

	emit_bytes(e, "\x41\x83", 2); /* add reg, by */
	emit8(e, 0xc0 | (reg & 7));
	emit8(e, (u8)by);
	emit_bytes(e, "\x41\x81", 2); /* and reg, offsets in the ring */
	emit8(e, 0xe0 | (reg & 7));
	emit32(e, sizeof(j->ring) - sizeof(j->ring[0]));
	emit_ra(e, 0, 0x89, reg, &j->ring_at);
}

u8 *tr_emit_note_return(struct tr *t)
{
	struct jit *j = t->j;
	struct emit *e = t->e;

	emit_ra(e, 1, 0x33, S1, &j->epoch); /* xor */
	emit_ra(e, 0, 0x8b, S0, &j->ring_at);
	emit_rm_disp(e, 1, 0x89, S1, S0, (s32)(u64)&j->ring[0].key);
	emit_bytes(e, "\x4c\x8d\x3d", 3); /* lea r15, [the link] */
	u8 *link = e->p;
	emit32(e, 0);
	emit_rm_disp(e, 1, 0x89, S1, S0, (s32)(u64)&j->ring[0].code);
	emit_turn(j, S0, sizeof(j->ring[0]));
	return link;
}

void tr_emit_return(struct tr *t)
{
	struct jit *j = t->j;
	struct emit *e = t->e;

	jit_emit_key(j, tr_is_user(t));
	emit_ra(e, 0, 0x8b, S1, &j->ring_at);
	emit_turn(j, S1, -(int)sizeof(j->ring[0]));
	emit_rm_disp(e, 1, 0x3b, S0, S1, (s32)(u64)&j->ring[0].key); /* cmp */
	u8 *other = emit_jcc(e, CC_NE);
	emit_bytes(e, "\x41\xff\xa7", 3); /* jmp [r15 + code] */
	emit32(e, (u64)&j->ring[0].code);
	emit_patch(other, e->p);
	jit_emit_jump_by_key(j);
}
