/* Two outcomes side by side. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "isa.h"

#define FL_COMPARED (FL_ARITH | FL_TF | FL_IF | FL_DF | FL_NT | FL_AC | FL_ID)

static FILE *report; /* NULL: only whether they differ */
static bool differs;

static void difference(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void difference(const char *format, ...)
{
	va_list ap;

	differs = true;
	if (!report)
		return;
	fputs("#   ", report);
	va_start(ap, format);
	vfprintf(report, format, ap);
	va_end(ap);
	fputc('\n', report);
}

static void compare64(const char *name, unsigned n, u64 in, u64 host, u64 ours)
{
	if (host != ours)
		difference("%s%u: %016llx -> host %016llx, engine %016llx", name, n, (unsigned long long)in,
			   (unsigned long long)host, (unsigned long long)ours);
}

static const char *hex(char *to, const u8 *p, unsigned size)
{
	for (unsigned n = 0; n < size; n++)
		sprintf(to + 2 * n, "%02x", p[size - 1 - n]);
	return to;
}

static void compare_bytes(const char *name, unsigned n, const u8 *in, const u8 *host, const u8 *ours, unsigned size)
{
	char a[129], b[129], c[129];

	if (!memcmp(host, ours, size))
		return;
	difference("%s%u: %s", name, n, hex(a, in, size));
	difference("  -> host        %s", hex(b, host, size));
	difference("     engine %s", hex(c, ours, size));
}

static void compare_gprs(const struct test_case *t, const struct state *host, const struct state *ours)
{
	static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"};
	/* What becomes of the upper halves outside of 64-bit mode is undefined (SDM vol. 1, 3.4.1.1). */
	u64 mask = t->bits == 64 && host->cs == SEL_CS64 ? ~0ull : 0xffffffff;

	for (unsigned n = 0; n < (t->bits == 64 ? 16u : 8u); n++)
		if ((host->gpr[n] ^ ours->gpr[n]) & mask)
			difference("%s%.0u: %016llx -> host %016llx, engine %016llx", n < 8 ? names[n] : "r",
				   n < 8 ? 0 : n, (unsigned long long)t->in.gpr[n], (unsigned long long)host->gpr[n],
				   (unsigned long long)ours->gpr[n]);
}

static void compare_flags(const struct test_case *t, const struct outcome *host, const struct outcome *ours)
{
	u64 mask = FL_COMPARED;

	if (host->vector == NO_VECTOR && t->decoded)
		mask &= ~(u64)insn_rows[t->insn.row].flags_undefined;
	if ((host->s.rflags ^ ours->s.rflags) & mask)
		difference("rflags: %06llx -> host %06llx, engine %06llx (differ in %llx)",
			   (unsigned long long)t->in.rflags, (unsigned long long)host->s.rflags,
			   (unsigned long long)ours->s.rflags,
			   (unsigned long long)((host->s.rflags ^ ours->s.rflags) & mask));
}

static void compare_segments(const struct state *in, const struct state *host, const struct state *ours)
{
	const struct {
		const char *name;
		u16 in, host, ours;
	} s[] = {
		{"cs", in->cs, host->cs, ours->cs}, {"ds", in->ds, host->ds, ours->ds},
		{"es", in->es, host->es, ours->es}, {"fs", in->fs, host->fs, ours->fs},
		{"gs", in->gs, host->gs, ours->gs}, {"ss", in->ss, host->ss, ours->ss},
	};

	/* The host kernel's IRET makes any null selector 0 (SDM vol. 2A, IRET: a segment below the new CPL). */
	for (unsigned n = 0; n < ARRAY_SIZE(s); n++)
		if (s[n].host != s[n].ours && (s[n].host || s[n].ours > 3))
			difference("%s: %04x -> host %04x, engine %04x", s[n].name, s[n].in, s[n].host, s[n].ours);
	compare64("fs.base", 0, in->fs_base, host->fs_base, ours->fs_base);
	compare64("gs.base", 0, in->gs_base, host->gs_base, ours->gs_base);
}

/* Bytes of register @n that count: above the vector of a gather that faults half way may be cleared or not. */
static unsigned vector_bytes(const struct test_case *t, int vector, unsigned n)
{
	const struct insn *i = &t->insn;

	if (vector == NO_VECTOR || !t->decoded || !strstr(insn_rows[i->row].name, "gather") || n != i->reg)
		return 64;
	unsigned index = i->opcode & 1 ? 8 : 4, element = i->w ? 8 : 4;
	return (16u << i->l) / MAX(index, element) * element;
}

static void compare_fpu(const struct test_case *t, int vector, const struct state *host, const struct state *ours)
{
	const struct state *in = &t->in;

	for (unsigned n = 0; n < 32; n++)
		compare_bytes("zmm", n, in->zmm[n], host->zmm[n], ours->zmm[n], vector_bytes(t, vector, n));
	for (unsigned n = 0; n < 8; n++)
		compare64("k", n, in->k[n], host->k[n], ours->k[n]);
	if (host->mxcsr != ours->mxcsr)
		difference("mxcsr: %05x -> host %05x, engine %05x", in->mxcsr, host->mxcsr, ours->mxcsr);
	/* Control, status, tags. The last instruction and its operand are not kept by every processor. */
	compare_bytes("x87 control", 0, in->x87, host->x87, ours->x87, 5);
	for (unsigned n = 0; n < 8; n++)
		compare_bytes("st", n, in->x87 + 32 + 16 * n, host->x87 + 32 + 16 * n, ours->x87 + 32 + 16 * n, 10);
}

/* FXSAVE and XSAVE tell which bits of MXCSR there are: ours has no misaligned SSE mode. */
static bool is_mxcsr_mask(u64 host, u64 ours)
{
	return ((host ^ ours) & ~(0x2ull << 48)) == 0 && ours >> 32 == 0xffff;
}

static void compare_memory(void)
{
	const u8 *host = native_data(), *ours = guest_data();

	if (!memcmp(host, ours, DATA_SIZE))
		return;
	for (unsigned n = 0, told = 0; n < DATA_SIZE && told < 4; n += 8) {
		u64 a, b;
		memcpy(&a, host + n, 8);
		memcpy(&b, ours + n, 8);
		if (a == b || is_mxcsr_mask(a, b))
			continue;
		told++;
		difference("memory at %x: host %016llx, engine %016llx", DATA_BASE + n, (unsigned long long)a,
			   (unsigned long long)b);
	}
}

static const char *vector_name(int v, char buf[32])
{
	static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",
					    "#TS", "#NP", "#SS", "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM"};
	if (v == NO_VECTOR)
		return "none";
	if (v == VECTOR_HANG)
		return "no end";
	if (v == VECTOR_CRASH)
		return "a fault of the engine itself";
	if (v >= 0 && v < (int)ARRAY_SIZE(names))
		return names[v];
	sprintf(buf, v < 0 ? "exit %d" : "vector %d", v < 0 ? -(v - VECTOR_HANG + 10) : v);
	return buf;
}

