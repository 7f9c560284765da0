/*
 * The decoder against Zydis, on random bytes in 16-, 32- and 64-bit code: validity, length, name, memory operand and
 * immediate. Differences are allowed only where they are listed here, by instruction set or by name, with the reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>
#include <cmocka.h>

#include "cpu/decode_memo.h"
#include "cpu/insn.h"

#define CASES 1000000u

/* --- What is not offered: absent from CPUID, #UD when executed --- */
static const char *const not_offered[] = {
	/* virtualization and trusted execution */
	"VTX", "VMFUNC", "SVM", "SMX", "SGX", "SGX_ENCLV", "SNP", "TDX", "PCONFIG",
	/* vendors' own */
	"AMD3DNOW", "PADLOCK_ACE", "PADLOCK_PHE", "PADLOCK_PMM", "PADLOCK_RNG", "FMA4", "XOP", "TBM", "LWP",
	"MCOMMIT", "AMD_INVLPGB", "MONITORX", "RDPRU", "KNCE", "KNCV", "KNCJKBR", "KNCSTREAM",
	/* newer than what the engines run */
	"CET", "RTM", "ENQCMD", "UINTR", "WAITPKG", "PT", "SERIALIZE", "HRESET", "KEYLOCKER", "KEYLOCKER_WIDE",
	"TSX_LDTRK", "AMX_BF16", "AMX_INT8", "AMX_TILE", "AVX_VNNI",
	"AVX512ER_512", "AVX512ER_SCALAR", "AVX512PF_512", "AVX512_4FMAPS_512", "AVX512_4FMAPS_SCALAR",
	"AVX512_4VNNIW_512",
	"AVX512_FP16_128", "AVX512_FP16_128N", "AVX512_FP16_256", "AVX512_FP16_512", "AVX512_FP16_SCALAR",
};

static bool is_not_offered(const ZydisDecodedInstruction *z)
{
	const char *set = ZydisISASetGetString(z->meta.isa_set);

	if (z->mnemonic == ZYDIS_MNEMONIC_VMCALL || z->mnemonic == ZYDIS_MNEMONIC_VMMCALL)
		return false; /* hypercalls are */
	for (unsigned n = 0; n < ARRAY_SIZE(not_offered); n++)
		if (!strcmp(set, not_offered[n]))
			return true;
	return false;
}

/* --- Random bytes, every opcode map in its share --- */

static u64 seed = 0x9e3779b97f4a7c15;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed * 0x2545f4914f6cdd1d) >> 8;
}

static unsigned put_prefixes(u8 *b)
{
	static const u8 prefix[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x26, 0x2e, 0x36,
				    0x3e, 0x64, 0x65, 0x40, 0x41, 0x44, 0x48, 0x4f};
	unsigned n = rnd() % 64 ? rnd() % 4 : rnd() % 16;

	for (unsigned k = 0; k < n; k++)
		b[k] = prefix[rnd() % ARRAY_SIZE(prefix)];
	return n;
}

/* VEX and EVEX: half of them with fields that most instructions want. */
static unsigned put_vex(u8 *b, u8 lead)
{
	unsigned n = 0;

	b[n++] = lead;
	if (lead != 0xc5) {
		b[n] = (b[n] & (lead == 0x62 ? 0xf0 : 0xe0)) | (1 + rnd() % 3);
		if (rnd() & 1)
			b[n] |= 0xc0;
		n++;
	}
	if (rnd() & 1)
		b[n] |= lead == 0xc5 ? 0xf8 : 0x78;
	if (lead == 0x62)
		b[n] |= 4;
	n++;
	if (lead == 0x62) {
		if (rnd() & 1)
			b[n] = (b[n] & 0x60) | 8;
		n++;
	}
	return n;
}

static void random_bytes(u8 *b, unsigned size)
{
	static const u8 vex[] = {0xc4, 0xc5, 0x62};
	unsigned n = 0, kind = rnd() % 8;

	for (unsigned k = 0; k < size; k++)
		b[k] = (u8)rnd();
	if (kind < 5 || rnd() % 8 == 0)
		n = put_prefixes(b);
	if (kind >= 5)
		n += put_vex(b + n, vex[kind - 5]);
	else if (kind >= 2)
		b[n++] = 0x0f;
	if (kind == 3 || kind == 4)
		b[n++] = kind == 3 ? 0x38 : 0x3a;
}

/* --- Comparison --- */

static unsigned differences;

static void report(const char *what, const ZydisDecodedInstruction *z, const struct insn *i, const u8 *b, unsigned bits)
{
	if (differences++ > 40)
		return;
	print_message("%s: %s (%s), row %s, %u bits:", what, z ? ZydisMnemonicGetString(z->mnemonic) : "invalid",
		      z ? ZydisISASetGetString(z->meta.isa_set) : "-", insn_rows[i->row].name, bits);
	for (unsigned n = 0; n < 15; n++)
		print_message(" %02x", b[n]);
	print_message("\n");
}

