/*
 * What user code sees when its page tables change: accessed and dirty bits, INVLPG, switches of CR3 with and without
 * PCIDs, INVPCID, global and large pages, several mappings of a page, devices (SDM vol. 3A, chapter 4).
 */
#include "user64.h"

#define CR4_PGE (1ul << 7)

static u64 root, root_b; /* CR3 without a PCID */

/* Frames of this file's pages, each with its own content. */
enum { ONE = FREE_FRAME, TWO, THREE, FOUR };
static void fill_frames(void)
{
	for (unsigned n = ONE; n <= FOUR; n++)
		fill_frame(n);
}

static u64 ad(u64 la, int level)
{
	return *user_entry(root, la, level) & (PG_A | PG_D);
}

/* Every range, from code in two of them. */
#define EACH_PLACE(r, c) \
	for (unsigned r = 0; r < NR_RANGES; r++) \
		for (unsigned c = 2; c < NR_RANGES && (now.at = USER_DATA(r, 0), now.code = USER_CODE_AT(c, user_code), 1); \
		     c += 3)

/* --- Accessed and dirty ----------------------------------------------------------------------------------------- */

static void clear_bits(u64 la, u64 bits)
{
	*user_entry(root, la, 1) &= ~bits;
	invlpg(la);
}

static void test_accessed_dirty(void)
{
	test_begin("accessed and dirty bits");
	EACH_PLACE(r, c) {
		u64 la = USER_DATA(r, 1);

		for (unsigned n = 0; n < 3; n++)
			user_map(root, USER_DATA(r, n), FRAME(ONE + n) | RW);
		for (unsigned turn = 0; turn < 3; turn++) {
			now.more = turn;
			user_reads(c, la, content(TWO));
			same("A and D after reads", ad(la, 1), PG_A);
			user_writes(c, la, content(TWO));
			same("A and D after writes", ad(la, 1), PG_A | PG_D);
			clear_bits(la, PG_D);
			user_reads(c, la + 8, content(TWO));
			same("D cleared, reads", ad(la, 1), PG_A);
			user_writes(c, la + 0xff8, content(TWO));
			same("D cleared, writes", ad(la, 1), PG_A | PG_D);
			clear_bits(la, PG_A | PG_D);
			user_writes(c, la, content(TWO));
			same("both cleared, writes", ad(la, 1), PG_A | PG_D);
			clear_bits(la, PG_A);
			user_reads(c, la, content(TWO));
			same("A cleared, reads", ad(la, 1), PG_A | PG_D);
			same("A and D of the page before", ad(USER_DATA(r, 0), 1), 0);
			same("A and D of the page behind", ad(USER_DATA(r, 2), 1), 0);
			clear_bits(la, PG_A | PG_D);
			*user_entry(root, la, 2) &= ~PG_A;
			invlpg(la);
			user_reads(c, la, content(TWO));
			same("A of the directory's entry", ad(la, 2), PG_A);
		}
		/* Across a border: both; and nothing is dirty because of what faults. */
		user_map(root, USER_DATA(r, 0), FRAME(ONE) | RW);
		user_writes(c, la - 3, 0x0101010101010101);
		same("D of the first page", ad(USER_DATA(r, 0), 1), PG_A | PG_D);
		same("D of the second page", ad(la, 1), PG_A | PG_D);
		user_map(root, la, FRAME(TWO) | PG_P | PG_U);
		user_write_faults(c, la + 8, USER_DATA(r, 0), 7);
		same("D of a read-only page", ad(la, 1) & PG_D, 0);
		fill_frames();
	}
	test_end();
}

/* --- Changed entries ------------------------------------------------------------------------------------------- */

