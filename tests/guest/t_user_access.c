/*
 * What user code does to memory, wherever code, data and stack lie: every kind of access in loops, compared with the
 * same code run in ring 0 on the identity map. Faults: t_user_faults.c.
 */
#include "user64.h"

#define TURNS 13

static const u64 numbers[16] __attribute__((aligned(64))) = {
	0x3ff0000000000000, 0x4008000000000000, 0xbfe0000000000000, 0x40590000447a0000, /* doubles, floats in them */
	0x0102030405060708, 0x1122334455667788, 0x99aabbccddeeff00, 0x0000000100000002,
	0x400921fb54442d18, 0x3fb999999999999a, 0xc008000000000000, 0x4000000040400000,
	0x8080808080808080, 0x00ff00ff00ff00ff, 0x7fffffffffffffff, 0x0123456789abcdef,
};

enum { AVX = 1, AVX512, FAULTS };

/*
 * RBX, RSI and RDI point into the data, 0x400 bytes apart, RBP and RSP into the stack; FS and GS are based in the data.
 * R15 counts turns. Pointers to code do not stay in registers, nor any pointers in memory.
 */
#define CASES(X) \
	X(loads, 0, "movzbl (%rbx), %eax; addq %rax, %rdx; movb 5(%rbx), %dh; movswl 3(%rbx), %ecx; addq %rcx, %rdx\n" \
	  "movl 6(%rbx), %eax; addq %rax, %rdx; addq 9(%rbx), %rdx; movslq 17(%rbx), %rcx; xorq %rcx, %r8") \
	X(stores, 0, "movb %dl, (%rbx); movb %ch, 2(%rbx); movw %r8w, 3(%rbx); movl %r9d, 7(%rbx); movq %r10, 15(%rbx)\n" \
	  "movb $7, 23(%rbx); movw $0x1234, 24(%rbx); movl $0x12345678, 26(%rbx); movq $-3, 30(%rbx); incq %r10") \
	X(indexed, 0, "leal -1(%r15), %eax; andl $15, %eax; movq (%rbx,%rax,8), %rcx; addq %rcx, %r8\n" \
	  "movq %r8, 8(%rbx,%rax,4); movb %r15b, -8(%rax,%rbx); movl (%rsi,%rax,2), %ecx; addl %ecx, (%rdi,%rax)") \
	X(one_base, 0, "movq (%rbx), %rax; movq %rax, 8(%rbx); movq 16(%rbx), %rcx; addq %rax, 24(%rbx)\n" \
	  "movq %rcx, 0x40(%rbx); movzwl 0x7f(%rbx), %edx; movl %edx, -0x40(%rbx); movq 0x100(%rbx), %rax") \
	X(chased, 0, "movq %rsi, (%rbx); movq (%rbx), %rax; movq %rbx, 8(%rax); movq 8(%rax), %rcx; movq 16(%rcx), %rdx\n" \
	  "movq %rdx, (%rbx); movq %rdx, 8(%rsi); xorl %eax, %eax; xorl %ecx, %ecx") \
	X(high_bytes, 0, "movb (%rbx), %ah; movb %ah, 1(%rbx); addb 3(%rbx), %ch; movb %dh, 4(%rbx); xchgb %dh, 6(%rbx)") \
	X(rmw, 0, "addb $3, (%rbx); addw %cx, 3(%rbx); adcl %edx, 6(%rbx); subq %r8, 12(%rbx); sbbq $5, 21(%rbx)\n" \
	  "incb 30(%rbx); decw 31(%rbx); negl 34(%rbx); notq 39(%rbx); andb $0x77, 48(%rbx); orl %r9d, 50(%rbx)\n" \
	  "xorq %r10, 55(%rbx); setc 63(%rbx); rolq $3, 20(%rbx); shll $1, 6(%rbx); sarw $2, 3(%rbx)") \
	X(reading, 0, "cmpl %eax, (%rbx); setb %cl; testb $0x10, 3(%rbx); setz %ch; imull $7, 5(%rbx), %eax\n" \
	  "imulq 9(%rbx), %r8; addq %rax, %r8; xorq 17(%rbx), %r9; cmovcq 25(%rbx), %r10; subl 33(%rbx), %r11d\n" \
	  "adcq 35(%rbx), %r12; popcntq 45(%rbx), %r13; bsfq 3(%rbx), %r14") \
	X(muldiv, 0, "movl $0x7fff, %eax; mull 4(%rbx); addq %rdx, %r8; imulq 9(%rbx); xorq %rdx, %r9\n" \
	  "orb $0x80, (%rbx); movb $0x7f, %al; movzbl %al, %eax; divb (%rbx); movzwl %ax, %eax; movl $0, %edx") \
	X(bits, 0, "btl $5, (%rbx); adcl $0, %eax; btsl $9, 3(%rbx); adcl $0, %eax; movl $0x1f3, %ecx; btcl %ecx, (%rbx)\n" \
	  "adcl $0, %eax; movq $-70, %rcx; btrq %rcx, 9(%rbx); adcl $0, %eax; shldq $5, %r8, 20(%rbx); bswap %r8") \
	X(movbe, 0, "movbeq (%rbx), %rax; incq %rax; movbeq %rax, (%rbx); movbew 9(%rbx), %cx; movbel %ecx, 11(%rbx)") \
	X(lock, 0, "lock addl $3, (%rbx); lock incb 5(%rbx); lock xaddq %r8, 8(%rbx); lock andw $0x7fff, 16(%rbx)\n" \
	  "lock btsq $7, 24(%rbx); setc %cl; lock notl 32(%rbx); lock subq %r9, 40(%rbx); lock decw 48(%rbx)") \
	X(exchange, 0, "xchgb %al, (%rbx); xchgw %cx, 2(%rbx); xchgl %edx, 4(%rbx); xchgq %r8, 8(%rbx)\n" \
	  "xaddl %r9d, 16(%rbx); movq 24(%rbx), %rax; lock cmpxchgq %r10, 24(%rbx); setz %cl\n" \
	  "cmpxchgl %r11d, 32(%rbx); setz %ch; incq %r10") \
	X(cmpxchg8b, 0, "movq %rbx, %r14; movl (%rbx), %eax; movl 4(%rbx), %edx; movl $5, %ebx; leal (%r15,%rax), %ecx\n" \
	  "lock cmpxchg8b (%r14); setz %r8b; cmpxchg8b 8(%r14); movq %r14, %rbx; movl $0, %r14d") \
	X(cmpxchg16b, 0, "movq %rbx, %r14; movq (%rbx), %rax; movq 8(%rbx), %rdx; movl $5, %ebx; leaq (%r15,%rax), %rcx\n" \
	  "lock cmpxchg16b (%r14); setz %r8b; cmpxchg16b 0x20(%r14); setz %r9b; movq %r14, %rbx; movl $0, %r14d") \
	X(push_pop, 0, "pushq %r8; pushq $0x1234; pushq 8(%rbx); popq %rax; popq 16(%rbx); popq %rcx; pushw %cx; popw 24(%rbx)\n" \
	  "pushfq; popq %rdx; pushq %rdx; popfq; pushq $-5; popq %r9; addq %rax, %r8") \
	X(stack_mix, 0, "pushq %r8; pushq %r9; movq 8(%rsp), %rax; addq %rax, (%rsp); subq $24, %rsp; movq %r8, (%rsp)\n" \
	  "movl $9, 12(%rsp); movq 8(%rsp), %rcx; addq $24, %rsp; popq %r9; popq %r8; movq %rcx, -8(%rbp); addl %ecx, 4(%rbp)") \
	X(call_ret, 0, "call 1f; call 2f; leaq 1f(%rip), %rax; call *%rax; movl $0, %eax; pushq %rcx; pushq %rdx; call 3f; jmp 4f\n" \
	  "1: incl %ecx; ret\n2: addq %rcx, %rdx; call 1b; ret\n3: movq 8(%rsp), %r9; ret $16\n4: nop") \
	X(through_memory, 0, "leaq 1f(%rip), %rax; movq %rax, (%rbx); call *(%rbx); leaq 2f(%rip), %rax; movq %rax, 8(%rbx)\n" \
	  "jmp *8(%rbx); ud2\n1: incl %ecx; ret\n2: movq %rcx, (%rbx); movq %rcx, 8(%rbx); movq %rcx, %rax; " \
	  "leaq 3f(%rip), %r14; pushq %r14; ret; ud2\n3: movl $0, %r14d") \
	X(enter_leave, 0, "movq %rbp, %r14; leaq -0x40(%rsp), %rbp; movq %rcx, 8(%rbp); enter $24, $0; movq %r8, -8(%rbp)\n" \
	  "movq -8(%rbp), %rax; incq %rax; leave; enter $16, $3; movq %rax, -30(%rbp); leave; movq %r14, %rbp; " \
	  "movl $0, %r14d") \
	X(mov_strings, 0, "movq %rsi, %r13; movq %rdi, %r14; movsb; movsw; movsl; movsq; movl $19, %ecx; rep movsb\n" \
	  "movl $5, %ecx; rep movsq; lodsb; stosb; lodsl; stosl; movl $3, %ecx; rep stosw; movl $7, %ecx; rep lodsw\n" \
	  "movq %r13, %rsi; movq %r14, %rdi; movl $0, %r13d; movl $0, %r14d") \
	X(backwards, 0, "movq %rsi, %r13; movq %rdi, %r14; std; movsq; movl $9, %ecx; rep movsl; movl $11, %ecx; rep stosb; cld\n" \
	  "movq %r13, %rsi; movq %r14, %rdi; movl $0, %r13d; movl $0, %r14d") \
	X(compared_strings, 0, "movq %rsi, %r13; movq %rdi, %r14; movl $30, %ecx; movb 5(%rdi), %al; repne scasb; setz %dl\n" \
	  "movq %r14, %rdi; movq (%rsi), %r8; movq %r8, (%rdi); movl $20, %r9d; xchgl %ecx, %r9d; repe cmpsb; setb %dh\n" \
	  "addq %rcx, %r8; movq %r13, %rsi; movq %r14, %rdi; movl $0, %r13d; movl $0, %r14d") \
	X(xlat, 0, "movzbl %r15b, %eax; xlatb; addb %al, 3(%rbx); movzbl %al, %eax; crc32q 8(%rbx), %rdx") \
	X(fs_gs, 0, "movq %fs:0, %rax; addq %rax, %r8; movl %r15d, %ecx; andl $7, %ecx; movq %r8, %fs:8(,%rcx,8)\n" \
	  "lock incl %fs:0x50; addl $3, %gs:4; movzwl %gs:0x11(,%rcx,2), %edx; pushq %fs:0x18; popq %gs:0x20") \
	X(code_is_data, 0, "leaq 1f(%rip), %rax; movq (%rax), %rcx; addq 1f+3(%rip), %rcx; xorl %eax, %eax; jmp 2f\n" \
	  "1: .quad 0x1111222233334444, 0x5555666677778888\n2: movdqu 1b(%rip), %xmm4; paddd %xmm4, %xmm5") \
	X(sse_aligned, 0, "movaps (%rbx), %xmm0; addps 16(%rbx), %xmm0; movaps %xmm0, 32(%rbx); movdqa 48(%rbx), %xmm1\n" \
	  "paddd 16(%rbx), %xmm1; movdqa %xmm1, 64(%rbx); movntdq %xmm1, 80(%rbx); movntps %xmm1, 96(%rbx)") \
	X(sse_unaligned, 0, "movups 1(%rbx), %xmm0; movdqu 18(%rbx), %xmm1; paddq %xmm0, %xmm1; movups %xmm1, 35(%rbx)\n" \
	  "lddqu 52(%rbx), %xmm2; movdqu %xmm2, 70(%rbx); movupd %xmm1, 90(%rbx)") \
	X(sse_misaligned, FAULTS, "movups (%rbx), %xmm0; movaps %xmm0, 8(%rbx)") \
	X(sse_operand, FAULTS, "paddb 4(%rbx), %xmm3") \
	X(sse_parts, 0, "movd (%rbx), %xmm0; movq 4(%rbx), %xmm1; movss 12(%rbx), %xmm2; movsd 16(%rbx), %xmm3; movhps 24(%rbx), %xmm3\n" \
	  "movlps 32(%rbx), %xmm2; movd %xmm0, 40(%rbx); movq %xmm1, 44(%rbx); movhps %xmm3, 52(%rbx); movlpd %xmm2, 60(%rbx)\n" \
	  "movss %xmm2, 68(%rbx); pinsrw $3, 72(%rbx), %xmm0; pinsrq $1, 74(%rbx), %xmm1; pextrb $2, %xmm0, 82(%rbx)\n" \
	  "pmovzxbw 83(%rbx), %xmm5; movnti %rax, 92(%rbx); cvtsi2sdl 4(%rbx), %xmm6; addsd (%rbx), %xmm6; ucomisd (%rsi), %xmm6") \
	X(maskmov, 0, "movdqu (%rsi), %xmm0; movdqu 16(%rsi), %xmm1; maskmovdqu %xmm1, %xmm0") \
	X(mxcsr, 0, "stmxcsr (%rbx); ldmxcsr (%rbx); addl $0, (%rbx)") \
	X(fxsave_area, 0, "fxsave64 (%rbx); fxrstor64 (%rbx); movq $0, 8(%rbx); movq $0, 16(%rbx)") \
	X(x87_loads, 0, "fninit; fldl (%rbx); fadds 8(%rbx); fildq 12(%rbx); faddp; filds 20(%rbx); fmulp; fildl 22(%rbx); faddp\n" \
	  "fldt 30(%rbx); fstpt 44(%rbx); fstl 56(%rbx); fsts 64(%rbx); fistpl 68(%rbx); fldz; fisttpq 72(%rbx)\n" \
	  "fldpi; fbstp 80(%rbx); fbld 80(%rbx); fstpt 96(%rbx); fnstcw 112(%rbx); fldcw 112(%rbx); fnstsw 114(%rbx); fnclex") \
	X(x87_environment, 0, "fninit; fld1; fnstenv (%rbx); fldenv (%rbx); fnsave 32(%rbx); frstor 32(%rbx); fstpl 160(%rbx)\n" \
	  "movl $0, 12(%rbx); movl $0, 20(%rbx); movl $0, 44(%rbx); movl $0, 52(%rbx)") \
	X(mmx, 0, "movq (%rbx), %mm0; paddb 8(%rbx), %mm0; movq %mm0, 17(%rbx); movd 25(%rbx), %mm1; movd %mm1, 29(%rbx); emms") \
	X(avx, AVX, "vmovups (%rbx), %ymm0; vaddps 32(%rbx), %ymm0, %ymm1; vmovdqu %ymm0, 65(%rbx); vmovups 97(%rbx), %xmm2\n" \
	  "vpaddd 3(%rbx), %ymm0, %ymm3; vmovdqu %ymm3, 128(%rbx); vbroadcastss 7(%rbx), %ymm4; vmovups %ymm4, 170(%rbx)\n" \
	  "vinsertf128 $1, 5(%rbx), %ymm0, %ymm5; vextractf128 $1, %ymm5, 40(%rbx); vzeroupper") \
	X(avx_aligned, AVX, "vmovaps (%rbx), %ymm0; vmovdqa 32(%rbx), %ymm1; vmovaps %ymm0, 64(%rbx); vmovntdq %ymm1, 96(%rbx); vzeroupper") \
	X(avx_masked, AVX, "vmovdqu (%rsi), %ymm0; vmovdqu 32(%rsi), %ymm1; vmaskmovps %ymm0, %ymm1, (%rbx); vmaskmovps 32(%rbx), %ymm1, %ymm2\n" \
	  "vpmaskmovq %ymm2, %ymm1, 65(%rbx); vzeroupper") \
	X(avx_gather, AVX, "vpcmpeqd %ymm1, %ymm1, %ymm1; vpcmpeqd %ymm0, %ymm0, %ymm0; vpsrld $26, %ymm0, %ymm0\n" \
	  "vpgatherdd %ymm1, (%rbx,%ymm0,2), %ymm2; vmovdqu %ymm2, (%rbx); vzeroupper") \
	X(avx512, AVX512, "vmovdqu64 (%rbx), %zmm0; vpaddd 64(%rbx), %zmm0, %zmm1; vmovdqu64 %zmm1, 131(%rbx)\n" \
	  "movl $0x5a5a, %eax; kmovw %eax, %k1; vmovdqu32 %zmm0, 200(%rbx){%k1}; vmovdqu8 7(%rbx), %zmm2{%k1}{z}\n" \
	  "vpaddq 8(%rbx){1to8}, %zmm2, %zmm2; vmovdqu64 %zmm2, (%rbx); kmovw %k1, 70(%rbx); vzeroupper")

