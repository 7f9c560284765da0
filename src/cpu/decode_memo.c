#include "cpu/decode_memo.h"

#include <string.h>

#include "cpu/decode_index.h"

/* An instruction and 8 bytes more: whatever is loaded is there. */
#define AVAIL_MIN 23

static inline u64 load(const u8 *p)
{
	u64 v;

	memcpy(&v, p, 8);
	return v;
}

/*
 * How many bytes at @p, at most 7, decide on all that is no displacement and no immediate: SIB is the last. 0: that is
 * not known here.
 */
static inline unsigned head_of(u64 p)
{
	unsigned n = 1;
	u8 is;

	for (; (is = decode_heads[0][(u8)p]) == HEAD_PREFIX && n < 4; n++)
		p >>= 8;
	if (is == HEAD_ESCAPE) {
		n++;
		p >>= 8;
		is = decode_heads[1][(u8)p];
	}
	u8 modrm = (u8)(p >> 8);
	unsigned has = (is & HEAD_MODRM) != 0, sib = (modrm < 0xc0) & ((modrm & 7) == 4);
	return is & (HEAD_PREFIX | HEAD_LONGER) ? 0 : n + has + (has & sib);
}

static void remember(struct decode_memo_entry *e, u64 head, const struct insn *i)
{
	const struct layout *y = &decode_layouts[i->row];
	unsigned imm_at = i->imm_off ? i->imm_off : i->len;

	if (y->imm_kind == OK_A || y->imm_kind == OK_O || y->imm2_size || y->is4)
		return;
	*e = (struct decode_memo_entry){
		.head = head, .disp = i->disp_off, .imm = i->imm_off, .imm_signed = decode_imm_signed(y),
		.disp_shift = (u8)(-8 * (imm_at - i->disp_off) & 63), .imm_shift = (u8)(-8 * (i->len - imm_at) & 63),
	};
	memcpy(e->insn, i, sizeof(e->insn));
}

enum decode_status decode_memo(struct decode_memo *m, struct insn *i, const u8 *p, unsigned avail)
{
	unsigned n = avail < AVAIL_MIN ? 0 : head_of(load(p));

	if (!n)
		return decode(i, p, avail, 64);
	u64 head = load(p) & (BIT64(8 * n) - 1);
	struct decode_memo_entry *e = &m->entry[head * 0x9e3779b97f4a7c15 >> (64 - DECODE_MEMO_BITS)];
	if (e->head != head || !head) {
		enum decode_status s = decode(i, p, avail, 64);
		if (s == DECODE_OK)
			remember(e, head, i);
		return s;
	}
	memcpy(i, e->insn, sizeof(e->insn));
	memcpy(i->bytes, p, sizeof(i->bytes));
	u64 imm = load(p + i->imm_off) << e->imm_shift;
	i->imm = (e->imm_signed ? (u64)((s64)imm >> e->imm_shift) : imm >> e->imm_shift) & -(u64)e->imm;
	i->disp = (s64)(load(p + i->disp_off) << e->disp_shift) >> e->disp_shift & -(s64)e->disp;
	i->thunk = NULL;
	return DECODE_OK;
}
