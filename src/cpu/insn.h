/*
 * Instructions: one row each in the tables (cpu/table_*.def), and the decoded form.
 *
 * A row is all that is known of an instruction; decoder, interpreter dispatch, JIT class,
 * names and the generated tests come from it.
 */
#ifndef CPU_INSN_H
#define CPU_INSN_H

#include "base/types.h"
#include "cpu/cpu.h"

struct insn;
typedef void sem_fn(struct cpu *c, const struct insn *i);

/*
 * The semantics of a row in C, specialised by operand size and by the form of the r/m operand.
 * Rows whose function looks at insn.opsize itself put the same function everywhere (SEM1).
 *
 * Rules for a semantic function:
 *  - cpu->rip is that of the instruction while it runs. The run loop adds the length afterwards,
 *    except for CLASS_END rows: those set cpu->rip themselves (insn_next() or the target).
 *  - Faults and exits leave by longjmp (raise_*, cpu_io, cpu_exit, memory accessors), so every
 *    access that can fault comes before the first change of guest state.
 *  - Operands in memory are touched only through cpu/mem.h.
 */
struct sem {
	sem_fn *fn[4][2]; /* [log2(opsize)][0: memory, 1: register] */
	sem_fn *lock[4];  /* with a LOCK prefix (memory only); NULL: #UD */
};
#define SEM1(f) {.fn = {{f, f}, {f, f}, {f, f}, {f, f}}}

/* How the JIT treats a row, see docs/engine: copy the guest's bytes, call the C function, or end the block. */
enum insn_class { CLASS_COPY, CLASS_CALL, CLASS_END };

enum insn_space { ENC_LEGACY, ENC_VEX, ENC_EVEX };

/* Mandatory prefix. PP_ANY: 66/F2/F3 are no part of the opcode. */
enum insn_pp { PP_NP, PP_66, PP_F3, PP_F2, PP_ANY };

/* ModRM constraint: a combination of these. */
#define MODRM_NONE 0
#define MODRM_ANY 0x1
#define MODRM_MEM 0x3          /* mod != 3 */
#define MODRM_REG 0x5          /* mod == 3 */
#define MODRM_EXT(n) (0x8 | (n) << 4)  /* reg field == n; or in */
#define MODRM_RM(n) (0x80 | (n) << 8)  /* rm field == n; or in. Without ModRM: the Z register, REX.B included, == n */

/* VEX.W / EVEX.W / REX.W and vector length constraints. */
enum insn_w { W_ANY, W_0, W_1 };
enum insn_l { L_ANY, L_128, L_256, L_512, L_IG /* scalar: ignored */ };

/* Modes in which the row exists. */
#define IN_16_32 BIT(0) /* not in 64-bit code */
#define IN_64 BIT(1)
#define IN_ALL (IN_16_32 | IN_64)

/*
 * Operands in the notation of the SDM (vol. 2, appendix A.2), one enumerator each, from
 * cpu/operand.def: OPERAND(name, kind, size).
 */
enum operand_kind {
	OK_NONE,
	OK_E,     /* ModRM r/m: general register or memory */
	OK_G,     /* ModRM reg: general register */
	OK_R,     /* ModRM r/m: general register only */
	OK_M,     /* ModRM r/m: memory only */
	OK_Z,     /* low three opcode bits: general register */
	OK_B,     /* VEX.vvvv: general register */
	OK_I,     /* immediate */
	OK_J,     /* branch displacement */
	OK_A,     /* far pointer immediate */
	OK_O,     /* moffs */
	OK_S,     /* ModRM reg: segment register */
	OK_C,     /* ModRM reg: control register */
	OK_D,     /* ModRM reg: debug register */
	OK_X,     /* DS:rSI */
	OK_Y,     /* ES:rDI */
	OK_FIXED, /* a register that the opcode implies; size field says which: see operand.def */
	OK_V,     /* ModRM reg: vector register */
	OK_W,     /* ModRM r/m: vector register or memory */
	OK_U,     /* ModRM r/m: vector register only */
	OK_H,     /* VEX.vvvv: vector register */
	OK_L,     /* imm8[7:4]: vector register */
	OK_P,     /* ModRM reg: MMX register */
	OK_Q,     /* ModRM r/m: MMX register or memory */
	OK_N,     /* ModRM r/m: MMX register only */
	OK_KG,    /* ModRM reg: mask register */
	OK_KE,    /* ModRM r/m: mask register or memory */
	OK_KR,    /* ModRM r/m: mask register only */
	OK_KB,    /* VEX.vvvv: mask register */
	OK_VM,    /* memory with a vector index (gather, scatter) */
	OK_ST,    /* x87 stack register in ModRM r/m */
	OK_ST0,   /* x87 stack top, implied */
	OK_XMM0,  /* XMM0, implied */
};