/* One of the names between slashes: by the operand size, of branches on a count by the address size. */
static bool name_is(const struct insn *i, const char *want)
{
	const struct insn_row *r = &insn_rows[i->row];
	const char *name = r->name;

	if (strchr(name, '/')) {
		unsigned size = operand_info[r->operand[0]].kind == OK_J ? i->addrsize : i->opsize;

		for (unsigned n = size >> 2; n--;)
			name = strchr(name, '/') + 1;
	}
	size_t len = strcspn(name, "/");
	return strlen(want) == len && !strncmp(name, want, len);
}

static ZydisRegister address_register(const struct insn *i, u8 number)
{
	if (number == NO_REG)
		return ZYDIS_REGISTER_NONE;
	if (number == RIP_BASE)
		return i->addrsize == 8 ? ZYDIS_REGISTER_RIP : ZYDIS_REGISTER_EIP;
	return ZydisRegisterEncode(i->addrsize == 8   ? ZYDIS_REGCLASS_GPR64
				   : i->addrsize == 4 ? ZYDIS_REGCLASS_GPR32
						      : ZYDIS_REGCLASS_GPR16,
				   number);
}

/* Operands whose size is a matter of opinion. */
static bool size_may_differ(const struct insn *i, const ZydisDecodedInstruction *z)
{
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_CLFLUSH: case ZYDIS_MNEMONIC_CLFLUSHOPT: case ZYDIS_MNEMONIC_CLWB:
		return true; /* m8 in the SDM, a line to Zydis */
	case ZYDIS_MNEMONIC_VPSLLW: case ZYDIS_MNEMONIC_VPSLLD: case ZYDIS_MNEMONIC_VPSLLQ:
	case ZYDIS_MNEMONIC_VPSRLW: case ZYDIS_MNEMONIC_VPSRLD: case ZYDIS_MNEMONIC_VPSRLQ:
	case ZYDIS_MNEMONIC_VPSRAW: case ZYDIS_MNEMONIC_VPSRAD:
		return i->mem_size == 16 && i->l == 1; /* the count is m128 in the SDM, m256 to Zydis in VEX.256 */
	case ZYDIS_MNEMONIC_MOVSXD:
		return i->opsize == 2; /* r/m16 in the SDM, r/m32 to Zydis */
	default:
		return i->mem_size == 0; /* XSAVE and the like, and addresses that are not accessed */
	}
}

static void compare_memory(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o, const struct insn *i,
			   const u8 *b, unsigned bits)
{
	u64 width = i->addrsize == 8 ? ~0ull : (1ull << 8 * i->addrsize) - 1;
	bool vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
	/* Zydis heeds REX.B in a SIB byte without a base when addresses are 32 bits wide (SDM vol. 2, table 2-5). */
	bool no_base = i->addrsize == 4 && bits == 64 && z->raw.modrm.mod == 0 && z->raw.modrm.rm == 4 &&
		       z->raw.sib.base == 5;

	if (!i->is_mem) {
		report("no memory operand", z, i, b, bits);
		return;
	}
	if (o->size / 8 != i->mem_size && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN && !size_may_differ(i, z))
		report("memory operand size", z, i, b, bits);
	if (address_register(i, i->base) != o->mem.base && !no_base)
		report("base", z, i, b, bits);
	if (vsib ? ZydisRegisterGetId(o->mem.index) != i->index : address_register(i, i->index) != o->mem.index)
		report("index", z, i, b, bits);
	if (i->index != NO_REG && o->mem.scale != 1u << i->scale)
		report("scale", z, i, b, bits);
	if (((u64)(o->mem.disp.has_displacement ? o->mem.disp.value : 0) ^ (u64)i->disp) & width && !no_base)
		report("displacement", z, i, b, bits);
	if (o->mem.type != ZYDIS_MEMOP_TYPE_AGEN && o->mem.segment && ZydisRegisterGetId(o->mem.segment) != i->seg)
		report("segment", z, i, b, bits);
}