static void compare_all(const struct test_case *t, const struct outcome *host, const struct outcome *ours)
{
	char a[32], b[32];

	if (host->vector != ours->vector) {
		difference("exception: host %s (%x), engine %s (%x)", vector_name(host->vector, a), host->error,
			   vector_name(ours->vector, b), ours->error);
		if (host->vector < NO_VECTOR || ours->vector < NO_VECTOR)
			return;
	} else if (host->error != ours->error) {
		difference("%s error code: host %x, engine %x", vector_name(host->vector, a), host->error,
			   ours->error);
	}
	/* Of a large operand, a fault may name any byte in the page. */
	bool large = t->decoded &&
		     ((t->insn.is_mem && (t->insn.mem_size > 64 || !t->insn.mem_size || (t->insn.mem_size & 3))) ||
		      strstr(insn_rows[t->insn.row].name, "maskmov"));
	u64 cr2_mask = large ? PAGE_MASK : ~0ull;
	compare64("cr", 2, 0, host->cr2 & cr2_mask, ours->cr2 & cr2_mask);
	compare64("rip", 0, t->in.rip, host->s.rip, ours->s.rip);
	compare_gprs(t, &host->s, &ours->s);
	compare_flags(t, host, ours);
	compare_segments(&t->in, &host->s, &ours->s);
	compare_fpu(t, host->vector, &host->s, &ours->s);
	compare_memory();
}

bool outcomes_differ(const struct test_case *t, const struct outcome *host, const struct outcome *ours)
{
	report = NULL;
	differs = false;
	compare_all(t, host, ours);
	return differs;
}

void print_case(const struct test_case *t)
{
	ZydisDisassembledInstruction d;
	ZydisMachineMode mode = t->bits == 64	? ZYDIS_MACHINE_MODE_LONG_64
				: t->bits == 32 ? ZYDIS_MACHINE_MODE_LEGACY_32
						: ZYDIS_MACHINE_MODE_LEGACY_16;
	bool ok = ZYAN_SUCCESS(ZydisDisassembleIntel(mode, t->in.rip, t->bytes, t->len, &d));

	printf("#   %u-bit at %llx:", t->bits, (unsigned long long)t->in.rip);
	for (unsigned n = 0; n < t->len; n++)
		printf(" %02x", t->bytes[n]);
	printf("  %s\n", ok ? d.text : "(not an instruction to Zydis)");
	printf("#   decoded as %s\n", t->decoded ? insn_rows[t->insn.row].name : "nothing");
}

static void print_inputs(const struct test_case *t)
{
	for (unsigned n = 0; n < (t->bits == 64 ? 16u : 8u); n++)
		printf("%s%2u %016llx%s", n % 4 ? "  " : "#   in r", n, (unsigned long long)t->in.gpr[n],
		       n % 4 == 3 ? "\n" : "");
	printf("#   in rflags %llx mxcsr %x fs.base %llx gs.base %llx fcw %02x%02x fsw %02x%02x\n",
	       (unsigned long long)t->in.rflags, t->in.mxcsr, (unsigned long long)t->in.fs_base,
	       (unsigned long long)t->in.gs_base, t->in.x87[1], t->in.x87[0], t->in.x87[3], t->in.x87[2]);
}

static void print_stack(const struct test_case *t)
{
	u64 at = (t->bits == 64   ? t->in.gpr[RSP]
		  : t->bits == 32 ? (u32)t->in.gpr[RSP]
				  : (u16)t->in.gpr[RSP]) +
		 t->data_base - DATA_BASE;

	if (at > DATA_SIZE - 40)
		return;
	printf("#   at rSP, afterwards:");
	for (unsigned n = 0; n < 5; n++) {
		u64 v;
		memcpy(&v, native_data() + at + 8 * n, 8);
		printf(" %016llx", (unsigned long long)v);
	}
	printf("\n");
}

void print_differences(const struct test_case *t, const struct outcome *host, const struct outcome *ours)
{
	char a[32];

	print_case(t);
	print_inputs(t);
	print_stack(t);
	report = stdout;
	if (host->vector == ours->vector)
		printf("#   exception %s\n", vector_name(host->vector, a));
	compare_all(t, host, ours);
	report = NULL;
}
