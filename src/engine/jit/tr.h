/*
 * A translation under way. translate.c goes through the instructions of a block; the other tr_*.c emit what they are
 * made of. Code goes to tr->e byte by byte, and what is rarely executed follows the block.
 */
#ifndef ENGINE_JIT_TR_H
#define ENGINE_JIT_TR_H

#include "cpu/mem.h"
#include "cpu/sem.h"
#include "engine/jit/jit.h"

/* Where the guest's arithmetic flags are. */
enum flags_at { IN_SLOT, IN_HOST };

/* A memory access whose fast path failed. */
struct slow_path {
	u8 *from;          /* rel32 of the jump here */
	u8 *misaligned;    /* or NULL: that of another */
	const u8 *resume;  /* with the host address in S0 */
	const u8 *again;   /* or NULL: a stack access, checked here again once tlb.stack has been filled */
	const u8 *done;    /* after the instruction */
	struct jit_site *site;
	bool window;       /* a check for several accesses: see tr_window.c */
	bool reload_flags; /* the code at @done expects the flags in the host's register */
};

/* An instruction that is C's when it comes to that: branches that fault, vectors that may not run now (jit.vec_bad). */
struct c_path {
	u8 *from;        /* rel32 of the jump here; flags are in their slot */
	const u8 *retry; /* or NULL: C may make ready what the site needs, and then it is tried again here */
	struct jit_site *site;
};

/* A taken conditional branch. */
struct exit_path {
	u8 *from; /* rel32 of the jump here */
	jit_place place;
	bool in_host; /* the flags */
};

/* The memory operand of an instruction, and what it pushes or pops. */
enum access_at { AT_OPERAND, AT_STACK, NR_ACCESS_AT };

struct tr_access {
	s64 off;
	u16 size;
	u8 acc;
	u8 window; /* 0: none */
	struct tr_access *next; /* in it */
};

#define WINDOWS_MAX 64
/* Accesses that one check serves. */
struct tr_window {
	s64 lo;  /* the off that the address in the slot is for */
	u8 slot; /* jit.window[slot - 1]; 0: not checked yet */
	u8 align; /* bits of the address that are known to be clear */
};

#define PATHS_MAX (JIT_INSNS_MAX * 2 + 4)

struct tr {
	struct jit *j;
	struct emit *e;
	struct jit_block *b;
	const struct insn *insn;
	const u8 *page_end, *code;
	unsigned nr, n;      /* instructions; the one under translation */
	u8 word;             /* bytes of a stack slot, of a near branch's target and of an address: 8 or 4 */
	jit_place place;     /* of the instruction under translation */
	enum flags_at flags;
	unsigned nr_slow, nr_exit, nr_c;
	u32 fpu_checked;     /* VEC_* found to be clear in this block */
	bool x87_noted;      /* jit->x87_page is this block's */
	u64 xinuse;          /* components marked as used in this block */
	bool cpl0;           /* found to be so in this block */
	unsigned nr_slots;
	u8 s0, s0_before;    /* the window whose slot S0 holds, 0: none; and before the instruction: see tr_keep_s0() */
	bool two;            /* the address of the access may be the sum of S0 and S1; false again: it is in S0 */
	s32 disp;            /* of the access under translation, to S0 */
	u8 *poll;            /* rel32 of the jump that leaves because somebody asked */
	/* the one instruction has so many bytes in this page, and more in the next; 0: it has not */
	u8 cross;
	bool far;            /* links may lead to other pages */
	bool full;

	/* Not cleared: the first @nr of each; */
	u16 live[JIT_INSNS_MAX]; /* arithmetic flags that someone reads after the instruction */
	struct tr_access access[JIT_INSNS_MAX][NR_ACCESS_AT];
	/* those that accesses name; */
	struct tr_window window[WINDOWS_MAX + 1];
	/* the first nr_* of each. */
	struct slow_path slow[PATHS_MAX];
	struct exit_path exit[PATHS_MAX];
	struct c_path c[2 * PATHS_MAX];
};

/* --- tr_rows.c: what a row is to the translator ---------------------------------------------------------------- */

