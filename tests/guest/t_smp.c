/*
 * cpus: 4. Start of the other processors, atomics, IPIs, TLB shootdown, cross-modifying code, memory order
 * (SDM vol. 3A, chapters 9 and 11).
 */
#include "guest.h"

#define NR_APS 3
#define ROUNDS 2000

/* Jobs: the first CPU names one, the others do it and count themselves in. */
enum job { ATOMICS, PING, SHOOTDOWN, CROSS_MODIFY, POKE, BESIDE_CODE, STORE_BUFFER, MESSAGE, WAIT_NMI };
static volatile enum job job;
static volatile u32 job_number, job_done;

static inline void add(volatile u32 *p, u32 n)
{
	asm volatile("lock addl %1, %0" : "+m"(*p) : "r"(n) : "memory", "cc");
}

/* Whoever has nothing to do sleeps until the IPI. */
static void job_start(enum job j)
{
	job_done = 0;
	job = j;
	add(&job_number, 1);
	apic_write(APIC_ICR, 0xc0050);
}

static void on_wake(struct frame *f)
{
	apic_write(APIC_EOI, 0);
}

static void job_wait(void)
{
	while (job_done < NR_APS)
		pause();
}

/* CPUs 0 and 1 meet here. */
static volatile u32 barrier_in, barrier_generation;
static void barrier(void)
{
	u32 generation = barrier_generation, n = 1;

	asm volatile("lock xaddl %0, %1" : "+r"(n), "+m"(barrier_in) : : "memory", "cc");
	if (n == 1) {
		barrier_in = 0;
		asm volatile("" : : : "memory");
		barrier_generation = generation + 1;
	} else {
		while (barrier_generation == generation)
			pause();
	}
}

/* --- Atomics ---------------------------------------------------------------------------------------------------- */

/* The counters stand where an access is aligned, misaligned in a line, over two lines, over two pages. */
static u8 arena[4096 * 4] __attribute__((aligned(4096)));
static const u32 places[] = {0x100, 0x203, 0x33e, 0xffe, 0x1ffd};
#define NR_PLACES 5
static struct { u64 low, high; } pair __attribute__((aligned(16)));
static volatile u32 spinlock, guarded, bits_taken;
static volatile u64 bits[4];

static void do_atomics(int cpu)
{
	for (unsigned n = 0; n < ROUNDS; n++) {
		for (unsigned k = 0; k < NR_PLACES; k++) {
			volatile u32 *p = (u32 *)(arena + places[k]);
			u32 one = 1, old = *p;
			asm volatile("lock xaddl %0, %1" : "+r"(one), "+m"(*p) : : "memory", "cc");
			asm volatile("lock incl %0" : "+m"(*p) : : "memory", "cc");
			asm volatile("1: leal 1(%%rax), %%ecx; lock cmpxchgl %%ecx, %1; jnz 1b" : "+a"(old), "+m"(*p)
				     : : "ecx", "memory", "cc");
		}
		u64 a = pair.low, d = pair.high;
		asm volatile("1: movq %%rax, %%rbx; movq %%rdx, %%rcx; addq $1, %%rbx; adcq $3, %%rcx; "
			     "lock cmpxchg16b %2; jnz 1b"
			     : "+a"(a), "+d"(d), "+m"(pair) : : "rbx", "rcx", "memory", "cc");
		u32 locked;
		do {
			locked = 1;
			asm volatile("xchgl %0, %1" : "+r"(locked), "+m"(spinlock) : : "memory");
		} while (locked);
		guarded++;
		asm volatile("" : : : "memory");
		spinlock = 0;
		/* A bit that nobody had: each of 256 is taken once a round. */
		bool had;
		asm volatile("lock btsq %2, %1; setc %0" : "=q"(had), "+m"(bits) : "r"((u64)(n * 4 + (u32)cpu) & 255)
			     : "memory", "cc");
		if (!had)
			add(&bits_taken, 1);
		asm volatile("lock btrq %1, %0" : "+m"(bits) : "r"((u64)(n * 4 + (u32)cpu) & 255) : "memory", "cc");
	}
}

static void test_atomics(void)
{
	bool ok = true;

	job_start(ATOMICS);
	do_atomics(0);
	job_wait();
	for (unsigned k = 0; k < NR_PLACES; k++)
		ok &= *(u32 *)(arena + places[k]) == 4 * 3 * ROUNDS;
	check(ok, "XADD, INC, CMPXCHG: nothing is lost, over lines and pages too");
	check(pair.low == 4 * ROUNDS && pair.high == 4 * 3 * ROUNDS, "CMPXCHG16B: both halves agree");
	check_eq(guarded, 4 * ROUNDS, "XCHG makes a lock");
	check_eq(bits_taken, 4 * ROUNDS, "LOCK BTS and BTR");
}

