/*
 * The processor as a value: every architectural register of one vCPU, plus what
 * an engine needs at hand while it executes (TLB, pending event, exit).
 *
 * A struct cpu is used by one thread at a time (the vCPU mutex of the kvm room);
 * only fields tagged [a] are touched by other threads.
 *   [a] atomic
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include <setjmp.h>
#include <stdatomic.h>

#include "base/types.h"
#include "cpu/gpa.h"

/* --- Names and numbers of the SDM ------------------------------------------------------------------------------- */

enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* Segment registers, in the order of the Sreg encoding (SDM vol. 2, table B-8). */
enum seg_reg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, NR_SEG };

enum vector {
	VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7,
	VEC_DF = 8, VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16,
	VEC_AC = 17, VEC_MC = 18, VEC_XM = 19,
};

#define FL_CF BIT64(0)
#define FL_FIXED1 BIT64(1)
#define FL_PF BIT64(2)
#define FL_AF BIT64(4)
#define FL_ZF BIT64(6)
#define FL_SF BIT64(7)
#define FL_TF BIT64(8)
#define FL_IF BIT64(9)
#define FL_DF BIT64(10)
#define FL_OF BIT64(11)
#define FL_IOPL (3ull << 12)
#define FL_NT BIT64(14)
#define FL_RF BIT64(16)
#define FL_VM BIT64(17)
#define FL_AC BIT64(18)
#define FL_VIF BIT64(19)
#define FL_VIP BIT64(20)
#define FL_ID BIT64(21)
/* The six arithmetic flags. */
#define FL_ARITH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

#define CR0_PE BIT64(0)
#define CR0_MP BIT64(1)
#define CR0_EM BIT64(2)
#define CR0_TS BIT64(3)
#define CR0_ET BIT64(4)
#define CR0_NE BIT64(5)
#define CR0_WP BIT64(16)
#define CR0_AM BIT64(18)
#define CR0_NW BIT64(29)
#define CR0_CD BIT64(30)
#define CR0_PG BIT64(31)

#define CR4_VME BIT64(0)
#define CR4_PVI BIT64(1)
#define CR4_TSD BIT64(2)
#define CR4_DE BIT64(3)
#define CR4_PSE BIT64(4)
#define CR4_PAE BIT64(5)
#define CR4_MCE BIT64(6)
#define CR4_PGE BIT64(7)
#define CR4_PCE BIT64(8)
#define CR4_OSFXSR BIT64(9)
#define CR4_OSXMMEXCPT BIT64(10)
#define CR4_UMIP BIT64(11)
#define CR4_LA57 BIT64(12)
#define CR4_VMXE BIT64(13)
#define CR4_FSGSBASE BIT64(16)
#define CR4_PCIDE BIT64(17)
#define CR4_OSXSAVE BIT64(18)
#define CR4_SMEP BIT64(20)
#define CR4_SMAP BIT64(21)
#define CR4_PKE BIT64(22)

#define EFER_SCE BIT64(0)
#define EFER_LME BIT64(8)
#define EFER_LMA BIT64(10)
#define EFER_NX BIT64(11)
#define EFER_FFXSR BIT64(14)
#define EFER_AUTOIBRS BIT64(21)

/* Page-fault error code bits (SDM vol. 3A, 4.7). */
#define PF_P BIT(0)
#define PF_W BIT(1)
#define PF_U BIT(2)
#define PF_RSVD BIT(3)
#define PF_I BIT(4)
#define PF_PK BIT(5)

/* --- Parts ------------------------------------------------------------------------------------------------------ */

/* A segment register with its hidden part; the fields of struct kvm_segment. @limit is in bytes, G applied. */
struct segment {
	u64 base;
	u32 limit;
	u16 selector;
	u8 type; /* 4 bits: bit 3 code, bit 2 conforming/expand-down, bit 1 readable/writable, bit 0 accessed */
	u8 present, dpl, db, s, l, g, avl, unusable;
};

struct dtable {
	u64 base;
	u16 limit;
};

/*
 * What XSAVE manages, in a form that is quick to execute on: whole vector registers
 * side by side. fpu.c converts from and to the XSAVE formats.
 */
struct fpu_state {
	u8 zmm[32][64] __attribute__((aligned(64)));
	u64 k[8];
	u8 x87[512] __attribute__((aligned(64))); /* FXSAVE64 image; its XMM part and MXCSR are not used */
	u32 mxcsr;
	u32 pkru;
	u64 xinuse; /* XSTATE_BV: components that may differ from their initial state */
};

/*
 * An event to deliver: an exception, an external interrupt, an NMI, a software interrupt.
 * (SDM vol. 3A, chapter 6.)
 */