static void test_invlpg(void)
{
	test_begin("INVLPG: another page, other rights, no page");
	EACH_PLACE(r, c) {
		u64 la = USER_DATA(r, 0), other = USER_DATA(r, 1);

		user_map(root, other, FRAME(THREE) | RW);
		for (unsigned turn = 0; turn < 6; turn++) {
			unsigned frame = turn & 1 ? TWO : ONE;
			volatile u64 *here = (u64 *)FRAME(frame), *there = (u64 *)FRAME(ONE + TWO - frame);

			now.more = turn;
			user_map(root, la, FRAME(frame) | RW);
			user_reads(c, la, content(frame));
			user_reads(c, la + 0xff0, content(frame));
			user_writes(c, la + 16, 0x1234 + turn);
			same("the page that was written", here[2], 0x1234 + turn);
			same("the page before it", there[2], content(ONE + TWO - frame));
			here[2] = content(frame);
			/* Across pages, whose second stays. */
			user_reads(c, other - 4, content(frame) >> 32 | content(THREE) << 32);
			if (turn & 2) { /* by all of CR3 */
				*user_entry(root, la, 1) = FRAME(THREE) | RW;
				write_cr3(root);
				user_reads(c, la, content(THREE));
			}
			/* Read-only and back. */
			user_map(root, la, FRAME(frame) | PG_P | PG_U);
			user_reads(c, la, content(frame));
			user_write_faults(c, la + 8, other, 7);
			user_map(root, la, FRAME(frame) | RW);
			user_writes(c, la, content(frame));
			/* The supervisor's. */
			user_map(root, la, FRAME(frame) | PG_P | PG_W);
			user_read_faults(c, la, other, 5);
			user_write_faults(c, la, other, 7);
			/* Nobody's. */
			user_map(root, la, 0);
			user_read_faults(c, la + 0x800, other, 4);
			user_write_faults(c, la + 0xff8, other, 6);
			user_map(root, la, FRAME(frame) | RW);
			user_writes(c, la, content(frame));
			/* Rights of the level above. */
			*user_entry(root, la, 2) &= ~PG_W;
			invlpg(la);
			invlpg(other);
			user_write_faults(c, la, USER_STACK((r + 1) % NR_RANGES), 7);
			*user_entry(root, la, 2) |= PG_W;
			invlpg(la);
			invlpg(other);
		}
	}
	test_end();
}

/* --- Address spaces -------------------------------------------------------------------------------------------- */

/* movl $v, %eax; ret */
static void put_function(unsigned frame, u32 v)
{
	u8 *p = (u8 *)FRAME(frame) + 0x100;

	p[0] = 0xb8;
	*(volatile u32 *)(p + 1) = v;
	p[5] = 0xc3;
}

/* Both spaces have a page of data and code at the same addresses. */
static void make_spaces(u64 bits)
{
	fill_frames();
	put_function(ONE, 1);
	put_function(TWO, 2);
	put_function(THREE, 3);
	for (unsigned r = 0; r < NR_RANGES; r++) {
		user_map(root, USER_DATA(r, 0), FRAME(ONE) | RW | bits);
		user_map(root_b, USER_DATA(r, 0), FRAME(TWO) | RW | bits);
		user_map(root, USER_DATA(r, 1), FRAME(FOUR) | RW);
		user_map(root_b, USER_DATA(r, 1), FRAME(FOUR) | RW);
	}
}

static void see(unsigned c, unsigned r, unsigned frame)
{
	user_reads(c, USER_DATA(r, 0), content(frame));
	user_calls(c, USER_DATA(r, 0) + 0x100, frame - ONE + 1);
	user_writes(c, USER_DATA(r, 0) + 8, content(frame));
	user_reads(c, USER_DATA(r, 1) - 1, content(frame) >> 56 | content(FOUR) << 8);
}

