/* Building the decoder's index from the table. */
#include "cpu/decode_index.h"

#include <pthread.h>

#include "cpu/table.h"

/* The sum of the rows' opcode counts. */
enum {
	NR_CANDIDATE = 0
#define ROW(name, space, map, pp, op, n, ...) +(n)
#include "cpu/table_all.def"
#undef ROW
};

struct cell decode_cells[NR_SPACE * NR_MAP * 256];
struct candidate decode_candidates[NR_CANDIDATE + 1];
struct layout decode_layouts[NR_ROW + 1];
u8 decode_heads[2][256];

static u16 row_fit(const struct insn_row *r, const struct layout *y)
{
	static const u8 l_bits[] = {[L_ANY] = 7, [L_128] = 1, [L_256] = 2, [L_512] = 4, [L_IG] = 7};
	unsigned pp = r->pp == PP_ANY ? 15 : 1u << r->pp;
	unsigned w = r->w == W_ANY ? 3 : r->w == W_0 ? 1 : 2;
	unsigned form = 3;

	if (!y->always_reg && (r->modrm & 7) == MODRM_MEM)
		form = 1;
	else if (!y->always_reg && (r->modrm & 7) == MODRM_REG)
		form = 2;
	return pp << FIT_PP | w << FIT_W | l_bits[r->l] << FIT_L | form << FIT_FORM | r->modes << FIT_MODE;
}

static struct candidate row_candidate(unsigned row)
{
	const struct insn_row *r = &insn_rows[row];
	struct candidate k = {.row = row, .fit = row_fit(r, &decode_layouts[row]), .er = r->attr & A_ER};

	if (r->modrm & MODRM_EXT(0)) {
		k.modrm_mask |= 0x38;
		k.modrm_value |= (r->modrm >> 4 & 7) << 3;
	}
	if (r->modrm & MODRM_RM(0)) {
		k.modrm_mask |= r->modrm & MODRM_ANY ? 0x07 : 0x0f;
		k.modrm_value |= r->modrm >> 8 & 7;
	}
	return k;
}

static void layout_operand(struct layout *y, unsigned kind, unsigned size)
{
	switch (kind) {
	case OK_E: case OK_M: case OK_W: case OK_Q: case OK_KE: case OK_VM:
		y->mem_size = size;
		/* fall through */
	case OK_R: case OK_U: case OK_N: case OK_KR: case OK_ST:
		y->rm_kind = kind;
		y->byte_rm = size == 1 && (kind == OK_E || kind == OK_R);
		y->vsib |= kind == OK_VM;
		break;
	case OK_Z:
		y->z = true;
		y->byte_rm = size == 1;
		break;
	case OK_C: case OK_D:
		y->always_reg = true;
		/* fall through */
	case OK_G: case OK_S: case OK_V: case OK_P: case OK_KG:
		y->reg_kind = kind;
		y->byte_reg = size == 1 && kind == OK_G;
		break;
	case OK_B: case OK_H: case OK_KB:
		y->vvvv_kind = kind;
		break;
	case OK_O:
		y->mem_size = size;
		/* fall through */
	case OK_I: case OK_J: case OK_A: case OK_L:
		if (y->imm_kind == OK_NONE) {
			y->imm_kind = kind == OK_L ? OK_I : kind;
			y->is4 = kind == OK_L;
			y->imm_size = kind == OK_L ? 1 : size;
		} else {
			y->imm2_size = size;
		}
		break;
	}
}

static void row_layout(struct layout *y, const struct insn_row *r)
{
	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++) {
		const struct operand_info *o = &operand_info[r->operand[n]];

		layout_operand(y, o->kind, o->size);
		if (o->kind != OK_I && o->kind != OK_J && o->kind != OK_L && (!y->op0_size || o->size == OS_V))
			y->op0_size = o->size;
	}
	y->vsib |= (r->attr & A_VSIB) != 0;
	y->to_seg = operand_info[r->operand[0]].kind == OK_S;
}

static void build_heads(void)
{
	for (unsigned map = 0; map < 2; map++)
		for (unsigned op = 0; op < 256; op++)
			decode_heads[map][op] = cell_of(ENC_LEGACY, map, op)->modrm ? HEAD_MODRM : 0;
	for (unsigned b = 0; b < 256; b++)
		if (decode_prefixes[b] != NO_PREFIX)
			decode_heads[0][b] = HEAD_PREFIX;
	decode_heads[0][0x0f] = HEAD_ESCAPE;
	decode_heads[0][0xc4] = decode_heads[0][0xc5] = decode_heads[0][0x62] = HEAD_LONGER;
	decode_heads[1][0x38] = decode_heads[1][0x3a] = HEAD_LONGER;
}

static void build_index(void)
{
	unsigned n = 0;

	for (unsigned row = 0; row < nr_insn_rows; row++) {
		const struct insn_row *r = &insn_rows[row];

		row_layout(&decode_layouts[row], r);
		for (unsigned op = 0; op < r->opcodes; op++)
			cell_of(r->space, r->map, r->opcode + op)->nr++;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(decode_cells); k++) {
		decode_cells[k].first = n;
		n += decode_cells[k].nr;
		decode_cells[k].nr = 0;
	}
	for (unsigned row = 0; row < nr_insn_rows; row++) {
		const struct insn_row *r = &insn_rows[row];

		for (unsigned op = 0; op < r->opcodes; op++) {
			struct cell *cell = cell_of(r->space, r->map, r->opcode + op);

			decode_candidates[cell->first + cell->nr++] = row_candidate(row);
			cell->modrm |= r->modrm & MODRM_ANY;
		}
	}
	build_heads();
}

void decode_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, build_index);
}