enum event_type {
	EV_NONE, EV_EXTINT, EV_NMI, EV_EXCEPTION, EV_SOFTINT /* INT n */, EV_SOFTEXC /* INT3, INTO */, EV_ICEBP
};

struct event {
	u8 type; /* enum event_type */
	u8 vector;
	bool has_error;
	bool has_payload; /* #PF: payload is CR2; #DB: payload is ORed into DR6 */
	u32 error;
	u64 payload;
	u8 insn_len; /* EV_SOFT*: what to add to RIP before it is pushed */
};

/*
 * Requests to the outside that one instruction makes: PIO, MMIO, MSRs that the CPU does not own.
 *
 * The instruction is executed until it needs the outside, the run ends with an exit that names
 * the request, and once the answer is in, the same instruction is executed again from its start:
 * answers that are already there are replayed in order. No instruction needs a half-done state,
 * and RIP stays at the instruction until it is whole. Emptied when the instruction retires
 * (or, in a REP string, when one iteration does).
 */
enum io_kind {
	IO_NONE, IO_PIO_IN, IO_PIO_OUT, IO_MMIO_READ, IO_MMIO_WRITE, IO_RDMSR, IO_WRMSR, IO_CR8_READ, IO_CR8_WRITE,
	IO_HYPERCALL
};

struct io_op {
	u8 kind;    /* enum io_kind */
	u8 size;    /* bytes; PIO 1, 2, 4; MMIO 1 to 8 and never over a page */
	bool fault; /* answered with #GP(0): an unknown MSR */
	u64 addr;   /* port, guest physical address, MSR index */
	u64 data;   /* to the outside, or the answer */
};

#define IO_OPS_MAX 32
struct cpu_io {
	u8 done; /* op[0..done) are answered */
	u8 next; /* replay cursor of the execution under way */
	bool pending; /* op[done] waits for its answer */
	struct io_op op[IO_OPS_MAX];
};

/* Why a run ended. The index of the exit handler table in the kvm room. */
enum exit_reason {
	EXIT_KICK,          /* a request flag was seen; nothing else to report */
	EXIT_IRQ_WINDOW,    /* asked for by enable_irq_window: an external interrupt can be taken now */
	EXIT_NMI_WINDOW,    /* asked for by enable_nmi_window: an NMI can be taken now */
	EXIT_IO,            /* cpu->io.op[cpu->io.done] waits for an answer (PIO, MMIO, MSR, CR8, hypercall) */
	EXIT_HLT,           /* HLT has retired */
	EXIT_PAUSE,         /* PAUSE or MWAIT has retired and the owner may want to yield */
	EXIT_TRIPLE_FAULT,  /* shutdown */
	EXIT_DEBUG,         /* guest debugging: exit.debug */
	EXIT_EMULATION,     /* cannot be executed here: exit.insn */
	EXIT_MEMORY_FAULT,  /* the client's mapping behind exit.gpa does not answer: -EFAULT */
	EXIT_ENGINE_ERROR,  /* the engine has found itself wrong, and said so */
	NR_EXIT_REASON
};

struct cpu_exit {
	u8 reason; /* enum exit_reason */
	u8 insn_len;
	u8 insn[15];
	u64 gpa;
	struct {
		u32 exception;
		u64 pc, dr6, dr7;
	} debug;
};

/* --- TLB ----------------------------------------------------------------------------------------
 * Direct-mapped; one array per MMU index, so that user and supervisor, WP and SMAP/AC never need a flush.
 * A tag is the linear page address when the access may go straight to the same offset of @host,
 * else one that no access to this entry can have: see tag_none(). The write tag is set only when the page's dirty bit
 * (and dirty log) is already set.
 */
enum access { ACC_READ, ACC_WRITE, ACC_EXEC, NR_ACCESS };

#define TLB_BITS 15
#define TLB_SIZE (1u << TLB_BITS)

/* Apart, since few entries are used in more than one way: the caches hold twice as many. */
struct tlb_array {
	u64 tag[NR_ACCESS][TLB_SIZE];
	u64 host[TLB_SIZE]; /* address of the host's page */
};

/*
 * The same for generated code. Where it is @wide, the memory of an array shows up again and again, so that the low
 * TLB_WIDE_BITS bits of a page's number are an index as good as the low TLB_BITS.
 */
struct tlb_view {
	u64 *tag[2], *host; /* tags by enum access, but not ACC_EXEC */
	bool wide;
};
#define TLB_WIDE_BITS 20

/* The page of generated code's last stack access, and the host's: it may be written as long as nothing is flushed. */
struct tlb_stack {
	u64 tag, host;
};