#define CODE(name, needs, text) USER_CODE(c_##name, "9: " text "\ndecl %r15d; jnz 9b" END);
CASES(CODE)
static const struct access { const char *name; const u8 *code; int needs; } cases[] = {
#define ROW(name, needs, text) {#name, c_##name, needs},
	CASES(ROW)
};
#define NR_CASES (sizeof(cases) / sizeof(cases[0]))

/* --- Memory --------------------------------------------------------------------------------------------------------- */

/* Three pages of data and two of stack: once in a row, for ring 0, and for ring 3 with their frames in reverse order. */
#define DATA_PAGES 3
#define PAGES 5
#define REFERENCE FRAME(32)
#define PATTERN FRAME(40) /* what is in them at first */
#define USED(r) (48 + 8 * (r)) /* the first of a range's frames */
#define WINDOW 0x280u /* compared around each pointer, from 0x80 bytes before it on */

static u64 root;

struct place {
	u64 data, stack;
	u64 frame[PAGES];
};

static struct place reference;
static struct place user[NR_RANGES];

static void make_places(void)
{
	reference.data = REFERENCE;
	reference.stack = REFERENCE + DATA_PAGES * 4096;
	for (unsigned p = 0; p < PAGES; p++)
		reference.frame[p] = REFERENCE + p * 4096;
	for (unsigned r = 0; r < NR_RANGES; r++) {
		struct place *u = &user[r];

		u->data = USER_DATA(r, 0);
		u->stack = user_range[r] + 0x90000;
		for (unsigned p = 0; p < PAGES; p++) {
			u->frame[p] = FRAME(USED(r) + PAGES - p);
			user_map(root, (p < DATA_PAGES ? u->data : u->stack - DATA_PAGES * 4096) + p * 4096,
				 u->frame[p] | RW | PG_NX);
		}
	}
}

