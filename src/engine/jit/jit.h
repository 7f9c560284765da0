/*
 * The translator: guest code of 32 or 64 bits becomes host code. Same instructions on both sides, so most are emitted
 * as they are; memory operands go through the TLB inline.
 *
 * Registers in generated code:
 *   RAX RCX RDX RBX RBP RSI RDI R8 R12   the guest's of the same name
 *   R9, R10, R11                         the guest's R13, R14, R15
 *   R13                                  the guest's RSP
 *   R14, R15                             scratch; the guest's R9-R11, which compilers use least, are in cpu->gpr
 *   RSP                                  the C stack: a signal handler of the client may run on it at any moment
 * cpu, its TLB and struct jit are addressed absolutely: they lie below 2 GiB, and generated code belongs to one vCPU.
 * The arithmetic flags of the guest are in the host's between instructions of a block, and in jit->flags at its
 * borders; those of cpu->rflags are clear meanwhile.
 */
#ifndef ENGINE_JIT_JIT_H
#define ENGINE_JIT_JIT_H

#include "base/low.h"
#include "cpu/decode_memo.h"
#include "cpu/insn.h"
#include "engine/interp/block.h"
#include "engine/jit/emit.h"
#include "engine/jit/hub.h"

#define S0 H_R14
#define S1 H_R15
#define H_GUEST_RSP H_R13

/* Guest register @g is in cpu->gpr alone; or in this register of the host. */
static inline bool jit_in_memory(unsigned g)
{
	return g >= R9 && g <= R11;
}

static inline unsigned jit_host_of(unsigned g)
{
	return g == RSP ? H_GUEST_RSP : g >= R13 ? g - 4 : g;
}

/* It is in the host's of the same number. */
static inline bool jit_at_home(unsigned g)
{
	return !jit_in_memory(g) && jit_host_of(g) == g;
}

#define JIT_INSNS_MAX 48
#define JIT_WINDOWS 16
#define JIT_HASH_BITS 15
#define JIT_EPOCH_SHIFT 48 /* to the mode in jit.epoch */
#define JIT_FAR_MAX 8192
#define JIT_LINK_EACH 16 /* of the jumps that find a keyed link not to hold: as many go on by the table of targets */
#define JUMP_BITS 14
#define SHARED_BITS 14
#define JIT_BLOCK_MAX (64u << 10) /* of host code */
#define JIT_TOUCH (128u << 10) /* memory of both is asked for by pieces of this */

struct jit_block;

/*
 * Where a block's instructions are: user code is often the same memory at another address in each process, so its
 * blocks do not know their RIP. In them a place is the distance from jit.page_rip, the RIP of the start of the page
 * under execution; in fixed blocks it is RIP itself.
 */
typedef u64 jit_place;

/* A guest instruction that generated code may leave in the middle of, and the access that it may leave for. */
struct jit_site {
	jit_place place;
	u32 block;        /* low_ref() */
	u16 first, span;  /* a check for several accesses: where among them this one is, and their bytes */
	u8 span_acc;
	u8 size, seg, acc, align;
	u8 need;          /* VEC_* that must be clear */
	bool masked : 1;  /* a mask selects what is accessed: only C may look at the rest's pages */
	bool leave : 1;   /* once C has executed the instruction: the block is not whole behind it */
	bool fixed : 1, is_32 : 1; /* what the block, which is far away in the host's memory, says */
	bool kept : 1;    /* the instruction is here; else it is decoded when it comes to that */
	struct insn insn[];
};

/*
 * A direct exit of a block to a known guest address: in the same page; or from one page of a kernel, global and so
 * rarely mapped anew, to another (far).
 */