/* --- IPIs ------------------------------------------------------------------------------------------------------- */

static volatile u32 pings[4], apic_ids[4];

static void send_ipi(u32 apic_id, u32 low)
{
	apic_write(0x310, apic_id);
	apic_write(APIC_ICR, low);
	while (apic_read(0x300) & 1 << 12)
		pause();
}

static int my_index(void)
{
	u32 id = apic_read(0x20);

	for (int n = 0; n < 4; n++)
		if (apic_ids[n] == id)
			return n;
	return 0;
}

static void on_ping(struct frame *f)
{
	pings[my_index()]++;
	apic_write(APIC_EOI, 0);
}

#define NR_PINGS 200
/* Each passes the ball to the next one, sleeping in HLT meanwhile. */
static void do_ping(int cpu)
{
	for (u32 n = 0; n < NR_PINGS; n++) {
		cli();
		while (pings[cpu] <= n)
			asm volatile("sti; hlt; cli" : : : "memory");
		sti();
		send_ipi(apic_ids[(cpu + 1) % 4], 0x51);
	}
}

static void test_ping(void)
{
	job_start(PING);
	for (u32 n = 0; n < NR_PINGS; n++) {
		send_ipi(apic_ids[1], 0x51);
		while (pings[0] <= n)
			asm volatile("cli; cmpl %1, %0; ja 1f; sti; hlt; 1: sti" : : "m"(pings[0]), "r"(n) : "memory",
				     "cc");
	}
	job_wait();
	check(pings[0] == NR_PINGS && pings[1] == NR_PINGS && pings[2] == NR_PINGS && pings[3] == NR_PINGS,
	      "IPIs in a ring, HLT between");
	for (int n = 0; n < 4; n++)
		pings[n] = 0;
	apic_write(APIC_ICR, 0xc0051); /* all but self */
	while (pings[1] + pings[2] + pings[3] < 3)
		pause();
	check_eq(pings[0], 0, "all excluding self");
	apic_write(APIC_ICR, 0x80051); /* all */
	while (pings[1] + pings[2] + pings[3] < 6 || !pings[0])
		pause();
	check_eq(pings[0], 1, "all including self");
}

/* --- TLB shootdown ---------------------------------------------------------------------------------------------- */

static volatile u32 shot, shooting, bad_reads, reader_rounds;

static void on_shootdown(struct frame *f)
{
	invlpg(TEST_VA);
	add(&shot, 1);
	apic_write(APIC_EOI, 0);
}

/*
 * Once the flush is acknowledged nobody may see the old page: the reader compares with what was true before and
 * after.
 */
static void do_shootdown(int cpu)
{
	while (shooting) {
		u32 before = shooting;
		u32 v = *(volatile u32 *)TEST_VA;
		u32 after = shooting;
		/* shooting counts acknowledged rounds + 1; the page shows round n with n's value. */
		if (v + 1 < before || (after && v > after))
			add(&bad_reads, 1);
		add(&reader_rounds, 1);
	}
}

static void test_shootdown(void)
{
	test_map(0, TEST_PHYS | PG_P | PG_W);
	*(volatile u32 *)TEST_PHYS = 0;
	shooting = 1;
	job_start(SHOOTDOWN);
	for (u32 round = 1; round <= 100; round++) {
		u64 frame = TEST_PHYS + (round & 1) * 4096;
		*(volatile u32 *)frame = round;
		shot = 0;
		test_map(0, frame | PG_P | PG_W);
		apic_write(APIC_ICR, 0xc0052);
		while (shot < NR_APS)
			pause();
		shooting = round + 1;
		u32 seen = reader_rounds;
		while (reader_rounds < seen + 3)
			pause();
	}
	shooting = 0;
	job_wait();
	check_eq(bad_reads, 0, "TLB shootdown: no stale page after the acknowledgement");
}

/* --- Cross-modifying code --------------------------------------------------------------------------------------- */

/* movl $imm32, %eax; ret: the immediate is aligned and written whole. Readers serialize with CPUID. */
static u8 patched[16] __attribute__((aligned(16)));
static volatile u32 published, bad_code, code_rounds;

static u32 run_patched(void)
{
	u32 v;
	asm volatile("call *%1" : "=a"(v) : "r"((u64)(patched + 3)) : "memory");
	return v;
}

static void do_cross_modify(int cpu)
{
	u32 id[4], v;

	do {
		u32 atleast = published;
		cpuid(0, 0, id);
		v = run_patched();
		if (v < atleast)
			add(&bad_code, 1);
		add(&code_rounds, 1);
	} while (v < 1000000);
}

