/* Data transfer: MOV, MOVZX, MOVSX, XCHG, LEA, CMOVcc, SETcc, BSWAP, MOVBE, XLAT, LAHF, flags, CMPXCHG8B/16B. */
#include "cpu/sem_util.h"

static ALWAYS_INLINE void mov_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	e_set(c, i, size, mem, g_get(c, i, size));
}

static ALWAYS_INLINE void mov_ge(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	g_set(c, i, size, e_get(c, i, size, mem));
}

static ALWAYS_INLINE void mov_ei(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	e_set(c, i, size, mem, i->imm);
}

SEM_BWDQ(mov_eg, mov_eg)
SEM_BWDQ(mov_ge, mov_ge)
SEM_BWDQ(mov_ei, mov_ei)

/* @from is the size of the source. */
static ALWAYS_INLINE void movzx_ge(struct cpu *c, const struct insn *i, unsigned size, bool mem, unsigned from)
{
	g_set(c, i, size, e_get(c, i, MIN(from, size), mem));
}

static ALWAYS_INLINE void movsx_ge(struct cpu *c, const struct insn *i, unsigned size, bool mem, unsigned from)
{
	u64 v = e_get(c, i, MIN(from, size), mem);

	g_set(c, i, size, from == 1 ? (u64)(s8)v : from == 2 ? (u64)(s16)v : (u64)(s32)v);
}

SEM_WDQ(movzx_b, movzx_ge, 1)
SEM_WDQ(movzx_w, movzx_ge, 2)
SEM_WDQ(movsx_b, movsx_ge, 1)
SEM_WDQ(movsx_w, movsx_ge, 2)
SEM_WDQ(movsxd, movsx_ge, 4)

static ALWAYS_INLINE u64 host_xchg(void *p, unsigned size, u64 v)
{
	switch (size) {
	case 1: return __atomic_exchange_n((u8 *)p, (u8)v, __ATOMIC_SEQ_CST);
	case 2: return __atomic_exchange_n((u16 *)p, (u16)v, __ATOMIC_SEQ_CST);
	case 4: return __atomic_exchange_n((u32 *)p, (u32)v, __ATOMIC_SEQ_CST);
	default: return __atomic_exchange_n((u64 *)p, v, __ATOMIC_SEQ_CST);
	}
}

/* With memory always locked (SDM vol. 2, XCHG). */
static ALWAYS_INLINE void xchg_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock)
{
	u64 v = g_get(c, i, size), was;

	if (!mem) {
		was = e_get(c, i, size, false);
		e_set(c, i, size, false, v);
	} else {
		u64 la = insn_la(c, i, size, ACC_WRITE);
		void *p = mem_host(c, i->seg, la, size, ACC_WRITE);

		if (likely(p)) {
			was = host_xchg(p, size, v);
		} else {
			struct rmw m;
			was = rmw_begin(c, &m, i->seg, la, size, true);
			rmw_end(c, &m, v);
		}
	}
	g_set(c, i, size, was);
}

SEM_BWDQ_LOCK(xchg, xchg_eg)

static ALWAYS_INLINE void lea_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	g_set(c, i, size, insn_ea(c, i));
}

SEM_WDQ(lea, lea_body)

/* The source is read whatever the condition; a 32-bit destination is zero-extended whatever the condition. */
static ALWAYS_INLINE void cmov_body(struct cpu *c, const struct insn *i, unsigned size, bool mem, unsigned cc)
{
	u64 v = e_get(c, i, size, mem), was = g_get(c, i, size);

	g_set(c, i, size, condition(c->rflags, cc) ? v : was);
}

static ALWAYS_INLINE void set_body(struct cpu *c, const struct insn *i, bool mem, unsigned cc)
{
	e_set(c, i, 1, mem, condition(c->rflags, cc));
}

#define CC_FAMILY(n, cc)                                                                        \
	SEM_WDQ(cmov##cc, cmov_body, n)                                                         \
	static void set##cc##_m(struct cpu *c, const struct insn *i) { set_body(c, i, true, n); }  \
	static void set##cc##_r(struct cpu *c, const struct insn *i) { set_body(c, i, false, n); } \
	const struct sem sem_set##cc = {.fn = {{set##cc##_m, set##cc##_r}}};
FOR_CC(CC_FAMILY)

static ALWAYS_INLINE u64 swap_bytes(u64 v, unsigned size)
{
	return __builtin_bswap64(v) >> (64 - 8 * size);
}

/* Of 16 bits it is undefined; the processors in use clear them. */
static ALWAYS_INLINE void bswap_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	gpr_set(c, i->rm_off, size, size == 2 ? 0 : swap_bytes(gpr_get(c, i->rm_off, size), size));
}

static ALWAYS_INLINE void movbe_ge(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	g_set(c, i, size, swap_bytes(e_get(c, i, size, true), size));
}

static ALWAYS_INLINE void movbe_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	e_set(c, i, size, true, swap_bytes(g_get(c, i, size), size));
}

SEM_WDQ(bswap, bswap_body)
SEM_WDQ(movbe_ge, movbe_ge)
SEM_WDQ(movbe_eg, movbe_eg)

static void xlat(struct cpu *c, const struct insn *i)
{
	u64 ea = c->gpr[RBX] + (u8)c->gpr[RAX];

	ea = i->addrsize == 8 ? ea : i->addrsize == 4 ? (u32)ea : (u16)ea;
	gpr_set(c, 0, 1, mem_read(c, i->seg, seg_la(c, i->seg, ea, 1, ACC_READ), 1));
}