struct jit_link {
	jit_place place;
	u32 jump;              /* its rel32: bytes from jit.rw */
	u32 from, to;          /* the blocks: low_ref() */
	u32 next;              /* of those that lead to @to: likewise */
	u32 saver;             /* or 0: on the way to @to, code that saves the flags; in bytes likewise */
	u16 stub;              /* distance to where it leads while there is no target */
	bool in_host : 1;      /* it is left with flags in the host's register */
	bool back : 1;         /* may close a loop: the target polls for requests */
	bool no_windows : 1;   /* leads to one of JIT_MODE_NO_WINDOWS */
	bool far : 1;
	bool keyed : 1;        /* from one page of user code to another */
	struct jit_key {
		u64 key;       /* the link holds while this is @of's RIP XORed with jit.epoch; 0: there is no target */
		jit_place of;
		u32 next;      /* of jit.keyed, in which it is once it has held: low_ref() */
		bool listed;
	} key[];
};

struct jit_block {
	/* First what each search for a block looks at: */
	const u8 *code;        /* host address of the guest's code */
	struct jit_block *next; /* in the hash chain */
	u64 rip;               /* of fixed blocks; where others were first met */
	u8 mode, nr;           /* jit.mode that it was made for; instructions of the guest's */
	bool fixed, dead;
	u8 turns;              /* how often its code has them one behind the other: see tr_loop.c */
	u8 poll;               /* bytes of code at @entry that do nothing but poll */
	u16 len;               /* of the code */
	u64 settled_at;        /* see hub.h */
	u64 entry;             /* host code, in the executable mapping: polls for requests */

	u8 *bytes;             /* what was translated */
	const struct insn *insns; /* with jit.alone; else NULL */
	u16 *offset;           /* of each instruction's code from @entry */
	struct jit_block *older;     /* made before this one */
	struct jit_block *page_next; /* of the blocks that begin in the same page */
	u32 incoming;          /* a link, or 0: low_ref() */
	u32 mark;              /* of its page, in jit.mark; 0: none */
	u16 flags_live;        /* arithmetic flags at its entry that it reads or leaves as they are */
	u64 host_flags;        /* a bit each instruction: the host's register has the flags at its access */
};

/* What SYSCALL (0) and a SYSRET to 64-bit code (1) switch to. */
struct jit_level {
	struct segment cs, ss;
	struct tlb_array *tlb;
	u64 epoch;
	u32 mmu_index;
};

/*
 * Writes to a page with code, by a hash of its address. Memory that held code once may hold data now: each write to
 * it would go through C as long as some block is left there. So after @limit writes all of them go, and the page is
 * data until code there is executed again; @limit doubles each time, for pages that are both.
 */
struct jit_writes {
	u16 nr, limit; /* 0: WRITES_MIN */
};
#define JIT_WRITES_BITS 10

/* A page with blocks, which is marked in the memory map. */
struct jit_mark {
	const u8 *page;
	u64 id;   /* the latest of the memory slots that show the page and were marked */
	u64 verified; /* jit.client_gen at which the bytes of all blocks were those in memory; */
	u64 content;  /* so they are whenever the page's content is this, a hash; 0: the guest has written there */
	u32 next; /* free one */
};
#define JIT_MARKS (1u << 14)

/*
 * Where generated code finds the block for a RIP that only the run tells. A key is RIP XORed with jit.epoch, which
 * stands in its upper 16 bits for the address space and the mode; its place is a hash of its lower half, since code is
 * aligned. So processes that run the same code use the same few places, which are likely to be in the host's caches.
 */
struct jump_entry {
	u64 key, code;
};
#define JUMP_HASH 0x61c88647u

/* Of a RIP, that it is canonical with 48 bits: only then the upper ones of its key are the epoch's. */
static inline bool jit_has_key(u64 rip)
{
	return (u64)((s64)(rip << 16) >> 16) == rip;
}

static inline unsigned jit_jump_index(u64 key)
{
	return (u32)key * JUMP_HASH >> (32 - JUMP_BITS);
}

/*
 * Processes that run the same code each have keys of their own for it. So what the jump cache does not have is looked
 * for in jit.shared next, where the key of a block that is not fixed, of mode MMU_USER, is its code's host address.
 */
