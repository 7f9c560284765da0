#include "engine/lockstep/lockstep.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "cpu/msr.h"

static void __attribute__((format(printf, 2, 3))) say(struct report *r, const char *fmt, ...)
{
	va_list ap;

	r->differences++;
	va_start(ap, fmt);
	int n = vsnprintf(r->text + r->len, sizeof(r->text) - r->len, fmt, ap);
	va_end(ap);
	if (n < 0 || r->len + (size_t)n + 1 >= sizeof(r->text))
		r->text[r->len] = 0;
	else
		r->len += (size_t)n;
}

static void number(struct report *r, const char *name, u64 jit, u64 interp)
{
	if (jit != interp)
		say(r, "  %-14s jit %#llx, interp %#llx\n", name, (unsigned long long)jit, (unsigned long long)interp);
}

/* --- Registers -------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	u16 at;
	u8 size;
} fields[] = {
#define FIELD(name) {#name, offsetof(struct cpu, name), sizeof(((struct cpu *)0)->name)}
	FIELD(rip), FIELD(mode), FIELD(code_bits), FIELD(stack_bits), FIELD(cpl), FIELD(mmu_index), FIELD(int_shadow),
	FIELD(nmi_blocked), FIELD(pauses), FIELD(irq_window), FIELD(nmi_window), FIELD(gdtr.base), FIELD(gdtr.limit),
	FIELD(idtr.base), FIELD(idtr.limit), FIELD(cr0), FIELD(cr2), FIELD(cr3), FIELD(cr4), FIELD(cr8), FIELD(xcr0),
	FIELD(efer), FIELD(dr[0]), FIELD(dr[1]), FIELD(dr[2]), FIELD(dr[3]), FIELD(dr6), FIELD(dr7), FIELD(pdpte[0]),
	FIELD(pdpte[1]), FIELD(pdpte[2]), FIELD(pdpte[3]), FIELD(star), FIELD(lstar), FIELD(cstar), FIELD(fmask),
	FIELD(kernel_gs_base), FIELD(sysenter_cs), FIELD(sysenter_esp), FIELD(sysenter_eip), FIELD(tsc_aux), FIELD(pat),
	FIELD(apic_base), FIELD(tsc_offset), FIELD(fpu.mxcsr), FIELD(fpu.pkru), FIELD(debug_active), FIELD(db_pending),
	FIELD(io.done), FIELD(io.next), FIELD(io.pending),
};

static u64 field(const struct cpu *c, unsigned n)
{
	u64 v = 0;

	memcpy(&v, (const u8 *)c + fields[n].at, fields[n].size);
	return v;
}

static void compare_segments(const struct cpu *a, const struct cpu *b, struct report *r)
{
	static const char *const name[] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};

	for (unsigned n = 0; n < NR_SEG; n++) {
		const struct segment *s = &a->seg[n], *t = &b->seg[n];
		size_t attributes = offsetof(struct segment, type), end = offsetof(struct segment, unusable) + 1;

		number(r, name[n], s->selector, t->selector);
		if (s->base != t->base || s->limit != t->limit)
			say(r, "  %-14s jit base %#llx limit %#x, interp %#llx %#x\n", name[n],
			    (unsigned long long)s->base, s->limit, (unsigned long long)t->base, t->limit);
		if (memcmp((const u8 *)s + attributes, (const u8 *)t + attributes, end - attributes))
			say(r, "  %-14s attributes\n", name[n]);
	}
}

static void bytes(struct report *r, const char *what, unsigned n, const u8 *jit, const u8 *interp, unsigned size)
{
	for (unsigned at = 0; at < size; at += 8) {
		u64 x, y;

		memcpy(&x, jit + at, 8);
		memcpy(&y, interp + at, 8);
		if (x != y)
			say(r, "  %s%u+%-6u jit %#llx, interp %#llx\n", what, n, at, (unsigned long long)x,
			    (unsigned long long)y);
	}
}

static void compare_fpu(const struct fpu_state *a, const struct fpu_state *b, struct report *r)
{
	enum { X87_CONTROL = 24, X87_REGS = 32, X87_REGS_END = 160 }; /* what lies between is not used */

	if (memcmp(a->zmm, b->zmm, sizeof(a->zmm)))
		for (unsigned n = 0; n < ARRAY_SIZE(a->zmm); n++)
			bytes(r, "zmm", n, a->zmm[n], b->zmm[n], sizeof(a->zmm[n]));
	for (unsigned n = 0; n < ARRAY_SIZE(a->k); n++)
		if (a->k[n] != b->k[n])
			bytes(r, "k", n, (const u8 *)&a->k[n], (const u8 *)&b->k[n], 8);
	bytes(r, "fxsave", 0, a->x87, b->x87, X87_CONTROL);
	bytes(r, "st", 0, a->x87 + X87_REGS, b->x87 + X87_REGS, X87_REGS_END - X87_REGS);
}