static void lahf(struct cpu *c, const struct insn *i)
{
	gpr_set(c, 1, 1, (c->rflags & 0xd5) | FL_FIXED1);
}

static void sahf(struct cpu *c, const struct insn *i)
{
	c->rflags = (c->rflags & ~0xd5ull) | (gpr_get(c, 1, 1) & 0xd5);
}

static void salc(struct cpu *c, const struct insn *i)
{
	gpr_set(c, 0, 1, c->rflags & FL_CF ? 0xff : 0);
}

static void clc(struct cpu *c, const struct insn *i)
{
	c->rflags &= ~FL_CF;
}

static void stc(struct cpu *c, const struct insn *i)
{
	c->rflags |= FL_CF;
}

static void cmc(struct cpu *c, const struct insn *i)
{
	c->rflags ^= FL_CF;
}

static void cld(struct cpu *c, const struct insn *i)
{
	c->rflags &= ~FL_DF;
}

static void std(struct cpu *c, const struct insn *i)
{
	c->rflags |= FL_DF;
}

static void nop(struct cpu *c, const struct insn *i)
{
}

SEM_ONE(xlat, xlat)
SEM_ONE(lahf, lahf)
SEM_ONE(sahf, sahf)
SEM_ONE(salc, salc)
SEM_ONE(clc, clc)
SEM_ONE(stc, stc)
SEM_ONE(cmc, cmc)
SEM_ONE(cld, cld)
SEM_ONE(std, std)
SEM_ONE(nop, nop)

/* --- CMPXCHG8B, CMPXCHG16B: like CMPXCHG, memory is written in either case ------------------------ */

static void cmpxchg8b_body(struct cpu *c, const struct insn *i, bool lock)
{
	u64 want = gpr_get(c, RDX * 8, 4) << 32 | gpr_get(c, RAX * 8, 4);
	u64 next = gpr_get(c, RCX * 8, 4) << 32 | gpr_get(c, RBX * 8, 4), was;

	MEM_UPDATE(c, i->seg, insn_la(c, i, 8, ACC_WRITE), 8, lock, d, (was = d) == want ? next : d);
	if (was == want) {
		c->rflags |= FL_ZF;
	} else {
		c->rflags &= ~FL_ZF;
		gpr_set(c, RAX * 8, 4, was);
		gpr_set(c, RDX * 8, 4, was >> 32);
	}
}

static void cmpxchg8b(struct cpu *c, const struct insn *i)
{
	cmpxchg8b_body(c, i, false);
}

static void cmpxchg8b_lock(struct cpu *c, const struct insn *i)
{
	cmpxchg8b_body(c, i, true);
}

/* Aligned, so never over a page; the host's own runs with LOCK in either case. */
static bool host_cmpxchg16b(void *p, u64 old[2], const u64 next[2])
{
	bool done;

	asm volatile("lock cmpxchg16b %[m]\n\tsetz %[done]"
		     : [m] "+m"(*(u8(*)[16])p), "+a"(old[0]), "+d"(old[1]), [done] "=q"(done)
		     : "b"(next[0]), "c"(next[1])
		     : "cc", "memory");
	return done;
}

static void cmpxchg16b(struct cpu *c, const struct insn *i)
{
	u64 la = insn_la(c, i, 16, ACC_WRITE), old[2] = {c->gpr[RAX], c->gpr[RDX]};
	bool done;

	if (la & 15)
		raise_gp0(c);
	void *p = mem_host(c, i->seg, la, 16, ACC_WRITE);
	if (p) {
		done = host_cmpxchg16b(p, old, (u64[2]){c->gpr[RBX], c->gpr[RCX]});
	} else {
		u64 was[2];

		mem_probe(c, i->seg, la, 16, ACC_WRITE);
		mem_read_block(c, i->seg, la, was, 16);
		done = was[0] == old[0] && was[1] == old[1];
		memcpy(old, was, sizeof(was));
		if (done)
			memcpy(was, (u64[2]){c->gpr[RBX], c->gpr[RCX]}, sizeof(was));
		mem_write_block(c, i->seg, la, was, 16);
	}
	if (done) {
		c->rflags |= FL_ZF;
	} else {
		c->rflags &= ~FL_ZF;
		c->gpr[RAX] = old[0];
		c->gpr[RDX] = old[1];
	}
}

#define SEM_MEM_LOCK(name, f, locked) \
	const struct sem sem_##name = {.fn = {{f}, {f}, {f}, {f}}, .lock = {locked, locked, locked, locked}};
SEM_MEM_LOCK(cmpxchg8b, cmpxchg8b, cmpxchg8b_lock)
SEM_MEM_LOCK(cmpxchg16b, cmpxchg16b, cmpxchg16b)

/* MOVDIR64B: 64 bytes from r/m to the aligned address in reg, through ES (SDM vol. 2, MOVDIR64B). */
static void movdir64b(struct cpu *c, const struct insn *i)
{
	u8 line[64];
	u64 to = gpr_get(c, i->reg_off, 8);

	to = i->addrsize == 8 ? to : i->addrsize == 4 ? (u32)to : (u16)to;
	mem_read_block(c, i->seg, insn_la(c, i, 64, ACC_READ), line, 64);
	u64 la = seg_la(c, SEG_ES, to, 64, ACC_WRITE);
	if (la & 63)
		raise_gp0(c);
	mem_write_block(c, SEG_ES, la, line, 64);
}

SEM_ONE(movdir64b, movdir64b)