static inline unsigned jit_shared_index(const u8 *code)
{
	return (u32)(u64)code * JUMP_HASH >> (32 - SHARED_BITS);
}

struct jit {
	struct block_cache bc; /* first: see engine/loop.h */
	struct cpu *cpu;

	/* Read and written by generated code. */
	u16 flags;             /* AH of LAHF in the high byte, OF in the low one */
	u64 epoch;             /* XORed into the keys of the jump cache */
	u64 page_rip;          /* see jit_place */
	u64 exit_code;         /* why generated code returned: JIT_EXIT_* or the link */
	u64 user_end;          /* of the lower half of the address space, with 48 bits */
	u64 c_stack;           /* RSP at entry; calls of the guest's that may return lie below it: see tr_branch.c */
	u64 c_limit;           /* how far */
#define JIT_CALLS 512
#define JIT_CALL_SIZE 16
	bool forget_calls;     /* they hold no longer: the epoch has changed */
	u32 vec_bad;           /* VEC_*: instructions that may not run now (they raise a fault, or need C), and: */
#define VEC_SSE BIT(0)
#define VEC_AVX BIT(1)
#define VEC_AVX512 BIT(2)
#define VEC_FP BIT(3)      /* some SIMD floating-point exception is unmasked */
#define VEC_X87 BIT(4)     /* x87 and MMX: likewise */
#define VEC_AWAY_LOW BIT(5)  /* vector registers 0 to 15 are in cpu->fpu, not in the host's registers: see fpu.c */
#define VEC_AWAY_HIGH BIT(6) /* 16 to 31 and the opmasks */
#define VEC_AWAY_X87 BIT(7)
#define VEC_AWAY (VEC_AWAY_LOW | VEC_AWAY_HIGH | VEC_AWAY_X87)
	u32 vec_was;           /* vec_bad as the call to C under way found it */
	u16 host_fcw;          /* C code's, while the guest's x87 is in the host's registers, and then too: */
	u32 x87_last;          /* offset in its page and opcode of the last x87 instruction; 0: as in cpu->fpu */
#define X87_LAST(offset, fop) (BIT(31) | (u32)(fop) << 12 | (u32)(offset))
	u64 x87_page;          /* RIP of that page */
	u64 seg_end[2];        /* 32-bit code: offsets in FS and GS from here on need C */
	u32 host_mxcsr;        /* C code's, while the guest's is in force */
	u32 mxcsr;             /* the one in force, but for flags that generated code has set since */
	u64 window[JIT_WINDOWS]; /* host addresses of accesses to come: see tr_window.c */
	u64 string[2];         /* guest address less host address, of RSI and RDI, while REP runs: see tr_string.c */
	u64 string_n;          /* and what is to be added to RCX then */
	u32 until_link;        /* more keyed links to be followed without: see tr_branch.c */
	u64 target;            /* of an indirect call, while the return address is pushed; of like use elsewhere */
	struct jit_level level[2];
	bool level_ok;         /* they may be used */
	_Alignas(64) struct jump_entry jump[2][1u << JUMP_BITS]; /* the supervisor's, the user's */
	struct jump_entry shared[1u << SHARED_BITS];

