/*
 * User code that calls and jumps from one page to another, again and again: what is behind such a branch changes with
 * the address space, with where the same page of code is executed, with the page tables, and with the code itself.
 */
#include "user64.h"

#define TURNS 100

/*
 * A caller's page and the page that it calls, some pages behind or before it:
 *   caller + 0x10: 1: call next + 0x100; add %rax, %r9; cmp $-1, %r15d; jne next + 0x200; ud2
 *   caller + 0x80: dec %r15d; jnz 1b; int $0x80
 *   next + 0x100: mov $v, %eax; ret
 *   next + 0x200: add $v, %r9; jmp caller + 0x80
 */
static const int distance[] = {1, -1, 5, -3};
#define NR_CALLERS 4
#define CALLER(d) FRAME(FREE_FRAME + (d))
#define NEXT(d, v) FRAME(FREE_FRAME + NR_CALLERS + NR_CALLERS * (v) + (d)) /* v is 1 to NR_NEXT */
#define NR_NEXT 3
#define HERE(r) USER_DATA(r, 16)
#define THERE(r) USER_DATA(r, 32) /* another address for the same page */
#define ENTRY 0x10
#define SUM(v) (2ull * (v) * TURNS)

static u64 root, root_b;

static u8 *put(u8 *p, const char *bytes, unsigned n)
{
	memcpy(p, bytes, n);
	return p + n;
}

/* The rel32 of a branch in page @from at @p to @offset in the page @pages behind it. */
static u8 *put_rel(u8 *p, u64 from, int pages, u64 offset)
{
	u32 rel = (u32)((u64)pages * 4096 + offset - ((u64)p + 4 - from));

	memcpy(p, &rel, 4);
	return p + 4;
}

static void put_caller(u64 page, int pages)
{
	u8 *p = (u8 *)page + ENTRY;

	p = put_rel(put(p, "\xe8", 1), page, pages, 0x100);
	p = put(p, "\x49\x01\xc1\x41\x83\xff\xff", 7);
	p = put_rel(put(p, "\x0f\x85", 2), page, pages, 0x200);
	put(p, "\x0f\x0b", 2);
	p = put((u8 *)page + 0x80, "\x41\xff\xcf", 3);
	p = put_rel(put(p, "\x0f\x85", 2), page, 0, ENTRY);
	put(p, "\xcd\x80", 2);
}

static void put_next(u64 page, int pages, u8 v)
{
	u8 *p = (u8 *)page + 0x100;

	p = put(p, "\xb8\0\0\0\0\xc3", 6);
	p[-5] = v;
	p = put((u8 *)page + 0x200, "\x49\x83\xc1", 3);
	*p++ = v;
	put_rel(put(p, "\xe9", 1), page, -pages, 0x80);
}

static void put_pages(void)
{
	for (unsigned d = 0; d < NR_CALLERS; d++) {
		put_caller(CALLER(d), distance[d]);
		for (unsigned v = 1; v <= NR_NEXT; v++)
			put_next(NEXT(d, v), distance[d], (u8)v);
	}
}

static u64 next_of(u64 page, unsigned d)
{
	return page + (u64)distance[d] * 4096;
}

static void map_both(u64 in, u64 page, unsigned d, unsigned v)
{
	user_map(in, page, CALLER(d) | PG_P | PG_U);
	user_map(in, next_of(page, d), NEXT(d, v) | PG_P | PG_U);
}

static void run(struct user *u, unsigned r, u64 page)
{
	user_set(u, page + ENTRY, USER_STACK(r) + 0x1800);
	u->f.r15 = TURNS;
	u->f.r9 = 0;
	user_run(u);
}

static void see(unsigned r, u64 page, u64 v)
{
	struct user u;

	run(&u, r, page);
	same("vector", u.f.vector, 0x80);
	same("sum", u.f.r9, SUM(v));
	same("RSP", u.f.rsp, USER_STACK(r) + 0x1800);
}

static void see_fault(unsigned r, u64 page, u64 next)
{
	struct user u;

	run(&u, r, page);
	same("vector", u.f.vector, 14);
	same("error code", u.f.error, 0x14);
	same("CR2", u.cr2, next + 0x100);
	same("RIP", u.f.rip, next + 0x100);
	same("RSP", u.f.rsp, USER_STACK(r) + 0x17f8);
}

#define EACH_LINK(r, d) \
	for (unsigned r = 0; r < NR_RANGES; r++) \
		for (unsigned d = 0; d < NR_CALLERS && (now.at = HERE(r), now.code = d, 1); d++)

