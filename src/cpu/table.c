/* The instruction table: all rows, in one array. */
#include "cpu/table.h"

#include "cpu/sem.h"

#define ROW(name_, space_, map_, pp_, op_, n_, modrm_, w_, l_, modes_, ops_, flags_, attr_, isa_, class__, sem_)      \
	{.name = name_, .space = ENC_##space_, .map = map_, .pp = PP_##pp_, .opcode = op_, .opcodes = n_,           \
	 .modrm = modrm_, .w = w_, .l = l_, .modes = modes_, .operand = {ROW_OPS_ ops_}, ROW_FLAGS_ flags_,         \
	 .attr = attr_, .isa = ISA_##isa_, .class_ = CLASS_##class__, .sem = sem_},
#define ROW_OPS_(...) ROW_OPS__(__VA_ARGS__, none, none, none, none)
#define ROW_OPS__(a, b, c, d, ...) OP_##a, OP_##b, OP_##c, OP_##d
#define ROW_FLAGS_(r, w, u) .flags_read = (r), .flags_written = (w), .flags_undefined = (u)

const struct insn_row insn_rows[] = {
#include "cpu/table_all.def"
};

const unsigned nr_insn_rows = ARRAY_SIZE(insn_rows);

const struct operand_info operand_info[NR_OPERAND] = {
#define OPERAND(name_, kind_, size_) {#name_, kind_, size_},
#include "cpu/operand.def"
#undef OPERAND
};
