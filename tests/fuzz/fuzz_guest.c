/*
 * Guests in any state: every mode, registers, descriptor tables, page tables and code made of plausible pieces with
 * arbitrary changes. What is looked for: host accesses outside of guest memory, which lies between inaccessible pages,
 * what the sanitizers find, runs that do not end when they are asked to, derived state that has gone stale, and what
 * the lockstep engine finds: translated code that does not do what the interpreter does. The translator's code cache is
 * a small one here, so that it fills up again and again.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "base/low.h"
#include "cpu/cpuid.h"
#include "cpu/debug.h"
#include "cpu/fpu.h"
#include "cpu/insn.h"
#include "cpu/seg.h"
#include "engine/x86_ops.h"
#include "input.h"

#define RAM_SIZE 0x40000u
#define ROM_GPA 0xf0000u
#define ROM_SIZE 0x4000u
#define BAD_GPA 0x100000u /* its mapping does not answer */
#define BAD_SIZE 0x2000u
#define ALIAS_GPA 0x140000u /* RAM once more, with a dirty log */

/* Where things are in RAM. Everything below CODE is tables. */
#define GDT 0x1000u
#define IDT 0x2000u
#define TSS_A 0x3000u
#define TSS_B 0x3800u
#define STACKS 0x4000u
#define TABLES 0x8000u
#define CODE 0x10000u
#define DATA 0x12000u

#define RUN_NS 400000 /* time of one input; twice that for two engines */
#define EXITS_MAX 200

static const struct x86_ops *const engines[] = {&interp_x86_ops, &jit_x86_ops, &lockstep_x86_ops};
static const struct x86_ops *ops; /* engine and vCPU of this input */
static struct cpu *cpu, *cpus;    /* the vCPUs lie where generated code can name them */
static u8 *ram, *rom;
static _Atomic u64 dirty[RAM_SIZE / PAGE_SIZE / 64 + 1];
static struct gpa_map *map;
static volatile struct cpu_poll stop;
static timer_t timer;

static void on_timer(int sig)
{
	stop.immediate_exit = 1;
}

/* For the leak checker, which does not look into the engines' own mappings. */
static void free_engines(void)
{
	for (unsigned e = 0; e < ARRAY_SIZE(engines); e++) {
		engines[e]->vcpu_free(&cpus[e]);
		cpu_fini(&cpus[e]);
	}
	low_free(cpus, ARRAY_SIZE(engines) * sizeof(*cpus));
}

static void setup_once(void)
{
	struct cpuid_entry offer[CPUID_MAX_ENTRIES];
	struct sigaction sa = {.sa_handler = on_timer};
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};

	if (ram)
		return;
	ram = guarded(RAM_SIZE, PROT_READ | PROT_WRITE);
	rom = guarded(ROM_SIZE, PROT_READ | PROT_WRITE);
	map = calloc(1, sizeof(*map) + 4 * sizeof(map->slot[0]));
	require(map);
	map->nr = 4;
	map->slot[0] = (struct gpa_slot){.gpa = 0, .size = RAM_SIZE, .hva = ram, .id = 0};
	map->slot[1] = (struct gpa_slot){.gpa = ROM_GPA, .size = ROM_SIZE, .hva = rom, .id = 1, .flags = GPA_READONLY};
	map->slot[2] =
		(struct gpa_slot){.gpa = BAD_GPA, .size = BAD_SIZE, .hva = guarded(BAD_SIZE, PROT_NONE), .id = 2};
	map->slot[3] = (struct gpa_slot){
		.gpa = ALIAS_GPA, .size = RAM_SIZE, .hva = ram, .id = 3, .flags = GPA_LOG_DIRTY, .dirty = dirty};
	for (u32 n = 0; n < map->nr; n++) {
		struct gpa_slot *s = &map->slot[n];
		s->code = calloc(s->size >> PAGE_SHIFT, sizeof(*s->code));
		require(s->code);
	}
	cpus = low_alloc(ARRAY_SIZE(engines) * sizeof(*cpus));
	require(cpus && engine_jit_cache(131072) == 0);
	unsigned n = MIN(cpuid_supported(offer, CPUID_MAX_ENTRIES), CPUID_MAX_ENTRIES);
	for (unsigned e = 0; e < ARRAY_SIZE(engines); e++) {
		require(cpu_init(&cpus[e]) == 0 && engines[e]->hardware_setup() == 0 &&
			engines[e]->vcpu_create(&cpus[e]) == 0);
		require(cpuid_set(&cpus[e], offer, n) == 0);
		cpus[e].poll = (struct cpu_poll *)&stop;
	}
	atexit(free_engines);
	sigaction(SIGRTMIN, &sa, NULL);
	require(timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0);
}