static void compare_operands(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, const struct insn *i,
			     const u8 *b, unsigned bits)
{
	bool memory = false;

	for (unsigned n = 0; n < z->operand_count; n++) {
		if (op[n].type != ZYDIS_OPERAND_TYPE_MEMORY || (op[n].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM &&
								op[n].encoding != ZYDIS_OPERAND_ENCODING_DISP16_32_64))
			continue;
		memory = true;
		compare_memory(z, &op[n], i, b, bits);
	}
	if (!memory && i->mem_size)
		report("memory operand", z, i, b, bits);
	if (!z->raw.imm[0].size)
		return;
	unsigned unused = 64 - z->raw.imm[0].size;
	/* A register number in the upper half: outside of 64-bit code its high bit is ignored. */
	bool is4 = operand_info[insn_rows[i->row].operand[3]].kind == OK_L && bits != 64;
	if ((z->raw.imm[0].value.u ^ i->imm) << unused & (is4 ? BIT64(63) - 1 : ~0ull))
		report("immediate", z, i, b, bits);
	/* A signed one is sign-extended as far as the operation reaches. */
	if (z->raw.imm[0].is_signed && i->opsize * 8 > z->raw.imm[0].size &&
	    (s64)(i->imm << unused) >> unused != (s64)i->imm)
		report("sign of the immediate", z, i, b, bits);
}

/* Valid to Zydis only, for reasons of its own. */
static bool extra_in_zydis(const ZydisDecodedInstruction *z)
{
	/* A hint on a register is no hint to AMD's processors: they raise #UD. */
	return z->mnemonic == ZYDIS_MNEMONIC_NOP && z->opcode_map == ZYDIS_OPCODE_MAP_0F && z->opcode == 0x0d;
}

static void compare(const ZydisDecoder *d, const u8 *b, unsigned bits)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	struct insn i;
	enum decode_status s = decode(&i, b, 15, bits);
	bool valid = ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, b, 15, &z, op));

	if (!valid || s != DECODE_OK) {
		if (valid && !is_not_offered(&z) && !extra_in_zydis(&z))
			report("missing", &z, &i, b, bits);
		if (!valid && s == DECODE_OK)
			report("valid here alone", NULL, &i, b, bits);
		return;
	}
	if (is_not_offered(&z))
		report("not offered", &z, &i, b, bits);
	if (i.len != z.length)
		report("length", &z, &i, b, bits);
	else if (!name_is(&i, ZydisMnemonicGetString(z.mnemonic)))
		report("name", &z, &i, b, bits);
	else
		compare_operands(&z, op, &i, b, bits);
}

static void test_zydis(void **state)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth stack;
		unsigned bits;
	} modes[] = {
		{ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16, 16},
		{ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32, 32},
		{ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64, 64},
	};
	static const ZydisDecoderMode off[] = {
		/* hints of extensions that are not there: plain NOP, WBINVD, BSF's own rules are A_OLDER's */
		ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE,
		ZYDIS_DECODER_MODE_WBNOINVD,
	};
	ZydisDecoder d[3];

	for (unsigned m = 0; m < 3; m++) {
		ZydisDecoderInit(&d[m], modes[m].mode, modes[m].stack);
		for (unsigned n = 0; n < ARRAY_SIZE(off); n++)
			ZydisDecoderEnableMode(&d[m], off[n], ZYAN_FALSE);
	}
	differences = 0;
	for (unsigned n = 0; n < CASES; n++) {
		u8 b[32];

		random_bytes(b, sizeof(b));
		for (unsigned m = 0; m < 3; m++)
			compare(&d[m], b, modes[m].bits);
	}
	assert_int_equal(differences, 0);
}

/* --- The decoder alone --- */

/* With fewer bytes than it needs, it says so and looks at no more; with enough it comes to the same result. */
static void test_short(void **state)
{
	for (unsigned n = 0; n < CASES / 10; n++) {
		static const unsigned bits[] = {16, 32, 64};
		u8 b[32];
		struct insn whole, part;
		unsigned code = bits[n % 3];

		random_bytes(b, sizeof(b));
		enum decode_status s = decode(&whole, b, 15, code);
		for (unsigned avail = 0; avail < whole.len; avail++) {
			u8 exact[16];

			memset(exact, 0xcc, sizeof(exact));
			memcpy(exact, b, avail);
			enum decode_status p = decode(&part, exact, avail, code);
			assert_true(part.len <= avail);
			if (s == DECODE_OK)
				assert_int_equal(p, DECODE_SHORT);
		}
		if (s != DECODE_OK)
			continue;
		assert_int_equal(decode(&part, b, whole.len, code), DECODE_OK);
		assert_memory_equal(&part, &whole, sizeof(part));
	}
}

static void test_limit(void **state)
{
	struct insn i;
	u8 b[16];

	memset(b, 0x66, sizeof(b));
	b[14] = 0x90;
	assert_int_equal(decode(&i, b, 15, 64), DECODE_OK);
	assert_int_equal(i.len, 15);
	b[14] = 0x04; /* ADD AL, imm8: a sixteenth byte */
	assert_int_equal(decode(&i, b, 16, 64), DECODE_TOO_LONG);
	memset(b, 0x66, sizeof(b));
	assert_int_equal(decode(&i, b, 15, 64), DECODE_TOO_LONG);
	assert_int_equal(decode(&i, b, 14, 64), DECODE_SHORT);
	assert_int_equal(decode(&i, b, 0, 64), DECODE_SHORT);
}

