/*
 * The engines as test subjects: for each a vCPU in 64-bit mode at CPL 3, with the descriptors that Linux gives its
 * programs, page tables over the two windows, and an IDT so that faults are delivered in full.
 *
 * The interpreter runs one instruction when it is asked for an NMI window with interrupts shadowed: the shadow lets one
 * instruction through. That would never reach translated code. There the instruction ends as on the host, in the INT3
 * that stands wherever it may go, whose handler halts, as all of them do.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/low.h"
#include "cpu/cpuid.h"
#include "cpu/mmu.h"
#include "engine/jit/jit.h"
#include "engine/x86_ops.h"
#include "isa.h"

/* The guest's own memory, at guest physical 0 and above; supervisor pages at the top of the address space. */
#define SYS_SIZE 0x10000u
#define SYS_BASE 0xffffffff80000000ull
enum {
	PML4 = 0x1000, PDPT_LOW = 0x2000, PD_LOW = 0x3000, PT_DATA = 0x4000, PT_CODE = 0x5000,
	PDPT_HIGH = 0x6000, PD_HIGH = 0x7000, PT_HIGH = 0x8000,
	GDT = 0x9000, IDT = 0xa000, TSS = 0xb000, STACK_TOP = 0xd000, HANDLERS = 0xd000, LDT = 0xe000,
};
#define GDT_LIMIT 0x7f
#define LDT_LIMIT 0x0f
#define TSS_LIMIT 0x67

#define PTE_P BIT64(0)
#define PTE_W BIT64(1)
#define PTE_U BIT64(2)
#define PTE_NX BIT64(63)

static struct subject {
	const struct x86_ops *ops;
	struct cpu *cpu;
} subjects[NR_ENGINE] = {{.ops = &interp_x86_ops}, {.ops = &jit_x86_ops}};
static u8 *sys, *data;
static _Atomic u16 code_marks[CODE_SIZE / PAGE_SIZE];
static volatile struct cpu_poll stop; /* by all vCPUs */
static volatile unsigned ticks;
static struct segment initial_seg[NR_SEG];

static void put64(unsigned at, u64 v)
{
	memcpy(sys + at, &v, 8);
}

static void map_window(unsigned pt, u32 window, u32 base, unsigned size, u64 flags)
{
	put64(PD_LOW + (window >> 21) * 8, pt | PTE_P | PTE_W | PTE_U);
	for (u32 a = base; a < base + size; a += PAGE_SIZE)
		put64(pt + (a >> PAGE_SHIFT & 511) * 8, a | PTE_P | PTE_U | flags);
}

static void make_page_tables(void)
{
	static const u64 high[] = HIGH_BASES;

	put64(PML4, PDPT_LOW | PTE_P | PTE_W | PTE_U);
	for (unsigned n = 0; n < ARRAY_SIZE(high); n++)
		put64(PML4 + (high[n] >> 39) * 8, PDPT_LOW | PTE_P | PTE_W | PTE_U);
	put64(PML4 + 511 * 8, PDPT_HIGH | PTE_P | PTE_W);
	put64(PDPT_LOW, PD_LOW | PTE_P | PTE_W | PTE_U);
	put64(PDPT_HIGH + 510 * 8, PD_HIGH | PTE_P | PTE_W);
	put64(PD_HIGH, PT_HIGH | PTE_P | PTE_W);
	for (unsigned a = 0; a < SYS_SIZE; a += PAGE_SIZE)
		put64(PT_HIGH + a / PAGE_SIZE * 8, a | PTE_P | PTE_W);
	map_window(PT_DATA, DATA_WINDOW, DATA_BASE, DATA_SIZE, PTE_W | PTE_NX);
	map_window(PT_DATA, DATA_WINDOW, DATA_BASE + DATA_RW, DATA_RO, PTE_NX);
	map_window(PT_CODE, CODE_WINDOW, CODE_BASE, CODE_SIZE, 0);
	for (unsigned a = 0; a < CODE_SIZE; a += PAGE_SIZE)
		put64(PT_CODE + ((CODE_ALIAS + a) >> PAGE_SHIFT & 511) * 8,
		      (CODE_BASE + a) | PTE_P | PTE_W | PTE_U | PTE_NX);
}

