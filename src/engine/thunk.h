/*
 * Thunks: a few host instructions that load what a guest instruction uses from struct cpu, execute it, and store what
 * it wrote. Made from the row's operands; what a thunk cannot do itself (checks, memory, exceptions) is described in
 * its head for engine/copy.c.
 */
#ifndef ENGINE_THUNK_H
#define ENGINE_THUNK_H

#include "cpu/insn.h"

/* What a thunk takes and gives beside the CPU; unused by one that needs none of it. thunk.c knows the layout. */
struct thunk_frame {
	u32 mxcsr, mxcsr_out;
	u64 flags, flags_out; /* RFLAGS; in: arithmetic ones only */
	u32 host_mxcsr;       /* the thunk's own: put back on return */
	u16 host_fcw;
};

typedef void thunk_fn(struct cpu *c, void *mem, struct thunk_frame *f);

/* #GP(0); #GP(0) unless MXCSR.MM is set; fine for the guest, but not for every host. */
enum { MISALIGNED_GP, MISALIGNED_MM, MISALIGNED_FINE };

struct thunk {
	thunk_fn *code;
	/* Runs when (cr0 ^ PE) & cr0_bad, rflags & rflags_bad, ~cr4 & cr4_need and ~xcr0 & xcr0_need are all 0. */
	u32 cr0_bad, rflags_bad, cr4_need, xcr0_need;
	u64 xinuse;        /* components it leaves in use */
	u16 flags_written; /* of the arithmetic flags */
	u8 what;           /* THUNK_* */
#define THUNK_MXCSR BIT(0)
#define THUNK_FLAGS BIT(1)   /* reads or writes RFLAGS */
#define THUNK_X87 BIT(2)     /* runs on the x87 image */
#define THUNK_MMX BIT(3)     /* runs on the MMX view of it */
#define THUNK_WAIT BIT(4)    /* a pending x87 exception comes first */
#define THUNK_MASK BIT(5)    /* only the elements that the opmask selects touch memory */
#define THUNK_COMPACT BIT(6) /* those elements lie side by side in memory */
#define THUNK_VL BIT(7)      /* #UD without AVX512VL */
	u8 access;         /* enum access of the memory operand */
	bool reads;        /* with ACC_WRITE: bytes that are not written must keep their value */
	u8 align;          /* the linear address must be a multiple of this plus 1, or else: */
	u8 misaligned;     /* MISALIGNED_* */
	u8 elem;           /* THUNK_MASK: bytes an element has in memory */
	u8 nr_mask;        /* THUNK_MASK: opmask bits that count */
};

/*
 * Fills all of @t but code, and the code into @out (THUNK_MAX bytes). Returns its length; 0: the row cannot be run so.
 */
#define THUNK_MAX 512
unsigned thunk_build(struct thunk *t, u8 *out, const struct insn *i);

#endif
