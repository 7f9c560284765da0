/*
 * Timers: LAPIC one-shot, periodic and TSC deadline, 8254 by IOAPIC and 8259, HLT with all of them (SDM vol. 3A,
 * 11.5.4).
 */
#include "guest.h"

#define LVT_TIMER 0x320
#define TIMER_INIT 0x380
#define TIMER_NOW 0x390
#define TIMER_DIVIDE 0x3e0
#define MASKED (1u << 16)
#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)
#define MSR_DEADLINE 0x6e0
#define IOAPIC 0xfec00000ull
#define PIT_HZ 1193182u

static volatile u32 count, pit_count;
static volatile u64 arrived;
static u64 tsc_hz;

static void on_timer(struct frame *f)
{
	arrived = rdtsc();
	count++;
	apic_write(APIC_EOI, 0);
}

static void on_pit_apic(struct frame *f)
{
	pit_count++;
	apic_write(APIC_EOI, 0);
}

static void on_pit_pic(struct frame *f)
{
	pit_count++;
	outb(0x20, 0x20);
}

static void on_nmi(struct frame *f)
{
	pit_count++;
}

static void wait_us(u64 us)
{
	for (u64 end = rdtsc() + tsc_hz * us / 1000000; rdtsc() < end;)
		pause();
}

static void pit_start(u8 mode, u16 reload)
{
	outb(0x43, 0x30 | mode << 1);
	outb(0x40, (u8)reload);
	outb(0x40, (u8)(reload >> 8));
}

static u16 pit_read(void)
{
	outb(0x43, 0);
	u16 low = inb(0x40);
	return (u16)(low | inb(0x40) << 8);
}

static bool near(u64 got, u64 want, unsigned percent)
{
	bool ok = got >= want - want * percent / 100 && got <= want + want * percent / 100;

	if (!ok) {
		print("# got ");
		print_hex(got);
		print(", want about ");
		print_hex(want);
		print("\n");
	}
	return ok;
}

/* All three clocks at one moment: again when the host took this processor away in between. */
struct moment {
	u64 tsc;
	u32 lapic;
	u16 pit;
};

static struct moment moment_now(void)
{
	struct moment m;
	u64 end;
	unsigned tries = 0;

	do {
		m.tsc = rdtsc();
		m.lapic = apic_read(TIMER_NOW);
		m.pit = pit_read();
		end = rdtsc();
	} while (end - m.tsc > 100000 && ++tries < 1000);
	return m;
}

/* Against the 8254, whose frequency everybody knows: about 40 ms of its channel 0, counting down once. */
static void calibrate(void)
{
	pit_start(0, 0xffff);
	while (pit_read() > 0xfff0)
		;
	apic_write(TIMER_DIVIDE, 0xb); /* by 1 */
	apic_write(LVT_TIMER, MASKED | 0x51);
	apic_write(TIMER_INIT, ~0u);
	struct moment from = moment_now(), to;
	while (pit_read() > 0x4000)
		;
	to = moment_now();
	u16 n = (u16)(from.pit - to.pit);
	tsc_hz = (to.tsc - from.tsc) * PIT_HZ / n;
	check(tsc_hz > 500000000 && tsc_hz < 10000000000, "the 8254 counts at its rate against the TSC");
	/* KVM: one APIC bus cycle is a nanosecond. */
	check(near((u64)(from.lapic - to.lapic) * PIT_HZ / n, 1000000000, 5),
	      "LAPIC timer counts at 1 GHz against the 8254");
	apic_write(TIMER_INIT, 0);
}