/* Offsets that a run uses, in the five pages. */
struct offsets { unsigned data, stack; };
static const struct offsets offsets[] = {
	{0x100, 0x3200}, {0x10b, 0x4004}, {0xff9, 0x4013}, {0xfe4, 0x3f02}, {0x7fb, 0x4200}, {0xbfd, 0x4018},
};
#define NR_OFFSETS 6

/* The pieces that pointers point to: where they begin. */
static unsigned piece(const struct offsets *o, unsigned n)
{
	return ((n < 3 ? o->data + n * 0x400 : o->stack) - 0x80) & ~7u;
}

static void fill(const struct place *p, const struct offsets *o)
{
	for (unsigned n = 0; n < 4; n++)
		for (unsigned at = piece(o, n), end = at + WINDOW, size; at < end; at += size) {
			size = end - at < 4096 - at % 4096 ? end - at : 4096 - at % 4096;
			memcpy((void *)(p->frame[at / 4096] + at % 4096), (void *)(PATTERN + at), size);
		}
}

static bool compare_memory(const char *what, const struct place *p, unsigned from, unsigned end)
{
	for (unsigned at = from & ~7u, size; at < end; at += size) {
		size = end - at < 4096 - at % 4096 ? end - at : 4096 - at % 4096;
		if (!same_bytes(what, (u8 *)(p->frame[at / 4096] + at % 4096), (u8 *)(REFERENCE + at), size))
			return false;
	}
	return true;
}

