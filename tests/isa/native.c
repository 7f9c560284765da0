/*
 * The host's processor as a test subject: a signal frame holds every register, so a case is run by returning from a
 * signal handler into the instruction, and ends in the next signal (an INT3 behind it, or its fault).
 */
#include <asm/ldt.h>
#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "isa.h"

#define XSAVE_LEGACY 512

/* <sys/auxv.h> brings <elf.h>, whose names clash with those of the processor. */
unsigned long getauxval(unsigned long type);
#define AT_HWCAP2 26
#define HWCAP2_FSGSBASE BIT(1)

/* What the assembly below saves at entry and loads at exit. */
struct segs {
	u64 fs_base, gs_base;
	u16 ds, es, fs, gs;
};
struct segs native_seen, native_next;
u64 native_host_fs;

void native_entry(int sig, siginfo_t *info, void *uc);
void native_handler(int sig, siginfo_t *info, ucontext_t *uc);

/*
 * The test may have changed any segment register, FS base included, on which C code depends.
 * RAX, RCX, RDX may be used: the registers of the interrupted code are in the frame.
 */
__asm__(".pushsection .text\n"
	".globl native_entry\n"
	".hidden native_seen, native_next, native_host_fs\n"
	"native_entry:\n"
	"	pushfq\n	andl $~0x40000, (%rsp)\n	popfq\n" /* alignment checks off */
	"	mov %rdx, %r8\n"
	"	rdfsbase %rax\n	mov %rax, native_seen(%rip)\n"
	"	rdgsbase %rax\n	mov %rax, 8+native_seen(%rip)\n"
	"	mov %ds, %eax\n	mov %ax, 16+native_seen(%rip)\n"
	"	mov %es, %eax\n	mov %ax, 18+native_seen(%rip)\n"
	"	mov %fs, %eax\n	mov %ax, 20+native_seen(%rip)\n"
	"	mov %gs, %eax\n	mov %ax, 22+native_seen(%rip)\n"
	"	xor %eax, %eax\n	mov %eax, %fs\n	mov %eax, %gs\n"
	"	mov native_host_fs(%rip), %rax\n	wrfsbase %rax\n"
	"	push %rbx\n"
	"	mov %r8, %rdx\n"
	"	call native_handler\n"
	"	pop %rbx\n"
	"	movzwl 16+native_next(%rip), %eax\n	mov %eax, %ds\n"
	"	movzwl 18+native_next(%rip), %eax\n	mov %eax, %es\n"
	"	mov native_next(%rip), %rax\n	wrfsbase %rax\n"
	"	mov 8+native_next(%rip), %rax\n	wrgsbase %rax\n"
	"	ret\n"
	".popsection\n");

static u8 *data_alias, *code_alias;
static u64 xcr0;
static bool has_16bit;
static unsigned offset_of[16]; /* of XSAVE components 2, 5, 6, 7 */

static enum { IDLE, ENTERING, INSIDE } phase;
static const struct test_case *current;
static struct outcome *result;
static gregset_t host_gregs;
static unsigned runs, ticks_in_run;
static sigjmp_buf protected_env;
static volatile bool protecting, chained;
static struct sigaction guard_action[32]; /* what the engines installed */

/* --- Signal frames --------------------------------------------------------------------------------------- */

static void frame_load_fp(u8 *fp, const struct state *s)
{
	memcpy(fp, s->x87, X87_BYTES);
	memcpy(fp + 24, &s->mxcsr, 4);
	for (unsigned n = 0; n < 16; n++)
		memcpy(fp + 160 + 16 * n, s->zmm[n], 16);
	memcpy(fp + XSAVE_LEGACY, &xcr0, 8);
	for (unsigned n = 0; n < 16; n++) {
		if (offset_of[2])
			memcpy(fp + offset_of[2] + 16 * n, s->zmm[n] + 16, 16);
		if (offset_of[6]) {
			memcpy(fp + offset_of[6] + 32 * n, s->zmm[n] + 32, 32);
			memcpy(fp + offset_of[7] + 64 * n, s->zmm[16 + n], 64);
		}
	}
	if (offset_of[5])
		memcpy(fp + offset_of[5], s->k, 64);
}

static void frame_save_fp(const u8 *fp, struct state *s)
{
	static const u8 x87_init[8] = {0x7f, 0x03};
	u64 in_use;

	memset(s->zmm, 0, sizeof(s->zmm));
	memset(s->k, 0, sizeof(s->k));
	memcpy(&in_use, fp + XSAVE_LEGACY, 8);
	memcpy(&s->mxcsr, fp + 24, 4);
	memset(s->x87, 0, X87_BYTES);
	if (in_use & 1)
		memcpy(s->x87, fp, X87_BYTES);
	else
		memcpy(s->x87, x87_init, sizeof(x87_init));
	for (unsigned n = 0; n < 16; n++) {
		if (in_use & 2)
			memcpy(s->zmm[n], fp + 160 + 16 * n, 16);
		if (offset_of[2] && (in_use & 4))
			memcpy(s->zmm[n] + 16, fp + offset_of[2] + 16 * n, 16);
		if (offset_of[6] && (in_use & 0x40))
			memcpy(s->zmm[n] + 32, fp + offset_of[6] + 32 * n, 32);
		if (offset_of[7] && (in_use & 0x80))
			memcpy(s->zmm[16 + n], fp + offset_of[7] + 64 * n, 64);
	}
	if (offset_of[5] && (in_use & 0x20))
		memcpy(s->k, fp + offset_of[5], 64);
}