static void test_cross_modify(void)
{
	patched[3] = 0xb8; /* its immediate is at 4 */
	*(volatile u32 *)(patched + 4) = 1;
	patched[8] = 0xc3;
	published = 1;
	job_start(CROSS_MODIFY);
	for (u32 n = 2; n < 100; n++) {
		u32 seen = code_rounds;
		*(volatile u32 *)(patched + 4) = n;
		published = n;
		while (code_rounds < seen + 4)
			pause();
	}
	*(volatile u32 *)(patched + 4) = 1000000;
	job_wait();
	check_eq(bad_code, 0, "code that another CPU patches is seen after serialization");
}

/*
 * As kernels patch what others may be executing: an INT3 over the first byte, the bytes behind it, then the first byte,
 * and every processor serializes between. Whoever meets the INT3 goes where the new instruction leads. Written through
 * another linear address; executed in a loop.
 */
asm(".text\n.balign 64\npoke_code: movl $1, %eax\npoke_site: .byte 0x0f, 0x1f, 0x44, 0, 0\nret\n"
    "poke_other: movl $2, %eax; ret\n");
extern u8 poke_code[], poke_site[], poke_other[];
static volatile u32 poke_begun, poke_done, poke_over, poke_bad, poke_rounds, synced;
static volatile u64 poke_to; /* where the instruction being written leads */

static void on_sync(struct frame *f)
{
	u32 id[4];

	cpuid(0, 0, id);
	add(&synced, 1);
	apic_write(APIC_EOI, 0);
}

static void on_int3(struct frame *f)
{
	f->rip = poke_to;
}

static void sync_others(void)
{
	synced = 0;
	apic_write(APIC_ICR, 0xc0053);
	while (synced < NR_APS)
		pause();
}

/* poke_begun and poke_done count; after an even number the site is a NOP. Between two it may be either. */
static void do_poke(int cpu)
{
	while (!poke_over) {
		u32 done = poke_done, v;
		asm volatile("call poke_code" : "=a"(v) : : "memory", "cc");
		u32 begun = poke_begun;
		if (v != 1 && v != 2)
			add(&poke_bad, 1);
		if (done == begun && v != (done & 1 ? 2u : 1u))
			add(&poke_bad, 1);
		add(&poke_rounds, 1);
	}
}

static void test_poke(void)
{
	u64 alias = TEST_VA + ((u64)poke_site & 4095), jump = (u64)(poke_other - poke_site) - 5;
	volatile u8 *p = (u8 *)alias;

	/* The site may lie over two pages. */
	test_map(0, ((u64)poke_site & ~4095ull) | PG_P | PG_W);
	test_map(1, (((u64)poke_site & ~4095ull) + 4096) | PG_P | PG_W);
	trap_table[3] = on_int3;
	job_start(POKE);
	for (u32 n = 1; n <= 60; n++) {
		static const u8 nop[5] = {0x0f, 0x1f, 0x44, 0, 0};
		const u8 jmp[5] = {0xe9, (u8)jump, (u8)(jump >> 8), (u8)(jump >> 16), (u8)(jump >> 24)};
		const u8 *to = n & 1 ? jmp : nop;
		u32 seen = poke_rounds;

		poke_to = n & 1 ? (u64)poke_other : (u64)poke_site + 5;
		poke_begun = n;
		p[0] = 0xcc;
		sync_others();
		for (unsigned k = 1; k < 5; k++)
			p[k] = to[k];
		sync_others();
		p[0] = to[0];
		sync_others();
		poke_done = n;
		while (poke_rounds < seen + 4)
			pause();
	}
	poke_over = 1;
	job_wait();
	check_eq(poke_bad, 0, "code patched by way of INT3 while others execute it");
}

/* Counters in a page whose code everyone executes: all writes there are looked at by the engine. */
asm(".text\n.balign 4096\nbeside_code: lock incl beside_count(%rip); movl $1, %eax\n"
    "lock xaddl %eax, beside_count+4(%rip); lock incl beside_count+11(%rip); ret\n.balign 64\nbeside_count: .skip 64\n"
    ".balign 4096\n");
extern volatile u8 beside_count[];

static void do_beside_code(int cpu)
{
	for (unsigned n = 0; n < ROUNDS; n++)
		asm volatile("call beside_code" : : : "rax", "memory", "cc");
}

static void test_beside_code(void)
{
	job_start(BESIDE_CODE);
	do_beside_code(0);
	job_wait();
	check(*(volatile u32 *)beside_count == 4 * ROUNDS && *(volatile u32 *)(beside_count + 4) == 4 * ROUNDS &&
	      *(volatile u32 *)(beside_count + 11) == 4 * ROUNDS, "atomics in a page of code");
}

/* --- Memory order ----------------------------------------------------------------------------------------------- */

static volatile u32 sb_x __attribute__((aligned(64))), sb_y __attribute__((aligned(64)));
static volatile u32 sb_r[2] __attribute__((aligned(64)));
static volatile u32 both_zero;