/* One of them elsewhere. */
struct tlb_entry {
	u64 tag[NR_ACCESS];
	u64 host;
};

/*
 * User; supervisor, with SMAP enforced (CR4.SMAP and !AC) or not, with CR0.WP clear (text patching) or not.
 * MMU_USER_ALIGN is user with alignment checks on (CR0.AM and AC): its array stays empty, so that every access
 * takes the slow path, which checks and then uses MMU_USER's.
 */
enum mmu_index {
	MMU_USER, MMU_KERNEL, MMU_KERNEL_SMAP, MMU_KERNEL_NOWP, MMU_KERNEL_NOWP_SMAP, MMU_USER_ALIGN, NR_MMU_INDEX
};

/* Non-global entries filled since the last flush, so that a CR3 write clears only those. */
#define TLB_JOURNAL 1024

/*
 * Entries that have lost an exec tag for want of room since cpu->exec_gen[] changed, modulo TLB_GONE, by half of the
 * address space: user pages come and go in the entries of kernel code.
 */
#define TLB_GONE 8192u
struct tlb_gone {
	bool any;
	u8 bit[2][TLB_GONE / 8];
};

/* Non-global translations of a PCID that is not in use, until CR3 comes back to it. */
struct tlb_space {
	u64 cr3;       /* whose low 12 bits are the PCID */
	u64 exec_gen;  /* cpu->exec_gen[0] of this address space; 0: nothing is kept here */
	u64 write_gen; /* tlb.write_gen when the entries were saved */
	u16 nr;
	u32 at[TLB_JOURNAL]; /* as in the journal */
	struct tlb_entry e[TLB_JOURNAL];
	struct tlb_gone exec_gone;
};
#define TLB_SPACES 8

/* Entries that had to make room for other pages; they come back without a walk while nothing has been flushed. */
#define TLB_VICTIMS 8

struct tlb {
	struct tlb_array array[NR_MMU_INDEX];
	struct tlb_view view[NR_MMU_INDEX];
	struct tlb_stack stack[NR_MMU_INDEX];
	u64 no_stack; /* the tag of an empty one: a non-canonical page that no guest knows */
	u64 touched[NR_MMU_INDEX]; /* bit per TLB_SIZE / 64 entries: one has been filled since the last full flush */
	u16 journal_n; /* > TLB_JOURNAL: overflowed, sweep all that is touched */
	u32 journal[TLB_JOURNAL]; /* mmu_index << TLB_BITS | entry */
	u8 noted[NR_MMU_INDEX][TLB_SIZE / 8];  /* entries in the journal */
	u8 global[NR_MMU_INDEX][TLB_SIZE / 8]; /* entries from pages with PTE.G */
	/* Larger pages that were seen, which INVLPG must drop whole, by hashes of the address: see tlb.c. */
	u8 large_bits[2][32];
#define TLB_2M_SIZE 4096u
	u8 large_2m[2][TLB_2M_SIZE / 8];
	struct tlb_gone exec_gone[2]; /* by what cpu->exec_gen is an index of */
	bool exec_local;  /* the supervisor has had exec tags of non-global pages since the last flush */
	bool exec_shared; /* the user has had exec tags of global pages since the last full flush */
	u64 write_gen;    /* counts tlb_drop_writes() */
	struct tlb_writers {
		u32 id[4];
	} writers[1u << 14]; /* by a hash of the host page: whose write tag is set, see tlb.c */
	struct tlb_space space[TLB_SPACES];
	u32 victim_at[TLB_VICTIMS]; /* as in the journal */
	bool victim_global[TLB_VICTIMS];
	struct tlb_entry victim[TLB_VICTIMS];
	u8 nr_victims, victim_next; /* those from victim_next on are the oldest */
	unsigned space_next; /* to be given away when all are in use */
};

/* --- The processor --------------------------------------------------------------------------------*/

/*
 * What generated code polls, both bytes at once: kvm_run.immediate_exit, which a client's signal handler sets, and the
 * byte behind it, which is padding there. [a] both
 */
struct cpu_poll {
	u8 immediate_exit;
	u8 look; /* cpu.request has changed since cpu_looks() */
};

/* Bits of cpu.request: any one ends the run at the next block boundary. */
#define REQ_KICK BIT(0)      /* the owner wants to look */
#define REQ_SIGNAL BIT(1)    /* a signal was delivered to the thread */
#define REQ_ENGINE BIT(3)    /* the engine's own, between vCPUs: the run goes on */
#define REQ_TLB_FLUSH BIT(2) /* the memory map or someone's dirty log changed: the owner flushes before re-entry */

