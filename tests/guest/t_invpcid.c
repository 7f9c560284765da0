/*
 * INVPCID: its four types, of the present PCID and of another one, as reads and fetches see them; what it refuses
 * (SDM vol. 2A, INVPCID; vol. 3A, 4.10.4). Only what must be forgotten is asked for: processors may forget more.
 */
#include "guest.h"

#define CR4_PGE (1ul << 7)

enum { INDIVIDUAL, SINGLE, ALL_WITH_GLOBAL, ALL, NR_TYPES };
enum { LOCAL = 4, GLOBAL, FIRST = 20, SECOND };

static u64 root; /* CR3 without a PCID */

static void invpcid(u64 type, u64 pcid, u64 la)
{
	const u64 desc[2] = {pcid, la};

	asm volatile("invpcid %0, %1" : : "m"(desc), "r"(type) : "memory");
}

/* Frame @n: @v as data, and code that returns it. */
static void fill(unsigned n, u32 v)
{
	static const u8 mov_ret[] = {0xb8, 0, 0, 0, 0, 0xc3};
	u8 *p = (u8 *)PHYS(n);

	*(volatile u64 *)p = v;
	memcpy(p + 64, mov_ret, sizeof(mov_ret));
	p[65] = (u8)v;
}

/* What a page shows as data and as code: 0x11 or 0x22. */
static u64 see(unsigned n)
{
	u64 code, at = PAGE(n) + 64;

	asm volatile("call *%1" : "=a"(code) : "r"(at) : "memory", "cc");
	return *(volatile u64 *)PAGE(n) << 4 | code;
}

static u64 see_as(unsigned pcid, unsigned n)
{
	write_cr3(root | pcid | KEEP);
	return see(n);
}

static void learn(unsigned pcid)
{
	write_cr3(root | pcid);
	for (unsigned n = 0; n < 3; n++) {
		see(LOCAL);
		see(GLOBAL);
	}
}

/* Both pages are known, under PCIDs 2 and 1 if there are any; then the tables say something else. */
static void know(bool pcids)
{
	test_map(LOCAL, PHYS(FIRST) | RW);
	test_map(GLOBAL, PHYS(FIRST) | RW | PG_G);
	if (pcids)
		learn(2);
	learn(pcids);
	*(volatile u64 *)&test_pt[LOCAL] = PHYS(SECOND) | RW;
	*(volatile u64 *)&test_pt[GLOBAL] = PHYS(SECOND) | RW | PG_G;
}

static void test_without_pcids(void)
{
	know(false);
	invpcid(INDIVIDUAL, 0, PAGE(LOCAL) + 0x123);
	check_eq(see(LOCAL), 0x22, "without CR4.PCIDE: type 0");
	know(false);
	invpcid(SINGLE, 0, 0);
	check_eq(see(LOCAL), 0x22, "... type 1");
	know(false);
	invpcid(ALL_WITH_GLOBAL, 0, 0);
	check(see(LOCAL) == 0x22 && see(GLOBAL) == 0x22, "... type 2, global pages as well");
	know(false);
	invpcid(ALL, 0, 0);
	check_eq(see(LOCAL), 0x22, "... type 3");
}

static void test_pcids(void)
{
	know(true);
	invpcid(INDIVIDUAL, 1, PAGE(LOCAL) + 0xfff);
	check_eq(see(LOCAL), 0x22, "type 0: the present PCID's page");
	know(true);
	invpcid(INDIVIDUAL, 2, PAGE(LOCAL));
	check_eq(see_as(2, LOCAL), 0x22, "... another PCID's");
	know(true);
	invpcid(SINGLE, 1, 0);
	check_eq(see(LOCAL), 0x22, "type 1: the present PCID");
	know(true);
	invpcid(SINGLE, 2, 0);
	check_eq(see_as(2, LOCAL), 0x22, "... another one");
	know(true);
	invpcid(ALL_WITH_GLOBAL, 0, 0);
	check(see(LOCAL) == 0x22 && see(GLOBAL) == 0x22, "type 2: the present PCID and global pages");
	check(see_as(2, LOCAL) == 0x22 && see(GLOBAL) == 0x22, "... another PCID");
	know(true);
	invpcid(ALL, 0, 0);
	check(see(LOCAL) == 0x22 && see_as(2, LOCAL) == 0x22, "type 3: both PCIDs");
	/* The one that is left behind is forgotten for later, too. */
	know(true);
	see_as(2, LOCAL);
	invpcid(SINGLE, 1, 0);
	see_as(2, LOCAL);
	check_eq(see_as(1, LOCAL), 0x22, "type 1 of the PCID before, which comes back");
}