/* --- Runs ------------------------------------------------------------------------------------------------------------- */

static u8 fx_start[512] __attribute__((aligned(16))), fx_end[2][512] __attribute__((aligned(16)));

static void run(struct user *u, const struct place *p, const struct offsets *o, u64 rip, bool ring0)
{
	u64 data = p->data + o->data, stack = p->stack + o->stack - DATA_PAGES * 4096;

	fill(p, o);
	user_set(u, rip, stack);
	u->f.rbx = data;
	u->f.rsi = data + 0x400;
	u->f.rdi = data + 0x800;
	u->f.rbp = stack + 0x40;
	u->f.r15 = TURNS;
	if (ring0) {
		u->f.cs = 8;
		u->f.ss = 0x10;
	}
	wrmsr(MSR_FS_BASE, data + 0x420);
	wrmsr(MSR_GS_BASE, data + 0x810);
	asm volatile("fxrstor64 (%0)" : : "r"(fx_start) : "memory");
	user_run(u);
	asm volatile("fxsave64 (%0); fninit" : : "r"(fx_end[!ring0]) : "memory");
}

static const char *const reg_names[15] = {
	"R15", "R14", "R13", "R12", "R11", "R10", "R9", "R8", "RDI", "RSI", "RBP", "RBX", "RDX", "RCX", "RAX",
};

