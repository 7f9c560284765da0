/* The devices that run.c has for guest programs. */
#ifndef GUEST_HARNESS_H
#define GUEST_HARNESS_H

#define PORT_CONSOLE 0xe9
#define PORT_EXIT 0xf4
/* What a level-triggered test device answers to: a write sets the line of that GSI, see t_irq.c. */
#define PORT_IRQ_HIGH 0xe0
#define PORT_IRQ_LOW 0xe1
/* First in, first out, bytes: OUT puts, IN takes (ones when there are none). */
#define PORT_FIFO 0xe4
#define FIFO_SIZE 0x4000u
/* IN: accesses to the MMIO window since the last time. */
#define PORT_MMIO_COUNT 0xec
/* An MMIO window with plain storage behind it, but for one byte that counts how often it was read. */
#define MMIO_BASE 0xd0000000ull
#define MMIO_SIZE 0x1000u
#define MMIO_COUNTER 0xff0

#endif