struct tr_facts {
	const struct tr_row *other; /* code of its own, or NULL */
	u16 is;                     /* ROW_*: */
#define ROW_G BIT(0)       /* general registers: in ModRM.reg, */
#define ROW_RM BIT(1)      /* in ModRM.rm or the opcode, unless that is memory, */
#define ROW_B BIT(2)       /* in VEX.vvvv */
#define ROW_OTHER BIT(3)   /* and what is none of these, no memory and no constant */
#define ROW_MOFFS BIT(4)
#define ROW_FPU BIT(5)     /* x87, MMX, vectors but those with an index */
#define ROW_JCC BIT(6)
#define ROW_PLAIN_E BIT(7) /* for tr_spilled_rm() */
#define ROW_LOADS BIT(8)   /* ModRM.reg becomes the other operand */
	u16 flags_written;          /* arithmetic ones, or left undefined */
	u8 changes;                 /* CHANGES_*: of the general registers */
#define CHANGES_REG BIT(0)
#define CHANGES_RM BIT(1)
#define CHANGES_VVVV BIT(2)
#define CHANGES_RAX BIT(3)
#define CHANGES_LOW BIT(4) /* RAX to RBX */
#define CHANGES_ALL BIT(5)
};

extern struct tr_facts tr_facts[]; /* by insn.row */
/* tr_system.c: for facts.other. */
const struct tr_row *tr_find_other(const struct insn_row *r);

/* REX.W of an operation on a word. */
static inline unsigned tr_w(const struct tr *t)
{
	return t->word == 8;
}

static inline bool tr_is_user(const struct tr *t)
{
	return jit_mmu_index(t->b) == MMU_USER || jit_mmu_index(t->b) == MMU_USER_ALIGN;
}

/* Code for an instruction need not say that it uses S0, unless it begins with this. */
static inline void tr_keep_s0(struct tr *t)
{
	t->s0 = t->s0_before;
}

/* --- tr_operand.c: flags, registers, memory operands ---------------------------------------------------------- */

/* The arithmetic flags that a row changes, and those before instruction @n that someone may still read. */
static inline u16 tr_flags_written(const struct insn *i)
{
	return tr_facts[i->row].flags_written;
}
static inline u16 tr_flags_needed(const struct tr *t, unsigned n)
{
	const struct insn *i = &t->insn[n];

	return (t->live[n] & ~tr_flags_written(i)) | (insn_flags_read(i) & FL_ARITH);
}

void tr_emit_save_flags(struct tr *t);
void tr_emit_restore_flags(struct tr *t, unsigned scratch);
/* Before code that destroys the host's flags; and before an instruction that reads some, or leaves some alone. */
static inline void tr_flags_to_slot(struct tr *t, u16 needed)
{
	if (t->flags == IN_HOST && needed)
		tr_emit_save_flags(t);
	t->flags = IN_SLOT;
}

void tr_flags_to_host(struct tr *t, unsigned n, unsigned scratch);

/* The host register that holds @g: its own, or @scratch, loaded. */
unsigned tr_use_gpr(struct tr *t, unsigned g, unsigned scratch);

/* The RIP of @place into @to. Leaves flags alone. */
void tr_emit_rip(struct tr *t, unsigned to, jit_place place);
/* The effective address plus @more into @to. Leaves flags alone, uses S1. */
void tr_emit_ea_plus(struct tr *t, const struct insn *i, s64 more, unsigned to);
void tr_emit_ea(struct tr *t, const struct insn *i, unsigned to);
/* LEA of 4 or 8 bytes. */
void tr_lea(struct tr *t, const struct insn *i);
/*
 * From a linear address in S0, whose bits @align must be clear, to the host's; or of the memory operand of @i. @stack:
 * it is likely to be in the same page as the last one for which this was said. Flags must be in their slot.
 */
struct slow_path *tr_emit_tlb(struct tr *t, const struct insn *i, enum seg_reg seg, unsigned size, u8 align,
			      enum access acc, bool stack);
struct slow_path *tr_emit_operand(struct tr *t, const struct insn *i);
/*
 * Or less t->disp, which is shorter. Flags must be in their slot where tr_check_needed() says so. NULL: no check was
 * needed, or @i has no access of this kind.
 */