/* --- Memory ------------------------------------------------------------------------------------------------- */

static void put(u32 at, u64 value, unsigned bytes)
{
	memcpy(ram + at, &value, bytes);
}

static u64 descriptor(u32 base, u32 limit, u8 access, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
	       (u64)(flags & 15) << 52 | (u64)(base >> 24) << 56;
}

static u64 gate(u16 selector, u32 offset, u8 access, u8 params)
{
	return (offset & 0xffff) | (u64)selector << 16 | (u64)params << 32 | (u64)access << 40 |
	       (u64)(offset >> 16) << 48;
}

/* Selectors of the GDT by what they are. */
enum {
	CODE64 = 1,
	DATA0,
	CODE32,
	CODE16,
	DATA16,
	CODE64_3,
	DATA3,
	CODE32_3,
	CODE_CONF,
	LDT,
	TSS = 12,
	TSS_HIGH,
	TSS32_2,
	TSS16,
	CALL,
	CALL_HIGH,
	CALL3,
	CALL3_HIGH,
	TASK,
	DATA_DOWN,
	CODE_ABSENT,
	DATA_ABSENT,
	NR_DESC
};

static void make_gdt(struct input *in, bool lma)
{
	const u64 d[NR_DESC] = {
		[CODE64] = descriptor(0, 0xfffff, 0x9b, 0xa), [DATA0] = descriptor(0, 0xfffff, 0x93, 0xc),
		[CODE32] = descriptor(0, 0xfffff, 0x9b, 0xc), [CODE16] = descriptor(CODE, 0xffff, 0x9b, 0),
		[DATA16] = descriptor(DATA, 0xffff, 0x93, 0), [CODE64_3] = descriptor(0, 0xfffff, 0xfb, 0xa),
		[DATA3] = descriptor(0, 0xfffff, 0xf3, 0xc), [CODE32_3] = descriptor(0, 0xfffff, 0xfb, 0xc),
		[CODE_CONF] = descriptor(0, 0xfffff, 0x9f, lma ? 0xa : 0xc), [LDT] = descriptor(GDT, 0xff, 0x82, 0),
		[TSS] = descriptor(TSS_A, 0x7ff, 0x89, 0), [TSS32_2] = descriptor(TSS_B, 0x67, 0x89, 0),
		[TSS16] = descriptor(TSS_B, 0x2b, 0x81, 0),
		[CALL] = gate((lma ? CODE64 : CODE32) * 8, CODE + 0x40, 0xec, 3),
		[CALL3] = gate((lma ? CODE64_3 : CODE32_3) * 8, CODE + 0x20, lma ? 0xec : 0xe4, 0),
		[TASK] = gate(TSS32_2 * 8, 0, 0xe5, 0), [DATA_DOWN] = descriptor(0, 0x0000f, 0x97, 0xc),
		[CODE_ABSENT] = descriptor(0, 0xfffff, 0x1b, 0xc), [DATA_ABSENT] = descriptor(0, 0xfffff, 0x13, 0xc),
	};

	memcpy(ram + GDT, d, sizeof(d));
	for (u64 n = number(in, 1) % 4; n; n--)
		put(GDT + number(in, 1) % sizeof(d), number(in, 1), 1);
}