/* Operand sizes: fixed ones are bytes (1 to 64, and the odd ones of x87 and FXSAVE). */
enum operand_size {
	OS_NONE = 0,
	/* 1..255: that many bytes */
	OS_V = 0x100, /* 2, 4, 8 by operand size */
	OS_Z,         /* 2, 4 (4 for 8) */
	OS_Y,         /* 4, 8 by REX.W/VEX.W; 8 never with 66 */
	OS_P,         /* far pointer: 2 + (2, 4, 8) */
	OS_A,         /* BOUND: twice the operand size */
	OS_S,         /* descriptor table: 2 + (4, 8) */
	OS_X,         /* vector length: 16, 32, 64 */
	OS_HX,        /* half of it */
	OS_QX,        /* a quarter */
	OS_OX,        /* an eighth */
	OS_512,       /* FXSAVE area */
	OS_VAR,       /* decided by the semantic function (XSAVE) */
	OS_SB,        /* immediate byte, sign-extended */
	OS_X1,        /* EVEX compress and expand: vector length at most, disp8 counts elements of 1, 2, 4, 8 bytes */
	OS_X2,
	OS_X4,
	OS_X8,
};

enum operand {
#define OPERAND(name, kind, size) OP_##name,
#include "cpu/operand.def"
#undef OPERAND
	NR_OPERAND
};

struct operand_info {
	const char *name;
	u8 kind;  /* enum operand_kind */
	u16 size; /* enum operand_size, bytes, or the fixed register */
};
extern const struct operand_info operand_info[NR_OPERAND];

/* CPUID gates: an instruction whose gate is closed raises #UD (or #NM where its row's semantics say so). */
enum isa {
#define ISA(name, leaf, subleaf, reg, bit) ISA_##name,
#include "cpu/isa.def"
#undef ISA
	NR_ISA
};

/* Attributes. */
#define A_LOCK BIT(0)      /* LOCK allowed with a memory destination */
#define A_REP BIT(1)       /* string instruction: REP means repeat */
#define A_REPZ BIT(2)      /* REPE/REPNE: repeat while */
#define A_D64 BIT(3)       /* operand size in 64-bit mode defaults to 8 (PUSH, POP, ...); 66 makes it 2 */
#define A_F64 BIT(4)       /* operand size in 64-bit mode is 8 whatever the prefixes (near branches) */
#define A_CPL0 BIT(5)      /* #GP(0) unless CPL is 0 */
#define A_PROT BIT(6)      /* #UD in real and virtual-8086 mode */
#define A_ALIGN BIT(7)     /* memory operand of 16/32/64 bytes must be aligned: #GP(0) */
#define A_RMW BIT(8)       /* COPY: the memory operand is read and written */
#define A_WRITE BIT(9)     /* COPY: the memory operand is written only */
#define A_MXCSR BIT(10)    /* reads or sets MXCSR: #XM possible */
#define A_X87 BIT(11)      /* x87: waits for pending exceptions; CR0.EM/TS: #NM */
#define A_MMX BIT(12)      /* MMX registers: CR0.EM #UD, TS #NM, pending x87 #MF */
#define A_SSE BIT(13)      /* legacy SSE: CR4.OSFXSR or #UD, CR0.EM #UD, TS #NM */
#define A_AVX BIT(14)      /* VEX vector: XCR0[2:1] and OSXSAVE or #UD, TS #NM */
#define A_AVX512 BIT(15)   /* EVEX or opmask: XCR0[7:5] too */
#define A_GPR_IMPLICIT BIT(16) /* COPY: also uses RAX, RCX, RDX, RBX as the SDM says (CMPXCHG8B, PCMPESTRI, MULX) */
#define A_MASK BIT(17)     /* EVEX: opmask write masking allowed */
#define A_BCST BIT(18)     /* EVEX.b with memory: broadcast allowed */
#define A_ER BIT(19)       /* EVEX.b with register: rounding control / SAE allowed */
#define A_XSTATE BIT(20)   /* reads or writes the state of x87 and vectors as a whole: FXSAVE, XSAVE and kin */
#define A_SHADOW BIT(21)   /* blocks interrupts for one instruction */
#define A_VSIB BIT(22)     /* memory operand with a vector index */
#define A_NOWAIT BIT(23)   /* x87: does not check pending exceptions (FNINIT, FNSTSW, ...) */
/* closed gate: the bytes are an older instruction, not #UD (TZCNT is BSF); sem does either, COPY with the gate open */
#define A_OLDER BIT(24)
#define A_E8 BIT(25)       /* EVEX masking: an element is 1 byte in memory; 2 with A_E16; else 8 or 4 by EVEX.W */
#define A_E16 BIT(26)
#define A_NF BIT(27)       /* EVEX masking does not suppress faults of the memory operand */
#define A_MM BIT(28)       /* misaligned is right with AMD's MXCSR.MM set; without A_ALIGN it always is */
#define A_COUNT BIT(29)    /* by a constant, which if it is not 0 (modulo 32) leaves no flag as it is */

