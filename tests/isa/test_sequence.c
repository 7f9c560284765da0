/*
 * Random programs, run from the same state by the interpreter and by the translator (twice: the second time over blocks
 * that are linked): straight lines of every kind of instruction, branches, bounded loops, calls, indirect jumps, faults
 * in the middle, code that writes code.
 *
 *   test_sequence [--seed N] [--cases N] [--bits 32|64] [--case N]
 *
 * --bits    only programs of that kind; without it the two are tested one after the other
 * --case    only that one, with its code; needs --bits
 * What differs is cut down to the instructions that it takes. Prints TAP.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include <Zydis/Zydis.h>

#include "engine/jit/tr.h"
#include "sequence.h"

static struct {
	u64 seed, cases;
	s64 only_case;
	unsigned bits;
} opt = {.seed = 1, .cases = 4000, .only_case = -1};

struct result {
	struct outcome o;
	u8 data[DATA_SIZE], code[CODE_SIZE];
};

static u64 ended[32]; /* by vector */
static unsigned endless;

static void run(const struct program *p, enum engine e, struct result *r)
{
	memcpy(guest_data(), p->data, DATA_SIZE);
	memcpy(native_code(), p->code, CODE_SIZE);
	guest_run_to_fault(&p->in, p->bits, e, &r->o);
	memcpy(r->data, guest_data(), DATA_SIZE);
	memcpy(r->code, native_code(), CODE_SIZE);
}

/*
 * Flags that can matter after a fault at @rip: those that the code there reads, or leaves alone up to where it is not
 * followed any more. The translator does not keep the others up to date where an instruction may fault.
 */
static u64 flags_live(const struct program *p, const struct result *r, u64 rip)
{
	u64 live = 0, open = FL_ARITH;

	for (unsigned n = 0; n < 100 && open; n++) {
		struct insn i;
		u64 at = rip - p->base - CODE_BASE;
		if (at > CODE_SIZE - 16 || decode(&i, r->code + at, 15, p->bits) != DECODE_OK)
			return live | open;
		const struct insn_row *row = &insn_rows[i.row];
		live |= insn_flags_read(&i) & open;
		open &= ~(u64)(row->flags_written | row->flags_undefined);
		bool stack = row->sem == &sem_push_e || row->sem == &sem_push_i || row->sem == &sem_pop_r ||
			     row->sem == &sem_leave;
		if (row->class_ != CLASS_COPY && !stack && !tr_is_other(&i))
			return live | open;
		rip += i.len;
	}
	return live;
}

/* --- Comparison ----------------------------------------------------------------------------------------------- */

static bool tell; /* print what differs */

static bool differ(const char *what, unsigned n, const void *a, const void *b, unsigned size)
{
	const u8 *x = a, *y = b;

	if (!memcmp(a, b, size))
		return false;
	if (tell) {
		printf("#   %s%u: interp ", what, n);
		for (unsigned k = size; k--;)
			printf("%02x", x[k]);
		printf(" jit ");
		for (unsigned k = size; k--;)
			printf("%02x", y[k]);
		printf("\n");
	}
	return true;
}

static bool memory_differs(const char *what, const u8 *a, const u8 *b, unsigned size)
{
	for (unsigned n = 0; n < size; n += 8)
		if (differ(what, n, a + n, b + n, 8))
			return true;
	return false;
}

static bool results_differ(const struct program *p, const struct result *a, const struct result *b)
{
	const struct state *x = &a->o.s, *y = &b->o.s;
	u64 mask = ~FL_ARITH | (flags_live(p, a, x->rip) & ~program_undefined_flags(p, x->rip));
	u64 fx = x->rflags & mask, fy = y->rflags & mask;
	bool d = false;

	d |= differ("vector", 0, &a->o.vector, &b->o.vector, 4);
	d |= differ("error", 0, &a->o.error, &b->o.error, 4);
	d |= differ("cr", 2, &a->o.cr2, &b->o.cr2, 8);
	d |= differ("rip", 0, &x->rip, &y->rip, 8);
	d |= differ("rflags", 0, &fx, &fy, 4);
	for (unsigned n = 0; n < 16; n++)
		d |= differ("r", n, &x->gpr[n], &y->gpr[n], 8);
	for (unsigned n = 0; n < 32; n++)
		d |= differ("zmm", n, x->zmm[n], y->zmm[n], 64);
	for (unsigned n = 0; n < 8; n++) {
		d |= differ("k", n, &x->k[n], &y->k[n], 8);
		d |= differ("st", n, x->x87 + 32 + 16 * n, y->x87 + 32 + 16 * n, 10);
	}
	d |= differ("x87 control", 0, x->x87, y->x87, 5);
	d |= differ("mxcsr", 0, &x->mxcsr, &y->mxcsr, 4);
	d |= differ("fs.base", 0, &x->fs_base, &y->fs_base, 8);
	d |= differ("gs.base", 0, &x->gs_base, &y->gs_base, 8);
	d |= memory_differs("data + ", a->data, b->data, DATA_SIZE);
	d |= memory_differs("code + ", a->code, b->code, CODE_SIZE);
	return d;
}

/* 0: they agree; 1 or 2: not on the translator's first or second run; -1: the interpreter came to no end. */
static int compare(const struct program *p)
{
	static struct result interp, jit;

	run(p, ENGINE_INTERP, &interp);
	if (interp.o.vector == VECTOR_HANG)
		return -1;
	if (interp.o.vector >= 0 && !tell)
		ended[interp.o.vector & 31]++;
	guest_code_changed();
	for (int n = 1; n <= 2; n++) {
		run(p, ENGINE_JIT, &jit);
		if (results_differ(p, &interp, &jit))
			return n;
		if (memcmp(p->code, jit.code, CODE_SIZE))
			guest_code_changed();
	}
	return 0;
}