static void do_store_buffer(int cpu)
{
	for (unsigned n = 0; n < ROUNDS && cpu < 2; n++) {
		if (cpu == 0)
			sb_x = sb_y = 0;
		barrier();
		volatile u32 *mine = cpu ? &sb_y : &sb_x, *other = cpu ? &sb_x : &sb_y;
		u32 v, one = 1;
		if (n & 1)
			asm volatile("movl $1, %1; mfence; movl %2, %0" : "=&r"(v), "+m"(*mine) : "m"(*other)
				     : "memory");
		else
			asm volatile("xchgl %3, %1; movl %2, %0" : "=&r"(v), "+m"(*mine), "+m"(*other), "+r"(one) :
				     : "memory");
		sb_r[cpu] = v;
		barrier();
		if (cpu == 0 && !sb_r[0] && !sb_r[1])
			both_zero++;
	}
}

static volatile u32 mp_data[16] __attribute__((aligned(64))), mp_flag __attribute__((aligned(64))), mp_ack, mp_bad;

/* CPU 1 sends, the first CPU receives: plain stores are seen in their order. */
static void do_message(int cpu)
{
	if (cpu != 1)
		return;
	for (u32 n = 1; n <= ROUNDS; n++) {
		for (unsigned i = 0; i < 16; i++)
			mp_data[i] = n;
		mp_flag = n;
		while (mp_ack != n)
			pause();
	}
}

static void test_order(void)
{
	job_start(STORE_BUFFER);
	do_store_buffer(0);
	job_wait();
	check_eq(both_zero, 0, "stores before MFENCE or XCHG are seen before later loads");
	job_start(MESSAGE);
	for (u32 n = 1; n <= ROUNDS; n++) {
		while (mp_flag != n)
			pause();
		for (unsigned i = 16; i--;)
			mp_bad += mp_data[i] != n;
		mp_ack = n;
	}
	job_wait();
	check_eq(mp_bad, 0, "message passing: stores are seen in order");
}

/* --- NMI to a halted processor, INIT again ---------------------------------------------------------------------- */

static volatile u32 nmis;

static void on_nmi(struct frame *f)
{
	add(&nmis, 1);
}

static void do_wait_nmi(int cpu)
{
	while (!nmis)
		asm volatile("cli; hlt");
}

extern volatile u32 cpus_started;
static volatile u32 restarted;

static void test_init(void)
{
	job_start(WAIT_NMI);
	for (u64 end = rdtsc() + 20000000; rdtsc() < end;)
		pause();
	apic_write(APIC_ICR, 0xc0400); /* NMI to all but self */
	job_wait();
	check_eq(nmis, NR_APS, "NMIs wake up halted processors with IF clear");

	/* They start again from the SIPI, as they do now: the first one to come has index 1 once more. */
	u32 before = restarted;
	cpus_started = 1;
	apic_write(APIC_ICR, 0xc4500);
	for (u64 end = rdtsc() + 20000000; rdtsc() < end;)
		pause();
	check_eq(cpus_started, 1, "INIT stops a processor until the SIPI");
	apic_write(APIC_ICR, 0xc4608);
	while (restarted < before + NR_APS)
		pause();
	check(true, "INIT and SIPI start processors again");
}

void ap_main(int cpu)
{
	u32 number = 0;

	apic_enable();
	apic_ids[cpu] = apic_read(0x20);
	add(&restarted, 1);
	sti();
	for (;;) {
		cli();
		while (job_number == number)
			asm volatile("sti; hlt; cli" : : : "memory");
		sti();
		number = job_number;
		switch (job) {
		case ATOMICS: do_atomics(cpu); break;
		case PING: do_ping(cpu); break;
		case SHOOTDOWN: do_shootdown(cpu); break;
		case CROSS_MODIFY: do_cross_modify(cpu); break;
		case POKE: do_poke(cpu); break;
		case BESIDE_CODE: do_beside_code(cpu); break;
		case STORE_BUFFER: do_store_buffer(cpu); break;
		case MESSAGE: do_message(cpu); break;
		case WAIT_NMI: do_wait_nmi(cpu); break;
		default: break;
		}
		add(&job_done, 1);
	}
}

void guest_main(void)
{
	trap_table[0x50] = on_wake;
	trap_table[0x51] = on_ping;
	trap_table[0x52] = on_shootdown;
	trap_table[0x53] = on_sync;
	trap_table[2] = on_nmi;
	test_map_init();
	apic_enable();
	apic_ids[0] = apic_read(0x20);
	start_aps(NR_APS);
	while (restarted < NR_APS)
		pause();
	check(true, "three more processors from INIT and SIPI");
	test_atomics();
	test_ping();
	test_shootdown();
	test_cross_modify();
	test_poke();
	test_beside_code();
	test_order();
	test_init();
}
