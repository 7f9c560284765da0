/* Masked moves, gathers and scatters: each element is an access of its own, and what is masked off must not fault. */
#include <string.h>

#include "cpu/fpu.h"
#include "cpu/fpu_check.h"
#include "cpu/mem.h"
#include "cpu/sem.h"

static unsigned vector_bytes(const struct insn *i)
{
	return 16u << i->l;
}

static void clear_above(u8 *zmm, unsigned from)
{
	memset(zmm + from, 0, 64 - from);
}

static void note_write(struct cpu *c, unsigned reg, unsigned bytes)
{
	u64 low = XF(SSE) | (bytes > 16 ? XF(AVX) : 0) | (bytes > 32 ? XF(ZMM_HI256) : 0);

	c->fpu.xinuse |= reg >= 16 ? XF(HI16_ZMM) : low;
}

static u64 element(const u8 *p, unsigned size)
{
	u64 v = 0;

	memcpy(&v, p, size);
	return v;
}

static bool sign(const u8 *zmm, unsigned n, unsigned size)
{
	return zmm[n * size + size - 1] & 0x80;
}

/* --- MASKMOVQ, MASKMOVDQU: bytes to DS:rDI ------------------------------------------------------------------- */

/* Writes the bytes of @data whose mask byte has its sign set. As on AMD's processors, all must be writable. */
static void write_selected(struct cpu *c, const struct insn *i, const u8 *data, const u8 *mask, unsigned size)
{
	u64 off = c->gpr[RDI];

	if (i->addrsize != 8)
		off = i->addrsize == 4 ? (u32)off : (u16)off;
	u64 la = seg_la(c, i->seg, off, size, ACC_WRITE);

	mem_probe(c, i->seg, la, size, ACC_WRITE);
	for (unsigned n = 0; n < size; n++)
		if (mask[n] & 0x80)
			mem_write(c, i->seg, la + n, 1, data[n]);
}

static void exec_maskmovdqu(struct cpu *c, const struct insn *i)
{
	vector_check(c, i);
	write_selected(c, i, c->fpu.zmm[i->reg], c->fpu.zmm[i->rm], 16);
}

static void exec_maskmovq(struct cpu *c, const struct insn *i)
{
	mmx_check(c);
	fpu_enter_mmx(&c->fpu);
	c->fpu.xinuse |= XF(X87);
	write_selected(c, i, c->fpu.x87 + FX_ST + 16 * (i->reg & 7), c->fpu.x87 + FX_ST + 16 * (i->rm & 7), 8);
}

/* --- VMASKMOVPS/PD, VPMASKMOVD/Q ----------------------------------------------------------------------------- */

static unsigned maskmov_size(const struct insn *i)
{
	return i->opcode >= 0x80 ? (i->w ? 8 : 4) : i->opcode & 1 ? 8 : 4;
}

static void exec_vmaskmov_load(struct cpu *c, const struct insn *i)
{
	unsigned size = maskmov_size(i), bytes = vector_bytes(i);
	u8 value[64] = {0};

	vector_check(c, i);
	for (unsigned n = 0; n < bytes / size; n++) {
		if (!sign(c->fpu.zmm[i->vvvv], n, size))
			continue;
		u64 off = insn_ea(c, i) + n * size;
		u64 v = mem_read(c, i->seg, seg_la(c, i->seg, off, size, ACC_READ), size);
		memcpy(value + n * size, &v, size);
	}
	memcpy(c->fpu.zmm[i->reg], value, 64);
	note_write(c, i->reg, bytes);
}

static void exec_vmaskmov_store(struct cpu *c, const struct insn *i)
{
	unsigned size = maskmov_size(i), nr = vector_bytes(i) / size;

	vector_check(c, i);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned n = 0; n < nr; n++) {
			if (!sign(c->fpu.zmm[i->vvvv], n, size))
				continue;
			u64 la = seg_la(c, i->seg, insn_ea(c, i) + n * size, size, ACC_WRITE);

			if (pass == 0)
				mem_probe(c, i->seg, la, size, ACC_WRITE);
			else
				mem_write(c, i->seg, la, size, element(c->fpu.zmm[i->reg] + n * size, size));
		}
	}
}