/* Execution mode of the current code segment. */
enum cpu_mode { MODE_REAL, MODE_VM86, MODE_PROT16, MODE_PROT32, MODE_COMPAT16, MODE_COMPAT32, MODE_64 };

struct insn;
struct cpuid_entry;
struct cpu;

/* Told of what changes outside of struct cpu, before it does, by who wants to undo it (engine/lockstep). */
struct cpu_journal {
	/* The page at @host is about to be written. Writes through the TLB entry that is filled now are not told. */
	void (*page)(struct cpu *c, const u8 *host);
	/* Entry @i of array @idx of the TLB is about to be filled. */
	void (*tlb_entry)(struct cpu *c, unsigned idx, unsigned i);
	/* Any number of entries are about to be cleared. */
	void (*tlb_flush)(struct cpu *c);
};

struct cpu {
	/* Hot: touched by nearly every instruction. */
	u64 gpr[16];
	u64 rip;
	u64 rflags;             /* whole and exact after every instruction */
	struct tlb_array *tlb;  /* &tlbs->array[mmu_index] */
	u64 code_page;          /* host page (hva & PAGE_MASK) of the block under execution; a store there sets smc */
	bool smc;               /* the block under execution was written to: re-verify before the next instruction */
	u8 mode;                /* enum cpu_mode, derived */
	u8 code_bits;           /* 16, 32, 64, derived */
	u8 stack_bits;          /* 16, 32, 64, derived */
	u8 cpl;                 /* derived: SS.DPL; 0 in real mode, 3 in VM86 */
	u8 mmu_index;           /* derived */
	u8 int_shadow;          /* SHADOW_*: blocks interrupts until the next instruction retires */
#define SHADOW_STI 1
#define SHADOW_MOV_SS 2
	bool nmi_blocked;       /* from NMI delivery to IRET */
	u32 pauses;             /* PAUSEs so far */
	bool irq_window;        /* end the run as soon as an external interrupt could be taken */
	bool nmi_window;
	_Atomic u32 request;    /* [a] REQ_* */
	struct cpu_poll *poll;  /* in the run page, if there is one */
	struct cpu_poll own_poll;
	bool msr_exits;         /* RDMSR and WRMSR of whatever register are the owner's to decide: IO_RDMSR, IO_WRMSR */
	const struct insn *insn; /* under execution; NULL between instructions */

	struct segment seg[NR_SEG];
	struct dtable gdtr, idtr;
	u64 cr0, cr2, cr3, cr4, cr8, xcr0;
	u64 efer;
	u64 dr[4], dr6, dr7;
	u64 pdpte[4]; /* PAE paging: loaded by MOV CR3 (SDM vol. 3A, 4.4.1) */

	/* MSRs that instructions use; the others live in msr[] (see cpu/msr.h). */
	u64 star, lstar, cstar, fmask, kernel_gs_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 tsc_aux, pat, apic_base;
	u64 *msr; /* values of the rows of the MSR table that have no field of their own */

	/* Guest TSC = (host TSC * tsc_ratio >> 48) + tsc_offset. */
	u64 tsc_offset, tsc_ratio;

	struct fpu_state fpu;

	struct event inject; /* to be delivered at the start of the next run; EV_NONE if none */
	struct event fault;  /* raised by the instruction under execution, valid after an UNWIND_FAULT */
	struct event delivering; /* under delivery: decides double and triple faults */
	struct cpu_io io;
	struct cpu_exit exit;

	/* Guest debugging by the client (KVM_SET_GUEST_DEBUG). */
	u32 guest_debug; /* GUEST_DEBUG_* */
#define GUEST_DEBUG_STEP BIT(0)
#define GUEST_DEBUG_SW_BP BIT(1)
#define GUEST_DEBUG_HW_BP BIT(2)
	u64 guest_dr[4], guest_dr7;
	bool debug_active; /* single stepping or breakpoints: instructions run one by one; derived by debug_update() */
	bool watch_active; /* data breakpoints: their pages stay out of the TLB; derived */
	u64 db_pending;    /* DR6 bits of data breakpoints that the instruction under execution hit */

	struct tlb *tlbs;
	/*
	 * [cpl < 3]: names the present translations of code. Whatever was derived from an exec tag under one value
	 * holds again whenever the value is back: it comes and goes with the PCID, and the supervisor's lasts as long
	 * as the global entries that its code is in. A value is never used again for others.
	 */
	u64 exec_gen[2];
	u64 exec_gen_last; /* the latest value given */
	const struct gpa_map *map; /* the memory map this run uses; changed only between runs */
	u8 maxphyaddr;             /* bits of a guest physical address, from CPUID 0x80000008 */
	u8 maxlinear;              /* 48, or 57 with LA57, derived */
	struct cpuid_entry *cpuid;
	u32 nr_cpuid;
	u64 isa[4];                /* bitmap over enum isa: what CPUID and XCR0 let execute; derived from cpuid */