	u8 *rw, *rx;           /* one memory, mapped twice */
	size_t code_size, data_size;
	u8 *code_start;        /* after the stubs */
	u8 *code_touched, *data_touched; /* up to here */
	struct emit e;
	struct copy_arena copy; /* thunks of the instructions in blocks */
	struct insn insns[JIT_INSNS_MAX]; /* of the block under translation */
	struct decode_memo decoded;
	u8 *data, *data_p;     /* blocks, instructions, links: freed together */
	struct jit_block *newest;
	struct jit_mark mark[JIT_MARKS]; /* [0] is none */
	u32 nr_marks, free_mark; /* those from nr_marks on have never been used */
	u64 far_gen;           /* cpu->exec_gen[1] for which far links are set */
	u32 keyed;             /* links whose keys may not be 0: low_ref() of the first */
	u32 nr_far;            /* blocks that some lead to; > JIT_FAR_MAX: more than are listed */
	struct jit_block *far_to[JIT_FAR_MAX];
	struct jit_block *hash[1u << JIT_HASH_BITS];
	struct jit_block *page[1u << JIT_HASH_BITS];
	u64 hash_key;          /* of jit_mark.content; no guest knows it: see stubs.c too */
	/* counts the moments since which the client may have written to guest memory: see jit.c */
	u64 client_gen;
	bool kicked;           /* the last run ended for somebody outside */
	bool entered;          /* KVM_RUN has just begun */
	u64 map_gen;           /* of the memory map that the blocks were made under */
	struct jit_hub *hub;
	struct jit_inbox inbox;
	struct jit_writes writes[1u << JIT_WRITES_BITS];
	struct code_range wrote; /* code that the instruction under execution writes */
	u8 mode;               /* of the CPU's present state: see mode.c */
	struct {
		u64 cr0, cr4, efer, star, lstar;
	} seen;                /* CPU state for which level was made */
	u64 seen_gen[2];       /* cpu->exec_gen whose number is in epoch_nr */
	u32 epoch_nr[2], epoch_last;
	struct jit_epoch { u64 gen; u32 nr; } known[16]; /* the latest numbers given */
	u8 vec_max;            /* bytes of the widest vector register of the host */
	bool alone;            /* generated code returns after each block: see jit_block_at() */
	bool bmi2;             /* the host has it */
	bool no_windows;       /* for the block at cpu->rip: see tr_window.c */
	bool off;              /* no memory below 2 GiB: everything is interpreted */

	/* Stubs, addresses in the executable mapping. */
	void (*enter)(u64 code);
	u64 stub_exit, stub_link, stub_link_flags, stub_indirect, stub_helper, stub_end_helper, stub_slow, stub_syscall,
		stub_sysret;
	u64 stub_no_call, stub_fpu_ready, stub_vec_save, stub_vec_load;
	u64 stub_jump[2]; /* to code of the supervisor, of the user: jit_emit_jump() */
	u64 stub_miss[2]; /* where that finds none */
	u64 stub_stack[NR_MMU_INDEX][2]; /* where tlb.stack misses; by enum access */
	u64 stub_keyed;   /* a keyed link that does not hold */
	u64 stub_poll[2]; /* by jit_block.fixed */

	struct {
		u64 blocks, insns, ticks, code_bytes, flushes, links, lookups, helpers, slow;
	} stat;
};

#define JIT_EXIT_LOOKUP 0 /* go on at cpu->rip */

static inline struct jit *jit_of(struct cpu *c)
{
	return c->engine;
}

/* stubs.c */
void jit_make_stubs(struct jit *j);
/*
 * Goes on at the RIP in S0, of which @user code notes the page. Each place has a jump of its own, for the host to
 * predict. The target is entered with the key in S0.
 */
void jit_emit_jump(struct jit *j, bool user);
/* The same as a call. Returns the rel32 of a jump that is taken where stub_miss is to be called. */
u8 *jit_emit_call(struct jit *j, bool user);
/* The guest's flags to jit.flags, through S0. */
void jit_emit_save_flags(struct jit *j);
/* All calls of the guest's: generated code must not be entered by a return to them. */
void jit_emit_forget_calls(struct jit *j);
/* The index of the linear address in S0, in an array of the TLB or a wide view of one, into S1. */
void jit_emit_tlb_index(struct jit *j, bool wide);

/* tr_system.c: the stubs of SYSCALL and SYSRET. */
void jit_make_system_stubs(struct jit *j);

