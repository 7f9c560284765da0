/*
 * The 16550A UART (National Semiconductor PC16550D data sheet) as the PC wires it: OUT2 gates the interrupt line.
 *
 * What the guest transmits is on its way at once, so the transmitter is always empty. The other end honours hardware
 * flow control: it sends only while RTS is asserted and the receiver has room, so that no input is lost to a guest
 * that has not opened the port yet.
 */
#include "device/devices.h"

enum { RBR_THR = 0, IER = 1, IIR_FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

#define IER_RDI 0x01u  /* received data */
#define IER_THRI 0x02u /* transmitter empty */
#define IER_RLSI 0x04u /* line status */
#define IER_MSI 0x08u  /* modem status */

#define IIR_MSI 0x00u
#define IIR_NONE 0x01u
#define IIR_THRI 0x02u
#define IIR_RDI 0x04u
#define IIR_RLSI 0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFO 0xc0u

#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u

#define LCR_DLAB 0x80u

#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u
#define MCR_LOOP 0x10u

#define LSR_DR 0x01u
#define LSR_OE 0x02u
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u

#define MSR_DELTAS 0x0fu
#define MSR_TERI 0x04u
#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u

#define FIFO_SIZE 16u

struct uart {
	u8 ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	bool overrun;
	bool thr_pending; /* the transmitter-empty interrupt is to be told */
	u8 fifo[FIFO_SIZE];
	unsigned head, count;
};

static unsigned rx_capacity(const struct uart *u)
{
	return u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart *u)
{
	static const u8 level[4] = {1, 4, 8, 14};

	return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

/* The highest interrupt pending, in the order of the data sheet's table IV. */
static unsigned pending(const struct uart *u)
{
	if ((u->ier & IER_RLSI) && u->overrun)
		return IIR_RLSI;
	if ((u->ier & IER_RDI) && u->count)
		/* Below the trigger level the character timeout tells; the line is idle, so it has elapsed. */
		return u->count < rx_trigger(u) ? IIR_TIMEOUT : IIR_RDI;
	if ((u->ier & IER_THRI) && u->thr_pending)
		return IIR_THRI;
	if ((u->ier & IER_MSI) && (u->msr & MSR_DELTAS))
		return IIR_MSI;
	return IIR_NONE;
}

static void update_irq(struct device *d)
{
	const struct uart *u = d->state;

	device_set_irq(d, (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2 && pending(u) != IIR_NONE);
}

static void rx_push(struct uart *u, u8 byte)
{
	if (u->count == rx_capacity(u)) {
		u->overrun = true;
		return;
	}
	u->fifo[(u->head + u->count++) % FIFO_SIZE] = byte;
}

static u8 rx_pop(struct uart *u)
{
	if (!u->count)
		return 0;
	u8 byte = u->fifo[u->head];

	u->head = (u->head + 1) % FIFO_SIZE;
	u->count--;
	return byte;
}

/* Lets the other end send what there is room for. */
static void receive(struct device *d)
{
	struct uart *u = d->state;
	u8 keys[FIFO_SIZE];

	if (!d->console || (u->mcr & (MCR_RTS | MCR_LOOP)) != MCR_RTS || u->count >= rx_capacity(u))
		return;
	size_t n = d->board->ops->console_read(d->board, keys, rx_capacity(u) - u->count);

	for (size_t i = 0; i < n; i++)
		rx_push(u, keys[i]);
}

/* The modem inputs: a terminal that is always there, or in loopback the modem outputs. */
static void update_modem(struct uart *u)
{
	unsigned lines = MSR_CTS | MSR_DSR | MSR_DCD;

	if (u->mcr & MCR_LOOP)
		lines = (u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
			(u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0);

	unsigned changed = (u->msr ^ lines) & 0xf0;
	/* Each delta bit tells of a change, but for the ring indicator's, which tells of its end only. */
	unsigned deltas = (changed & ~MSR_RI) >> 4;

	if (changed & ~lines & MSR_RI)
		deltas |= MSR_TERI;
	u->msr = (u8)(lines | deltas | (u->msr & MSR_DELTAS));
}

static void write_fcr(struct uart *u, u8 value)
{
	/* Turning the FIFOs on or off empties them; the other bits count only while they are on. */
	if ((u->fcr ^ value) & FCR_ENABLE || value & FCR_CLEAR_RX)
		u->count = 0;
	u->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | 0xc0) : 0;
}

static void transmit(struct device *d, u8 byte)
{
	struct uart *u = d->state;

	if (u->mcr & MCR_LOOP)
		rx_push(u, byte);
	else if (d->console)
		d->board->ops->console_write(d->board, &byte, 1);
	u->thr_pending = true;
}

static void uart_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	struct uart *u = d->state;
	u8 v = (u8)value;

	switch (offset) {
	case RBR_THR:
		if (u->lcr & LCR_DLAB)
			u->dll = v;
		else
			transmit(d, v);
		break;
	case IER:
		if (u->lcr & LCR_DLAB) {
			u->dlm = v;
			break;
		}
		/* Enabling the interrupt while the transmitter is empty raises it. */
		if (~u->ier & v & IER_THRI)
			u->thr_pending = true;
		u->ier = v & 0x0f;
		break;
	case IIR_FCR: write_fcr(u, v); break;
	case LCR: u->lcr = v; break;
	case MCR:
		u->mcr = v & 0x1f;
		update_modem(u);
		break;
	case SCR: u->scr = v; break;
	}
	if (offset == MCR || offset == IIR_FCR)
		receive(d); /* RTS may have come, or room */
	update_irq(d);
}

static u8 read_rbr(struct device *d)
{
	u8 byte = rx_pop(d->state);

	receive(d);
	return byte;
}

static u64 uart_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	struct uart *u = d->state;
	unsigned v = 0;

	switch (offset) {
	case RBR_THR: v = u->lcr & LCR_DLAB ? u->dll : read_rbr(d); break;
	case IER: v = u->lcr & LCR_DLAB ? u->dlm : u->ier; break;
	case IIR_FCR:
		v = pending(u);
		if (v == IIR_THRI)
			u->thr_pending = false; /* told */
		v |= u->fcr & FCR_ENABLE ? IIR_FIFO : 0;
		break;
	case LCR: v = u->lcr; break;
	case MCR: v = u->mcr; break;
	case LSR:
		v = LSR_THRE | LSR_TEMT | (u->count ? LSR_DR : 0) | (u->overrun ? LSR_OE : 0);
		u->overrun = false;
		break;
	case MSR:
		v = u->msr;
		u->msr &= (u8)~MSR_DELTAS;
		break;
	case SCR: v = u->scr; break;
	}
	update_irq(d);
	return v;
}

static void uart_input(struct device *d)
{
	receive(d);
	update_irq(d);
}

static void uart_reset(struct device *d)
{
	struct uart *u = d->state;

	*u = (struct uart){.dll = 12}; /* 9600 baud */
	update_modem(u);
	u->msr &= (u8)~MSR_DELTAS;
	update_irq(d);
}

const struct device_ops uart16550_ops = {
	.name = "uart16550",
	.state_size = sizeof(struct uart),
	.reset = uart_reset,
	.read = uart_read,
	.write = uart_write,
	.input = uart_input,
};