/* A value of the reference as it must be elsewhere: those of pointers differ. */
static u64 moved(u64 v, const struct place *p)
{
	return v - reference.data < DATA_PAGES * 4096 ? v - reference.data + p->data :
	       v - reference.stack < (PAGES - DATA_PAGES) * 4096 ? v - reference.stack + p->stack : v;
}

static void compare(const struct user *got, const struct user *want, const struct place *p, const struct offsets *o,
		    u64 code)
{
	const u64 *g = (u64 *)&got->f, *w = (u64 *)&want->f;
	bool ok = true;

	for (unsigned n = 0; n < 15; n++)
		ok &= same(reg_names[n], g[n], moved(w[n], p));
	ok &= same("vector", got->f.vector, want->f.vector);
	ok &= same("error code", got->f.error, want->f.error);
	ok &= same("RIP", got->f.rip, want->f.rip + code);
	ok &= same("RSP", got->f.rsp, moved(want->f.rsp, p));
	if (want->f.vector == 0x80)
		ok &= same("RFLAGS", got->f.rflags, want->f.rflags);
	for (unsigned n = 0; ok && n < 64; n++)
		if (n > 2) /* those are what x87 instruction it was, and where */
			ok &= same("FXSAVE area", ((u64 *)fx_end[1])[n], ((u64 *)fx_end[0])[n]);
	for (unsigned n = 0; ok && n < 4; n++)
		ok &= compare_memory(n < 3 ? "data" : "stack", p, n < 3 ? piece(o, n) : o->stack + 7, piece(o, n) + WINDOW);
}