/* Gates that mostly work, at handlers in the code or in a page of their own. */
static void make_idt(struct input *in, bool lma)
{
	static const u8 type[] = {0x8e, 0xee, 0xef, 0x85, 0x86, 0x8f, 0x0e, 0xe5};
	u32 handler = CODE + (u32)number(in, 1) * 16;
	u8 seed = (u8)number(in, 1);

	for (u32 v = 0; v < 256; v++) {
		u8 pick = seed & 0x80 ? (u8)(seed * (v + 1)) >> 3 & 7 : seed & 1;
		u16 selector = (seed & 0x40 ? CODE_CONF : lma ? CODE64 : CODE32) * 8;
		u64 g = gate(type[pick] & 0xf ? selector : 0, handler + v % 8, type[pick], 0);

		if ((type[pick] & 15) == 5)
			g = gate((v & 1 ? TSS32_2 : TSS16) * 8, 0, type[pick], 0);
		if (lma) {
			put(IDT + v * 16 % PAGE_SIZE, g | (u64)(seed >> 4 & 3 & v) << 32, 8);
			put(IDT + (v * 16 + 8) % PAGE_SIZE, 0, 8);
		} else {
			put(IDT + v * 8, g, 8);
		}
		put(v * 4, (CODE >> 4) << 16 | ((v * 8 + seed) & 0xff), 4); /* real mode */
	}
	for (u64 n = number(in, 1) % 4; n; n--)
		put(IDT + number(in, 2) % 0x200, number(in, 1), 1);
}

static void make_tss(struct input *in, bool lma)
{
	for (u32 n = 0; n < (lma ? 10 : 3); n++) {
		if (lma) {
			put(TSS_A + 4 + n * 8, STACKS + (n + 1) * 0x200, 8);
		} else {
			put(TSS_A + 4 + n * 8, STACKS + (n + 1) * 0x200, 4);
			put(TSS_A + 8 + n * 8, n == 0 ? DATA0 * 8 : DATA3 * 8 + 3, 2);
		}
	}
	put(TSS_A + 0x66, 0x68, 2); /* I/O bitmap */
	put(TSS_B + 0x1c, TABLES, 4);
	put(TSS_B + 0x20, CODE + number(in, 1), 4);
	put(TSS_B + 0x24, number(in, 4), 4);
	put(TSS_B + 0x38, STACKS + 0x1000, 4);
	static const u8 seg[] = {DATA0, CODE32, DATA0, DATA0, DATA0, DATA0};
	for (u32 n = 0; n < 6; n++)
		put(TSS_B + 0x48 + n * 4, seg[n] * 8, 2);
	put(TSS_B + 0x60, LDT * 8, 2);
	put(TSS_B + 0x64, number(in, 1) & 1, 2);
	for (u64 n = number(in, 1) % 8; n; n--)
		put(TSS_A + number(in, 2) % 0xc00, number(in, 1), 1);
}

/* Identity for the low 2 MiB, and once more at the top of the address space; some entries are changed. */
static void make_tables(struct input *in, bool lma, bool pae)
{
	u64 rights = number(in, 1) & 4 ? 7 : 3;

	if (!pae) {
		put(TABLES, TABLES + 0x1000 + 7, 4);
		put(TABLES + 0xffc, TABLES + 0x1000 + 7, 4);
		put(TABLES + 4, 0x400000 | 0x87, 4);
		for (u32 n = 0; n < 1024; n++)
			put(TABLES + 0x1000 + n * 4, n << 12 | rights, 4);
	} else {
		u32 pdpt = lma ? TABLES + 0x1000 : TABLES, pd = TABLES + 0x2000, pt = TABLES + 0x3000;

		if (lma) {
			put(TABLES, pdpt + 7, 8);
			put(TABLES + 8 * 511, pdpt + 7, 8);
		}
		for (u32 n = 0; n < 4; n++)
			put(pdpt + n * 8, pd + (lma ? 7 : 1), 8);
		put(pdpt + 8 * 511 * lma, pd + (lma ? 7 : 1), 8);
		put(pd, pt + 7, 8);
		put(pd + 8, 0x83 + 4 * (rights & 1), 8);
		put(pd + 8 * 511, pt + 7, 8);
		for (u32 n = 0; n < 512; n++)
			put(pt + n * 8, n << 12 | rights, 8);
	}
	for (u64 n = number(in, 1) % 8; n; n--) {
		u32 page = (u32)number(in, 1) % 6, at = (u32)number(in, 1) * 8 % PAGE_SIZE;

		put(TABLES + page * 0x1000 + at, number(in, 2) << (number(in, 1) % 64), 8);
	}
}