static void test_one_shot(void)
{
	count = 0;
	apic_write(LVT_TIMER, 0x51);
	u64 t = rdtsc();
	apic_write(TIMER_INIT, 5000000);
	check(apic_read(TIMER_NOW) <= 5000000 && apic_read(TIMER_NOW) > 0, "one-shot: the current count runs");
	while (!count)
		asm volatile("sti; hlt; cli");
	check(arrived - t >= tsc_hz / 1000 * 5 * 99 / 100, "one-shot: 5 ms are not less");
	check(arrived - t < tsc_hz / 1000 * 50, "one-shot: nor much more");
	check_eq(apic_read(TIMER_NOW), 0, "one-shot: the count ends at 0");
	sti();
	wait_us(20000);
	cli();
	check_eq(count, 1, "one-shot: fires once");

	count = 0;
	apic_write(TIMER_DIVIDE, 3); /* by 16 */
	t = rdtsc();
	apic_write(TIMER_INIT, 5000000 / 16);
	while (!count)
		asm volatile("sti; hlt; cli");
	check(arrived - t >= tsc_hz / 1000 * 5 * 99 / 100 && arrived - t < tsc_hz / 1000 * 50,
	      "one-shot: divided by 16");
	apic_write(TIMER_DIVIDE, 0xb);
	count = 0;
	apic_write(TIMER_INIT, 3000000);
	apic_write(TIMER_INIT, 0);
	sti();
	wait_us(10000);
	cli();
	check_eq(count, 0, "one-shot: a count of 0 stops it");
	apic_write(LVT_TIMER, MASKED | 0x51);
	apic_write(TIMER_INIT, 1000000);
	sti();
	wait_us(5000);
	cli();
	check_eq(count, 0, "one-shot: masked in the LVT");
}

static void test_periodic(void)
{
	count = 0;
	apic_write(LVT_TIMER, PERIODIC | 0x51);
	apic_write(TIMER_INIT, 2000000);
	sti();
	wait_us(100000);
	cli();
	apic_write(TIMER_INIT, 0);
	/* A busy host may lose some; there are never too many. */
	check(count >= 20 && count <= 51, "periodic: 2 ms for 100 ms");
	asm volatile("sti; nop; cli");
	u32 stopped = count;
	sti();
	wait_us(10000);
	cli();
	check_eq(count, stopped, "periodic: stops with a count of 0");
}

/* An interrupt between elements of REP STOSB: the registers say what is left (SDM vol. 2, REP). */
#define FILL_START (TEST_PHYS + 0x800005) /* whose low 24 bits are neither this program's nor the LAPIC's */
#define FILL_SIZE 0x5f0000ul
#define FILL_END (FILL_START + FILL_SIZE)
extern u8 fill_insn[];
static volatile u32 within, wrong;

static void on_timer_in_fill(struct frame *f)
{
	if (f->rip == (u64)fill_insn && f->rcx < FILL_SIZE) {
		within++;
		wrong += f->rdi + f->rcx != FILL_END || !f->rcx;
	}
	apic_write(APIC_EOI, 0);
}

static __attribute__((noinline)) void fill(u8 with)
{
	u64 to = FILL_START, n = FILL_SIZE;

	asm volatile("fill_insn: rep stosb" : "+D"(to), "+c"(n) : "a"(with) : "memory");
}

static bool filled(u8 with)
{
	u64 from = FILL_START, n = FILL_SIZE;

	asm volatile("repe scasb" : "+D"(from), "+c"(n) : "a"(with) : "memory", "cc");
	return !n && ((u8 *)from)[-1] == with;
}

static void test_rep(void)
{
	u8 n = 0;

	trap_table[0x51] = on_timer_in_fill;
	*(u8 *)FILL_END = 0xee;
	fill(0); /* from now on it finds all pages in the TLB */
	apic_write(LVT_TIMER, PERIODIC | 0x51);
	apic_write(TIMER_INIT, 100000);
	sti();
	while (within < 5 && ++n < 250)
		fill(n);
	cli();
	apic_write(TIMER_INIT, 0);
	check(within >= 5, "REP STOSB is interrupted");
	check_eq(wrong, 0, "... with the rest of its work in the registers");
	check(filled(n) && *(u8 *)FILL_END == 0xee, "... and does all of it, and no more");
	trap_table[0x51] = on_timer;
}

