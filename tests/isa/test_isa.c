/*
 * Every row of the instruction table: random instructions and states, the host's processor against the engines.
 *
 *   test_isa [--engine NAME] [--seed N] [--cases N] [--row NAME] [--isa NAME] [--case N] [--verbose]
 *
 * --engine  interp or jit, which has no cases in 16-bit code; without it they take turns
 * --cases   cases per row (1000); a soak is the same with more
 * --row     only the rows of that name; --isa: only those behind that CPUID gate
 * --case    only that case of each row, as a report names it
 * Prints TAP, a test per CPUID gate; the first difference of a row with all that differs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"

static struct {
	u64 seed, cases;
	const char *row, *isa;
	s64 only_case;
	bool verbose;
	int engine;
} opt = {.seed = 1, .cases = 1000, .only_case = -1, .engine = -1};

static const char *const engine_names[NR_ENGINE] = {[ENGINE_INTERP] = "interp", [ENGINE_JIT] = "jit"};

static const char *const isa_names[NR_ISA] = {
#define ISA(name, leaf, subleaf, reg, bit) [ISA_##name] = #name,
#include "cpu/isa.def"
#undef ISA
};

struct row_result {
	u64 ran;      /* cases that both ran and that the decoder took for this row */
	u64 retired;  /* ... and that did not fault */
	u64 unsafe;   /* not run natively: would have left the window */
	u64 elsewhere; /* the decoder took them for another row or for nothing */
	u64 failed;
};

/* Retired on the host, by code size. */
static u64 retired16, retired32, retired64;

struct tally {
	unsigned rows, covered, faults_only, failed, excluded;
	u64 cases;
};

static u64 case_seed(unsigned row, u64 n)
{
	return opt.seed * 0x9e3779b97f4a7c15 ^ (u64)row << 40 ^ n;
}

static void place_code(const struct test_case *t, bool remove)
{
	u8 *at = native_code() + (t->code_base + t->in.rip - CODE_BASE);

	memset(at, CODE_FILL, 16);
	if (remove)
		return;
	memcpy(at, t->bytes, t->len);
	/* A load of SS lets one more instruction through, on the host too. */
	if (t->decoded && (insn_rows[t->insn.row].attr & A_SHADOW) &&
	    (t->insn.opcode == 0x17 || (t->insn.reg & 7) == SEG_SS))
		at[t->len] = 0x90;
}

static bool in_windows(u64 a)
{
	return a - DATA_WINDOW < WINDOW_SIZE || a - CODE_WINDOW < WINDOW_SIZE;
}

/* What the engine did tells whether the instruction stays within the windows, where it harms nothing. */
static bool safe_natively(const struct outcome *ours)
{
	if (ours->vector == VEC_PF)
		return in_windows(ours->cr2);
	return ours->vector != NO_VECTOR || in_windows(ours->s.rip + (ours->s.cs == SEL_CS16 ? CODE16_BASE : 0));
}

/* The translator leaves 16-bit code to the interpreter. */
static enum engine pick_engine(const struct test_case *t, u64 n)
{
	if (opt.engine >= 0)
		return (enum engine)opt.engine;
	return t->bits != 16 && n & 1 ? ENGINE_JIT : ENGINE_INTERP;
}

static void one_case(unsigned row, u64 n, struct row_result *res)
{
	static struct test_case t;
	static struct outcome host, ours;

	rng_seed(case_seed(row, n));
	data_restore();
	t.row = &insn_rows[row];
	generate(&t);
	enum engine engine = pick_engine(&t, n);
	if (engine == ENGINE_JIT && t.bits == 16)
		return;
	t.decoded = decode(&t.insn, t.bytes, t.len, t.bits) == DECODE_OK;
	if (t.decoded)
		t.len = t.insn.len; /* VEX with a reserved vvvv is LDS outside of 64-bit code, and shorter */
	if (opt.only_case >= 0)
		print_case(&t);
	place_code(&t, false);
	guest_run(&t, engine, &ours);
	if (ours.vector >= NO_VECTOR && !safe_natively(&ours)) {
		res->unsafe++;
		place_code(&t, true);
		return;
	}
	native_run(&t, &host);
	place_code(&t, true);
	if (t.decoded && t.insn.row == row) {
		res->ran++;
		if (host.vector == NO_VECTOR) {
			res->retired++;
			*(t.bits == 16 ? &retired16 : t.bits == 32 ? &retired32 : &retired64) += 1;
		}
	} else {
		res->elsewhere++;
	}
	if (!outcomes_differ(&t, &host, &ours))
		return;
	if (!res->failed++ || opt.verbose) {
		printf("# %s (row %u): the host and the engine differ; --engine %s --seed %llu --row %s --case %llu\n",
		       t.row->name, row, engine_names[engine], (unsigned long long)opt.seed, t.row->name,
		       (unsigned long long)n);
		print_differences(&t, &host, &ours);
	}
}

