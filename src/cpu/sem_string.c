/*
 * String instructions. With REP, and upwards, a page chunk at a time through host pointers; everything else (down,
 * page crossings, MMIO, odd segments) element by element. After every chunk or element the registers are whole, so a
 * fault, an exit or a request in between leaves the instruction to be resumed from its start (SDM vol. 2, REP).
 */
#include "cpu/sem_io.h"
#include "cpu/sem_util.h"

static ALWAYS_INLINE u64 address_mask(const struct insn *i)
{
	return i->addrsize == 8 ? ~0ull : i->addrsize == 4 ? 0xffffffffull : 0xffffull;
}

static ALWAYS_INLINE u64 reg_at(const struct cpu *c, const struct insn *i, enum gpr r)
{
	return c->gpr[r] & address_mask(i);
}

/* Advances an address or count register by @by, as wide as addresses are. */
static ALWAYS_INLINE void reg_add(struct cpu *c, const struct insn *i, enum gpr r, s64 by)
{
	u64 v = c->gpr[r] + (u64)by;

	if (likely(i->addrsize == 8))
		c->gpr[r] = v;
	else if (i->addrsize == 4)
		c->gpr[r] = (u32)v;
	else
		c->gpr[r] = (c->gpr[r] & ~0xffffull) | (u16)v;
}

static ALWAYS_INLINE s64 step(const struct cpu *c, unsigned size)
{
	return c->rflags & FL_DF ? -(s64)size : (s64)size;
}

static ALWAYS_INLINE u64 src_la(struct cpu *c, const struct insn *i, unsigned size)
{
	return seg_la(c, i->seg, reg_at(c, i, RSI), size, ACC_READ);
}

static ALWAYS_INLINE u64 dst_la(struct cpu *c, const struct insn *i, unsigned size, enum access acc)
{
	return seg_la(c, SEG_ES, reg_at(c, i, RDI), size, acc);
}

/* --- The REP loop --------------------------------------------------------------------------------- */

/*
 * How many elements may go without a look around: one where each is traced, else what is left, bounded so that a
 * request is seen soon.
 */
#define CHUNK_MAX 4096u
static u64 chunk_budget(const struct cpu *c, const struct insn *i)
{
	if ((c->rflags & FL_TF) || c->debug_active)
		return 1;
	return MIN(reg_at(c, i, RCX), (u64)CHUNK_MAX);
}

/* Between chunks. True: leave, with RIP at the instruction. */
static ALWAYS_INLINE bool rep_pause(struct cpu *c)
{
	if (c->io.next)
		cpu_io_retire(c);
	return c->smc || (c->rflags & FL_TF) || c->debug_active || cpu_must_stop(c);
}

/* @n elements are done; *@more says whether the condition of REPE and REPNE holds. */
typedef u64 chunk_fn(struct cpu *c, const struct insn *i, u64 n, bool *more);

static ALWAYS_INLINE void rep_run(struct cpu *c, const struct insn *i, chunk_fn *one, chunk_fn *chunk)
{
	bool more = true;

	if (!i->rep) {
		one(c, i, 1, &more);
		c->rip = insn_next(c, i);
		return;
	}
	while (reg_at(c, i, RCX)) {
		u64 n = chunk_budget(c, i), done = 0;

		if (chunk && !(c->rflags & FL_DF) && n > 1)
			done = chunk(c, i, n, &more);
		if (!done)
			done = one(c, i, 1, &more);
		reg_add(c, i, RCX, -(s64)done);
		if (!more)
			break;
		if (rep_pause(c) && reg_at(c, i, RCX))
			return;
	}
	c->rip = insn_next(c, i);
}

/*
 * Elements at offset @off of @seg, linear address @la, that one host pointer can serve: they end with the page, with
 * the offset's width and with the segment. The first element has passed seg_la().
 */
static u64 elements_at(const struct cpu *c, const struct insn *i, enum seg_reg seg, u64 off, u64 la, unsigned size)
{
	u64 n = PAGE_SIZE - (la & (PAGE_SIZE - 1));

	n = MIN(n, address_mask(i) - off + (address_mask(i) != ~0ull));
	if (c->code_bits != 64) {
		const struct segment *s = &c->seg[seg];

		if ((s->type & 0xc) == 4) /* expand-down */
			return 1;
		n = MIN(n, (u64)s->limit - off + 1);
	}
	return n / size;
}

