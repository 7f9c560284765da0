/* Port input and output (SDM vol. 1, chapter 19), for IN, OUT, INS, OUTS. */
#ifndef CPU_SEM_IO_H
#define CPU_SEM_IO_H

#include "cpu/cpu.h"

/* Raises #GP(0) unless CPL, IOPL and the TSS's permission map allow @size bytes at @port. */
void io_check(struct cpu *c, u16 port, unsigned size);

/* The access itself; may leave with EXIT_IO. */
u32 io_in(struct cpu *c, u16 port, unsigned size);
void io_out(struct cpu *c, u16 port, unsigned size, u32 value);

#endif
