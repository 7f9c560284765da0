/*
 * Debug registers at work: breakpoints, watchpoints, single step, and the client's guest debugging (SDM vol. 3B,
 * chapter 18).
 */
#ifndef CPU_DEBUG_H
#define CPU_DEBUG_H

#include "cpu/cpu.h"
#include "cpu/mmu.h"

#define DR6_FIXED 0xffff0ff0ull
#define DR6_B(n) BIT64(n)
#define DR6_BD BIT64(13)
#define DR6_BS BIT64(14)
#define DR6_BT BIT64(15)
#define DR7_FIXED BIT64(10)
#define DR7_GD BIT64(13)

/*
 * Recomputes cpu->debug_active and watch_active (flushing the TLB when the latter is on). After a change of DR0-7 or
 * guest_debug.
 */
void debug_update(struct cpu *c);

/* For the slow path of memory accesses while cpu->watch_active: notes hits in cpu->db_pending. */
void debug_access(struct cpu *c, u64 la, unsigned size, enum access acc);

/* The same for an access to @size bytes at @port; only with CR4.DE are there breakpoints on those. */
void debug_io(struct cpu *c, u16 port, unsigned size);

/* The page of @la has a watched address: it must not enter the TLB. */
bool debug_watched_page(const struct cpu *c, u64 la);

/*
 * One instruction under debugging, by @step: instruction breakpoints before it, traps after it (raised through
 * cpu->unwind, or an exit to the client). Returns true with *@reason when the run ends.
 */
bool debug_step(struct cpu *c, void (*step)(struct cpu *), enum exit_reason *reason);

/* The client takes this exception (KVM_GUESTDBG_*): cpu->exit.debug is filled, and it is not delivered to the guest. */
bool debug_intercept(struct cpu *c, const struct event *fault);

#endif
