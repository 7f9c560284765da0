/*
 * A host signal in generated code: the client's mapping does not answer. The guest's registers are in the host's then,
 * and where in the guest's code it is must be found from where in ours. An instruction changes nothing before its
 * access, and the flags that still matter are in their slot, or in the host's register at accesses without a check.
 */
#include <ucontext.h>
#include <xmmintrin.h>

#include "engine/jit/jit.h"

/* By number of the host's register. */
static const u8 greg_of[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
			     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* The guest's instruction whose code is at @pc; *@flags: the host's register has its flags at the access. */
static u64 rip_at(const struct jit *j, u64 pc, bool *flags)
{
	const struct jit_block *b = j->newest;

	/* Blocks lie one behind the other, in the order in which they were made. */
	while (b && b->entry > pc)
		b = b->older;
	if (!b)
		return j->cpu->rip;
	u64 start = b->fixed ? b->rip : j->page_rip + (b->rip & ~PAGE_MASK);
	unsigned n = 0, at = 0;
	for (; n + 1 < b->nr * b->turns && b->entry + b->offset[n + 1] <= pc; n++) {
		struct insn i;

		decode(&i, b->bytes + at, b->len - at, b->mode & JIT_MODE_32 ? 32 : 64);
		at = (n + 1) % b->nr ? at + i.len : 0;
	}
	*flags = b->host_flags >> n & 1;
	return start + at;
}

void jit_host_fault(struct cpu *c, const void *context)
{
	const ucontext_t *u = context;
	const greg_t *g = u->uc_mcontext.gregs;
	struct jit *j = jit_of(c);
	u64 pc = (u64)g[REG_RIP];

	jit_fpu_from_signal(j, u->uc_mcontext.fpregs);
	if (pc - (u64)j->rx >= j->code_size)
		return; /* C code has all else in struct cpu */
	for (unsigned n = 0; n < ARRAY_SIZE(c->gpr); n++)
		if (!jit_in_memory(n))
			c->gpr[n] = (u64)g[greg_of[jit_host_of(n)]];
	tr_string_fault(j, (const u8 *)pc);
	bool flags = false;
	c->rip = rip_at(j, pc, &flags);
	jit_flags_to_cpu(j);
	if (flags)
		c->rflags = (c->rflags & ~(u64)FL_ARITH) | ((u64)g[REG_EFL] & FL_ARITH);
	if (!(j->vec_bad & VEC_FP) && u->uc_mcontext.fpregs)
		c->fpu.mxcsr = u->uc_mcontext.fpregs->mxcsr;
	_mm_setcsr(j->host_mxcsr);
}
