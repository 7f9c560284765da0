/*
 * Local APIC of one vCPU: xAPIC and x2APIC (SDM vol. 3A, chapter 11 "APIC").
 * Locking and time: see irqchip.h.
 */
#ifndef IRQCHIP_LAPIC_H
#define IRQCHIP_LAPIC_H

#include <linux/kvm.h>

#include "base/types.h"

struct irqchip;

/* Register offsets in the xAPIC page; an x2APIC MSR is 0x800 + offset / 16 (SDM vol. 3A, table 11-1 and 11-6). */
enum lapic_reg {
	LAPIC_ID = 0x20, LAPIC_VERSION = 0x30, LAPIC_TPR = 0x80, LAPIC_APR = 0x90, LAPIC_PPR = 0xa0, LAPIC_EOI = 0xb0,
	LAPIC_LDR = 0xd0, LAPIC_DFR = 0xe0, LAPIC_SVR = 0xf0, LAPIC_ISR = 0x100, LAPIC_TMR = 0x180, LAPIC_IRR = 0x200,
	LAPIC_ESR = 0x280, LAPIC_LVT_CMCI = 0x2f0, LAPIC_ICR = 0x300, LAPIC_ICR2 = 0x310, LAPIC_LVT_TIMER = 0x320,
	LAPIC_LVT_THERMAL = 0x330, LAPIC_LVT_PERF = 0x340, LAPIC_LVT_LINT0 = 0x350, LAPIC_LVT_LINT1 = 0x360,
	LAPIC_LVT_ERROR = 0x370, LAPIC_TIMER_INIT = 0x380, LAPIC_TIMER_COUNT = 0x390, LAPIC_TIMER_DIV = 0x3e0,
	LAPIC_SELF_IPI = 0x3f0,
};

#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define LAPIC_BASE_BSP BIT64(8)
#define LAPIC_BASE_X2APIC BIT64(10)
#define LAPIC_BASE_ENABLE BIT64(11)

#define LAPIC_SVR_ENABLE BIT(8)
#define LAPIC_SVR_NO_EOI_BROADCAST BIT(12)
#define LAPIC_LVT_MASKED BIT(16)

/* Delivery modes of the ICR, LVTs, IOAPIC entries and MSIs. */
enum apic_mode {
	APIC_FIXED, APIC_LOWEST, APIC_SMI, APIC_REMOTE_READ, APIC_NMI, APIC_INIT, APIC_STARTUP, APIC_EXTINT,
};

enum apic_shorthand { APIC_NO_SHORTHAND, APIC_SELF, APIC_ALL, APIC_ALL_BUT_SELF };

/* An interrupt message on its way to LAPICs. */
struct apic_msg {
	u8 vector;
	u8 mode;        /* enum apic_mode */
	u8 shorthand;   /* enum apic_shorthand; needs a sender */
	bool logical;   /* destination mode */
	bool level;     /* trigger mode */
	bool assert;    /* for level trigger: asserted */
	bool redirect;  /* MSI redirection hint: deliver to the lowest priority of the destinations */
	u32 dest;
};

struct lapic {
	struct irqchip *chip;
	void *vcpu;     /* the owner's, handed to callbacks */
	u32 id;         /* x2APIC id and initial xAPIC id */
	bool bsp;
	bool has_x2apic;       /* from CPUID; true until the owner sets these two */
	bool has_tsc_deadline;
	u8 nr_lvt;      /* 6; the owner sets 7 to have the CMCI entry (MCG_CMCI_P) */

	u64 base_msr;   /* IA32_APIC_BASE; change with lapic_set_base() */
	u32 reg[256];   /* the register page of kvm_lapic_state: reg[offset / 4] */
	u32 esr_pending; /* errors since the last write of the ESR */
	u32 arb;        /* lowest-priority messages taken, for round robin */

	/* Timer: LVT mode bits tell which of these are in use. */
	u64 deadline;   /* ns; IRQCHIP_NEVER when it does not run */
	u64 period;     /* ns: what the initial count means */
	u64 tsc_deadline; /* guest TSC; 0 when disarmed */
};

/*
 * Attaches @l to @chip as its next LAPIC and resets it. @id is the APIC id (KVM's vcpu_id), @bsp says whether it is
 * the bootstrap processor. 0, -ENOSPC, -EEXIST (the id).
 */