static void test_deadline(void)
{
	u32 id[4];

	cpuid(1, 0, id);
	if (!(id[2] >> 24 & 1)) {
		print("ok - TSC deadline # SKIP not in CPUID\n");
		return;
	}
	wrmsr(MSR_DEADLINE, rdtsc());
	check_eq(rdmsr(MSR_DEADLINE), 0, "deadline: the MSR ignores writes in other modes");
	apic_write(LVT_TIMER, DEADLINE | 0x51);
	asm volatile("mfence");
	count = 0;
	u64 at = rdtsc() + tsc_hz / 200;
	wrmsr(MSR_DEADLINE, at);
	check_eq(rdmsr(MSR_DEADLINE), at, "deadline: reads back while armed");
	apic_write(TIMER_INIT, 1000);
	check_eq(apic_read(TIMER_NOW), 0, "deadline: the counters are 0 in this mode");
	while (!count)
		asm volatile("sti; hlt; cli");
	check(arrived >= at, "deadline: not before its time");
	check(arrived - at < tsc_hz / 20, "deadline: nor long after");
	check_eq(rdmsr(MSR_DEADLINE), 0, "deadline: disarmed after it");
	count = 0;
	wrmsr(MSR_DEADLINE, 1);
	sti();
	wait_us(1000);
	cli();
	check_eq(count, 1, "deadline: one in the past fires at once");
	wrmsr(MSR_DEADLINE, rdtsc() + tsc_hz / 200);
	wrmsr(MSR_DEADLINE, 0);
	sti();
	wait_us(10000);
	cli();
	check_eq(count, 1, "deadline: 0 disarms");
	wrmsr(MSR_DEADLINE, rdtsc() + tsc_hz / 200);
	apic_write(LVT_TIMER, 0x51);
	sti();
	wait_us(10000);
	cli();
	check_eq(count, 1, "deadline: another mode disarms");
	apic_write(LVT_TIMER, MASKED);
}

static void test_pit(void)
{
	trap_table[0x40] = on_pit_pic;
	outb(0x20, 0x11), outb(0x21, 0x40), outb(0x21, 4), outb(0x21, 1);
	outb(0x21, 0xfe);
	apic_write(0x350, 0x700);
	pit_start(2, 11932);
	u16 a = pit_read();
	wait_us(1000);
	check((u16)(a - pit_read()) < 11932, "8254: mode 2 counts down from its reload");
	pit_count = 0;
	sti();
	wait_us(100000);
	cli();
	check(pit_count >= 5 && pit_count <= 11, "8254: 100 Hz by the 8259");
	outb(0x21, 0xff);
	apic_write(0x350, MASKED);

	trap_table[0x60] = on_pit_apic;
	*(volatile u32 *)IOAPIC = 0x11 + 2 * 2;
	*(volatile u32 *)(IOAPIC + 0x10) = apic_read(0x20);
	*(volatile u32 *)IOAPIC = 0x10 + 2 * 2;
	*(volatile u32 *)(IOAPIC + 0x10) = 0x60;
	pit_start(3, 11932);
	pit_count = 0;
	u64 t = rdtsc();
	while (pit_count < 10)
		asm volatile("sti; hlt; cli");
	check(rdtsc() - t >= tsc_hz / 1000 * 85, "8254: 100 Hz in mode 3 by the IOAPIC's pin 2");
	/* An NMI ends HLT with IF clear. */
	trap_table[2] = on_nmi;
	*(volatile u32 *)(IOAPIC + 0x10) = 0x460;
	pit_count = 0;
	while (!pit_count)
		asm volatile("cli; hlt");
	check(true, "an NMI wakes up CLI; HLT");
	*(volatile u32 *)(IOAPIC + 0x10) = MASKED;

	trap_table[0x60] = on_pit_apic;
	*(volatile u32 *)(IOAPIC + 0x10) = 0x60;
	pit_start(0, 1193);
	pit_count = 0;
	sti();
	wait_us(20000);
	cli();
	check_eq(pit_count, 1, "8254: mode 0 gives one interrupt");
	outb(0x43, 0xe2);
	check_eq(inb(0x40) & 0x80, 0x80, "8254: read-back: OUT is high at the terminal count");
	*(volatile u32 *)(IOAPIC + 0x10) = MASKED;

	/* Channel 2, gate and output at port 61h. */
	outb(0x61, (inb(0x61) & ~3) | 1);
	outb(0x43, 0xb0);
	outb(0x42, 0x00);
	outb(0x42, 0x20);
	t = rdtsc();
	check_eq(inb(0x61) & 0x20, 0, "8254: channel 2's output starts low");
	while (!(inb(0x61) & 0x20))
		;
	t = rdtsc() - t;
	/* The last look may be late. */
	check(t >= tsc_hz / 1000 * 6 && t < tsc_hz / 1000 * 60, "8254: channel 2 times 7 ms");
}

void guest_main(void)
{
	trap_table[0x51] = on_timer;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	apic_enable();
	calibrate();
	test_one_shot();
	test_periodic();
	test_rep();
	test_deadline();
	test_pit();
}
