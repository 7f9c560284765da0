/*
 * 8254 interval timer, and the speaker port 61h that shows its channel 2.
 * Channel 0 drives GSI 0. Locking and time: see irqchip.h.
 */
#ifndef IRQCHIP_I8254_H
#define IRQCHIP_I8254_H

#include <linux/kvm.h>

#include "base/types.h"

struct irqchip;

#define I8254_HZ 1193182u

struct i8254 {
	struct irqchip *chip;
	struct kvm_pit_state2 state;
	bool speaker;      /* port 61h is ours (KVM_PIT_SPEAKER_DUMMY) */
	/* A bit per channel; not part of the saved state. */
	u8 null_count;     /* a control word without its count so far (status bit 6) */
	u8 untriggered;    /* modes 1 and 5: a count waits for its first trigger */
	u8 stopped;        /* the counter stands still since stop_time[] */
	u64 stop_time[3];  /* ns */

	/* Interrupts of channel 0. */
	u64 deadline;      /* ns; IRQCHIP_NEVER when none is due */
	u64 period;        /* ns; 0: one shot */
	bool reinject;     /* ticks that the guest did not take in time are not lost (KVM_REINJECT_CONTROL) */
	bool acked;        /* the guest has ended the last tick */
	u32 pending;       /* ticks to deliver */
};

void i8254_init(struct i8254 *s, struct irqchip *chip, bool speaker);
/* Ports 40h to 43h, and 61h: true when taken. */
bool i8254_pio_read(struct i8254 *s, u16 port, void *data, unsigned len);
bool i8254_pio_write(struct i8254 *s, u16 port, const void *data, unsigned len);
void i8254_expire(struct i8254 *s, u64 now);
/* The guest ended the interrupt of GSI 0. */
void i8254_ack(struct i8254 *s);
void i8254_set_reinject(struct i8254 *s, bool reinject);
/* The guest unmasked the timer's pin: ticks from before are void. */
void i8254_drop_pending(struct i8254 *s);
/* KVM_GET_PIT2, KVM_SET_PIT2 (KVM_GET_PIT and KVM_SET_PIT are its channels alone). Any state is safe. */
void i8254_get_state(const struct i8254 *s, struct kvm_pit_state2 *state);
void i8254_set_state(struct i8254 *s, const struct kvm_pit_state2 *state);

#endif