static void test_switches(u64 pcid, u64 pcid_b, const char *name)
{
	test_begin(name);
	make_spaces(0);
	EACH_PLACE(r, c)
		for (unsigned turn = 0; turn < 6; turn++) {
			now.more = turn;
			write_cr3(root | pcid);
			see(c, r, ONE);
			write_cr3(root_b | pcid_b);
			see(c, r, TWO);
		}
	same("what A wrote", ((u64 *)FRAME(ONE))[1], content(ONE));
	same("what B wrote", ((u64 *)FRAME(TWO))[1], content(TWO));
	/* A page of the other one changes. */
	EACH_PLACE(r, c) {
		write_cr3(root | pcid);
		see(c, r, ONE);
		*user_entry(root_b, USER_DATA(r, 0), 1) = FRAME(THREE) | RW;
		write_cr3(root_b | (pcid_b & 0xfff));
		see(c, r, THREE);
		*user_entry(root_b, USER_DATA(r, 0), 1) = 0;
		write_cr3(root | pcid);
		see(c, r, ONE);
		write_cr3(root_b | (pcid_b & 0xfff));
		user_read_faults(c, USER_DATA(r, 0), USER_DATA(r, 1), 4);
		user_map(root_b, USER_DATA(r, 0), FRAME(TWO) | RW);
		see(c, r, TWO);
	}
	write_cr3(root | (pcid & 0xfff));
	test_end();
}

enum { INDIVIDUAL, SINGLE, ALL_WITH_GLOBAL, ALL, NR_TYPES };

static void invpcid(u64 type, u64 pcid, u64 la)
{
	const u64 desc[2] = {pcid, la};

	asm volatile("invpcid %0, %1" : : "m"(desc), "r"(type) : "memory");
}

/* Each type, of the present PCID (1) and of the other. */
static void test_invpcid(void)
{
	test_begin("INVPCID under user code");
	make_spaces(0);
	EACH_PLACE(r, c)
		for (u64 type = 0; type < NR_TYPES; type++)
			for (u64 pcid = 1; pcid <= 2; pcid++) {
				now.more = type << 4 | pcid;
				write_cr3(root_b | 2 | KEEP);
				see(c, r, TWO);
				write_cr3(root | 1 | KEEP);
				see(c, r, ONE);
				*user_entry(pcid == 1 ? root : root_b, USER_DATA(r, 0), 1) = FRAME(THREE) | RW;
				invpcid(type, type < ALL_WITH_GLOBAL ? pcid : 0, type ? 0 : USER_DATA(r, 0));
				see(c, r, pcid == 1 ? THREE : ONE);
				write_cr3(root_b | 2 | KEEP);
				see(c, r, pcid == 1 ? TWO : THREE);
				*user_entry(pcid == 1 ? root : root_b, USER_DATA(r, 0), 1) =
					FRAME(pcid == 1 ? ONE : TWO) | RW;
				invpcid(ALL, 0, 0);
			}
	test_end();
}

static void test_global(void)
{
	test_begin("global user pages");
	write_cr4(read_cr4() | CR4_PGE);
	make_spaces(PG_G);
	EACH_PLACE(r, c) {
		u64 la = USER_DATA(r, 0);

		/* The same in both spaces, as it must be. */
		user_map(root, la, FRAME(ONE) | RW | PG_G);
		user_map(root_b, la, FRAME(ONE) | RW | PG_G);
		for (unsigned turn = 0; turn < 3; turn++) {
			write_cr3(root);
			see(c, r, ONE);
			write_cr3(root_b);
			see(c, r, ONE);
		}
		*user_entry(root, la, 1) = *user_entry(root_b, la, 1) = FRAME(TWO) | RW | PG_G;
		invlpg(la);
		see(c, r, TWO);
		write_cr3(root);
		see(c, r, TWO);
		*user_entry(root, la, 1) = FRAME(THREE) | RW | PG_G;
		write_cr4(read_cr4() & ~CR4_PGE);
		see(c, r, THREE);
		write_cr4(read_cr4() | CR4_PGE);
		see(c, r, THREE);
		*user_entry(root, la, 1) = FRAME(ONE) | PG_P | PG_U | PG_G;
		invlpg(la);
		user_write_faults(c, la, USER_DATA(r, 1), 7);
		*user_entry(root, la, 1) = 0;
		invlpg(la);
		user_read_faults(c, la, USER_DATA(r, 1), 4);
	}
	write_cr4(read_cr4() & ~CR4_PGE);
	test_end();
}