/* Host pointer to as many of *@n elements as lie side by side, *@n cut to them; NULL: none. */
static void *source_chunk(struct cpu *c, const struct insn *i, unsigned size, u64 *n)
{
	u64 la = src_la(c, i, size);

	*n = MIN(*n, elements_at(c, i, i->seg, reg_at(c, i, RSI), la, size));
	return *n ? mem_host(c, i->seg, la, *n * size, ACC_READ) : NULL;
}

static void *dest_chunk(struct cpu *c, const struct insn *i, unsigned size, u64 *n, enum access acc)
{
	u64 la = dst_la(c, i, size, acc);

	*n = MIN(*n, elements_at(c, i, SEG_ES, reg_at(c, i, RDI), la, size));
	return *n ? mem_host(c, SEG_ES, la, *n * size, acc) : NULL;
}

/* --- MOVS, STOS, LODS ----------------------------------------------------------------------------- */

static ALWAYS_INLINE u64 movs_one(struct cpu *c, const struct insn *i, unsigned size)
{
	u64 v = mem_read(c, i->seg, src_la(c, i, size), size);

	mem_write(c, SEG_ES, dst_la(c, i, size, ACC_WRITE), size, v);
	reg_add(c, i, RSI, step(c, size));
	reg_add(c, i, RDI, step(c, size));
	return 1;
}

static ALWAYS_INLINE u64 movs_chunk(struct cpu *c, const struct insn *i, unsigned size, u64 n)
{
	u8 *s = source_chunk(c, i, size, &n);
	u8 *d = s ? dest_chunk(c, i, size, &n, ACC_WRITE) : NULL;

	if (!d)
		return 0;
	if (d <= s || d >= s + n * size)
		memmove(d, s, n * size);
	else /* the copy feeds on itself */
		for (u64 k = 0; k < n; k++)
			host_store(d + k * size, size, host_load(s + k * size, size));
	reg_add(c, i, RSI, n * size);
	reg_add(c, i, RDI, n * size);
	return n;
}

static ALWAYS_INLINE u64 stos_one(struct cpu *c, const struct insn *i, unsigned size)
{
	mem_write(c, SEG_ES, dst_la(c, i, size, ACC_WRITE), size, c->gpr[RAX]);
	reg_add(c, i, RDI, step(c, size));
	return 1;
}

static ALWAYS_INLINE u64 stos_chunk(struct cpu *c, const struct insn *i, unsigned size, u64 n)
{
	u8 *d = dest_chunk(c, i, size, &n, ACC_WRITE);

	if (!d)
		return 0;
	if (size == 1 || c->gpr[RAX] == 0)
		memset(d, (u8)c->gpr[RAX], n * size);
	else
		for (u64 k = 0; k < n; k++)
			host_store(d + k * size, size, c->gpr[RAX]);
	reg_add(c, i, RDI, n * size);
	return n;
}

static ALWAYS_INLINE u64 lods_one(struct cpu *c, const struct insn *i, unsigned size)
{
	u64 v = mem_read(c, i->seg, src_la(c, i, size), size);

	gpr_set(c, RAX * 8, size, v);
	reg_add(c, i, RSI, step(c, size));
	return 1;
}

/* --- CMPS, SCAS: the flags are those of the last comparison --------------------------------------- */

static ALWAYS_INLINE void compared(struct cpu *c, const struct insn *i, unsigned size, u64 a, u64 b, bool *more)
{
	alu(ALU_CMP, size, a, b, c->rflags, &c->rflags);
	*more = i->rep == 0xf3 ? c->rflags & FL_ZF : !(c->rflags & FL_ZF);
}

static ALWAYS_INLINE u64 cmps_one(struct cpu *c, const struct insn *i, unsigned size, bool *more)
{
	u64 b = mem_read(c, SEG_ES, dst_la(c, i, size, ACC_READ), size);
	u64 a = mem_read(c, i->seg, src_la(c, i, size), size);

	compared(c, i, size, a, b, more);
	reg_add(c, i, RSI, step(c, size));
	reg_add(c, i, RDI, step(c, size));
	return 1;
}

static ALWAYS_INLINE u64 cmps_chunk(struct cpu *c, const struct insn *i, unsigned size, u64 n, bool *more)
{
	const u8 *s = source_chunk(c, i, size, &n);
	const u8 *d = s ? dest_chunk(c, i, size, &n, ACC_READ) : NULL;
	bool equal = i->rep == 0xf3;
	u64 k = 0, a, b;

	if (!d)
		return 0;
	do {
		a = host_load(s + k * size, size);
		b = host_load(d + k * size, size);
		k++;
	} while (k < n && (a == b) == equal);
	compared(c, i, size, a, b, more);
	reg_add(c, i, RSI, k * size);
	reg_add(c, i, RDI, k * size);
	return k;
}