static void compare_registers(const struct lockstep_state *first, const struct cpu *b, u64 flags_ignored,
			      struct report *r)
{
	static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					  "r8",	 "r9",	"r10", "r11", "r12", "r13", "r14", "r15"};
	const struct cpu *a = &first->cpu;

	for (unsigned n = 0; n < ARRAY_SIZE(gpr); n++)
		number(r, gpr[n], a->gpr[n], b->gpr[n]);
	number(r, "rflags", a->rflags & ~flags_ignored, b->rflags & ~flags_ignored);
	for (unsigned n = 0; n < ARRAY_SIZE(fields); n++)
		number(r, fields[n].name, field(a, n), field(b, n));
	compare_segments(a, b, r);
	compare_fpu(&a->fpu, &b->fpu, r);
	for (unsigned n = 0; n < msr_count(); n++)
		if (first->msr[n] != b->msr[n])
			say(r, "  msr row %-6u jit %#llx, interp %#llx\n", n, (unsigned long long)first->msr[n],
			    (unsigned long long)b->msr[n]);
}

/* --- What it ended with ----------------------------------------------------------------------------------------- */

static void compare_fault(const struct event *a, const struct event *b, struct report *r)
{
	number(r, "fault type", a->type, b->type);
	number(r, "fault vector", a->vector, b->vector);
	number(r, "fault error", a->has_error ? a->error : ~0ull, b->has_error ? b->error : ~0ull);
	number(r, "fault payload", a->has_payload ? a->payload : 0, b->has_payload ? b->payload : 0);
	number(r, "fault length", a->insn_len, b->insn_len);
}

static void compare_exit(const struct cpu *a, const struct cpu *b, struct report *r)
{
	number(r, "exit", a->exit.reason, b->exit.reason);
	if (a->exit.reason == EXIT_MEMORY_FAULT)
		number(r, "exit gpa", a->exit.gpa, b->exit.gpa);
	if (a->exit.reason != EXIT_IO || a->io.done != b->io.done || a->io.done >= IO_OPS_MAX)
		return;
	const struct io_op *x = &a->io.op[a->io.done], *y = &b->io.op[b->io.done];
	number(r, "io kind", x->kind, y->kind);
	number(r, "io size", x->size, y->size);
	number(r, "io address", x->addr, y->addr);
	number(r, "io data", x->data, y->data);
}

/* --- Memory ----------------------------------------------------------------------------------------------------- */

static u64 gpa_of(const struct cpu *c, const u8 *host)
{
	for (u32 n = 0; c->map && n < c->map->nr; n++) {
		const struct gpa_slot *s = &c->map->slot[n];
		if (host >= s->hva && host < s->hva + s->size)
			return s->gpa + (u64)(host - s->hva);
	}
	return ~0ull;
}

static void compare_page(const struct cpu *c, const struct undo_page *p, struct report *r)
{
	if (!memcmp(p->first, p->host, PAGE_SIZE))
		return;
	for (unsigned at = 0; at < PAGE_SIZE; at += 8) {
		u64 was, x, y;

		memcpy(&was, p->old + at, 8);
		memcpy(&x, p->first + at, 8);
		memcpy(&y, p->host + at, 8);
		if (x != y)
			say(r, "  gpa %#llx jit %#llx, interp %#llx, before %#llx\n",
			    (unsigned long long)gpa_of(c, p->host + at), (unsigned long long)x, (unsigned long long)y,
			    (unsigned long long)was);
	}
}

void lockstep_compare(const struct lockstep_state *first, const struct cpu *c, const struct undo *u, enum ending end,
		      u64 undefined, struct report *r)
{
	r->differences = 0;
	r->len = 0;
	r->text[0] = 0;
	compare_registers(first, c, undefined | (end == END_NORMAL ? 0 : FL_ARITH), r);
	if (end == END_FAULT)
		compare_fault(&first->cpu.fault, &c->fault, r);
	else if (end == END_EXIT)
		compare_exit(&first->cpu, c, r);
	/* The translator may mark components early, but it must mark them. */
	if (end == END_NORMAL)
		number(r, "xinuse", first->cpu.fpu.xinuse & c->fpu.xinuse, c->fpu.xinuse);
	for (unsigned n = 0; n < u->nr_pages; n++)
		compare_page(c, &u->page[n], r);
}