/* --- Large pages ------------------------------------------------------------------------------------------------ */

static void test_large(void)
{
	static const u64 places[] = {0, 0x1000, 0xfff0, 0x100000, 0x1ff000, 0x1ffff8};
	enum { NR = sizeof(places) / sizeof(places[0]) };

	test_begin("pages of 2 MiB");
	for (unsigned big = 0; big < NR_BIG_FRAMES; big++)
		for (unsigned n = 0; n < NR; n++)
			*(volatile u64 *)(BIG_FRAME(big) + places[n]) = 0x1000 * (big + 1) + n;
	EACH_PLACE(r, c) {
		u64 la = (user_range[r] + 0x4000000) & ~0x1fffffull;
		volatile u64 *pde = user_entry(root, la, 2);

		user_map(root, USER_DATA(r, 0), FRAME(ONE) | RW);
		now.at = la;
		for (unsigned turn = 0; turn < 4; turn++) {
			unsigned big = turn & 1;

			now.more = turn;
			*pde = BIG_FRAME(big) | RW | PG_PS;
			invlpg(la + places[turn]);
			for (unsigned n = 0; n < NR; n++)
				user_reads(c, la + places[n], 0x1000 * (big + 1) + n);
			same("A and D after reads", ad(la, 2), PG_A);
			user_writes(c, la + places[1 + turn], 0x1000 * (big + 1) + 1 + turn);
			same("A and D after writes", ad(la, 2), PG_A | PG_D);
			*pde &= ~(PG_A | PG_D);
			invlpg(la + places[5 - turn]);
			for (unsigned n = 0; n < NR; n++)
				user_reads(c, la + places[n], 0x1000 * (big + 1) + n);
			same("D cleared, reads", ad(la, 2), PG_A);
			user_writes(c, la + 0x2000 + places[turn], 1);
			same("D cleared, writes", ad(la, 2), PG_A | PG_D);
			*pde = BIG_FRAME(big) | PG_P | PG_U | PG_PS;
			invlpg(la + 0x1fffff);
			for (unsigned n = 0; n < NR; n++)
				user_write_faults(c, la + places[n], USER_DATA(r, 0), 7);
			*pde = 0;
			invlpg(la + 0x80000);
			for (unsigned n = 0; n < NR; n++)
				user_read_faults(c, la + places[n], USER_DATA(r, 0), 4);
		}
		/* In small pages, one of which is another, and as one again. */
		*pde = BIG_FRAME(0) | RW | PG_PS;
		user_reads(c, la + 0x1000, 0x1001);
		*pde = 0;
		invlpg(la);
		for (u64 n = 0; n < 512; n++)
			*user_entry(root, la + n * 4096, 1) = (BIG_FRAME(n == 1) + n * 4096) | RW;
		user_reads(c, la + 0x1000, 0x2001);
		user_reads(c, la + 0x100000, 0x1003);
		*pde = BIG_FRAME(0) | RW | PG_PS;
		for (u64 n = 0; n < 512; n++)
			invlpg(la + n * 4096);
		user_reads(c, la + 0x1000, 0x1001);
		*pde = 0;
		invlpg(la);
	}
	test_end();
}

/* --- Several mappings ------------------------------------------------------------------------------------------- */

/* Writes at RBX, reads at RSI, and the other way. */
USER_CODE(two_mappings, "xorl %edx, %edx; xorl %ecx, %ecx\n1: movq %r15, (%rbx); addq (%rsi), %rdx; incq 8(%rsi); addq 8(%rbx), %rcx\n"
	  "lock addq %r15, 16(%rbx); subq %r15, 16(%rsi); decl %r15d; jnz 1b" END);

