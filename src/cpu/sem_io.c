/* Port input and output. */
#include "cpu/sem_io.h"

#include "cpu/debug.h"
#include "cpu/sem_util.h"

/* Outside of ring IOPL the TSS decides, and it has to be a 32-bit or 64-bit one (SDM vol. 1, 19.5.2). */
void io_check(struct cpu *c, u16 port, unsigned size)
{
	const struct segment *tr = &c->seg[SEG_TR];

	if (!cpu_protected(c) && c->mode != MODE_VM86)
		return;
	if (c->mode != MODE_VM86 && c->cpl <= iopl(c))
		return;
	if (!tr->present || tr->unusable || (tr->type & ~2) != 9 || tr->limit < 0x67)
		raise_gp0(c);
	unsigned map = mem_read_system(c, tr->base + 0x66, 2), at = map + port / 8;

	/* Two bytes are always read, so the map ends in one more. */
	if (at + 1 > tr->limit)
		raise_gp0(c);
	u32 bits = mem_read_system(c, tr->base + at, 2);
	if (bits >> (port & 7) & ((1u << size) - 1))
		raise_gp0(c);
}

u32 io_in(struct cpu *c, u16 port, unsigned size)
{
	if (unlikely(c->debug_active))
		debug_io(c, port, size);
	return cpu_io(c, IO_PIO_IN, port, size, 0);
}

void io_out(struct cpu *c, u16 port, unsigned size, u32 value)
{
	if (unlikely(c->debug_active))
		debug_io(c, port, size);
	cpu_io(c, IO_PIO_OUT, port, size, size == 4 ? value : value & ((1u << 8 * size) - 1));
}

static void in_port(struct cpu *c, const struct insn *i, u16 port)
{
	unsigned size = MIN(i->opsize, 4);

	io_check(c, port, size);
	gpr_set(c, RAX * 8, size, io_in(c, port, size));
	c->rip = insn_next(c, i);
}

static void out_port(struct cpu *c, const struct insn *i, u16 port)
{
	unsigned size = MIN(i->opsize, 4);

	io_check(c, port, size);
	io_out(c, port, size, gpr_get(c, RAX * 8, size));
	c->rip = insn_next(c, i);
}

static void in_imm(struct cpu *c, const struct insn *i)
{
	in_port(c, i, i->imm);
}

static void in_dx(struct cpu *c, const struct insn *i)
{
	in_port(c, i, c->gpr[RDX]);
}

static void out_imm(struct cpu *c, const struct insn *i)
{
	out_port(c, i, i->imm);
}

static void out_dx(struct cpu *c, const struct insn *i)
{
	out_port(c, i, c->gpr[RDX]);
}

SEM_ONE(in_imm, in_imm)
SEM_ONE(in_dx, in_dx)
SEM_ONE(out_imm, out_imm)
SEM_ONE(out_dx, out_dx)