bool tr_check_needed(const struct tr *t, const struct insn *i, enum access_at at);
struct slow_path *tr_emit_operand_disp(struct tr *t, const struct insn *i);
/* After the instruction whose access it is; @s may be NULL. */
void tr_slow_done(struct tr *t, struct slow_path *s);
/* A place that C code is told of; NULL with tr->full: no memory. Leaves for C when @cc holds. */
struct jit_site *tr_new_site(struct tr *t, const struct insn *i);
void tr_emit_c_path(struct tr *t, const struct insn *i, unsigned cc);

/* A mask selects what of the memory operand of @i is accessed. */
bool tr_is_masked(const struct insn *i);

/* Whether what generated code does is all that @i, with an operand in memory, asks for. 16-bit addresses are for C. */
bool tr_can_address(const struct tr *t, const struct insn *i);

/* --- tr_spilled.c: general registers in memory ------------------------------------------------------------------ */

/* MOV to or from one of them. False: something else. */
bool tr_emit_spilled_mov(struct tr *t, const struct insn *i);
static inline bool tr_spilled_mov(struct tr *t, const struct insn *i)
{
	return (jit_in_memory(i->rm) || jit_in_memory(i->reg)) && tr_emit_spilled_mov(t, i);
}

/* The register of the r/m operand of @i is one, and @i can be emitted with that memory as its operand. */
bool tr_spilled_rm(const struct insn *i);

/* --- tr_window.c: accesses that one check serves ------------------------------------------------------------- */

void tr_find_windows(struct tr *t);
/* The access of instruction t->n was checked before; or it is the first of several, the lowest of them at @lo. */
static inline bool tr_access_checked(const struct tr *t, enum access_at at)
{
	unsigned w = t->access[t->n][at].window;

	return w && t->window[w].slot;
}

bool tr_window_begins(const struct tr *t, enum access_at at, s64 *lo);
/* From the linear address of the lowest in S0. */
struct slow_path *tr_emit_window_check(struct tr *t, const struct insn *i, enum access_at at, u8 align,
				       enum seg_reg seg, bool stack);
/* Bits of the address of the operand of instruction t->n, which was checked before, that are known to be clear. */
u8 tr_window_align(const struct tr *t);
void tr_emit_window_use(struct tr *t, enum access_at at);
/* Behind the block. */
void tr_emit_window_miss(struct tr *t, struct slow_path *s);

/* --- tr_loop.c: short loops -------------------------------------------------------------------------------------- */

/* What has been decoded, @len bytes that end in a Jcc, is one that is worth it. */
bool tr_is_loop(const struct tr *t, unsigned len);
/* The instructions of such a block follow each other several times. */
void tr_unroll(struct tr *t);
/* Instruction @n is the branch back, with another turn of the block behind it. */
static inline bool tr_turns(const struct tr *t, unsigned n)
{
	return t->nr > t->b->nr && n + 1 < t->nr && (n + 1) % t->b->nr == 0;
}

/* --- tr_cross.c: instructions across two pages -------------------------------------------------------------------- */

/*
 * Adds what the next page has, if it is in the TLB, to the @room @bytes at RIP, fewer than 15. Returns how many there
 * are.
 */
unsigned tr_cross_fetch(struct tr *t, u8 *bytes, unsigned room);
/* @i, the block, is still the same in the next page, or else C executes what is there. */
void tr_cross_check(struct tr *t, const struct insn *i);

/* --- tr_fpu.c: vectors, x87 and MMX ---------------------------------------------------------------------------- */

static inline bool tr_is_fpu(const struct insn *i)
{
	return tr_facts[i->row].is & ROW_FPU;
}

bool tr_can_copy_fpu(const struct tr *t, const struct insn *i);
/* The check that such instructions may run, unless the block has made it. Flags must be in their slot. */
bool tr_fpu_guard_needed(const struct tr *t, const struct insn *i);
void tr_emit_fpu_guard(struct tr *t, const struct insn *i);

