/*
 * Programs in ring 3 at any user address: address spaces, and runs of user code from one set of registers to another.
 * 64-bit guest programs, on each of whose CPUs user_init() comes first.
 */
#ifndef USER64_H
#define USER64_H

#include "guest.h"

#define USER_CS 0x3b
#define USER_SS 0x33
#define IN_USER 4ull /* PG_U, and bit 2 of a page fault's error code */

/*
 * User code: position-independent, in pages of its own that are mapped, read-only, at the beginning of each range. It
 * ends by END, or an exception.
 */
#define USER_CODE(name, text) \
	extern const u8 name[]; \
	asm(".pushsection .user, \"ax\"\n.balign 16\n" #name ": " text "\n.popsection")
#define END "\nint $0x80\n"
extern const u8 user_code[], user_code_end[];

/* Where programs have their pages: low, in no special place, and where Linux puts programs, libraries and stacks. */
#define NR_RANGES 6
extern const u64 user_range[NR_RANGES];
#define USER_CODE_AT(r, name) (user_range[r] + (u64)((name) - user_code))
#define USER_DATA(r, page) (user_range[r] + 0x40000 + (page) * 4096ull)
#define USER_STACK(r) (user_range[r] + 0x80000) /* two pages, mapped: FRAME(2 * r) and the next */

/* Memory that nobody else uses: for 4 KiB and 2 MiB pages. */
#define FRAME(n) (0x1200000ull + (n) * 4096ull)
#define NR_FRAMES 2048
#define BIG_FRAME(n) (0x1a00000ull + (n) * 0x200000ull)
#define NR_BIG_FRAMES 2
#define FREE_FRAME (2 * NR_RANGES) /* the first one without a use of its own */
/* What fill_frame() writes to each word of a frame, by which tests know it. */
u64 content(unsigned frame);
void fill_frame(unsigned frame);

void user_init(void);
/* Lets programs use what vectors there are: 0 with SSE, 1 with AVX2, 2 with AVX-512BW. */
int user_vectors(void);
/* A page table root: what is below 4 GiB is the kernel's identity map, and code and stacks of all ranges. */
u64 user_space_new(void);
/* user_init(), and a new address space, which is entered: its CR3. */
u64 user_begin(void);
/* Enters @root with PCIDs on, which is told where that cannot be. */
bool user_pcids(u64 root);
/* The entry that maps @la: of a page table (@level 1) or a page directory (2). Tables are made on the way to it. */
volatile u64 *user_entry(u64 root, u64 la, int level);
/* Sets the entry of a 4 KiB page, and INVLPG. */
void user_map(u64 root, u64 la, u64 entry);

/* Registers before a run, and after it: with vector, error code and CR2 of what has ended it. */
struct user {
	struct frame f;
	u64 cr2;
};
/* Recognisable values in all registers, level 3, flags clear. */
void user_set(struct user *u, u64 rip, u64 rsp);
void user_run(struct user *u);
/* For handlers in trap_table: ends the run, which goes on behind user_run(). What has no handler of its own ends it. */
void user_end(struct frame *f);

/* Loops of ring 3 code in range @r: @u.f.vector is 0x80 unless one of the accesses faulted. */
#define USER_TURNS 40
extern const u8 user_reader_at[], user_writer_at[]; /* the instruction that accesses */
/* USER_TURNS loads; whether all of them have found @v. */
bool user_reads(unsigned r, u64 la, u64 v);
/* USER_TURNS stores of @v; whether none faulted. */
bool user_writes(unsigned r, u64 la, u64 v);
/* One of each, in a loop with others at @good; expects a page fault with that error code, its RIP and CR2. */
bool user_read_faults(unsigned r, u64 la, u64 good, u64 error);
bool user_write_faults(unsigned r, u64 la, u64 good, u64 error);
/* Calls @la again and again; whether EAX is @v each time. */
bool user_calls(unsigned r, u64 la, u32 v);
/* Calls @la once; expects a page fault of the fetch there. */
bool user_calls_faults(unsigned r, u64 la, u64 error);
extern struct user user_last;

/*
 * A test of many cases: one line if all went well, otherwise one for each of the first that did not, which says what
 * case it was.
 */
extern struct now {
	const char *test, *what;
	u64 code, at, more;
	unsigned failures;
} now;
void test_begin(const char *name);
void test_end(void);
bool same(const char *what, u64 got, u64 want);
bool same_bytes(const char *what, const u8 *got, const u8 *want, unsigned n);

#endif