/* --- What it refuses ---------------------------------------------------------------------------------------------- */

static void try(u64 type, u64 pcid, u64 la)
{
	const u64 desc[2] = {pcid, la};

	EXPECT("invpcid %0, %1", "m"(desc), "r"(type));
}

static volatile u64 user_vector, user_error;

static void user_invpcid(void)
{
	try(ALL, 0, 0);
	user_vector = trap_last.vector, user_error = trap_last.error;
	asm volatile("int $0x80");
}

static void test_refusals(void)
{
	static const u64 reserved[] = {1 << 12, 1ull << 63};

	try(NR_TYPES, 0, 0);
	expect(13, 0, "type 4 raises #GP");
	try(1ull << 32 | ALL, 0, 0);
	expect(13, 0, "the type is all 64 bits of the register");
	for (u64 type = 0; type < NR_TYPES; type++)
		for (unsigned n = 0; n < 2; n++) {
			try(type, reserved[n], 0);
			expect(13, 0, "reserved bits of the descriptor raise #GP, with every type");
		}
	try(INDIVIDUAL, 0, 1ull << 47);
	expect(13, 0, "type 0 of a non-canonical address raises #GP");
	for (u64 type = SINGLE; type < NR_TYPES; type++) {
		try(type, 0, 1ull << 47);
		expect_none("... the other types do not look at it");
	}
	run_user(user_invpcid);
	check(user_vector == 13 && user_error == 0, "at level 3 it raises #GP(0)");
	EXPECT(".byte 0x66, 0x0f, 0x38, 0x82, 0xc8"); /* INVPCID ECX, EAX */
	expect(6, 0, "a register as its descriptor raises #UD");
	test_map(8, 0);
	EXPECT("movl $3, %%eax; invpcid (%0), %%rax", "r"(PAGE(8)));
	expect(14, 0, "a descriptor that is absent raises #PF");
	check_eq(trap_last.cr2, PAGE(8), "... there");
	EXPECT("movl $3, %%eax; invpcid -8(%0), %%rax", "r"(PAGE(8)));
	expect(14, 0, "one whose second half is absent, too");
	check_eq(trap_last.cr2, PAGE(8), "... there");
}

/* Of PCIDs that are not in use. */
static void test_pcid_refusals(void)
{
	for (u64 type = INDIVIDUAL; type <= SINGLE; type++) {
		try(type, 1, 0);
		expect(13, 0, "a PCID without CR4.PCIDE raises #GP with types 0 and 1");
	}
	for (u64 type = ALL_WITH_GLOBAL; type < NR_TYPES; type++) {
		try(type, 1, 0);
		expect_none("... but not with types 2 and 3");
	}
}

void guest_main(void)
{
	u32 id[4];

	cpuid(7, 0, id);
	if (!(id[1] >> 10 & 1)) {
		print("ok - INVPCID # SKIP not in CPUID\n");
		return;
	}
	root = read_cr3();
	test_map_init();
	write_cr4(read_cr4() | CR4_PGE);
	fill(FIRST, 1);
	fill(SECOND, 2);
	test_without_pcids();
	test_refusals();
	test_pcid_refusals();
	cpuid(1, 0, id);
	if (!(id[2] >> 17 & 1)) {
		print("ok - INVPCID with PCIDs # SKIP not in CPUID\n");
		return;
	}
	write_cr4(read_cr4() | CR4_PCIDE);
	test_pcids();
	test_refusals();
}
