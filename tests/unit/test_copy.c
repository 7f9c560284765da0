/*
 * The copy engine: instructions through decoder and thunk against the same bytes run by this process itself; the
 * arena; re-encoding. What can go wrong before and after the instruction itself is in test_copy_faults.c.
 */
#include "vec_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/reencode.h"

/* --- The same bytes, natively -------------------------------------------------------------------------------- */

/* What one instruction sees and leaves: registers 0 to 7 of each kind, RAX (the memory operand's address) to RBX. */
struct state {
	u8 zmm[8][64];
	u64 k[8];
	u64 gpr[4];
	u64 flags;
	u32 mxcsr;
	u8 mem[64] __attribute__((aligned(64)));
};

static u8 *native_code;

#define EACH_VECTOR(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7)
#define LOAD_ZMM(n) "vmovdqu64 " #n "*64(%%r12), %%zmm" #n "\n\t"
#define STORE_ZMM(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%%r12)\n\t"
#define LOAD_YMM(n) "vmovdqu " #n "*64(%%r12), %%ymm" #n "\n\t"
#define STORE_YMM(n) "vmovdqu %%ymm" #n ", " #n "*64(%%r12)\n\t"
#define LOAD_K(n) "kmovq 512+" #n "*8(%%r12), %%k" #n "\n\t"
#define STORE_K(n) "kmovq %%k" #n ", 512+" #n "*8(%%r12)\n\t"
#define NATIVE(load, store)                                                                                 \
	__asm__ volatile(load                                                                               \
			 "movq 576(%%r12), %%rax; movq 584(%%r12), %%rcx\n\t"                               \
			 "movq 592(%%r12), %%rdx; movq 600(%%r12), %%rbx\n\t"                               \
			 "stmxcsr %[host]; ldmxcsr 616(%%r12)\n\t"                                          \
			 "subq $128, %%rsp; pushq 608(%%r12); popfq\n\t"                                    \
			 "call *%%r13\n\t"                                                                  \
			 "pushfq; popq 608(%%r12); addq $128, %%rsp\n\t"                                    \
			 "stmxcsr 616(%%r12); ldmxcsr %[host]\n\t"                                          \
			 "movq %%rax, 576(%%r12); movq %%rcx, 584(%%r12)\n\t"                               \
			 "movq %%rdx, 592(%%r12); movq %%rbx, 600(%%r12)\n\t" store                         \
			 : [host] "+m"(host)                                                                \
			 : "r"(r12), "r"(r13)                                                               \
			 : "memory", "cc", "rax", "rcx", "rdx", "rbx", "xmm0", "xmm1", "xmm2", "xmm3",      \
			   "xmm4", "xmm5", "xmm6", "xmm7")

static bool host_has(u64 components)
{
	return (xsave_supported() & components) == components;
}

static __attribute__((noinline)) void run_native(struct state *s)
{
	register struct state *r12 __asm__("r12") = s;
	register u8 *r13 __asm__("r13") = native_code;
	static u32 host; /* not on the stack: RSP moves */

	if (host_has(XF_AVX512))
		NATIVE(EACH_VECTOR(LOAD_ZMM) EACH_VECTOR(LOAD_K),
		       EACH_VECTOR(STORE_ZMM) EACH_VECTOR(STORE_K) "vzeroupper");
	else
		NATIVE(EACH_VECTOR(LOAD_YMM), EACH_VECTOR(STORE_YMM) "vzeroupper");
}

/* --- Random states ------------------------------------------------------------------------------------------- */

static u64 seed = 1;