/* --- Code ------------------------------------------------------------------------------------------------------ */

static u8 modrm_of(const struct insn_row *r, struct input *in)
{
	u8 m = (u8)number(in, 1);

	if ((r->modrm & 7) == MODRM_REG)
		m |= 0xc0;
	else if ((r->modrm & 7) == MODRM_MEM && m >= 0xc0)
		m &= 0x7f;
	if (r->modrm & MODRM_EXT(0))
		m = (m & 0xc7) | (r->modrm >> 4 & 7) << 3;
	if (r->modrm & MODRM_RM(0))
		m = (m & 0xf8) | (r->modrm >> 8 & 7);
	return m;
}

/* An encoding of row @r; operands and prefixes come from the input. Returns its length, at most 32. */
static unsigned emit_row(u8 *p, const struct insn_row *r, struct input *in, bool is64)
{
	static const u8 escape[] = {0, 0, 0x38, 0x3a}, pp[] = {[PP_66] = 1, [PP_F3] = 2, [PP_F2] = 3, [PP_NP] = 0};
	static const u8 prefix[] = {0x66, 0xf2, 0xf3, 0x2e, 0x36, 0x64, 0x65, 0x67, 0xf0};
	u8 *start = p, bits = (u8)number(in, 1), more = (u8)number(in, 1);

	if (bits & 1)
		*p++ = prefix[(bits >> 1) % sizeof(prefix)];
	if (r->space == ENC_LEGACY) {
		if (r->pp == PP_66 || r->pp == PP_F2 || r->pp == PP_F3)
			*p++ = r->pp == PP_66 ? 0x66 : r->pp == PP_F2 ? 0xf2 : 0xf3;
		if (is64 && (more & 1))
			*p++ = 0x40 | more >> 4;
		if (r->map)
			*p++ = 0x0f;
		if (r->map > 1)
			*p++ = escape[r->map & 3];
	} else if (r->space == ENC_VEX) {
		*p++ = 0xc4;
		*p++ = (is64 ? more & 0xe0 : 0xe0) | (r->map & 0x1f);
		*p++ = (r->w == W_1 || (r->w == W_ANY && (more & 1)) ? 0x80 : 0) | (bits >> 1 & 0x78) |
		       (r->l == L_256 || (more & 2) ? 4 : 0) | pp[r->pp];
	} else {
		*p++ = 0x62;
		*p++ = (is64 ? more & 0xf0 : 0xf0) | (r->map & 7);
		*p++ = (r->w == W_1 || (r->w == W_ANY && (more & 1)) ? 0x80 : 0) | (bits >> 1 & 0x78) | 4 | pp[r->pp];
		*p++ = (u8)number(in, 1) | 8;
	}
	*p++ = (u8)(r->opcode + (r->opcodes > 1 ? more % r->opcodes : 0));
	if (r->modrm & MODRM_ANY)
		*p++ = modrm_of(r, in);
	take(in, p, 10);
	return (unsigned)(p + 10 - start);
}

/* Fills @size bytes with instructions. */
static void make_code(struct input *in, u8 *to, unsigned size, unsigned code_bits)
{
	unsigned n = 0;

	while (n < size) {
		u8 bytes[40] = {0}, op = (u8)number(in, 1);
		unsigned len;

		if (op < 16) { /* as they are */
			len = 1 + op;
			take(in, bytes, len);
		} else {
			struct insn i;

			unsigned avail = emit_row(bytes, &insn_rows[number(in, 2) % nr_insn_rows], in, code_bits == 64);
			len = decode(&i, bytes, MIN(avail, 15u), code_bits) == DECODE_OK ? i.len : 1;
		}
		len = MIN(len, size - n);
		memcpy(to + n, bytes, len);
		n += len;
	}
}

/* --- Registers ---------------------------------------------------------------------------------------------------- */