static bool row_selected(const struct insn_row *r)
{
	return (!opt.row || !strcmp(opt.row, r->name)) && (!opt.isa || !strcmp(opt.isa, isa_names[r->isa]));
}

static void one_row(unsigned row, struct tally *sum)
{
	const struct insn_row *r = &insn_rows[row];
	const char *why = row_excluded(r);
	struct row_result res = {0};

	sum->rows++;
	if (why) {
		sum->excluded++;
		printf("# not run: %s (%s)\n", r->name, why);
		return;
	}
	if (opt.only_case >= 0)
		one_case(row, (u64)opt.only_case, &res);
	else
		/* Cases that the table gives to another row do not count: there are a few more tries. */
		for (u64 n = 0; res.ran < opt.cases && n < 2 * opt.cases + 100 && res.failed < 50; n++)
			one_case(row, n, &res);
	sum->cases += res.ran;
	sum->failed += res.failed != 0;
	if (res.failed)
		printf("# %s (row %u): %llu of %llu cases differ\n", r->name, row, (unsigned long long)res.failed,
		       (unsigned long long)(res.ran + res.elsewhere));
	if (!res.ran) {
		printf("# not covered: %s (row %u): no case of it could be run (%llu decoded otherwise, %llu unsafe)\n",
		       r->name, row, (unsigned long long)res.elsewhere, (unsigned long long)res.unsafe);
		return;
	}
	sum->covered++;
	if (!res.retired) {
		sum->faults_only++;
		printf("# faults only: %s (row %u)\n", r->name, row);
	}
	if (opt.verbose)
		printf("# %s (row %u): %llu cases, %llu retired, %llu decoded otherwise, %llu unsafe\n", r->name, row,
		       (unsigned long long)res.ran, (unsigned long long)res.retired, (unsigned long long)res.elsewhere,
		       (unsigned long long)res.unsafe);
}

static struct tally one_group(unsigned isa)
{
	struct tally sum = {0};

	for (unsigned row = 0; row < nr_insn_rows; row++)
		if (insn_rows[row].isa == isa && row_selected(&insn_rows[row]))
			one_row(row, &sum);
	return sum;
}

/* Of that name; -1: there is none. */
static int engine_of(const char *name)
{
	int e = NR_ENGINE;

	while (--e >= 0 && strcmp(name, engine_names[e]))
		;
	return e;
}

static bool parse_options(int argc, char **argv)
{
	for (int n = 1; n < argc; n++) {
		const char *value = n + 1 < argc ? argv[n + 1] : NULL;
		if (!strcmp(argv[n], "--verbose")) {
			opt.verbose = true;
			continue;
		}
		if (!value)
			return false;
		if (!strcmp(argv[n], "--seed"))
			opt.seed = strtoull(value, NULL, 0);
		else if (!strcmp(argv[n], "--cases"))
			opt.cases = strtoull(value, NULL, 0);
		else if (!strcmp(argv[n], "--case"))
			opt.only_case = (s64)strtoull(value, NULL, 0);
		else if (!strcmp(argv[n], "--row"))
			opt.row = value;
		else if (!strcmp(argv[n], "--isa"))
			opt.isa = value;
		else if (!strcmp(argv[n], "--engine") && engine_of(value) >= 0)
			opt.engine = engine_of(value);
		else
			return false;
		n++;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct tally all = {0};
	unsigned tests = 0;
	bool failed = false;

	if (!parse_options(argc, argv)) {
		fprintf(stderr, "usage: %s [--engine interp|jit] [--seed N] [--cases N] [--row NAME] [--isa NAME] "
			"[--case N] [--verbose]\n", argv[0]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!native_map() || !guest_init() || !native_init())
		return 1;
	data_init();
	for (unsigned isa = 0; isa < NR_ISA; isa++) {
		struct tally t = one_group(isa);
		if (!t.rows)
			continue;
		bool ok = !t.failed && t.covered + t.excluded == t.rows;
		printf("%sok %u - %s: %u rows, %llu cases\n", ok ? "" : "not ", ++tests, isa_names[isa], t.rows,
		       (unsigned long long)t.cases);
		failed |= !ok;
		all.rows += t.rows;
		all.covered += t.covered;
		all.faults_only += t.faults_only;
		all.failed += t.failed;
		all.excluded += t.excluded;
		all.cases += t.cases;
	}
	printf("1..%u\n", tests);
	printf("# rows covered %u of %u (%u of them by their faults alone), %u not for user mode, %u differ; %llu "
	       "cases, seed %llu\n",
	       all.covered, all.rows, all.faults_only, all.excluded, all.failed, (unsigned long long)all.cases,
	       (unsigned long long)opt.seed);
	printf("# retired without a fault: %llu in 64-bit, %llu in 32-bit, %llu in 16-bit code\n",
	       (unsigned long long)retired64, (unsigned long long)retired32, (unsigned long long)retired16);
	if (!native_has_16bit())
		printf("# 16-bit code not covered: the host's kernel gives out no 16-bit segments\n");
	return failed || !tests;
}