/* In the order of enum gpr. */
static const u8 greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
			       REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void frame_load(ucontext_t *uc, const struct state *s)
{
	greg_t *g = uc->uc_mcontext.gregs;
	u16 sel[4] = {s->cs, s->gs, s->fs, s->ss};

	for (unsigned n = 0; n < 16; n++)
		g[greg_of[n]] = (greg_t)s->gpr[n];
	g[REG_RIP] = (greg_t)s->rip;
	g[REG_EFL] = (greg_t)s->rflags;
	memcpy(&g[REG_CSGSFS], sel, sizeof(sel));
	frame_load_fp((u8 *)uc->uc_mcontext.fpregs, s);
	native_next = (struct segs){.fs_base = s->fs_base, .gs_base = s->gs_base, .ds = s->ds, .es = s->es};
}

static void frame_save(const ucontext_t *uc, struct state *s)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	u16 sel[4];

	for (unsigned n = 0; n < 16; n++)
		s->gpr[n] = (u64)g[greg_of[n]];
	s->rip = (u64)g[REG_RIP];
	s->rflags = (u64)g[REG_EFL];
	memcpy(sel, &g[REG_CSGSFS], sizeof(sel));
	s->cs = sel[0];
	s->ss = sel[3];
	s->ds = native_seen.ds;
	s->es = native_seen.es;
	s->fs = native_seen.fs;
	s->gs = native_seen.gs;
	s->fs_base = native_seen.fs_base;
	s->gs_base = native_seen.gs_base;
	frame_save_fp((const u8 *)uc->uc_mcontext.fpregs, s);
}

/* --- The handler ------------------------------------------------------------------------------------------- */

static void back_to_host(ucontext_t *uc)
{
	u8 *fp = (u8 *)uc->uc_mcontext.fpregs;
	static const u32 mxcsr = 0x1f80;

	memcpy(uc->uc_mcontext.gregs, host_gregs, sizeof(host_gregs));
	memset(fp + XSAVE_LEGACY, 0, 8); /* initial state; a function call may change every vector register */
	memcpy(fp + 24, &mxcsr, 4);
	native_next = (struct segs){.fs_base = native_host_fs, .ds = SEL_DS, .es = SEL_DS};
	phase = IDLE;
}

/* How the instruction ended. */
static void take_outcome(int sig, ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	u64 rip = (u64)g[REG_RIP];

	frame_save(uc, &result->s);
	result->vector = sig == SIGALRM ? VECTOR_HANG : (int)g[REG_TRAPNO];
	result->error = (u32)g[REG_ERR];
	result->cr2 = result->vector == VEC_PF ? (u64)g[REG_CR2] : 0;
	if (result->vector == VEC_BP && rip - 1 - current->in.rip >= current->len) {
		/* The INT3 at the place where the instruction went. */
		result->s.rip = rip - 1;
		result->vector = NO_VECTOR;
		result->error = 0;
	} else if (result->vector == VEC_PF && (result->error & PF_I) && rip != current->in.rip &&
		   result->cr2 - current->code_base - current->in.rip >= current->len) {
		/* It went where there is no code: the instruction itself is done. */
		result->vector = NO_VECTOR;
		result->error = 0;
		result->cr2 = 0;
	}
	if (result->vector != VEC_PF)
		result->cr2 = 0;
}

void native_handler(int sig, siginfo_t *info, ucontext_t *uc)
{
	switch (phase) {
	case ENTERING:
		memcpy(host_gregs, uc->uc_mcontext.gregs, sizeof(host_gregs));
		frame_load(uc, &current->in);
		phase = INSIDE;
		return;
	case INSIDE:
		if (sig == SIGALRM && ++ticks_in_run < 2) {
			native_next = native_seen;
			return;
		}
		take_outcome(sig, uc);
		back_to_host(uc);
		return;
	case IDLE:
		native_next = (struct segs){.fs_base = native_host_fs, .ds = SEL_DS, .es = SEL_DS};
		if (sig == SIGALRM) {
			guest_tick();
			return;
		}
		if (protecting && !chained && guard_action[sig].sa_sigaction) {
			/* The engine's own business first; what it does not know comes back here. */
			chained = true;
			sigprocmask(SIG_SETMASK, &uc->uc_sigmask, NULL);
			guard_action[sig].sa_sigaction(sig, info, uc);
		}
		if (protecting)
			siglongjmp(protected_env, sig);
		fprintf(stderr, "signal %d at %llx\n", sig, (unsigned long long)uc->uc_mcontext.gregs[REG_RIP]);
		signal(sig, SIG_DFL);
		return;
	}
}