static u64 interesting(struct input *in, bool is64)
{
	static const u64 value[] = {
		0,
		1,
		~0ull,
		DATA,
		DATA + 0xff8,
		DATA + 0xffd,
		CODE,
		CODE + 0xffc,
		STACKS + 0x800,
		GDT,
		IDT,
		TSS_A,
		TABLES + 0x3000,
		ROM_GPA,
		ROM_GPA + 0xffc,
		BAD_GPA,
		BAD_GPA - 4,
		ALIAS_GPA + DATA,
		0xfee00000,
		0xa0000,
		0x80000000,
		0xffffffff,
		0xffff800000000000,
		0x7fffffffffff,
		0x800000000000,
		RAM_SIZE - 4,
		0xffffffffffe00000 + DATA,
		0x10,
		0x7fffffff,
	};
	u8 n = (u8)number(in, 1);
	u64 v = n < ARRAY_SIZE(value) ? value[n]
		: n < 128             ? DATA + number(in, 1) * 16
		: n < 192             ? number(in, 2)
				      : number(in, 8);

	return is64 ? v : (u32)v;
}

static void set_segment(enum seg_reg seg, u16 index, unsigned rpl)
{
	u64 d;

	memcpy(&d, ram + GDT + index * 8, 8);
	seg_from_desc(&cpu->seg[seg], (u16)(index * 8 + rpl), d);
}

enum guest_mode { G_REAL, G_PROT16, G_PROT32, G_PROT32_PAGED, G_PROT32_PAE, G_VM86, G_COMPAT, G_LONG, NR_GUEST_MODE };

static void set_segments(enum guest_mode m, unsigned cpl)
{
	u16 code = m == G_LONG ? cpl ? CODE64_3 : CODE64 : m == G_PROT16 ? CODE16 : cpl ? CODE32_3 : CODE32;
	u16 data = m == G_PROT16 ? DATA16 : cpl ? DATA3 : DATA0;

	if (m == G_REAL || m == G_VM86) {
		for (unsigned n = SEG_ES; n <= SEG_GS; n++) {
			u16 selector = n == SEG_CS ? CODE >> 4 : n == SEG_SS ? STACKS >> 4 : DATA >> 4;

			cpu->seg[n] = (struct segment){.selector = selector,
						       .base = selector << 4,
						       .limit = 0xffff,
						       .type = 3,
						       .present = 1,
						       .s = 1,
						       .dpl = m == G_VM86 ? 3 : 0};
		}
		return;
	}
	for (unsigned n = SEG_ES; n <= SEG_GS; n++)
		set_segment((enum seg_reg)n, n == SEG_CS ? code : data, cpl);
}

static void make_registers(struct input *in, enum guest_mode m, unsigned cpl)
{
	bool lma = m >= G_COMPAT, is64 = m == G_LONG;

	for (unsigned n = 0; n < 16; n++)
		cpu->gpr[n] = interesting(in, lma);
	cpu->gpr[RSP] = (m == G_REAL || m == G_VM86 ? 0 : STACKS) + 0x800 + number(in, 1) % 16;
	cpu->rip = (m == G_REAL || m == G_VM86 || m == G_PROT16 ? 0 : CODE) + (number(in, 1) & 1 ? 0xff0 : 0);
	cpu->rflags = FL_FIXED1 | (number(in, 3) & 0x3f7fd5) | (m == G_VM86 ? FL_VM : 0);
	if (m != G_VM86)
		cpu->rflags &= ~FL_VM;
	if (number(in, 1) & 3)
		cpu->rflags &= ~(FL_TF | FL_RF);
	cpu->cr0 = CR0_ET | (number(in, 4) & (CR0_MP | CR0_NE | CR0_WP | CR0_AM)) | (m != G_REAL ? CR0_PE : 0);
	u8 rare = (u8)number(in, 1);
	cpu->cr0 |= (rare & 15) == 1 ? CR0_EM : (rare & 15) == 2 ? CR0_TS : 0;
	if (m == G_PROT32_PAGED || m == G_PROT32_PAE || lma)
		cpu->cr0 |= CR0_PG;
	cpu->cr4 = (number(in, 3) | CR4_OSFXSR | CR4_OSXSAVE) & cr4_allowed(cpu) & ~CR4_LA57;
	cpu->cr4 = m == G_PROT32_PAE || lma ? cpu->cr4 | CR4_PAE : cpu->cr4 & ~CR4_PAE;
	if (!lma)
		cpu->cr4 &= ~CR4_PCIDE;
	cpu->cr3 = TABLES;
	cpu->efer = EFER_SCE | EFER_NX | (lma ? EFER_LME | EFER_LMA : 0);
	set_segments(m, cpl);
	if (is64) {
		cpu->seg[SEG_FS].base = interesting(in, true);
		cpu->seg[SEG_GS].base = interesting(in, true);
	}
	set_segment(SEG_TR, TSS, 0);
	cpu->seg[SEG_TR].type |= 2;
	set_segment(SEG_LDTR, LDT, 0);
	cpu->gdtr = (struct dtable){GDT, NR_DESC * 8 - 1};
	cpu->idtr = (struct dtable){m == G_REAL ? 0 : IDT, m == G_REAL ? 0x3ff : lma ? 0xfff : 0x7ff};
	cpu->lstar = CODE + 0x60;
	cpu->cstar = CODE + 0x70;
	cpu->star = (u64)(CODE32_3 * 8) << 48 | (u64)(CODE64 * 8) << 32;
	cpu->sysenter_cs = CODE64 * 8;
	cpu->sysenter_eip = CODE + 0x80;
	cpu->sysenter_esp = STACKS + 0x400;
	memcpy(cpu->pdpte, ram + TABLES, sizeof(cpu->pdpte));
}