struct sample {
	unsigned bits;
	const char bytes[16]; /* padded with zeros */
	unsigned len; /* 0: invalid */
};

/* What random bytes seldom hit: where one encoding ends and another begins (SDM vol. 2, 2.2 and 2.3). */
static void test_borders(void **state)
{
	static const struct sample samples[] = {
		{32, "\xc4\x08", 2},                         /* LES */
		{32, "\xc5\x08", 2},                         /* LDS */
		{32, "\x62\x08", 2},                         /* BOUND */
		{64, "\x62\x08", 0},                         /* not in 64-bit code */
		{64, "\xc4\xe2\x78\xf2\xc3", 5},             /* ANDN */
		{16, "\xc4\xe2\x78\xf2\xc3", 5},
		{64, "\x66\xc4\xe2\x78\xf2\xc3", 0},         /* a prefix before VEX */
		{64, "\x48\xc4\xe2\x78\xf2\xc3", 0},         /* REX before VEX */
		{64, "\xf0\x01\x00", 3},                     /* LOCK ADD [rax], eax */
		{64, "\xf0\x01\xc0", 0},                     /* LOCK with a register */
		{64, "\xf0\x03\x00", 0},                     /* LOCK with a register destination */
		{64, "\xf0\x39\x00", 0},                     /* LOCK CMP */
		{64, "\x48\x66\x01\xc0", 4},                 /* a REX that is not last is ignored */
		{64, "\x0f\x22\xc8", 0},                     /* MOV CR1 */
		{64, "\x0f\x22\x00", 3},                     /* MOV CR0: mod is ignored */
		{64, "\x8e\xc8", 0},                         /* MOV CS */
		{64, "\x06", 0},
		{32, "\x06", 1},
		{64, "\x82\xc0\x01", 0},
		{32, "\x82\xc0\x01", 3},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(samples); n++) {
		const struct sample *s = &samples[n];
		u8 b[16] = {0};
		struct insn i;

		memcpy(b, s->bytes, sizeof(b));
		enum decode_status got = decode(&i, b, 15, s->bits);
		assert_int_equal(got, s->len ? DECODE_OK : DECODE_INVALID);
		if (s->len)
			assert_int_equal(i.len, s->len);
	}
}

/* AH to BH without REX, SPL to DIL with one. */
static void test_byte_registers(void **state)
{
	struct insn i;

	assert_int_equal(decode(&i, (const u8 *)"\x88\xe5", 2, 64), DECODE_OK); /* MOV CH, AH */
	assert_int_equal(i.reg_off, RAX * 8 + 1);
	assert_int_equal(i.rm_off, RCX * 8 + 1);
	assert_int_equal(decode(&i, (const u8 *)"\x40\x88\xe5", 3, 64), DECODE_OK); /* MOV BPL, SPL */
	assert_int_equal(i.reg_off, RSP * 8);
	assert_int_equal(i.rm_off, RBP * 8);
	assert_int_equal(decode(&i, (const u8 *)"\x0f\xb6\xe4", 3, 64), DECODE_OK); /* MOVZX ESP, AH */
	assert_int_equal(i.reg_off, RSP * 8);
	assert_int_equal(i.rm_off, RAX * 8 + 1);
	assert_int_equal(decode(&i, (const u8 *)"\xb7\x12", 2, 32), DECODE_OK); /* MOV BH, 0x12 */
	assert_int_equal(i.rm_off, RBX * 8 + 1);
}

/* What was decoded before is decoded alike, whatever displacement and immediate it comes with. */
static void test_memo(void **state)
{
	static struct decode_memo memo;
	unsigned decoded = 0;
	u8 b[48] = {0};

	for (unsigned n = 0; n < CASES; n++) {
		struct insn want, got;

		random_bytes(b, sizeof(b));
		for (unsigned again = 0; again < 3; again++) {
			enum decode_status s = decode(&want, b, 15, 64);
			assert_int_equal(decode_memo(&memo, &got, b, sizeof(b)), s);
			if (s != DECODE_OK)
				break;
			decoded++;
			assert_memory_equal(&got, &want, offsetof(struct insn, bytes));
			assert_memory_equal(got.bytes, b, want.len);
			assert_int_equal(got.imm, want.imm);
			assert_int_equal(got.disp, want.disp);
			assert_null(got.thunk);
			for (unsigned at = want.disp_off ? want.disp_off : want.imm_off; at && at < want.len; at++)
				b[at] = (u8)rnd();
		}
	}
	assert_true(decoded > CASES / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memo),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_borders),
		cmocka_unit_test(test_byte_registers),
		cmocka_unit_test(test_short),
		cmocka_unit_test(test_zydis),
	};

	decode_init();
	return cmocka_run_group_tests_name("decode", tests, NULL, NULL);
}