struct insn_row {
	const char *name;
	u8 space, map, pp, opcode; /* map: 0 one byte, 1 0F, 2 0F38, 3 0F3A */
	u8 opcodes;                /* how many consecutive opcodes: 8 with an OK_Z operand, 16 for Jcc/SETcc/CMOVcc */
	u16 modrm;
	u8 w, l, modes;
	u16 operand[4]; /* enum operand */
	u16 flags_read, flags_written, flags_undefined; /* FL_* arithmetic flags and DF */
	u32 attr;
	u16 isa;
	u8 class_;
	const struct sem *sem; /* NULL: CLASS_COPY run by the engine's thunk */
};

extern const struct insn_row insn_rows[];
extern const unsigned nr_insn_rows;

#define NO_REG 0xff

/* One decoded instruction. */
struct insn {
	sem_fn *fn;
	u16 row;       /* index into insn_rows */
	u16 imm2;      /* ENTER's level, far pointer's selector, EXTRQ's second byte */
	u8 len;        /* bytes, 1 to 15 */
	/* 1, 2, 4, 8: of an operand of size v, else of the first sized one that is no immediate, else effective */
	u8 opsize;
	u8 addrsize;   /* 2, 4, 8 */
	u8 is_mem;     /* the r/m operand is in memory */
	u16 mem_size;  /* its bytes (broadcast: one element); 0: only an address, or decided by the semantic function */
	u8 reg, rm;    /* register numbers with REX/EVEX extensions; reg is also the /digit's */
	u8 reg_off, rm_off; /* offset in bytes into cpu->gpr; AH..BH are +1 of their register */
	u8 vvvv;       /* VEX/EVEX operand */
	u8 base, index, scale; /* memory: NO_REG when absent; scale is a shift; base RIP_BASE is RIP-relative */
#define RIP_BASE 16
	u8 seg;        /* enum seg_reg of the memory operand, overrides applied */
	u8 rep;        /* 0, 0xf2, 0xf3 as a REP prefix */
	bool lock : 1;
	bool opsize66 : 1; /* a 66 prefix was there */
	bool faults : 1; /* the engine's: all that it does: no such instruction, or a prefix that it does not take */
	u8 rex;        /* the REX byte, 0 if none; bit 3 is W */
	u8 modrm;
	u8 opcode;
	u8 w, l;       /* VEX/EVEX: W, vector length 0, 1, 2 (2 with embedded rounding, whose mode is in bytes[]) */
	u8 aaa, z, b;  /* EVEX: mask register, zeroing, broadcast/rounding */
	u8 disp_off, imm_off, opcode_off; /* offsets in the instruction bytes, 0 if absent */
	/* from here on instructions differ that begin with the same bytes: see decode_memo.h */
	u8 bytes[15];  /* the first @len; what comes then is anything */
	u64 imm;       /* immediate, sign-extended as its operand says; far pointers: offset | selector << 32 in imm2 */
	s64 disp;      /* displacement; absolute address for moffs */
	void *thunk;   /* the engine's, for CLASS_COPY */
};

/* The flags that @i reads; and those that it writes or leaves as they are. */
static inline u16 insn_flags_read(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];

	return (r->attr & A_COUNT) && (i->imm & 31) ? 0 : r->flags_read;
}

/* What the decoder needs to know of the processor. */
struct decode_mode {
	u8 code_bits; /* 16, 32, 64 */
};

enum decode_status {
	DECODE_OK,
	DECODE_SHORT,   /* more than @avail bytes are needed */
	DECODE_INVALID, /* no such instruction: #UD */
	DECODE_TOO_LONG /* over 15 bytes: #GP(0) */
};

/* Builds the decoder's index from the table. Idempotent and thread-safe. */
void decode_init(void);

/*
 * Decodes one instruction at @p, of which @avail bytes may be looked at (15 are always enough).
 * Fills all of @i but fn's engine part (fn is NULL for CLASS_COPY rows without sem) and thunk.
 * CPUID gates are not checked here: see insn_gate_open(). On DECODE_INVALID i->len is how much was consumed.
 */
enum decode_status decode(struct insn *i, const u8 *p, unsigned avail, unsigned code_bits);

static inline bool cpu_has(const struct cpu *c, enum isa feature)
{
	return c->isa[feature / 64] >> (feature % 64) & 1;
}

/* The row may execute on this CPU (CPUID). */
static inline bool insn_gate_open(const struct cpu *c, const struct insn_row *r)
{
	return cpu_has(c, r->isa);
}

/*
 * Raises what stands before the execution of @r itself: #UD for a closed gate or a mode without it, #GP(0) for
 * A_CPL0 (SDM vol. 3A, 6.9: the decoding faults come first).
 */
void insn_check(struct cpu *c, const struct insn_row *r);

static inline u64 insn_next(const struct cpu *c, const struct insn *i)
{
	return cpu_cut_rip(c, c->rip + i->len);
}

#endif