static void make_fpu(struct input *in)
{
	u8 area[PAGE_SIZE] = {0};
	u64 bv = number(in, 1) & xsave_supported();
	u32 mxcsr = number(in, 1) & 1 ? (u32)number(in, 2) & mxcsr_mask() : MXCSR_RESET;

	take(in, area, 32);
	memcpy(area + FX_MXCSR, &mxcsr, 4);
	memcpy(area + XSAVE_BV, &bv, 8);
	take(in, area + FX_ST, 64);
	take(in, area + FX_XMM, 64);
	fpu_from_xsave(&cpu->fpu, xsave_supported(), area, sizeof(area));
	cpu->xcr0 = number(in, 1) & 3 ? xsave_supported() : 1;
	for (unsigned n = 0; n < 8; n++)
		cpu->fpu.k[n] = n & 1 ? ~0ull : number(in, 1);
}

static void make_debug(struct input *in)
{
	u8 what = (u8)number(in, 1);

	cpu->guest_debug = (what & 15) == 1 ? GUEST_DEBUG_STEP : (what & 15) == 2 ? GUEST_DEBUG_SW_BP : 0;
	cpu->dr7 = what >> 4 == 1 ? (number(in, 4) & 0xffff23ff) | 0x400 : 0x400;
	for (unsigned n = 0; n < 4; n++)
		cpu->dr[n] = what >> 4 == 1 ? interesting(in, true) : 0;
	debug_update(cpu);
}

static void make_guest(struct input *in)
{
	u8 pick = (u8)number(in, 1);
	unsigned engine = (unsigned)number(in, 1) % ARRAY_SIZE(engines);
	/* The translator's mode most of all, where there is one. */
	enum guest_mode m = engine && (pick & 0x18) ? G_LONG : pick % NR_GUEST_MODE;
	unsigned cpl = m == G_VM86 || ((pick & 0x80) && m >= G_PROT32) ? 3 : 0;
	bool lma = m >= G_COMPAT, pae = lma || m == G_PROT32_PAE;

	ops = engines[engine];
	cpu = &cpus[engine];
	memset(ram, 0, RAM_SIZE);
	memset(rom, 0, ROM_SIZE);
	cpu_reset(cpu, false);
	make_gdt(in, lma);
	make_idt(in, lma);
	make_tss(in, lma);
	make_tables(in, lma, pae);
	make_fpu(in);
	make_registers(in, m, cpl);
	make_debug(in);
	unsigned bits = m == G_LONG ? 64 : m == G_REAL || m == G_VM86 || m == G_PROT16 ? 16 : 32;
	make_code(in, ram + CODE, 0x100, bits);
	make_code(in, ram + CODE + 0xff0, 0x80, bits);
	memcpy(rom, ram + CODE, 0x100);
	cpu->guest_dr7 = 0;
	cpu->irq_window = cpu->nmi_window = false;
	cpu->msr_exits = pick & 0x40;
	atomic_store(&cpu->request, 0);
	/* Code was replaced behind the engine's back. */
	map->gen++;
	for (u32 n = 0; n < map->nr; n++) {
		map->slot[n].code_id = map->gen * map->nr + n;
		memset((void *)map->slot[n].code, 0, (map->slot[n].size >> PAGE_SHIFT) * sizeof(*map->slot[n].code));
	}
	cpu->map = map;
	cpu_update_mode(cpu);
	ops->tlb_flush_all(cpu);
}