static u64 rng(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static u32 interesting(void)
{
	static const u32 v[] = {0, 0x80000000, 0x3f800000, 0x7f800000, 0xff800001, 0x7fc00000, 1, 0x007fffff,
				0x7f7fffff, 0x3ff00000, 0x40490fdb, 0xbf000000, 0x4f000000, 0x7fefffff};
	u64 r = rng();

	return r & 1 ? v[(r >> 8) % ARRAY_SIZE(v)] : r & 2 ? 0x3f000000 + (u32)(r >> 40) : (u32)(r >> 32);
}

static void random_state(struct state *s)
{
	u32 *w = (u32 *)s->zmm;

	for (unsigned n = 0; n < sizeof(s->zmm) / 4; n++)
		w[n] = interesting();
	if (!host_has(XF_AVX512))
		for (unsigned n = 0; n < 8; n++)
			memset(s->zmm[n] + 32, 0, 32);
	for (unsigned n = 0; n < 8; n++)
		s->k[n] = host_has(XF_AVX512) ? rng() : 0;
	for (unsigned n = 0; n < 4; n++)
		s->gpr[n] = rng() >> (rng() & 48);
	s->flags = 0x202 | (rng() & FL_ARITH);
	s->mxcsr = MXCSR_MASKS | (rng() & 0xe040); /* all masked; any rounding, FZ, DAZ */
	w = (u32 *)s->mem;
	for (unsigned n = 0; n < 16; n++)
		w[n] = interesting();
}

/* --- Both ---------------------------------------------------------------------------------------------------- */

static void load_guest(struct fixture *f, const struct state *s, u64 la)
{
	struct cpu *c = &f->cpu;

	memcpy(c->fpu.zmm, s->zmm, sizeof(s->zmm));
	memcpy(c->fpu.k, s->k, sizeof(s->k));
	c->gpr[RAX] = la;
	c->gpr[RCX] = s->gpr[1];
	c->gpr[RDX] = s->gpr[2];
	c->gpr[RBX] = s->gpr[3];
	c->rflags = s->flags;
	c->fpu.mxcsr = s->mxcsr;
	vec_put(f, la, s->mem, sizeof(s->mem));
}

static void store_guest(struct fixture *f, struct state *s, u64 la)
{
	struct cpu *c = &f->cpu;

	memcpy(s->zmm, c->fpu.zmm, sizeof(s->zmm));
	memcpy(s->k, c->fpu.k, sizeof(s->k));
	s->gpr[0] = c->gpr[RAX];
	s->gpr[1] = c->gpr[RCX];
	s->gpr[2] = c->gpr[RDX];
	s->gpr[3] = c->gpr[RBX];
	s->flags = c->rflags;
	s->mxcsr = c->fpu.mxcsr;
	vec_get(f, la, s->mem, sizeof(s->mem));
}

static void compare(const char *hex, const struct state *host, const struct state *guest)
{
	if (!memcmp(host->zmm, guest->zmm, sizeof(host->zmm)) && !memcmp(host->k, guest->k, sizeof(host->k)) &&
	    !memcmp(host->gpr + 1, guest->gpr + 1, 24) && host->flags == guest->flags && host->mxcsr == guest->mxcsr &&
	    !memcmp(host->mem, guest->mem, sizeof(host->mem)))
		return;
	for (unsigned n = 0; n < 8; n++)
		if (memcmp(host->zmm[n], guest->zmm[n], 64))
			print_error("zmm%u ", n);
	if (memcmp(host->mem, guest->mem, 64))
		print_error("memory ");
	fail_msg("%s: flags %lx %lx mxcsr %x %x rcx %lx %lx", hex, host->flags, guest->flags, host->mxcsr, guest->mxcsr,
		 host->gpr[1], guest->gpr[1]);
}

/* Runs @hex on random states both ways; memory operands at every kind of place that their alignment allows. */
static void check_same(struct fixture *f, const char *hex)
{
	static const u64 places[] = {DATA + 64, DATA + 0x123, DATA + PAGE_SIZE - 16, DATA + PAGE_SIZE - 5};
	struct insn i;

	vec_decode(f, hex, &i);
	if (!insn_gate_open(&f->cpu, &insn_rows[i.row]))
		return;
	memcpy(native_code, i.bytes, i.len);
	native_code[i.len] = 0xc3;
	for (unsigned n = 0; n < 40; n++) {
		u64 la = places[n % ARRAY_SIZE(places)];
		struct state host, guest;

		if (insn_rows[i.row].attr & A_ALIGN)
			la = ALIGN_UP(la, 64);
		random_state(&host);
		guest = host;
		load_guest(f, &guest, la);
		if (i.is_mem)
			host.gpr[0] = (u64)host.mem;
		else
			f->cpu.gpr[RAX] = host.gpr[0];
		run_native(&host);
		assert_int_equal(CATCH(&f->cpu, i.fn(&f->cpu, &i)), 0);
		store_guest(f, &guest, la);
		if (!i.is_mem)
			assert_int_equal(host.gpr[0], guest.gpr[0]);
		compare(hex, &host, &guest);
	}
}

/* By kind; the names are in the table. */
static const char *const same[] = {
	/* SSE: moves, scalar and packed arithmetic, conversions, compares into flags, shuffles */
	"0f10c1", "0f1000", "0f1108", "0f28c1", "0f2800", "0f2908", "f30f10c1", "f30f1000", "f30f1108", "f20f10c1",
	"f20f1000", "f20f1108", "0f12c1", "0f1200", "0f1308", "0f16c1", "0f1600", "0f1708", "0f14c1", "0f15c1",
	"0f58c1", "0f5800", "660f58c1", "f30f58c1", "f30f5800", "f20f58c1", "f20f5800", "0f59c1", "f20f59c1",
	"0f5cc1", "f20f5e00", "0f5ec1", "0f51c1", "f20f51c1", "0f53c1", "0f52c1", "0f5dc1", "0f5fc1", "0f55c1",
	"0f5ac1", "660f5ac1", "f30f5ac1", "f20f5a00", "0f5bc1", "f30f5bc1", "0f2ec1", "0f2e00", "660f2ec1", "0f2fc1",
	"660f2f00", "0fc2c102", "f20fc2c105", "0fc6c11b", "0f50c9", "660f50c9", "f30f2ac1", "f3480f2ac1", "f20f2ac1",
	"f2480f2a00", "f30f2cc9", "f3480f2cc9", "f20f2c08", "f2480f2dc9", "0f2b08",
	/* SSE2 integer */
	"660fefc1", "660fef00", "660ffec1", "660ffe00", "660fd4c1", "660ff4c1", "660f7f08", "f30f6f00", "f30f7f08",
	"660f6ec1", "660f6e00", "66480f6ec1", "660f7ec9", "660f7e08", "66480f7ec9", "f30f7e00", "660fd608",
	"660f70c11b", "f30f70c14e", "f20f70c1b1", "660f60c1", "660f6cc1", "660f63c1", "660f74c1", "660f64c1",
	"660fd7c9", "660fc4c103", "660fc40005", "660fc5c907", "660f71d005", "660f72e003", "660f73d807", "660ff3c1",
	"660ff6c1", "660ff5c1", "f20fe6c1", "f30fe6c1",
	/* SSE3 to SSE4.2 */
	"f20f7cc1", "660fd0c1", "f30f12c1", "f30f1600", "f20f12c1", "f20ff000", "660f3800c1", "660f380000",
	"660f3a0fc105", "660f3801c1", "660f381cc1", "660f3810ca", "660f3814ca", "660f3817c1", "660f3820c1",
	"660f383000", "660f382200", "660f3828c1", "660f382bc1", "660f3840c1", "660f3841c1", "660f3a08c103",
	"660f3a0bc104", "660f3a0cc105", "660f3a14c903", "660f3a140803", "660f3a16c901", "66480f3a16c901",
	"660f3a170802", "660f3a20c103", "660f3a22c101", "66480f3a220001", "660f3a21c11c", "660f3a40c1f1",
	"660f3a42c101", "660f3837c1", "660f3a62ca0c", "660f3a63ca04", "660f3a60ca18", "660f3a61ca45",
	/* AES, PCLMULQDQ, SHA, GFNI, SSE4A */
	"660f38dcc1", "660f38de00", "660f38dbc1", "660f3adfc101", "660f3a44c111", "0f38c8c1", "0f38cbca",
	"0f3accc102", "660f38cfc1", "660f3acec155", "660f79c1", "660f78c00804", "f20f79c1", "f20f78c10804",
	/* general registers: BMI, POPCNT, CRC32, ADX */
	"c4e268f2cb", "c4e2e8f208", "c4e260f7ca", "c4e270f3ca", "c4e2f0f3da", "c4e270f3d2", "c4e260f5ca",
	"c4e2ebf5cb", "c4e26af508", "c4e2e3f6c8", "c4e3fbf0ca07", "c4e261f7ca", "c4e2e2f7ca", "f30fb8ca",
	"66f30fb8ca", "f3480fb808", "f20f38f0ca", "f20f38f0ce", "f20f38f1ca", "f2480f38f108", "660f38f6ca",
	"f3480f38f6ca",
	/* AVX, AVX2, FMA, F16C */
	"c5f058c2", "c5f458c2", "c5f45800", "c5f358c2", "c5f35800", "c5fc1000", "c5fc1108", "c5fd6f00", "c5fd7f08",
	"c5f877", "c5fc77", "c5f4c2c20b", "c4e27918c1", "c4e27d1800", "c4e27d1a00", "c4e37d19c801", "c4e37d190801",
	"c4e37518c201", "c4e375180001", "c4e37506c231", "c4e3714ac230", "c4e3754b0030", "c4e27d0ec1", "c4e27917c1",
	"c5f92ec1", "c5fb2cc9", "c4e1fb2dc9", "c4e1f32ac1", "c5f5fec2", "c5f5fe00", "c4e27500c2", "c5fdd7c9",
	"c4e27d5800", "c4e27d7800", "c4e27d59c1", "c4e2753600", "c4e3fd00c11b", "c4e37538c201", "c4e27545c2",
	"c4e2f547c2", "c4e27d20c1", "c4e27d2100", "c5f5d200", "c4e2758c00", "c4e2752e10", "c4e27598c2", "c4e2f1a9c2",
	"c4e275b800", "c4e27d13c1", "c4e27d1300", "c4e37d1dc800", "c4e37d1d0803", "c4e275dcc2", "c4e37544c200",
	"c4e275cf00",
	/* AVX-512: masks, zeroing, broadcast, rounding, compares, permutations, conversions, compress and expand */
	"62f1744858c2", "62f1744958c2", "62f174c958c2", "62f1744a5800", "62f174585800", "62f1743958c2",
	"62f1f51858c2", "62f1f70958c2", "62f17548fec2", "62f175cafe00", "62f1755bfe00", "62f1fd496f00",
	"62f1fd497f08", "62f17f2a6f00", "62f17f2a7f08", "62f1ffca6f00", "62f17c4a1108", "62f17c4a1000",
	"62f17e091000", "62f1ff091108", "62f17448c2ca0e", "62f1f54ac20802", "62f3754a1fca05", "62f375483e1801",
	"62f2754827ca", "62f275488dc2", "62f2f5497fc2", "62f3f54923c21b", "62f375492500ca", "62f27d487ac1",
	"62f2fd497cc1", "62f27e4831c8", "62f27e493108", "62f27e483508", "62f27e493008", "62f27d493100",
	"62f17c4979c1", "62f1fd495ac1", "62f17c4a5a00", "62f17c585a00", "62f27d4a1300", "62f37d4a1d0800",
	"62f17e49e600", "62f27d4a8800", "62f2fdca88c1", "62f2fd4a8a08", "62f27d498bc8", "62f27d0a6200",
	"62f2fd4a6308", "62f27e4828c1", "62f27e4838c1", "62f2fe4839c9", "62f27d49c4c1", "62f2fd4944c1",
	"62f2fd4955c1", "62f2754950c2", "62f275495200", "62f2f549b4c2", "62f27d494cc1", "62f3fd4926c103",
	"62f3754950c204", "62f3fd4a66c911", "62f275492cc2", "62f37d4956c103", "62f3fd4909c101", "62f3754954c203",
	"62f27548dcc2", "62f3754844c201", "62f37549710003", "62f2f54972c2", "62f2754a8fca", "62f2764952c2",
	"62f27d491a00", "62f3fd493b0801", "62f37549380002", "62f3f54903c203", "62f2754965c2", "62f1f7087bc1",
	"62f17e0878c9", "62f1fd4972e105", "62f17d4872c907", "62f3754942c203",
	/* opmasks */
	"c5ec41cb", "c4e1ec41cb", "c5f844ca", "c5f898d3", "c4e1f898d3", "c5f899d3", "c5f890ca", "c5f89008",
	"c4e1f89108", "c5f892c9", "c4e1fb92c9", "c5fb93ca", "c4e1fb93ca", "c4e3f930ca03", "c5ed4bcb", "c4e1ec4acb",
};

static void test_same_as_host(void **state)
{
	for (unsigned n = 0; n < ARRAY_SIZE(same); n++)
		check_same(*state, same[n]);
}

/* In 32-bit code W means nothing for general registers, and imm8[7] nothing for a fourth register. */
static void test_code32(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	c->seg[SEG_CS].l = 0;
	c->seg[SEG_CS].db = 1;
	for (unsigned s = 0; s < SEG_LDTR; s++) {
		c->seg[s].limit = 0xffffffff;
		c->seg[s].base = 0;
	}
	cpu_update_mode(c);
	assert_int_equal(c->code_bits, 32);
	memset(c->fpu.zmm, 0, sizeof(c->fpu.zmm));
	c->gpr[RCX] = 0xdeadbeef;
	ASSERT_RETIRES(f, "c4e1f96ec1"); /* VMOVD xmm0, ecx with W=1 */
	assert_int_equal(*(u64 *)c->fpu.zmm[0], 0xdeadbeef);
	memset(c->fpu.zmm[2], 0xff, 32);
	memset(c->fpu.zmm[3], 0x80, 32);
	ASSERT_RETIRES(f, "c4e3714ac2b0"); /* VBLENDVPS xmm0, xmm1, xmm2, xmm3 (11 & 7) */
	assert_int_equal(*(u64 *)c->fpu.zmm[0], ~0ull);
	c->gpr[RAX] = DATA + 1;
	ASSERT_RETIRES(f, "0f1100"); /* MOVUPS [eax], xmm0 */
	u64 v;
	vec_get(f, DATA + 1, &v, 8);
	assert_int_equal(v, ~0ull);
}

/* --- The arena ----------------------------------------------------------------------------------------------- */

static void test_arena(void **state)
{
	struct fixture *f = *state;
	struct copy_arena small;
	struct insn a, b, other, i;
	bool room = true;

	/* Equal instructions share a thunk wherever their operand in memory is; others do not. */
	vec_decode(f, "0f5800", &a);
	vec_decode(f, "0f58441a10", &b);
	vec_decode(f, "0f5808", &other);
	assert_ptr_equal(a.thunk, b.thunk);
	assert_ptr_not_equal(a.thunk, other.thunk);

	/* A full arena says so, and has room again after a reset. */
	assert_int_equal(copy_arena_init(&small, 1), 0);
	assert_int_equal(small.size, PAGE_SIZE);
	for (unsigned n = 0; n < 64 && room; n++) {
		u8 bytes[15] = {0x0f, 0x58, (u8)(0xc0 | n)};
		assert_int_equal(decode(&i, bytes, sizeof(bytes), 64), DECODE_OK);
		room = copy_prepare(&small, &i);
	}
	assert_false(room);
	copy_arena_reset(&small);
	assert_true(copy_prepare(&small, &i));
	assert_int_equal(CATCH(&f->cpu, i.fn(&f->cpu, &i)), 0);
	copy_arena_fini(&small);
	copy_arena_fini(&small); /* nothing left: harmless */
}

/* --- Re-encoding --------------------------------------------------------------------------------------------- */

/* The same instruction with other registers decodes to the same row and to those registers. */
static void check_reencode(struct fixture *f, const char *hex)
{
	struct insn i, back;
	u8 out[REENCODE_MAX] = {0};

	vec_decode(f, hex, &i);
	for (u8 n = 0; n < 16; n++) {
		struct reencode to = REENCODE_SAME(&i);
		const u8 forced = insn_rows[i.row].modrm & MODRM_EXT(0) ? i.reg : n;

		to.reg = forced;
		to.base = n;
		if (!i.is_mem && !(insn_rows[i.row].modrm & MODRM_RM(0)))
			to.rm = 15 - n;
		unsigned len = reencode(out, &i, &to);
		assert_in_range(len, 1, REENCODE_MAX - 1);
		assert_int_equal(decode(&back, out, sizeof(out) - 1, 64), DECODE_OK);
		assert_int_equal(back.len, len);
		assert_int_equal(back.row, i.row);
		assert_int_equal(back.reg, forced);
		assert_int_equal(back.vvvv, i.vvvv);
		assert_int_equal(back.imm, i.imm);
		assert_int_equal(back.opsize, i.opsize);
		assert_int_equal(back.lock, i.lock);
		assert_int_equal(back.aaa | back.z << 3 | back.b << 4, i.aaa | i.z << 3 | i.b << 4);
		if (i.is_mem) {
			assert_int_equal(back.base, n);
			assert_int_equal(back.index, NO_REG);
			assert_int_equal(back.disp, 0);
		} else if (to.rm != i.rm) {
			assert_int_equal(back.rm, 15 - n);
		}
	}
}

static void test_reencode(void **state)
{
	static const char *const more[] = {
		"01c8", "0308", "6601c8", "4801c8", "f00108", "83c005", "6683c005", "4883000a", "c1e003", "0fafc1",
		"480fafc1", "69c078563412", "0fb6c1", "480fb7c1", "0f40c1", "6bc17f", "48c7c078563412",
	};

	/* Opmasks, x87 and MMX have eight registers: those rows are not for this. */
	for (unsigned n = 0; n < ARRAY_SIZE(same); n++) {
		struct insn i;

		vec_decode(*state, same[n], &i);
		const struct insn_row *r = &insn_rows[i.row];
		bool masks = false;
		for (unsigned k = 0; k < ARRAY_SIZE(r->operand); k++) {
			unsigned kind = operand_info[r->operand[k]].kind;
			masks |= kind == OK_KG || kind == OK_KE || kind == OK_KR || kind == OK_KB;
		}
		if (!masks && !(r->attr & A_VSIB) && !r->sem)
			check_reencode(*state, same[n]);
	}
	for (unsigned n = 0; n < ARRAY_SIZE(more); n++)
		check_reencode(*state, more[n]);
}

static int setup_native(void **state)
{
	native_code = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return native_code == MAP_FAILED ? -1 : 0;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, vec_setup, vec_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_same_as_host), TEST(test_code32), TEST(test_arena), TEST(test_reencode),
	};
	if (!host_has(XF(AVX))) {
		print_message("# skip: the host has no AVX\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup_native, NULL);
}
