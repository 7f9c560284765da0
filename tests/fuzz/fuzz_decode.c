/*
 * The decoder: it looks at no byte beyond what it may, every field of its result is in range, and what it decodes
 * it decodes again from exactly those bytes.
 */
#include "cpu/insn.h"
#include "input.h"

static void check_fields(const struct insn *i, unsigned avail)
{
	require(i->row < nr_insn_rows);
	require(i->len >= 1 && i->len <= 15 && i->len <= avail);
	require(i->opsize == 1 || i->opsize == 2 || i->opsize == 4 || i->opsize == 8);
	require(i->addrsize == 2 || i->addrsize == 4 || i->addrsize == 8);
	require(i->base <= RIP_BASE || i->base == NO_REG);
	require(i->index < 32 || i->index == NO_REG);
	require(i->index < 16 || i->index == NO_REG || (insn_rows[i->row].attr & A_VSIB));
	require(i->scale < 4 && i->seg < SEG_LDTR);
	require(i->reg < 32 && i->rm < 32 && i->vvvv < 32 && i->l < 3 && i->aaa < 8);
	require(i->reg_off < 16 * 8 && i->rm_off < 16 * 8);
	require(i->opcode_off < i->len && i->imm_off < i->len && i->disp_off < i->len);
	require(i->fn || !insn_rows[i->row].sem);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static const unsigned bits[] = {16, 32, 64};
	struct insn i, again;

	decode_init();
	if (size < 1)
		return 0;
	unsigned code_bits = bits[data[0] % 3], avail = size - 1 > 15 ? 15 : (unsigned)(size - 1);
	u8 *p = malloc(avail + !avail);
	if (!p)
		return 0;
	memcpy(p, data + 1, avail);
	enum decode_status s = decode(&i, p, avail, code_bits);
	if (s == DECODE_OK) {
		check_fields(&i, avail);
		u8 *exact = malloc(i.len);
		if (exact) {
			memcpy(exact, p, i.len);
			require(decode(&again, exact, i.len, code_bits) == DECODE_OK);
			require(!memcmp(&i, &again, sizeof(i)));
		}
		free(exact);
	} else {
		require(i.len <= avail);
		require(s != DECODE_SHORT || avail < 15);
	}
	free(p);
	return 0;
}