/* --- Gathers and scatters ------------------------------------------------------------------------------------ */

/* Opcodes xx0, xx2 have dword indices, xx1, xx3 qword ones; W is the element. */
struct vsib {
	unsigned index_size, size, nr;
};

static struct vsib vsib_of(const struct insn *i)
{
	struct vsib v = {.index_size = i->opcode & 1 ? 8 : 4, .size = i->w ? 8 : 4};

	v.nr = vector_bytes(i) / MAX(v.index_size, v.size);
	return v;
}

static u64 vsib_la(struct cpu *c, const struct insn *i, const struct vsib *v, unsigned n, enum access acc)
{
	const u8 *index = c->fpu.zmm[i->index] + n * v->index_size;
	u64 off = (u64)i->disp + (i->base != NO_REG ? c->gpr[i->base] : 0);

	off += (v->index_size == 8 ? element(index, 8) : (u64)(s64)(s32)element(index, 4)) << i->scale;
	if (i->addrsize != 8)
		off = (u32)off;
	return seg_la(c, i->seg, off, v->size, acc);
}

static void gather_one(struct cpu *c, const struct insn *i, const struct vsib *v, unsigned n)
{
	u64 e = mem_read(c, i->seg, vsib_la(c, i, v, n, ACC_READ), v->size);

	memcpy(c->fpu.zmm[i->reg] + n * v->size, &e, v->size);
}

/* An element that is done, loaded or not, loses its mask, so that the instruction goes on where it faulted. */
static void exec_gather_vex(struct cpu *c, const struct insn *i)
{
	struct vsib v = vsib_of(i);
	u8 *mask = c->fpu.zmm[i->vvvv];

	vector_check(c, i);
	note_write(c, i->reg, vector_bytes(i));
	for (unsigned n = 0; n < v.nr; n++) {
		if (sign(mask, n, v.size))
			gather_one(c, i, &v, n);
		memset(mask + n * v.size, 0, v.size);
	}
	clear_above(c->fpu.zmm[i->reg], v.nr * v.size);
	clear_above(mask, 0);
}

static void vl_check(struct cpu *c, const struct insn *i)
{
	if (i->l < 2 && !cpu_has(c, ISA_AVX512VL))
		raise_ud(c);
	vector_check(c, i);
}

static void exec_gather_evex(struct cpu *c, const struct insn *i)
{
	struct vsib v = vsib_of(i);
	u64 *k = &c->fpu.k[i->aaa];

	vl_check(c, i);
	note_write(c, i->reg, vector_bytes(i));
	for (unsigned n = 0; n < v.nr; n++) {
		if (!(*k >> n & 1))
			continue;
		gather_one(c, i, &v, n);
		/* Each element that arrives is a write of the register, even when a later one faults. */
		clear_above(c->fpu.zmm[i->reg], vector_bytes(i));
		*k &= ~BIT64(n);
	}
	clear_above(c->fpu.zmm[i->reg], v.nr * v.size);
	*k = 0;
}

static void exec_scatter(struct cpu *c, const struct insn *i)
{
	struct vsib v = vsib_of(i);
	u64 *k = &c->fpu.k[i->aaa];

	vl_check(c, i);
	for (unsigned n = 0; n < v.nr; n++) {
		if (!(*k >> n & 1))
			continue;
		u64 la = vsib_la(c, i, &v, n, ACC_WRITE);
		mem_write(c, i->seg, la, v.size, element(c->fpu.zmm[i->reg] + n * v.size, v.size));
		*k &= ~BIT64(n);
	}
	*k = 0;
}

const struct sem sem_maskmovdqu = SEM1(exec_maskmovdqu);
const struct sem sem_maskmovq = SEM1(exec_maskmovq);
const struct sem sem_vmaskmov_load = SEM1(exec_vmaskmov_load);
const struct sem sem_vmaskmov_store = SEM1(exec_vmaskmov_store);
const struct sem sem_gather_vex = SEM1(exec_gather_vex);
const struct sem sem_gather_evex = SEM1(exec_gather_evex);
const struct sem sem_scatter = SEM1(exec_scatter);
