#include "cpu/cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "cpu/cpuid.h"
#include "cpu/debug.h"
#include "cpu/exception.h"
#include "cpu/fpu.h"
#include "cpu/insn.h"
#include "cpu/mmu.h"
#include "cpu/msr.h"

#define TSC_RATIO_ONE BIT64(48)
#define PAT_RESET 0x0007040600070406ull
#define APIC_BASE_RESET 0xfee00800ull /* enabled; the bootstrap processor's bit is the owner's to set */
#define MAXPHYADDR_DEFAULT 36

int cpu_init(struct cpu *c)
{
	memset(c, 0, sizeof(*c));
	c->tlbs = tlb_new();
	c->msr = calloc(msr_count(), sizeof(*c->msr));
	if (!c->tlbs || !c->msr) {
		cpu_fini(c);
		return -ENOMEM;
	}
	c->poll = &c->own_poll;
	c->maxphyaddr = MAXPHYADDR_DEFAULT;
	c->tsc_ratio = TSC_RATIO_ONE;
	cpu_reset(c, false);
	return 0;
}

void cpu_fini(struct cpu *c)
{
	tlb_free(c->tlbs);
	free(c->msr);
	free(c->cpuid);
	c->tlbs = NULL;
	c->msr = NULL;
	c->cpuid = NULL;
}

/* SDM vol. 3A, table 10-1: the hidden parts too. */
static void reset_segments(struct cpu *c)
{
	for (unsigned n = 0; n < NR_SEG; n++)
		c->seg[n] = (struct segment){.limit = 0xffff, .type = 3, .present = 1, .s = 1};
	c->seg[SEG_CS].selector = 0xf000;
	c->seg[SEG_CS].base = 0xffff0000;
	c->seg[SEG_CS].type = 0xb;
	c->seg[SEG_LDTR].type = 2;
	c->seg[SEG_LDTR].s = 0;
	c->seg[SEG_TR].type = 0xb;
	c->seg[SEG_TR].s = 0;
	c->gdtr = c->idtr = (struct dtable){.limit = 0xffff};
}

void cpu_reset(struct cpu *c, bool init)
{
	const struct cpuid_entry *version = cpuid_find(c, 1, 0);

	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[RDX] = version ? version->eax : 0x600;
	c->rip = 0xfff0;
	c->rflags = FL_FIXED1;
	reset_segments(c);
	c->cr0 = CR0_ET | (init ? c->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW);
	c->cr2 = c->cr3 = c->cr4 = c->cr8 = 0;
	c->efer = 0;
	memset(c->pdpte, 0, sizeof(c->pdpte));
	memset(c->dr, 0, sizeof(c->dr));
	c->dr6 = DR6_FIXED;
	c->dr7 = DR7_FIXED;
	c->int_shadow = 0;
	c->nmi_blocked = c->smc = false;
	c->db_pending = 0;
	c->inject.type = c->delivering.type = c->fault.type = EV_NONE;
	cpu_io_retire(c);
	if (!init) {
		fpu_reset(&c->fpu);
		c->xcr0 = 1;
		c->star = c->lstar = c->cstar = c->fmask = c->kernel_gs_base = 0;
		c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
		c->tsc_aux = 0;
		c->pat = PAT_RESET;
		c->apic_base = APIC_BASE_RESET;
	}
	msr_reset(c, init);
	tlb_flush_all(c);
	debug_update(c);
	cpu_update_mode(c);
}

static enum cpu_mode mode_of(const struct cpu *c)
{
	const struct segment *cs = &c->seg[SEG_CS];

	if (!(c->cr0 & CR0_PE))
		return MODE_REAL;
	if (c->efer & EFER_LMA)
		return cs->l ? MODE_64 : cs->db ? MODE_COMPAT32 : MODE_COMPAT16;
	if (c->rflags & FL_VM)
		return MODE_VM86;
	return cs->db ? MODE_PROT32 : MODE_PROT16;
}

void cpu_update_mode(struct cpu *c)
{
	enum cpu_mode mode = mode_of(c);

	c->mode = (u8)mode;
	if (mode == MODE_64) {
		c->code_bits = c->stack_bits = 64;
	} else {
		/* Real mode too goes by what is in the hidden parts: they survive the way back from protected mode. */
		c->code_bits = c->seg[SEG_CS].db ? 32 : 16;
		c->stack_bits = c->seg[SEG_SS].db ? 32 : 16;
	}
	c->cpl = mode == MODE_REAL ? 0 : mode == MODE_VM86 ? 3 : c->seg[SEG_SS].dpl;
	c->maxlinear = (c->efer & EFER_LMA) && (c->cr4 & CR4_LA57) ? 57 : 48;
	c->mmu_index = (u8)mmu_index_at(c, c->cpl);
	c->tlb = &c->tlbs->array[c->mmu_index];
}

_Noreturn void cpu_exit(struct cpu *c, enum exit_reason reason)
{
	c->exit.reason = (u8)reason;
	if (reason == EXIT_EMULATION && c->insn) {
		c->exit.insn_len = c->insn->len;
		memcpy(c->exit.insn, c->insn->bytes, sizeof(c->exit.insn));
	}
	/* The instruction starts again: from the first answer. */
	c->io.next = 0;
	longjmp(*c->unwind, UNWIND_EXIT);
}

u64 cpu_io(struct cpu *c, enum io_kind kind, u64 addr, unsigned size, u64 data)
{
	struct cpu_io *io = &c->io;

	if (io->next < io->done) {
		const struct io_op *op = &io->op[io->next];

		if (op->kind == kind && op->addr == addr && op->size == size) {
			io->next++;
			if (op->fault)
				raise_gp0(c);
			return op->data;
		}
		/* The instruction took another way this time: later answers belong to nothing. */
		io->done = io->next;
	}
	if (io->done == IO_OPS_MAX)
		cpu_exit(c, EXIT_EMULATION);
	io->op[io->done] = (struct io_op){.kind = (u8)kind, .size = (u8)size, .addr = addr, .data = data};
	io->pending = true;
	cpu_exit(c, EXIT_IO);
}

u64 cpu_rdtsc(const struct cpu *c)
{
	return (u64)((u128)__rdtsc() * c->tsc_ratio >> 48) + c->tsc_offset;
}