static ALWAYS_INLINE u64 scas_one(struct cpu *c, const struct insn *i, unsigned size, bool *more)
{
	u64 b = mem_read(c, SEG_ES, dst_la(c, i, size, ACC_READ), size);

	compared(c, i, size, gpr_get(c, RAX * 8, size), b, more);
	reg_add(c, i, RDI, step(c, size));
	return 1;
}

static ALWAYS_INLINE u64 scas_chunk(struct cpu *c, const struct insn *i, unsigned size, u64 n, bool *more)
{
	const u8 *d = dest_chunk(c, i, size, &n, ACC_READ);
	u64 a = gpr_get(c, RAX * 8, size), b, k = 0;
	bool equal = i->rep == 0xf3;

	if (!d)
		return 0;
	do {
		b = host_load(d + k * size, size);
		k++;
	} while (k < n && (a == b) == equal);
	compared(c, i, size, a, b, more);
	reg_add(c, i, RDI, k * size);
	return k;
}

/* --- INS, OUTS: one element at a time ------------------------------------------------------------- */

static ALWAYS_INLINE u64 ins_one(struct cpu *c, const struct insn *i, unsigned size)
{
	u16 port = c->gpr[RDX];
	u64 la = dst_la(c, i, size, ACC_WRITE);
	mem_probe(c, SEG_ES, la, size, ACC_WRITE);
	mem_write_slow(c, SEG_ES, la, size, io_in(c, port, size));
	reg_add(c, i, RDI, step(c, size));
	return 1;
}

static ALWAYS_INLINE u64 outs_one(struct cpu *c, const struct insn *i, unsigned size)
{
	u16 port = c->gpr[RDX];

	io_out(c, port, size, mem_read(c, i->seg, src_la(c, i, size), size));
	reg_add(c, i, RSI, step(c, size));
	return 1;
}

/* --- The functions of each size ------------------------------------------------------------------- */

#define STRING_FN(name, size, has_chunk, one_call, chunk_call)                                                \
	static u64 name##_one_##size(struct cpu *c, const struct insn *i, u64 n, bool *more)                   \
	{                                                                                                      \
		return one_call;                                                                               \
	}                                                                                                      \
	static u64 name##_chunk_##size(struct cpu *c, const struct insn *i, u64 n, bool *more)                 \
	{                                                                                                      \
		return chunk_call;                                                                             \
	}                                                                                                      \
	static void name##_##size(struct cpu *c, const struct insn *i)                                         \
	{                                                                                                      \
		rep_run(c, i, name##_one_##size, has_chunk ? name##_chunk_##size : NULL);                      \
	}

#define STRING_SEM(name)                                                                                       \
	const struct sem sem_##name = {.fn = {{name##_1, name##_1}, {name##_2, name##_2}, {name##_4, name##_4}, \
					      {name##_8, name##_8}}};

#define STRING_1(name, size) STRING_FN(name, size, false, name##_one(c, i, size), 0)
#define STRING_2(name, size) STRING_FN(name, size, true, name##_one(c, i, size), name##_chunk(c, i, size, n))
#define STRING_3(name, size)                                                                                   \
	STRING_FN(name, size, true, name##_one(c, i, size, more), name##_chunk(c, i, size, n, more))
#define STRING(name, FN) FN(name, 1) FN(name, 2) FN(name, 4) FN(name, 8) STRING_SEM(name)

STRING(movs, STRING_2)
STRING(stos, STRING_2)
STRING(lods, STRING_1)
STRING(cmps, STRING_3)
STRING(scas, STRING_3)

/* Ports are at most 4 bytes wide: REX.W makes no difference. */
#define STRING_IO_FN(name, size)                                                                               \
	static u64 name##_one_##size(struct cpu *c, const struct insn *i, u64 n, bool *more)                   \
	{                                                                                                      \
		return name##_one(c, i, size);                                                                 \
	}                                                                                                      \
	static void name##_##size(struct cpu *c, const struct insn *i)                                         \
	{                                                                                                      \
		io_check(c, c->gpr[RDX], size); /* also for a count of 0 */                                    \
		rep_run(c, i, name##_one_##size, NULL);                                                        \
	}
#define STRING_IO(name)                                                                                        \
	STRING_IO_FN(name, 1) STRING_IO_FN(name, 2) STRING_IO_FN(name, 4)                                      \
	const struct sem sem_##name = {.fn = {{name##_1, name##_1}, {name##_2, name##_2}, {name##_4, name##_4}, \
					      {name##_4, name##_4}}};
STRING_IO(ins)
STRING_IO(outs)