static void test_spaces(u64 pcid, u64 pcid_b, const char *name)
{
	test_begin(name);
	EACH_LINK(r, d) {
		map_both(root, HERE(r), d, 1);
		map_both(root_b, HERE(r), d, 2);
		write_cr3(root_b | (pcid_b & 0xfff));
		write_cr3(root | (pcid & 0xfff));
		for (unsigned turn = 0; turn < 6; turn++) {
			now.more = turn;
			write_cr3(root | pcid);
			see(r, HERE(r), 1);
			write_cr3(root_b | pcid_b);
			see(r, HERE(r), 2);
		}
		/* The other one's page changes, and is gone. */
		*user_entry(root, next_of(HERE(r), d), 1) = NEXT(d, 3) | PG_P | PG_U;
		write_cr3(root | (pcid & 0xfff));
		see(r, HERE(r), 3);
		*user_entry(root_b, next_of(HERE(r), d), 1) = 0;
		write_cr3(root_b | (pcid_b & 0xfff));
		see_fault(r, HERE(r), next_of(HERE(r), d));
		write_cr3(root | (pcid & 0xfff));
		see(r, HERE(r), 3);
	}
	test_end();
}

/* The same page of code at two addresses, each with a neighbour of its own. */
static void test_two_addresses(void)
{
	test_begin("a caller at two addresses");
	EACH_LINK(r, d) {
		unsigned other = NR_RANGES - 1 - r;

		map_both(root, HERE(r), d, 1);
		map_both(root, THERE(r), d, 2);
		map_both(root, THERE(other), d, 3);
		for (unsigned turn = 0; turn < 6; turn++) {
			now.more = turn;
			see(r, HERE(r), 1);
			see(r, THERE(r), r == other ? 3 : 2);
			see(r, THERE(other), 3);
		}
	}
	test_end();
}

static void test_invlpg(void)
{
	test_begin("INVLPG of the page that is called");
	EACH_LINK(r, d) {
		u64 next = next_of(HERE(r), d);

		for (unsigned turn = 0; turn < 6; turn++) {
			now.more = turn;
			map_both(root, HERE(r), d, 1 + turn % NR_NEXT);
			see(r, HERE(r), 1 + turn % NR_NEXT);
			user_map(root, next, turn & 1 ? 0 : NEXT(d, 1));
			see_fault(r, HERE(r), next);
		}
	}
	test_end();
}

static void test_changing(void)
{
	test_begin("code that is called changes");
	EACH_LINK(r, d) {
		map_both(root, HERE(r), d, 1);
		for (unsigned turn = 0; turn < 40; turn++) {
			now.more = turn;
			put_next(NEXT(d, 1), distance[d], (u8)(turn + 1));
			see(r, HERE(r), turn + 1);
			/* The caller too: to somewhere else and back. */
			if (turn % 8 == 7) {
				map_both(root, HERE(r), d, 1);
				user_map(root, HERE(r) + 7 * 4096, NEXT(d, 2) | PG_P | PG_U);
				put_next(NEXT(d, 2), 7, 2);
				put_caller(CALLER(d), 7);
				see(r, HERE(r), 2);
				put_caller(CALLER(d), distance[d]);
				see(r, HERE(r), turn + 1);
			}
		}
	}
	put_pages();
	test_end();
}

/* More of them than an engine may have numbers for; each is seen again after many others. */
static void test_many_spaces(void)
{
	test_begin("thousands of flushes between two address spaces");
	map_both(root, HERE(2), 0, 1);
	map_both(root_b, HERE(2), 0, 2);
	for (unsigned turn = 0, random = 1; turn < 6000; turn++) {
		random = random * 1664525 + 1013904223;
		bool b = random >> 31;
		now.more = turn;
		write_cr3(b ? root_b : root);
		if ((random >> 20 & 15) < 2)
			see(2, HERE(2), b ? 2 : 1);
	}
	test_end();
}

void guest_main(void)
{
	root = user_begin();
	root_b = user_space_new();
	put_pages();
	test_spaces(0, 0, "two address spaces");
	write_cr3(root);
	test_two_addresses();
	test_invlpg();
	test_changing();
	test_many_spaces();
	if (!user_pcids(root))
		return;
	test_spaces(1 | KEEP, 2 | KEEP, "two address spaces, switched without a flush");
	test_spaces(1, 2, "two address spaces with PCIDs");
}