void native_run(const struct test_case *t, struct outcome *o)
{
	current = t;
	result = o;
	ticks_in_run = 0;
	runs++;
	phase = ENTERING;
	/* Flags that a signal frame cannot change are as they always are. */
	__asm__ volatile("lea -128(%%rsp), %%rsp; push $0x202; popfq; lea 128(%%rsp), %%rsp; int3"
			 :
			 :
			 : "memory", "cc", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm0", "xmm1",
			   "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
			   "xmm13", "xmm14", "xmm15");
}

bool native_protected(void (*fn)(void *), void *arg)
{
	int sig = sigsetjmp(protected_env, 1);

	if (sig) {
		protecting = false;
		return false;
	}
	protecting = true;
	chained = false;
	fn(arg);
	protecting = false;
	return true;
}

/* --- Set-up ------------------------------------------------------------------------------------------------ */

static u8 *map_window(u32 window, u32 base, unsigned size, unsigned ro, int prot)
{
	int fd = memfd_create("isa", 0);

	if (fd < 0 || ftruncate(fd, size) ||
	    mmap((void *)(u64)window, WINDOW_SIZE, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != (void *)(u64)window ||
	    mmap((void *)(u64)base, size, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) != (void *)(u64)base)
		return NULL;
	if (ro && mmap((void *)(u64)(base + size - ro), ro, PROT_READ, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd,
		       size - ro) == MAP_FAILED)
		return NULL;
	u8 *alias = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	close(fd);
	if (alias == MAP_FAILED)
		return NULL;
	/* The page tables must show every page, so that faults tell of protection, not of absence. */
	for (unsigned n = 0; n < size; n += PAGE_SIZE)
		(void)*(volatile u8 *)(u64)(base + n);
	return alias;
}

static bool take_signals(bool again)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGALRM};
	struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK}, old;

	sa.sa_sigaction = native_entry;
	sigfillset(&sa.sa_mask);
	for (unsigned n = 0; n < ARRAY_SIZE(signals); n++) {
		if (sigaction(signals[n], &sa, &old))
			return false;
		if (again && old.sa_sigaction != native_entry)
			guard_action[signals[n]] = old;
	}
	return true;
}

static bool make_16bit(void)
{
	struct user_desc code = {.entry_number = 0, .base_addr = CODE16_BASE, .limit = 0xffff, .contents = 2};
	struct user_desc data = {.entry_number = 1, .base_addr = DATA16_BASE, .limit = 0xffff};

	return syscall(SYS_modify_ldt, 1, &code, sizeof(code)) == 0 &&
	       syscall(SYS_modify_ldt, 1, &data, sizeof(data)) == 0;
}

bool native_has_16bit(void)
{
	return has_16bit;
}

bool native_map(void)
{
	has_16bit = make_16bit();
	data_alias = map_window(DATA_WINDOW, DATA_BASE, DATA_SIZE, DATA_RO, PROT_READ | PROT_WRITE);
	code_alias = map_window(CODE_WINDOW, CODE_BASE, CODE_SIZE, 0, PROT_READ | PROT_EXEC);
	if (!data_alias || !code_alias) {
		perror("the windows cannot be mapped");
		return false;
	}
	memset(code_alias, CODE_FILL, CODE_SIZE);
	return take_signals(false);
}

/* Components that the host has enabled, of those that the test handles. */
u64 native_xcr0(void)
{
	u32 a, d;

	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return a & 0xe7;
}

bool native_init(void)
{
	static u8 stack[256 << 10];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct itimerval every = {{1, 0}, {1, 0}};
	u32 a, b, c, d;

	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
		fprintf(stderr, "the kernel does not let programs set FS base\n");
		return false;
	}
	__asm__ volatile("rdfsbase %0" : "=r"(native_host_fs));
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(SEL_DS));
	native_next = (struct segs){.fs_base = native_host_fs, .ds = SEL_DS, .es = SEL_DS};
	xcr0 = native_xcr0();
	for (unsigned n = 2; n < 8; n++) {
		if (!(xcr0 >> n & 1))
			continue;
		__cpuid_count(0xd, n, a, b, c, d);
		offset_of[n] = b;
	}
	if (sigaltstack(&ss, NULL) || !take_signals(true) || setitimer(ITIMER_REAL, &every, NULL)) {
		perror("signals");
		return false;
	}
	return true;
}

u8 *native_data(void)
{
	return data_alias;
}

u8 *native_code(void)
{
	return code_alias;
}