int lapic_init(struct lapic *l, struct irqchip *chip, void *vcpu, u32 id, bool bsp);
/* Detaches it. */
void lapic_fini(struct lapic *l);

/* State after RESET#, or after INIT when @init (keeps base MSR and id; SDM vol. 3A, 11.4.7). */
void lapic_reset(struct lapic *l, bool init);

/*
 * IA32_APIC_BASE. @reserved: bits that MAXPHYADDR makes reserved. False: #GP, nothing changed (SDM vol. 3A, 11.12.5).
 * @host: the client writes (any valid mode at once).
 */
bool lapic_set_base(struct lapic *l, u64 value, u64 reserved, bool host);
static inline bool lapic_hw_enabled(const struct lapic *l) { return l->base_msr & LAPIC_BASE_ENABLE; }
static inline bool lapic_x2apic(const struct lapic *l)
{
	return (l->base_msr & (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC)) == (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC);
}

static inline bool lapic_sw_enabled(const struct lapic *l) { return l->reg[LAPIC_SVR / 4] & LAPIC_SVR_ENABLE; }
/* Processor priority: the higher class of TPR and the highest vector in service (SDM vol. 3A, 11.8.3.1). */
u8 lapic_ppr(const struct lapic *l);

/*
 * The xAPIC page. True when @gpa lies in the page that IA32_APIC_BASE names (then also in states in which the page
 * does not answer: reads give ones, unless no_mmio_hole_quirk). @len 1 to 8.
 */
bool lapic_mmio_read(struct lapic *l, u64 gpa, void *data, unsigned len);
bool lapic_mmio_write(struct lapic *l, u64 gpa, const void *data, unsigned len);

/* MSRs 0x800 to 0x8ff. False: #GP (also when not in x2APIC mode). */
bool lapic_msr_read(struct lapic *l, u32 msr, u64 *value);
bool lapic_msr_write(struct lapic *l, u32 msr, u64 value);

/* CR8, that is TPR bits 7:4. */
u8 lapic_get_cr8(const struct lapic *l);
void lapic_set_cr8(struct lapic *l, u8 cr8);

/* IA32_TSC_DEADLINE: reads 0 and ignores writes unless the timer is in that mode (SDM vol. 3A, 11.5.4.1). */
u64 lapic_get_tsc_deadline(const struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, u64 tsc);
/* The vCPU's TSC was set, offset or scaled: an armed TSC deadline is converted anew. */
void lapic_tsc_changed(struct lapic *l);

/* Highest pending vector above the processor priority, or -1. */
int lapic_pending_vector(const struct lapic *l);
/* Moves it from IRR to ISR and returns it, or -1. */
int lapic_ack(struct lapic *l);
/* What a write to the EOI register does. Returns the vector that ended, or -1. */
int lapic_eoi(struct lapic *l);
/*
 * PV EOI may stand in for the EOI of the interrupt just taken: it is the only one in service, none is pending, and
 * nobody (IOAPIC, PIT, resampling irqfd) waits for its end.
 */
bool lapic_pv_eoi_allowed(const struct lapic *l);
/* True when an ExtINT of the PIC reaches this vCPU: LINT0 is ExtINT and unmasked, or the APIC is disabled. */
bool lapic_accepts_extint(const struct lapic *l);

/* Takes @msg, whose destination has been matched. 1 delivered, 0 coalesced, -1 not accepted. */
int lapic_accept(struct lapic *l, const struct apic_msg *msg);
/* True when @msg (from @src, may be NULL) is for @l. */
bool lapic_match(const struct lapic *l, const struct lapic *src, const struct apic_msg *msg);
/* An event of the local vector table at register @lvt (enum lapic_reg: thermal, perf, CMCI, LINT0, LINT1, error). */
int lapic_local(struct lapic *l, unsigned lvt);

/* When lapic_expire() is due, or IRQCHIP_NEVER. */
u64 lapic_next_deadline(const struct lapic *l);
void lapic_expire(struct lapic *l, u64 now);

/* KVM_GET_LAPIC, KVM_SET_LAPIC. 0 or -EINVAL (an x2APIC id that is not this one's, with 32-bit ids). */
void lapic_get_state(const struct lapic *l, struct kvm_lapic_state *state);
int lapic_set_state(struct lapic *l, const struct kvm_lapic_state *state);

#endif
