/*
 * The differential test: one instruction, one state, run by the host's processor and by an engine.
 *
 * Both see the same linear addresses: a window of data pages and a window of code pages, each between guard areas
 * that nothing maps. Natively these are this process's own pages; the guest has page tables of its own over another
 * copy of the data.
 */
#ifndef TESTS_ISA_H
#define TESTS_ISA_H

#include "cpu/insn.h"

#define WINDOW_SIZE 0x40000u /* guard areas included */
#define DATA_WINDOW 0x20000000u
#define DATA_BASE (DATA_WINDOW + 0x18000)
#define DATA_RW (2 * PAGE_SIZE)
#define DATA_RO PAGE_SIZE /* follows: may be read only */
#define DATA_SIZE (DATA_RW + DATA_RO)
#define CODE_WINDOW 0x28000000u
#define CODE_BASE (CODE_WINDOW + 0x18000)
#define CODE_SIZE (2 * PAGE_SIZE)
#define CODE_ALIAS (CODE_BASE + 0x80000) /* the same, writable, for guests only */
/* Guests see the windows here as well, added to their addresses: pages at most 512 GiB apart share their tables. */
#define HIGH_BASES {0x550000000000, 0x568000000000, 0x7e8000000000, 0x7f8000000000}
#define CODE_FILL 0xcc /* INT3 wherever the instruction under test is not */

/* Segments of 64 KiB for 16-bit code, which lie within the windows. */
#define CODE16_BASE (CODE_BASE - 0x4000)
#define DATA16_BASE (DATA_BASE - 0x4000)
#define SEL_CS16 0x07 /* LDT entries 0 and 1 */
#define SEL_DS16 0x0f

/* User-mode selectors of Linux. */
#define SEL_CS32 0x23
#define SEL_DS 0x2b
#define SEL_CS64 0x33

#define X87_BYTES 160 /* of the FXSAVE image: control part and the eight registers */

struct state {
	u64 gpr[16];
	u64 rip, rflags;
	u64 fs_base, gs_base;
	u16 cs, ds, es, fs, gs, ss;
	u32 mxcsr;
	u8 zmm[32][64] __attribute__((aligned(64)));
	u64 k[8];
	u8 x87[X87_BYTES] __attribute__((aligned(16)));
};

#define NO_VECTOR (-1)
#define VECTOR_HANG (-2)  /* did not come to an end */
#define VECTOR_CRASH (-3) /* the engine itself faulted */

struct outcome {
	struct state s;
	int vector; /* enum vector, or NO_VECTOR: the instruction has retired */
	u32 error;
	u64 cr2;
};

struct test_case {
	const struct insn_row *row;
	unsigned bits; /* 16, 32 or 64 */
	u64 code_base, data_base; /* of the segments */
	u8 bytes[15];
	u8 len;
	struct state in;
	struct insn insn; /* as the decoder sees it */
	bool decoded;
};

/* --- native.c: the host's processor ------------------------------------------------------------------- */

/*
 * Before and after guest_init(): the engines' signal handlers stand between this room's, which come first and
 * last. False: this host cannot run the test (reason on stderr).
 */
bool native_map(void);
bool native_init(void);
u8 *native_data(void); /* writable alias of the data pages, DATA_SIZE bytes */
u8 *native_code(void); /* writable alias of the code pages, CODE_SIZE bytes */
u64 native_xcr0(void);
bool native_has_16bit(void); /* the kernel gives out 16-bit segments */
void native_run(const struct test_case *t, struct outcome *o);

/* Runs @fn; false when it took a host fault, which is told to stderr. */
bool native_protected(void (*fn)(void *), void *arg);

/* --- guest.c: the engines ----------------------------------------------------------------------------- */

enum engine { ENGINE_INTERP, ENGINE_JIT, NR_ENGINE };

bool guest_init(void);
u8 *guest_data(void);
/* One instruction. */
void guest_run(const struct test_case *t, enum engine engine, struct outcome *o);
/* Until an exception, INT3 for instance. */
void guest_run_to_fault(const struct state *in, unsigned bits, enum engine engine, struct outcome *o);
/* The code that runs next has been written, in any page. */
void guest_code_changed(void);
/* From the timer's signal handler: ends a run that does not come to an end by itself. */
void guest_tick(void);

/* --- gen.c: instructions and states ------------------------------------------------------------------- */

void rng_seed(u64 seed);
u64 rng(void);
static inline u64 rng_below(u64 n)
{
	return rng() % n;
}
static inline bool rng_chance(unsigned one_in)
{
	return rng() % one_in == 0;
}

/* Fills @t for one random instruction of @t->row, and pokes its memory operands' data into both copies. */
void generate(struct test_case *t);
/* The same in 16-, 32- or 64-bit code, which the row must allow: see row_in(). */
void generate_for(struct test_case *t, unsigned bits);
bool row_in(const struct insn_row *r, unsigned bits);

/* Why the host's processor cannot or must not run the row in user mode, or its results differ by nature; else NULL. */
const char *row_excluded(const struct insn_row *r);

/* A value of the kind that finds mistakes: near powers of two, signs, small numbers. */
u64 rng_value(void);

/* Bytes of a vector's worth of numbers of one random kind, many of them special. */
void rng_numbers(u8 *to, unsigned size);

/* Writes to both copies of the data; what lies outside of it is dropped. */
void poke(u64 la, const void *from, unsigned size);
/* Both copies as they are before every case. */
void data_init(void);
void data_restore(void);

/* --- compare.c ----------------------------------------------------------------------------------------- */

bool outcomes_differ(const struct test_case *t, const struct outcome *host, const struct outcome *ours);
void print_differences(const struct test_case *t, const struct outcome *host, const struct outcome *ours);
void print_case(const struct test_case *t);

/* --- encode.c: an encoder that shares nothing with the decoder ---------------------------------------- */

enum { BASE_NONE = 0xff, BASE_RIP = 0xfe };

/* The fields of one instruction, as they are to be in the bytes. */
struct form {
	const struct insn_row *row;
	unsigned bits;
	u8 opcode_add;
	u8 prefixes[6]; /* legacy ones, in order */
	u8 nr_prefixes;
	u8 rex_force;	/* a REX even where no bit of it is needed */
	u8 w, l, pp;	/* pp: enum insn_pp, never PP_ANY */
	u8 reg, rm, vvvv;
	bool has_modrm, mem, vsib, vex2;
	u8 base, index, scale; /* BASE_*; index BASE_NONE */
	s64 disp;	       /* of RIP-relative operands: the target */
	u8 disp_bytes;
	unsigned disp8_scale;  /* EVEX */
	bool addr16;
	u8 aaa, z, b, rc;      /* rc: L'L under EVEX.b with registers */
	u64 imm[2];
	u8 imm_bytes[2];
};

/* Writes the instruction at @to for address @rip; returns its length, over 15 when it is too long. */
unsigned encode(const struct form *f, u64 rip, u8 to[32]);

#endif