/* tr_x87.c: after an x87 instruction: it was the last one. */
void tr_emit_x87_note(struct tr *t, const struct insn *i);

/* --- tr_stack.c: PUSH, POP, LEAVE ------------------------------------------------------------------------------- */

/* Host address, less t->disp, of a word at RSP + @disp into S0; and RSP += @n, flags left alone. */
struct slow_path *tr_emit_stack(struct tr *t, const struct insn *i, s32 disp, enum access acc);
void tr_emit_rsp_add(struct tr *t, s32 n);
/* False: not in this form. */
bool tr_push(struct tr *t, unsigned n, const struct insn *i);
bool tr_pop(struct tr *t, unsigned n, const struct insn *i);
bool tr_leave(struct tr *t, unsigned n, const struct insn *i);
/* Several pushes or pops from instruction @n on under one check. Returns how many; 0: fewer than two. */
unsigned tr_stack_run(struct tr *t, unsigned n);

/* --- tr_legacy.c: what is common in 32-bit code, and rare in 64-bit code ------------------------------------------ */

/* MOV between rAX and an absolute address. False: not in this form. */
static inline bool tr_is_moffs(const struct insn *i)
{
	return tr_facts[i->row].is & ROW_MOFFS;
}

bool tr_moffs(struct tr *t, unsigned n, const struct insn *i);
bool tr_push_mem(struct tr *t, unsigned n, const struct insn *i);
/* Memory and AH, CH, DH or BH: whether that is a source only. Into S1, which is returned; flags are in their slot. */
bool tr_can_store_high(const struct insn *i);
unsigned tr_emit_high_byte(struct tr *t, const struct insn *i);

/* --- tr_branch.c: near branches and the ways out of a block ------------------------------------------------------ */

static inline bool tr_is_jcc(const struct insn *i)
{
	return (tr_facts[i->row].is & ROW_JCC) && i->opsize >= 4 && !i->faults;
}

/*
 * The jump whose rel32 is @jump leads to @place when there is a block, and until then to the code that is emitted next.
 * NULL with t->full: no memory.
 */
struct jit_link *tr_new_link(struct tr *t, u8 *jump, jit_place place);

bool tr_near_target_plain(const struct tr *t, const struct insn *i);
void tr_jcc(struct tr *t, unsigned n, const struct insn *i);
/* S0 is canonical, as with 48 bits of linear address, or else C executes @i. */
void tr_emit_canonical(struct tr *t, const struct insn *i);
/* Near branches but Jcc. False: not in this form. */
bool tr_branch(struct tr *t, const struct insn *i);
/* Goes on at @place. */
void tr_emit_goto(struct tr *t, jit_place place);
/* Goes on at the RIP in S0. Flags must be in their slot. */
void tr_emit_lookup(struct tr *t);
/* What is called when the check of @s has failed; behind it is where to go on when C has done everything. */
void tr_emit_slow_call(struct tr *t, const struct slow_path *s);
/* Before it, where slow_path.again says so. */
void tr_emit_stack_miss(struct tr *t, const struct slow_path *s);
/* All that lies behind the block. */
void tr_emit_late_paths(struct tr *t);

/* translate.c: the rel32 returned is of a jump taken when somebody wants the vCPU to look. Flags are in their slot. */
u8 *tr_emit_look(struct tr *t);

/* --- tr_system.c, tr_int.c, tr_x87.c: rows with code of their own ------------------------------------------------ */

struct tr_row {
	const struct sem *sem;
	bool (*emit)(struct tr *t, unsigned n, const struct insn *i); /* false: not in this form, nothing was emitted */
	bool in_32; /* in 32-bit code too */
};
/* end with a NULL */
extern const struct tr_row tr_int_rows[], tr_string_rows[], tr_x87_rows[];

/* False: there is none for instruction @n. */
bool tr_other(struct tr *t, unsigned n, const struct insn *i);
/* There may be: the flags that are live before it are those of its row, not all, as before what is C's. */
bool tr_is_other(const struct insn *i);
/* CLASS_END, and yet the block may go on behind it. */
bool tr_goes_on(const struct tr *t, const struct insn *i);

#endif
