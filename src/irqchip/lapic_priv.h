/* Shared by the files of the local APIC alone. */
#ifndef IRQCHIP_LAPIC_PRIV_H
#define IRQCHIP_LAPIC_PRIV_H

#include "irqchip/irqchip.h"

/* Bits of the error status register (SDM vol. 3A, 11.5.3). */
#define ESR_SEND_ILLEGAL BIT(5)
#define ESR_RECEIVE_ILLEGAL BIT(6)
#define ESR_ILLEGAL_REGISTER BIT(7)

#define ICR_BUSY BIT(12)

/* LVT timer modes (SDM vol. 3A, figure 11-8). */
enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE, TIMER_RESERVED };

static inline u32 reg_get(const struct lapic *l, unsigned offset) { return l->reg[offset / 4]; }
static inline void reg_set(struct lapic *l, unsigned offset, u32 value) { l->reg[offset / 4] = value; }

/* The 256-bit registers: a vector's word and bit of the one at @base (ISR, TMR, IRR). */
static inline u32 *vector_word(struct lapic *l, unsigned base, u8 vector)
{
	return &l->reg[(base + (vector >> 5) * 0x10) / 4];
}
static inline bool vector_test(const struct lapic *l, unsigned base, u8 vector)
{
	return l->reg[(base + (vector >> 5) * 0x10) / 4] >> (vector & 31) & 1;
}
static inline void vector_set(struct lapic *l, unsigned base, u8 vector)
{
	*vector_word(l, base, vector) |= BIT(vector & 31);
}
static inline void vector_clear(struct lapic *l, unsigned base, u8 vector)
{
	*vector_word(l, base, vector) &= ~BIT(vector & 31);
}

/* lapic.c: tells the vCPU when it has something to take. */
void lapic_recheck(struct lapic *l);

/* lapic_msg.c */
/* Records an error and raises the error interrupt, once per bit until the guest reads the ESR. */
void lapic_error(struct lapic *l, u32 bit);
/* A write of ICR: sends what @low and @dest say. */
void lapic_send_ipi(struct lapic *l, u32 low, u32 dest);
/* The logical id that x2APIC mode derives from the id (SDM vol. 3A, 11.12.10.2). */
u32 lapic_x2apic_ldr(const struct lapic *l);

/* lapic_timer.c */
/* Bits 18:17 of the timer LVT that this processor has. */
u32 lapic_timer_mode_mask(const struct lapic *l);
u32 lapic_timer_count(const struct lapic *l);
void lapic_timer_write_init(struct lapic *l, u32 value);
void lapic_timer_write_div(struct lapic *l, u32 value);
void lapic_timer_write_lvt(struct lapic *l, u32 value);
void lapic_timer_stop(struct lapic *l);
/* After the register page was loaded: goes on from @count. */
void lapic_timer_restore(struct lapic *l, u32 count);

#endif