	jmp_buf *unwind; /* where faults and exits go; set by the engine's run loop */
	bool in_engine;  /* this thread executes guest code: a host SIGSEGV, SIGBUS or SIGFPE is the guest's */
	void *engine;    /* the engine's own */
	void *engine_vm; /* what the engine shares between the vCPUs of a VM; set before x86_ops.vcpu_create */
	/* The engine's, or NULL: this vCPU is about to write @size bytes at @host, on a page that gpa_has_code(). */
	void (*code_write)(struct cpu *c, const struct gpa_slot *slot, u64 gpa, u8 *host, unsigned size);
	/* Likewise: such a page, at @host, is entered in the TLB. */
	void (*code_fill)(struct cpu *c, const u8 *host);
	/* Likewise: a signal has interrupted guest code, with this ucontext_t; registers must be brought up to date. */
	void (*host_fault)(struct cpu *c, const void *context);
	struct cpu_journal *journal; /* the engine's, or NULL */

	/* Counters for people. */
	struct {
		u64 insns, tlb_misses, tlb_flushes, exits[NR_EXIT_REASON], injections;
	} stat;
};

/* longjmp values through cpu->unwind. */
#define UNWIND_FAULT 1 /* cpu->fault says what; RIP is that of the instruction */
#define UNWIND_EXIT 2  /* cpu->exit says what; RIP is that of the instruction */

/* Allocates what hangs off @c (TLB, msr[]) and resets it as RESET# does (SDM vol. 3A, 10.1.1). 0 or -ENOMEM. */
int cpu_init(struct cpu *c);
void cpu_fini(struct cpu *c);

/* Register values after RESET#, or after INIT when @init (keeps FPU, most MSRs, CR0.CD/NW). */
void cpu_reset(struct cpu *c, bool init);

/* Recomputes everything marked "derived". After any change of CR0, CR4, EFER, CS, SS, RFLAGS.VM/AC. */
void cpu_update_mode(struct cpu *c);

/* Ends the instruction under execution with an exit; RIP stays. */
_Noreturn void cpu_exit(struct cpu *c, enum exit_reason reason);

/*
 * Asks the outside (see struct cpu_io). Returns the answer when it is there, else leaves with EXIT_IO.
 * @data is what a write carries. Raises #GP(0) on an answer with .fault. More than IO_OPS_MAX: EXIT_EMULATION.
 */
u64 cpu_io(struct cpu *c, enum io_kind kind, u64 addr, unsigned size, u64 data);

/* The instruction (or one iteration of a REP) has retired: forget its answers. */
static inline void cpu_io_retire(struct cpu *c)
{
	c->io.done = c->io.next = 0;
	c->io.pending = false;
}

/* Guest's time stamp counter, now. */
u64 cpu_rdtsc(const struct cpu *c);

static inline bool cpu_protected(const struct cpu *c)
{
	return c->mode >= MODE_PROT16;
}

static inline bool cpu_immediate_exit(const struct cpu *c)
{
	return __atomic_load_n(&c->poll->immediate_exit, __ATOMIC_RELAXED);
}

/* The owner wants the run to end; string instructions look between chunks. */
static inline bool cpu_must_stop(const struct cpu *c)
{
	return atomic_load_explicit(&c->request, memory_order_relaxed) | cpu_immediate_exit(c);
}

/* From any thread, and from signal handlers. */
static inline void cpu_request(struct cpu *c, u32 request)
{
	atomic_fetch_or(&c->request, request);
	__atomic_store_n(&c->poll->look, 1, __ATOMIC_SEQ_CST);
}

/* Before cpu.request is looked at: what is requested from now on is noticed by generated code. */
static inline void cpu_looks(struct cpu *c)
{
	if (__atomic_load_n(&c->poll->look, __ATOMIC_RELAXED))
		__atomic_exchange_n(&c->poll->look, 0, __ATOMIC_SEQ_CST);
}

/* RIP as the code segment has it. Code of 16 bits too has 32 of them: what is above 64 KiB is for CS.limit to say. */
static inline u64 cpu_cut_rip(const struct cpu *c, u64 rip)
{
	return c->code_bits == 64 ? rip : (u32)rip;
}

/* True when an external interrupt can be taken before the next instruction. */
static inline bool cpu_irq_allowed(const struct cpu *c)
{
	return (c->rflags & FL_IF) && !c->int_shadow;
}

#endif