/* --- Reports -------------------------------------------------------------------------------------------------- */

static void print_program(const struct program *p)
{
	for (unsigned n = 0; n < p->nr_insns; n++) {
		const struct placed *i = &p->insn[n];
		const u8 *bytes = p->code + i->at;
		ZydisDisassembledInstruction d;
		ZydisMachineMode mode = p->bits == 64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32;
		u64 at = p->base + CODE_BASE + i->at;
		bool ok = ZYAN_SUCCESS(ZydisDisassembleIntel(mode, at, bytes, i->len, &d));

		if (i->removed)
			continue;
		printf("#   %llx:", (unsigned long long)at);
		for (unsigned k = 0; k < i->len; k++)
			printf(" %02x", bytes[k]);
		printf("  %s\n", ok ? d.text : "?");
	}
	printf("#   from %llx, rflags %llx, mxcsr %x", (unsigned long long)p->in.rip, (unsigned long long)p->in.rflags,
	       p->in.mxcsr);
	for (unsigned n = 0; n < 16; n++)
		printf("%sr%u %016llx", n % 4 ? "  " : "\n#   ", n, (unsigned long long)p->in.gpr[n]);
	printf("\n");
}

/* Takes out every instruction without which they differ still. */
static void cut_down(struct program *p)
{
	for (bool again = true; again;) {
		again = false;
		for (unsigned n = 0; n < p->nr_insns; n++) {
			struct placed *i = &p->insn[n];
			u8 old[15];

			if (i->removed)
				continue;
			memcpy(old, p->code + i->at, i->len);
			memset(p->code + i->at, 0x90, i->len);
			i->removed = compare(p) > 0;
			again |= i->removed;
			if (!i->removed)
				memcpy(p->code + i->at, old, i->len);
		}
	}
}

static void tell_differences(const struct program *p)
{
	tell = true;
	compare(p);
	tell = false;
}

static bool one_case(unsigned bits, u64 n)
{
	static struct program p;

	rng_seed(opt.seed * 0x9e3779b97f4a7c15 ^ n);
	program_generate(&p, bits);
	if (opt.only_case >= 0)
		print_program(&p);
	int r = compare(&p);
	endless += r < 0;
	if (r <= 0)
		return true;
	printf("# the interpreter and the translator differ (run %d): --seed %llu --bits %u --case %llu\n", r,
	       (unsigned long long)opt.seed, bits, (unsigned long long)n);
	tell_differences(&p);
	cut_down(&p);
	printf("# what it takes:\n");
	print_program(&p);
	tell_differences(&p);
	return false;
}

/* The signal that ends a run which does not end by itself comes by processor time, however busy the machine is. */
static void set_timer(void)
{
	struct sigevent by = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	struct itimerspec every = {{0, 10000000}, {0, 10000000}};
	struct itimerval off = {{0}};
	timer_t timer;

	setitimer(ITIMER_REAL, &off, NULL);
	if (timer_create(CLOCK_PROCESS_CPUTIME_ID, &by, &timer) || timer_settime(timer, 0, &every, NULL))
		perror("timer");
}

static bool parse_options(int argc, char **argv)
{
	for (int n = 1; n + 1 < argc; n += 2) {
		u64 v = strtoull(argv[n + 1], NULL, 0);
		if (!strcmp(argv[n], "--seed"))
			opt.seed = v;
		else if (!strcmp(argv[n], "--cases"))
			opt.cases = v;
		else if (!strcmp(argv[n], "--case"))
			opt.only_case = (s64)v;
		else if (!strcmp(argv[n], "--bits") && (v == 32 || v == 64))
			opt.bits = (unsigned)v;
		else
			return false;
	}
	return argc % 2 && (opt.only_case < 0 || opt.bits);
}

/* Returns whether they agree. */
static bool test(unsigned nr, unsigned bits)
{
	unsigned failed = 0;
	u64 n = 0;

	memset(ended, 0, sizeof(ended));
	endless = 0;
	if (opt.only_case >= 0)
		failed = !one_case(bits, (u64)opt.only_case);
	else
		while (n < opt.cases && failed < 5)
			failed += !one_case(bits, n++);
	printf("# seed %llu; ended by", (unsigned long long)opt.seed);
	for (unsigned v = 0; v < 32; v++)
		if (ended[v])
			printf(" vector %u: %llu;", v, (unsigned long long)ended[v]);
	printf(" no end: %u\n", endless);
	printf("%sok %u - random sequences of %u-bit code: %llu\n", failed ? "not " : "", nr, bits,
	       (unsigned long long)n);
	return !failed;
}

int main(int argc, char **argv)
{
	unsigned nr = 0;
	bool ok = true;

	if (!parse_options(argc, argv)) {
		fprintf(stderr, "usage: %s [--seed N] [--cases N] [--case N --bits 32|64]\n", argv[0]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!native_map() || !guest_init() || !native_init())
		return 1;
	data_init();
	set_timer();
	for (unsigned bits = 64; bits >= 32; bits /= 2)
		if (!opt.bits || opt.bits == bits)
			ok &= test(++nr, bits);
	printf("1..%u\n", nr);
	return !ok;
}