/* fpu.c: in stubs, RAX free: vectors to cpu->fpu; and those back that were in registers before (vec_was). */
void jit_make_fpu_stubs(struct jit *j);
void jit_emit_vec_save(struct jit *j);
void jit_emit_vec_load(struct jit *j);
/* @i looks at x87 or MMX state. */
bool jit_uses_x87(const struct insn *i);
/* All x87 exceptions are masked and none is pending. */
bool jit_x87_plain(const struct jit *j);
/* x87 from cpu->fpu, and to it. Vectors must be in cpu->fpu. */
void jit_x87_load(struct jit *j);
void jit_x87_save_slow(struct jit *j);
static inline void jit_x87_save(struct jit *j)
{
	if (unlikely(!(j->vec_bad & VEC_AWAY_X87)))
		jit_x87_save_slow(j);
}
/* Everything that was in registers, from the FPU state in a signal's frame. */
void jit_fpu_from_signal(struct jit *j, const void *fpregs);
/* Called from generated code: makes ready what the site needs. 0: C must execute the instruction. */
u64 jit_fpu_ready(struct jit *j, const struct jit_site *site);

/* tr_rows.c: before anything is translated; once is enough, any thread may call it. */
void tr_make_facts(void);

/* translate.c: makes the block at cpu->rip, whose code is at @p. NULL: the caches are full. */
struct jit_block *jit_translate(struct jit *j, const u8 *p);

/*
 * mode.c: what translated code takes for granted is in its block's mode: the MMU index, and whether it is 64-bit code
 * or 32-bit code with a 32-bit stack and CS, DS, ES and SS flat (base 0, limit 4 GiB). Other code has no translation:
 * JIT_MODE_NONE. Segment registers change in C only, in instructions that end their block.
 */
#define JIT_MODE_32 BIT(3)
#define JIT_MODE_NO_WINDOWS 16 /* of a block: every access has its own check */
#define JIT_MODE_NONE 0xff
void jit_mode_sync(struct jit *j); /* jit.mode, jit.seg_end */

static inline bool jit_mode_is_user(unsigned mode)
{
	unsigned index = mode & (JIT_MODE_32 - 1);

	return index < MMU_KERNEL || index > MMU_KERNEL_NOWP_SMAP;
}

static inline unsigned jit_mmu_index(const struct jit_block *b)
{
	return b->mode & (JIT_MODE_32 - 1);
}

/*
 * Whether blocks at @rip are bound to it: the kernel's, which is mapped once; 32-bit code; and where a near branch may
 * reach a non-canonical address, which must be known beforehand.
 */
#define JIT_FIXED_FROM 0x7fff00000000
static inline bool jit_fixed(unsigned mode, u64 rip)
{
	return (mode & ~JIT_MODE_NO_WINDOWS & 0xff) != MMU_USER || rip >= JIT_FIXED_FROM;
}

/* RIP behind an instruction of @b: 32-bit code wraps at 4 GiB. */
static inline u64 jit_cut(const struct jit_block *b, u64 rip)
{
	return b->mode & JIT_MODE_32 ? (u32)rip : rip;
}

static inline u64 jit_rip(const struct jit *j, const struct jit_block *b, jit_place place)
{
	return b->fixed ? place : j->page_rip + place;
}

static inline const struct jit_block *jit_link_from(const struct jit_link *l)
{
	return low_at(l->from);
}

static inline u64 jit_link_rip(const struct jit *j, const struct jit_link *l)
{
	return jit_rip(j, jit_link_from(l), l->place);
}

/* The same of a site's block. */
static inline u64 jit_site_cut(const struct jit_site *site, u64 rip)
{
	return site->is_32 ? (u32)rip : rip;
}

static inline u64 jit_site_rip(const struct jit *j, const struct jit_site *site)
{
	return site->fixed ? site->place : j->page_rip + site->place;
}

/* jit.c: brings mode, seg_end, epoch and vec_bad up to the CPU's present state. */
void jit_sync(struct jit *j);

/*
 * For who looks at each block (engine/lockstep), with jit.alone set: no block leads to another but by a link that the
 * caller has set. jit_block_at(): what is to be executed at cpu->rip, NULL: it is the interpreter's. jit_block_run()
 * executes it: to cpu->rip, or out of it through cpu->unwind. Returns the link it was left by, or NULL; jit_block_at()
 * clears *@link when that is gone.
 */