static void test_case(const struct access *c)
{
	struct user want, got;

	test_begin(c->name);
	for (unsigned n = 0; n < NR_OFFSETS; n++) {
		const struct offsets *o = &offsets[n];

		run(&want, &reference, o, (u64)c->code, true);
		if (n == 0 || c->needs == FAULTS)
			same("vector of the reference", want.f.vector, c->needs == FAULTS ? 13 : 0x80);
		for (unsigned code = 0; code < NR_RANGES; code += code == 2 ? 3 : 2)
			for (unsigned r = 0; r < NR_RANGES; r++) {
				now.code = USER_CODE_AT(code, c->code);
				now.at = user[r].data + o->data;
				now.more = o->stack;
				run(&got, &user[r], o, now.code, false);
				compare(&got, &want, &user[r], o, now.code - (u64)c->code);
			}
	}
	test_end();
}

void guest_main(void)
{
	root = user_begin();
	make_places();
	for (unsigned at = 0; at < PAGES * 4096; at += 8)
		*(u64 *)(PATTERN + at) = numbers[at / 8 & 15] + (at & 0x1040);
	int vectors = user_vectors();
	asm volatile("fninit; fxsave64 (%0)" : : "r"(fx_start) : "memory");
	memcpy(fx_start + 160, numbers, sizeof(numbers));
	for (unsigned n = 0; n < NR_CASES; n++) {
		if (cases[n].needs == FAULTS || cases[n].needs <= vectors) {
			test_case(&cases[n]);
			continue;
		}
		print("ok - ");
		print(cases[n].name);
		print(" # SKIP not in CPUID\n");
	}
}