/* Linux's descriptors as user mode sees them through LAR, LSL, VERR and segment loads. */
static void make_descriptors(void)
{
	static const u64 gdt[] = {
		[1] = 0x00cf9b000000ffff, [2] = 0x00af9b000000ffff, [3] = 0x00cf93000000ffff,
		[4] = 0x00cffb000000ffff, [5] = 0x00cff3000000ffff, [6] = 0x00affb000000ffff,
		[15] = 0x0040f50000000000,
	};
	unsigned processor = 0, node = 0;
	u64 tss = SYS_BASE + TSS;

	if (native_has_16bit()) {
		put64(LDT, 0x0000fb000000ffff | (CODE16_BASE & 0xffffffull) << 16 | (u64)(CODE16_BASE >> 24) << 56);
		put64(LDT + 8, 0x0000f3000000ffff | (DATA16_BASE & 0xffffffull) << 16 | (u64)(DATA16_BASE >> 24) << 56);
	}

	for (unsigned n = 0; n < ARRAY_SIZE(gdt); n++)
		put64(GDT + 8 * n, gdt[n]);
	/* The last one's limit tells the processor's number: stay on it. */
	getcpu(&processor, &node);
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(processor, &one);
	sched_setaffinity(0, sizeof(one), &one);
	sys[GDT + 0x78] = (u8)processor;
	sys[GDT + 0x79] = (u8)(processor >> 8 | node << 4);
	put64(GDT + 0x40, TSS_LIMIT | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56);
	put64(GDT + 0x48, tss >> 32);
	put64(TSS + 4, SYS_BASE + STACK_TOP);
	sys[TSS + 0x66] = TSS_LIMIT + 1; /* no I/O permission map */
	for (unsigned v = 0; v < 256; v++) {
		u64 handler = SYS_BASE + HANDLERS + v * 16;
		u64 dpl = v == VEC_BP || v == VEC_OF ? 3 : 0;
		put64(IDT + v * 16,
		      (handler & 0xffff) | 0x10 << 16 | (0x8eull | dpl << 5) << 40 | (handler >> 16 & 0xffff) << 48);
		put64(IDT + v * 16 + 8, handler >> 32);
	}
}

static void make_segments(void)
{
	const struct segment code = {
		.limit = ~0u, .selector = SEL_CS64, .type = 11, .present = 1, .dpl = 3, .l = 1, .s = 1, .g = 1};
	const struct segment flat = {
		.limit = ~0u, .selector = SEL_DS, .type = 3, .present = 1, .dpl = 3, .db = 1, .s = 1, .g = 1};
	const struct segment null = {.unusable = 1};

	for (unsigned n = 0; n < NR_SEG; n++)
		initial_seg[n] = flat;
	initial_seg[SEG_CS] = code;
	initial_seg[SEG_FS] = initial_seg[SEG_GS] = null;
	initial_seg[SEG_LDTR] =
		(struct segment){.base = SYS_BASE + LDT, .limit = LDT_LIMIT, .selector = 0x50, .type = 2, .present = 1};
	initial_seg[SEG_TR] = (struct segment){
		.base = SYS_BASE + TSS, .limit = TSS_LIMIT, .selector = 0x40, .type = 11, .present = 1};
}

static struct cpu *make_cpu(void)
{
	struct cpuid_entry offer[CPUID_MAX_ENTRIES];
	struct gpa_map *map = calloc(1, sizeof(*map) + 3 * sizeof(map->slot[0]));
	struct cpu *cpu = low_alloc(sizeof(*cpu));

	if (!cpu || !map)
		return NULL;
	map->nr = 3;
	map->slot[0] = (struct gpa_slot){.gpa = 0, .size = SYS_SIZE, .hva = sys};
	map->slot[1] = (struct gpa_slot){.gpa = DATA_BASE, .size = DATA_SIZE, .hva = data};
	map->slot[2] = (struct gpa_slot){.gpa = CODE_BASE, .size = CODE_SIZE, .hva = native_code(), .code = code_marks};
	if (cpu_init(cpu))
		return NULL;
	cpu->poll = (struct cpu_poll *)&stop;
	cpu->map = map;
	unsigned n = cpuid_supported(offer, CPUID_MAX_ENTRIES);
	if (n > CPUID_MAX_ENTRIES || cpuid_set(cpu, offer, n))
		return NULL;
	cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	cpu->cr3 = PML4;
	cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP | CR4_PGE;
	cpu->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX;
	cpu->xcr0 = native_xcr0();
	cpu->gdtr = (struct dtable){SYS_BASE + GDT, GDT_LIMIT};
	cpu->idtr = (struct dtable){SYS_BASE + IDT, 256 * 16 - 1};
	return cpu;
}

