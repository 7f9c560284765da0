#include "cpu/debug.h"

#include "cpu/exception.h"
#include "cpu/mem.h"

/* DR7.R/Wn */
enum dr7_rw { DR7_EXEC, DR7_WRITE, DR7_IO, DR7_RDWR };

/* The client's breakpoints take the place of the guest's while it debugs with them. */
static const u64 *debug_regs(const struct cpu *c, u64 *dr7)
{
	if (c->guest_debug & GUEST_DEBUG_HW_BP) {
		*dr7 = c->guest_dr7;
		return c->guest_dr;
	}
	*dr7 = c->dr7;
	return c->dr;
}

static bool dr7_enabled(u64 dr7, unsigned n)
{
	return dr7 >> (n * 2) & 3;
}

static enum dr7_rw dr7_rw(u64 dr7, unsigned n)
{
	return (enum dr7_rw)(dr7 >> (16 + n * 4) & 3);
}

static unsigned dr7_len(u64 dr7, unsigned n)
{
	static const u8 len[4] = {1, 2, 8, 4};
	return len[dr7 >> (18 + n * 4) & 3];
}

void debug_update(struct cpu *c)
{
	u64 dr7;
	bool watch = false;

	debug_regs(c, &dr7);
	for (unsigned n = 0; n < 4; n++)
		watch |= dr7_enabled(dr7, n) && dr7_rw(dr7, n) != DR7_EXEC;
	c->debug_active = (dr7 & 0xff) || (c->guest_debug & GUEST_DEBUG_STEP);
	c->watch_active = watch;
	if (watch)
		tlb_flush_all(c);
}

/* DR6 bits of the breakpoints that @size bytes at @la touch in the way @acc. */
static u64 debug_match(const struct cpu *c, u64 la, unsigned size, enum access acc)
{
	u64 dr7, hit = 0;
	const u64 *dr = debug_regs(c, &dr7);

	for (unsigned n = 0; n < 4; n++) {
		if (!dr7_enabled(dr7, n))
			continue;
		enum dr7_rw rw = dr7_rw(dr7, n);
		unsigned len = dr7_len(dr7, n);
		u64 at = dr[n] & ~(u64)(len - 1);
		bool kind = acc == ACC_EXEC ? rw == DR7_EXEC : rw == DR7_RDWR || (rw == DR7_WRITE && acc == ACC_WRITE);
		if (kind && la < at + len && at < la + size)
			hit |= DR6_B(n);
	}
	return hit;
}

void debug_access(struct cpu *c, u64 la, unsigned size, enum access acc)
{
	if (acc != ACC_EXEC)
		c->db_pending |= debug_match(c, la, size, acc);
}

void debug_io(struct cpu *c, u16 port, unsigned size)
{
	u64 dr7;
	const u64 *dr = debug_regs(c, &dr7);

	for (unsigned n = 0; n < 4 && (c->cr4 & CR4_DE); n++) {
		u64 at = dr[n] & ~(u64)(dr7_len(dr7, n) - 1);
		if (dr7_enabled(dr7, n) && dr7_rw(dr7, n) == DR7_IO && port < at + dr7_len(dr7, n) && at < port + size)
			c->db_pending |= DR6_B(n);
	}
}

bool debug_watched_page(const struct cpu *c, u64 la)
{
	u64 dr7;
	const u64 *dr = debug_regs(c, &dr7);

	for (unsigned n = 0; n < 4; n++)
		if (dr7_enabled(dr7, n) && dr7_rw(dr7, n) != DR7_EXEC && (dr[n] & PAGE_MASK) == (la & PAGE_MASK))
			return true;
	return false;
}

static void debug_exit(struct cpu *c, enum vector v, u64 dr6)
{
	u64 dr7;

	debug_regs(c, &dr7);
	c->exit.debug.exception = v;
	c->exit.debug.pc = c->rip + c->seg[SEG_CS].base;
	c->exit.debug.dr6 = dr6 | DR6_FIXED;
	c->exit.debug.dr7 = dr7;
}

bool debug_step(struct cpu *c, void (*step)(struct cpu *), enum exit_reason *reason)
{
	/* An instruction that goes on with answers of the outside has been looked at before. */
	u64 hit = c->rflags & FL_RF || c->io.done ? 0 : debug_match(c, c->rip + c->seg[SEG_CS].base, 1, ACC_EXEC);

	if (hit) {
		if (!(c->guest_debug & GUEST_DEBUG_HW_BP))
			raise_db(c, hit);
		debug_exit(c, VEC_DB, hit);
		*reason = EXIT_DEBUG;
		return true;
	}

	bool tf = c->rflags & FL_TF;
	/* What MOV SS hit is reported behind the next instruction. */
	if (!(c->int_shadow & SHADOW_MOV_SS))
		c->db_pending = 0;
	c->int_shadow = 0;
	step(c);

	/* MOV SS and POP SS hold debug traps off (SDM vol. 3A, 6.8.3). */
	if (c->int_shadow & SHADOW_MOV_SS)
		return false;
	if (c->guest_debug & GUEST_DEBUG_STEP) {
		debug_exit(c, VEC_DB, DR6_BS | c->db_pending);
		*reason = EXIT_DEBUG;
		return true;
	}
	u64 dr6 = c->db_pending | (tf ? DR6_BS : 0);
	if (!dr6)
		return false;
	if (!tf && (c->guest_debug & GUEST_DEBUG_HW_BP)) {
		debug_exit(c, VEC_DB, dr6);
		*reason = EXIT_DEBUG;
		return true;
	}
	raise_db(c, dr6);
}

bool debug_intercept(struct cpu *c, const struct event *fault)
{
	if (fault->vector == VEC_BP && fault->type == EV_SOFTEXC && (c->guest_debug & GUEST_DEBUG_SW_BP)) {
		debug_exit(c, VEC_BP, 0);
		return true;
	}
	return false;
}