/* --- The run ---------------------------------------------------------------------------------------------------- */

static void answer(struct input *in)
{
	struct io_op *op = &cpu->io.op[cpu->io.done];

	require(cpu->io.pending && cpu->io.done < IO_OPS_MAX && op->kind != IO_NONE && op->size <= 8);
	if (op->kind == IO_MMIO_READ || op->kind == IO_MMIO_WRITE)
		require(op->size >= 1 && (op->addr & (PAGE_SIZE - 1)) + op->size <= PAGE_SIZE);
	op->data = number(in, 1) * 0x0101010101010101ull;
	op->fault = (op->kind == IO_RDMSR || op->kind == IO_WRMSR) && (number(in, 1) & 1);
	cpu->io.done++;
	cpu->io.pending = false;
}

static void inject(struct input *in)
{
	u8 what = (u8)number(in, 1);
	struct event e = {.type = what & 1 ? EV_NMI : EV_EXTINT, .vector = what & 1 ? VEC_NMI : (u8)number(in, 1)};

	if (cpu->inject.type == EV_NONE && !cpu->io.done && !cpu->io.pending && cpu->delivering.type == EV_NONE)
		ops->inject(cpu, &e);
}

/* What is derived is what it would be derived to. */
static void check(void)
{
	struct cpu was = *cpu;

	cpu_update_mode(cpu);
	require(was.mode == cpu->mode && was.code_bits == cpu->code_bits && was.stack_bits == cpu->stack_bits);
	require(was.cpl == cpu->cpl && was.mmu_index == cpu->mmu_index && was.tlb == cpu->tlb &&
		was.maxlinear == cpu->maxlinear);
	require(!cpu->in_engine && !cpu->unwind && (cpu->rflags & FL_FIXED1));
	require(!((cpu->cr0 & CR0_PG) && !(cpu->cr0 & CR0_PE)) && !(cpu->cr4 & ~cr4_allowed(cpu)));
}

/* False: that was all. */
static bool handle(struct input *in, enum exit_reason reason)
{
	switch (reason) {
	case EXIT_IO:
		answer(in);
		return true;
	case EXIT_TRIPLE_FAULT:
		return false;
	case EXIT_ENGINE_ERROR: /* a difference; it is told on standard error */
		require(false);
		return false;
	case EXIT_MEMORY_FAULT:
		require(cpu->exit.gpa - BAD_GPA < BAD_SIZE);
		cpu_io_retire(cpu);
		return false;
	case EXIT_EMULATION:
		cpu_io_retire(cpu);
		ops->inject(cpu, &(struct event){.type = EV_EXCEPTION, .vector = VEC_UD});
		return true;
	case EXIT_HLT:
	case EXIT_IRQ_WINDOW:
	case EXIT_NMI_WINDOW:
		inject(in);
		return true;
	default:
		if (number(in, 1) & 1)
			ops->enable_irq_window(cpu);
		return true;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = {data, size};
	struct itimerspec limit = {0}, off = {0};

	if (size < 8)
		return 0;
	setup_once();
	make_guest(&in);
	if (number(&in, 1) & 1)
		inject(&in);
	stop.immediate_exit = 0;
	ops->vcpu_load(cpu);
	limit.it_value.tv_nsec = ops == &lockstep_x86_ops ? 2 * RUN_NS : RUN_NS;
	timer_settime(timer, 0, &limit, NULL);
	for (unsigned n = 0; n < EXITS_MAX && !stop.immediate_exit; n++) {
		enum exit_reason reason = ops->run(cpu);

		check();
		if (!handle(&in, reason))
			break;
	}
	timer_settime(timer, 0, &off, NULL);
	ops->vcpu_put(cpu);
	return 0;
}