static bool make_subject(struct subject *s)
{
	s->cpu = make_cpu();
	if (!s->cpu || s->ops->hardware_setup() || s->ops->vcpu_create(s->cpu))
		return false;
	return s->ops != &jit_x86_ops || !jit_of(s->cpu)->off;
}

bool guest_init(void)
{
	sys = mmap(NULL, SYS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	data = mmap(NULL, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (sys == MAP_FAILED || data == MAP_FAILED)
		return false;
	make_page_tables();
	make_descriptors();
	make_segments();
	memset(sys + HANDLERS, 0xf4, 256 * 16); /* HLT */
	for (unsigned n = 0; n < NR_ENGINE; n++)
		if (!make_subject(&subjects[n])) {
			fprintf(stderr, "cannot set up engine %s\n", subjects[n].ops->name);
			return false;
		}
	return true;
}

u8 *guest_data(void)
{
	return data;
}

static void narrow_segment(struct segment *s, u16 selector, u32 base)
{
	s->selector = selector;
	s->base = base;
	s->limit = 0xffff;
	s->l = s->db = s->g = 0;
}

static void load_state(struct cpu *cpu, const struct state *s, unsigned bits)
{
	memcpy(cpu->gpr, s->gpr, sizeof(cpu->gpr));
	cpu->rip = s->rip;
	cpu->rflags = s->rflags;
	memcpy(cpu->seg, initial_seg, sizeof(cpu->seg));
	if (bits == 32) {
		cpu->seg[SEG_CS].selector = SEL_CS32;
		cpu->seg[SEG_CS].l = 0;
		cpu->seg[SEG_CS].db = 1;
	} else if (bits == 16) {
		narrow_segment(&cpu->seg[SEG_CS], SEL_CS16, CODE16_BASE);
		narrow_segment(&cpu->seg[SEG_SS], SEL_DS16, DATA16_BASE);
		narrow_segment(&cpu->seg[SEG_DS], SEL_DS16, DATA16_BASE);
		narrow_segment(&cpu->seg[SEG_ES], SEL_DS16, DATA16_BASE);
	}
	cpu->seg[SEG_FS].base = s->fs_base;
	cpu->seg[SEG_GS].base = s->gs_base;
	memcpy(cpu->fpu.zmm, s->zmm, sizeof(cpu->fpu.zmm));
	memcpy(cpu->fpu.k, s->k, sizeof(cpu->fpu.k));
	memcpy(cpu->fpu.x87, s->x87, X87_BYTES);
	cpu->fpu.mxcsr = s->mxcsr;
	cpu->fpu.xinuse = cpu->xcr0;
	cpu->nmi_blocked = false;
	cpu->inject.type = cpu->delivering.type = EV_NONE;
	cpu->int_shadow = 0;
	cpu_io_retire(cpu);
	cpu->dr6 = 0xffff0ff0;
	cpu->dr7 = 0x400;
	cpu_update_mode(cpu);
}

static void save_state(const struct cpu *cpu, struct state *s)
{
	memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
	s->rip = cpu->rip;
	s->rflags = cpu->rflags;
	s->fs_base = cpu->seg[SEG_FS].base;
	s->gs_base = cpu->seg[SEG_GS].base;
	s->cs = cpu->seg[SEG_CS].selector;
	s->ds = cpu->seg[SEG_DS].selector;
	s->es = cpu->seg[SEG_ES].selector;
	s->fs = cpu->seg[SEG_FS].selector;
	s->gs = cpu->seg[SEG_GS].selector;
	s->ss = cpu->seg[SEG_SS].selector;
	memcpy(s->zmm, cpu->fpu.zmm, sizeof(s->zmm));
	memcpy(s->k, cpu->fpu.k, sizeof(s->k));
	memcpy(s->x87, cpu->fpu.x87, X87_BYTES);
	s->mxcsr = cpu->fpu.mxcsr;
}

/* In the handler: the interrupted state is on the stack, the error code on top of it for the vectors that have one. */
static void unwind_delivery(const struct cpu *cpu, struct outcome *o)
{
	static const u32 has_error = BIT(8) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(17);
	u64 frame[6] = {0};
	u64 at = o->s.gpr[RSP] - SYS_BASE;

	o->vector = (int)((o->s.rip - SYS_BASE - HANDLERS) / 16);
	if (at > SYS_SIZE - sizeof(frame))
		return;
	memcpy(frame, sys + at, sizeof(frame));
	bool error = o->vector < 32 && (has_error >> o->vector & 1);
	u64 *f = frame + error;
	o->error = error ? (u32)frame[0] : 0;
	o->cr2 = o->vector == VEC_PF ? cpu->cr2 : 0;
	o->s.rip = f[0];
	o->s.cs = (u16)f[1];
	o->s.rflags = f[2];
	o->s.gpr[RSP] = f[3];
	o->s.ss = (u16)f[4];
}

/* Translated code runs on until it is in a handler: what the host's signals tell of, and how, see native.c. */
static void end_at_int3(const struct test_case *t, struct outcome *o)
{
	if (o->vector == VEC_BP && o->s.rip - 1 - t->in.rip >= t->len)
		o->s.rip--;
	else if (o->vector != VEC_PF || !(o->error & PF_I) || o->s.rip == t->in.rip ||
		 o->cr2 - t->code_base - t->in.rip < t->len)
		return;
	o->vector = NO_VECTOR;
	o->error = 0;
	o->cr2 = 0;
}

struct run {
	struct subject *s;
	enum exit_reason reason;
};

static void run_one(void *arg)
{
	struct run *r = arg;

	/* A PAUSE now and then ends the run behind it. */
	do
		r->reason = r->s->ops->run(r->s->cpu);
	while (r->reason == EXIT_PAUSE);
}

/* Translation takes its time where code writes code again and again. */
#define TICKS_MAX 3
#define TICKS_MAX_JIT 200

void guest_tick(void)
{
	ticks--;
	if (!ticks)
		stop.immediate_exit = 1;
}

void guest_code_changed(void)
{
	struct subject *s = &subjects[ENGINE_JIT];

	s->ops->tlb_flush_all(s->cpu);
}

static void run(struct run *r, enum exit_reason end, struct outcome *o)
{
	struct cpu *cpu = r->s->cpu;

	stop.immediate_exit = 0;
	ticks = r->s->ops == &jit_x86_ops ? TICKS_MAX_JIT : TICKS_MAX;
	*o = (struct outcome){.vector = NO_VECTOR};
	r->s->ops->vcpu_load(cpu);
	if (!native_protected(run_one, r)) {
		o->vector = VECTOR_CRASH;
		cpu->in_engine = false;
		return;
	}
	save_state(cpu, &o->s);
	if (r->reason == EXIT_KICK)
		o->vector = VECTOR_HANG;
	else if (r->reason != end)
		o->vector = VECTOR_HANG - 10 - (int)r->reason;
	else if (cpu->rip >= SYS_BASE + HANDLERS && cpu->rip < SYS_BASE + HANDLERS + 256 * 16)
		unwind_delivery(cpu, o);
}

void guest_run_to_fault(const struct state *in, unsigned bits, enum engine engine, struct outcome *o)
{
	struct run r = {.s = &subjects[engine]};

	load_state(r.s->cpu, in, bits);
	run(&r, EXIT_HLT, o);
}

void guest_run(const struct test_case *t, enum engine engine, struct outcome *o)
{
	struct run r = {.s = &subjects[engine]};

	if (engine == ENGINE_JIT) {
		if ((t->in.rip & (PAGE_SIZE - 1)) > PAGE_SIZE - 32)
			guest_code_changed(); /* in two pages, of which the engine knows one */
		guest_run_to_fault(&t->in, t->bits, engine, o);
		end_at_int3(t, o);
		return;
	}
	load_state(r.s->cpu, &t->in, t->bits);
	r.s->cpu->int_shadow = SHADOW_STI;
	r.s->cpu->nmi_window = true;
	run(&r, EXIT_NMI_WINDOW, o);
}