struct jit_block *jit_block_at(struct jit *j, struct jit_link **link);
struct jit_link *jit_block_run(struct jit *j, const struct jit_block *b);
/* x86_ops.run around @blocks: see loop_run(). */
enum exit_reason jit_run_blocks(struct cpu *c, enum exit_reason (*blocks)(struct cpu *c));

/* cache.c */
struct jit_block *jit_find(struct jit *j, u64 rip, const u8 *p);
/* Makes @b findable. Writes to its page are noticed from now on, by every vCPU: see hub.h. */
void jit_insert(struct jit *j, struct jit_block *b);
void jit_block_kill(struct jit *j, struct jit_block *b);
/* Ends the blocks that @size bytes at @p touch. Returns how many. */
unsigned jit_invalidate(struct jit *j, const u8 *p, unsigned size);
/* Counts a write to the page of @p. True: all its blocks should end. */
bool jit_count_write(struct jit *j, const u8 *p);
/* There is no room for one more page: jit_flush() makes some. */
bool jit_marks_full(const struct jit *j);
void jit_flush(struct jit *j);
/*
 * Ends the blocks in the page of @p whose bytes in memory are others now: by a look at each of them, quick where that
 * was done a moment ago; or by the page's content, once for each client_gen.
 */
void jit_verify_blocks(struct jit *j, const u8 *p);
void jit_verify_page(struct jit *j, const u8 *p);
void *jit_data(struct jit *j, size_t size);
/* The supervisor's code is mapped anew: far links end. */
void jit_unlink_far(struct jit *j);
/* Numbers of epochs come back: no keyed link holds any more. */
void jit_forget_keys(struct jit *j);
void jit_link_set(struct jit *j, struct jit_link *l, struct jit_block *to);

/* tr_string.c: cpu->gpr are those of a fault at @pc in generated code: host addresses among them become the guest's. */
void tr_string_fault(const struct jit *j, const u8 *pc);

/* fault.c: brings the CPU's registers up to date in a signal handler; @context is its ucontext_t. */
void jit_host_fault(struct cpu *c, const void *context);

/* Called from generated code (jit.c). */
u64 jit_helper(struct jit *j, const struct jit_site *site);
/* @left is the linear address XORed with the tag at @index in the TLB's view. */
void *jit_slow(struct jit *j, u64 left, const struct jit_site *site, u64 index);
/* Code for cpu->rip, entered in the jump cache, and in @link unless that is NULL; 0: it is the dispatcher's to find. */
u64 jit_lookup(struct jit *j, struct jit_link *link);
#define JIT_SLOW_SKIP ((void *)0) /* executed in C: go on with the next (a window: it was not, see tr_window.c) */
#define JIT_SLOW_LEAVE ((void *)1) /* so it was, and the block must be left: cpu->rip says where to */

static inline void hub_read(struct jit *j)
{
	if (unlikely(atomic_load_explicit(&j->inbox.any, memory_order_acquire)))
		hub_read_slow(j);
}

static inline void hub_written(struct jit *j)
{
	if (unlikely(j->wrote.size))
		hub_written_slow(j);
}

/* flags <-> cpu->rflags */
static inline void jit_flags_to_cpu(struct jit *j)
{
	u64 f = (u64)(j->flags >> 8 & (FL_ARITH & 0xff)) | ((j->flags & 1) ? FL_OF : 0);
	j->cpu->rflags = (j->cpu->rflags & ~FL_ARITH) | f;
}

static inline void jit_flags_from_cpu(struct jit *j)
{
	u64 f = j->cpu->rflags;

	j->cpu->rflags = f & ~FL_ARITH;
	j->flags = (u16)((f & FL_ARITH & 0xff) << 8 | (f & FL_OF ? 1 : 0));
}

#endif