static void test_aliases(void)
{
	struct user u;

	test_begin("several mappings of a page");
	EACH_PLACE(r, c) {
		volatile u64 *frame = (u64 *)FRAME(ONE);
		u64 la = USER_DATA(r, 0), alias = USER_DATA(NR_RANGES - 1 - r, 3), near = USER_DATA(r, 7);

		user_map(root, la, FRAME(ONE) | RW);
		user_map(root, alias, FRAME(ONE) | RW);
		user_map(root, near, FRAME(ONE) | PG_P | PG_U);
		for (u64 n = 1; n < 20; n++) {
			frame[0] = n;
			user_reads(c, la, n);
			user_reads(c, alias, n);
			user_writes(c, alias, n * n);
			same("read by the kernel", frame[0], n * n);
			user_reads(c, near, n * n);
			*(volatile u64 *)la = n + 7;
			user_reads(c, alias, n + 7);
		}
		for (unsigned n = 0; n < 2; n++) {
			frame[1] = frame[2] = 0;
			user_set(&u, USER_CODE_AT(c, two_mappings), USER_STACK(r) + 0x1800);
			u.f.rbx = la;
			u.f.rsi = n ? near : alias;
			u.f.r15 = 100;
			user_run(&u);
			same("vector", u.f.vector, 0x80);
			same("sum of what was written", u.f.rdx, 5050);
			same("sum of what was counted", u.f.rcx, 5050);
			same("sum of differences", frame[2], 0);
			user_map(root, near, FRAME(ONE) | RW);
		}
	}
	test_end();
}

/* --- Devices --------------------------------------------------------------------------------------------------- */

USER_CODE(device, "xorl %edx, %edx\n1: movzbl 0xff0(%rbx), %eax; addq %rax, %rdx; movl %r15d, 8(%rbx); addl 8(%rbx), %ecx\n"
	  "movq (%rsi), %r8; decl %r15d; jnz 1b" END);

static void test_device(void)
{
	struct user u;

	test_begin("a device in a user page");
	EACH_PLACE(r, c) {
		u64 la = USER_DATA(r, 0), sum = 0;

		user_map(root, USER_DATA(r, 1), FRAME(TWO) | RW);
		user_map(root, la, FRAME(ONE) | RW);
		user_reads(c, la, content(ONE));
		user_map(root, la, MMIO_BASE | RW);
		u8 next = *(volatile u8 *)(MMIO_BASE + 0xff0);
		for (unsigned n = 0; n < USER_TURNS; n++)
			sum += ++next;
		inl(PORT_MMIO_COUNT);
		user_set(&u, USER_CODE_AT(c, device), USER_STACK(r) + 0x1800);
		u.f.rbx = la;
		u.f.rsi = USER_DATA(r, 1);
		u.f.rcx = 0;
		u.f.r15 = USER_TURNS;
		user_run(&u);
		same("vector", u.f.vector, 0x80);
		same("sum of a counter", u.f.rdx, sum);
		same("sum of what was written", u.f.rcx, USER_TURNS * (USER_TURNS + 1) / 2);
		same("accesses", inl(PORT_MMIO_COUNT), 3 * USER_TURNS);
		user_map(root, la, FRAME(ONE) | RW);
		user_reads(c, la, content(ONE));
		user_map(root, la, 0x10000000 | RW); /* nothing is there */
		user_reads(c, la, ~0ull);
		user_writes(c, la, 1);
		user_map(root, la, 0);
		user_read_faults(c, la, USER_DATA(r, 1), 4);
	}
	test_end();
}

void guest_main(void)
{
	u32 id[4];

	root = user_begin();
	root_b = user_space_new();
	fill_frames();
	test_accessed_dirty();
	test_invlpg();
	test_switches(0, 0, "two address spaces");
	test_global();
	test_large();
	fill_frames();
	test_aliases();
	fill_frames();
	test_device();
	if (!user_pcids(root))
		return;
	test_switches(1 | KEEP, 2 | KEEP, "two address spaces, switched without a flush");
	test_switches(1, 2, "two address spaces with PCIDs");
	cpuid(7, 0, id);
	if (id[1] >> 10 & 1)
		test_invpcid();
	else
		print("ok - INVPCID # SKIP not in CPUID\n");
}
