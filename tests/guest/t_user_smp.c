/*
 * cpus: 4. Processors in ring 3 with one address space: one takes pages away, gives others, changes rights and code,
 * and tells the others by IPI; what they have acknowledged they do no more (SDM vol. 3A, 4.10.5). Ring 0: t_smp.c.
 */
#include "user64.h"

#define NR_APS 3
#define ROUNDS 25

static u64 root;
static const unsigned places[] = {2, 5, 1}; /* ranges */
#define NR_PLACES 3

static inline void add(volatile u32 *p, u32 n)
{
	asm volatile("lock addl %1, %0" : "+m"(*p) : "r"(n) : "memory", "cc");
}

/* --- Jobs ------------------------------------------------------------------------------------------------------------ */

/* What all see: at the second page of each range's data, and here. */
static volatile struct control {
	u32 round;     /* 1 + the number of acknowledged changes; 0: the end */
	u32 progress;  /* turns of anyone */
	u32 bad;
	u32 pad;
	u64 progress_of[4];
} *const control = (struct control *)FRAME(FREE_FRAME);

static const u8 *volatile job_code;
static volatile unsigned job_range;
static volatile u32 job_number, job_done, acknowledged, faults;
static volatile u64 job_vector;
static volatile u32 ready;
static volatile u64 flushed; /* the address whose translation is changed */

static void on_wake(struct frame *f)
{
	apic_write(APIC_EOI, 0);
}

static void on_flush(struct frame *f)
{
	invlpg(flushed);
	add(&acknowledged, 1);
	apic_write(APIC_EOI, 0);
}

/* Again, until the page is back. */
static void on_fault(struct frame *f)
{
	add(&faults, 1);
	if (read_cr2() - USER_DATA(job_range, 0) >= 4096)
		user_end(f);
}

static void job_start(unsigned r, const u8 *code)
{
	control->round = 1;
	control->bad = 0;
	job_done = faults = 0;
	job_vector = 0x80;
	job_range = r;
	job_code = code;
	now.at = USER_DATA(r, 0);
	now.code = USER_CODE_AT(r, code);
	add(&job_number, 1);
	apic_write(APIC_ICR, 0xc0050);
}

static void job_end(void)
{
	control->round = 0;
	while (job_done < NR_APS)
		pause();
	same("vector", job_vector, 0x80);
	same("turns that went wrong", control->bad, 0);
}

void ap_main(int cpu)
{
	u32 number = 0;

	user_init();
	write_cr3(root);
	apic_enable();
	add(&ready, 1);
	for (;;) {
		struct user u;

		cli();
		while (job_number == number)
			asm volatile("sti; hlt; cli" : : : "memory");
		number = job_number;
		unsigned r = job_range;
		user_set(&u, USER_CODE_AT(r, job_code), USER_STACK((cpu + 1) % NR_RANGES) + 0x1800);
		u.f.rbx = USER_DATA(r, 1);
		u.f.rsi = USER_DATA(r, 0);
		u.f.rbp = USER_DATA(r, 0) + 0x40 + 8 * (unsigned)cpu;
		u.f.r8 = 0;
		u.f.r12 = USER_DATA(cpu + 1, 3);
		u.f.rflags |= 0x200;
		user_run(&u);
		if (u.f.vector != 0x80)
			job_vector = u.f.vector;
		/* Whoever changes pages waits for everyone. */
		add(&job_done, 1);
		sti();
	}
}

static void change(u64 la, u64 entry)
{
	acknowledged = 0;
	flushed = la;
	user_map(root, la, entry);
	apic_write(APIC_ICR, 0xc0051);
	while (acknowledged < NR_APS)
		pause();
}

static void let_them_go_on(void)
{
	u32 seen = control->progress;

	for (u64 end = rdtsc() + 4000000000; control->progress - seen < 6 && rdtsc() < end;)
		pause();
	same("whether they go on", control->progress - seen >= 6, true);
}

/* --- Pages that change --------------------------------------------------------------------------------------------- */

#define PAGE_FRAME(n) FRAME(FREE_FRAME + 1 + ((n) & 1))

/* RBX: control; RSI: the page, whose value is the round. What was seen must be as new as the round before. */
USER_CODE(reader, "1: movl (%rbx), %eax; testl %eax, %eax; jz 9f; movl (%rsi), %ecx; movl (%rbx), %edx; leal 1(%rcx), %edi\n"
	  "cmpl %eax, %edi; jb 2f; testl %edx, %edx; jz 9f; cmpl %edx, %ecx; ja 2f; lock incl 4(%rbx); jmp 1b\n"
	  "2: lock incl 8(%rbx); jmp 1b\n9:" END);
/* The same of code: a function in the page. */
USER_CODE(executor, "1: movl (%rbx), %r9d; testl %r9d, %r9d; jz 9f; leaq 0x100(%rsi), %rcx; call *%rcx; movl (%rbx), %edx\n"
	  "leal 1(%rax), %edi; cmpl %r9d, %edi; jb 2f; testl %edx, %edx; jz 9f; cmpl %edx, %eax; ja 2f; lock incl 4(%rbx); jmp 1b\n"
	  "2: lock incl 8(%rbx); jmp 1b\n9:" END);
/* Each counts in a place of its own in the page, in several ways. */
USER_CODE(writer, "1: cmpl $0, (%rbx); je 9f; incq (%rbp); addq $1, 0x40(%rbp); movq (%rbp), %rax; movq %rax, 0x80(%rbp)\n"
	  "lock incl 4(%rbx); jmp 1b\n9:" END);

/* movl $v, %eax; ret */
static void put_function(u64 frame, u32 v)
{
	volatile u8 *p = (u8 *)frame + 0x100;

	p[0] = 0xb8;
	p[5] = 0xc3;
	for (unsigned n = 0; n < 4; n++)
		p[1 + n] = (u8)(v >> 8 * n);
}

static void test_remap(const u8 *code, const char *name)
{
	test_begin(name);
	for (unsigned n = 0; n < NR_PLACES; n++) {
		u64 la = USER_DATA(places[n], 0);

		*(volatile u32 *)PAGE_FRAME(0) = 0;
		put_function(PAGE_FRAME(0), 0);
		change(la, PAGE_FRAME(0) | RW);
		job_start(places[n], code);
		let_them_go_on();
		for (u32 round = 1; round <= ROUNDS; round++) {
			u64 frame = PAGE_FRAME(round);

			now.more = round;
			*(volatile u32 *)frame = round;
			put_function(frame, round);
			if (round % 3 == 0) /* nothing for a while */
				change(la, 0);
			change(la, frame | RW);
			control->round = round + 1;
			let_them_go_on();
		}
		job_end();
	}
	test_end();
}

static u64 sum_of(u64 frame)
{
	u64 sum = 0;

	for (unsigned n = 0; n < 24; n++)
		sum += ((volatile u64 *)frame)[8 + n];
	return sum;
}

static void test_writers(void)
{
	test_begin("writers: other pages, no page, read-only");
	for (unsigned n = 0; n < NR_PLACES; n++) {
		u64 la = USER_DATA(places[n], 0);

		change(la, PAGE_FRAME(0) | RW);
		job_start(places[n], writer);
		let_them_go_on();
		for (u32 round = 1; round <= ROUNDS; round++) {
			u64 frame = PAGE_FRAME(round), old = PAGE_FRAME(round + 1);

			now.more = round;
			if (round % 3 != 1) {
				change(la, round % 3 ? 0 : old | PG_P | PG_U);
				u64 sum = sum_of(old);
				u32 seen = faults;
				while (faults - seen < 4)
					pause();
				same("sum of counters while nobody may write", sum_of(old), sum);
			}
			change(la, frame | RW);
			u64 sum = sum_of(old);
			let_them_go_on();
			same("sum of counters in the old page", sum_of(old), sum);
			/* The dirty bit comes again. */
			volatile u64 *entry = user_entry(root, la, 1);
			change(la, *entry & ~PG_D);
			let_them_go_on();
			let_them_go_on();
			same("dirty bit", *entry & PG_D, PG_D);
		}
		job_end();
	}
	test_end();
}

/* --- Code that changes ------------------------------------------------------------------------------------------- */

/* Published rounds are seen behind CPUID. R8 is not a place. */
USER_CODE(modified, "movq %rbx, %r13\n1: movl (%r13), %r9d; testl %r9d, %r9d; jz 9f; xorl %eax, %eax; cpuid; leaq 0x103(%rsi), %rcx; "
	  "call *%rcx\ncmpl %r9d, %eax; jb 2f; lock incl 4(%r13); jmp 1b\n2: lock incl 8(%r13); jmp 1b\n9:" END);
/* The first processor's: RBX is another mapping of the code, RAX the value. */
USER_CODE(modifier, "movl %eax, (%rbx)" END);

static void test_modified(void)
{
	struct user u;

	test_begin("code that another processor's user code changes");
	for (unsigned n = 0; n < NR_PLACES; n++) {
		u64 la = USER_DATA(places[n], 0), alias = USER_DATA(places[(n + 1) % NR_PLACES], 2);
		volatile u8 *p = (u8 *)PAGE_FRAME(0);

		/* The immediate is aligned, and written whole. */
		p[0x103] = 0xb8;
		*(volatile u32 *)(p + 0x104) = 1;
		p[0x108] = 0xc3;
		change(la, PAGE_FRAME(0) | RW);
		user_map(root, alias, PAGE_FRAME(0) | RW | PG_NX);
		job_start(places[n], modified);
		for (u32 round = 2; round < 2 + 2 * ROUNDS; round++) {
			now.more = round;
			if (round & 1) {
				*(volatile u32 *)(p + 0x104) = round;
			} else {
				user_set(&u, USER_CODE_AT(5 - n, modifier), USER_STACK(0) + 0x1800);
				u.f.rbx = alias + 0x104;
				u.f.rax = round;
				user_run(&u);
				same("vector of the writer", u.f.vector, 0x80);
			}
			control->round = round;
			let_them_go_on();
		}
		job_end();
	}
	test_end();
}

/* --- Atomics ------------------------------------------------------------------------------------------------------ */

/* R12: two pages, in each processor at another address; places in a line, over lines, over pages. */
#define COUNT 3000
USER_CODE(counter, "movl $3000, %r15d\n1: lock incq (%r12); lock addl $2, 0x3e(%r12); movl $1, %eax; lock xaddl %eax, 0xffe(%r12)\n"
	  "movq 0x80(%r12), %rax\n2: leaq 3(%rax), %rcx; lock cmpxchgq %rcx, 0x80(%r12); jnz 2b\n"
	  "movl $1, %ecx\n3: xchgl %ecx, 0x100(%r12); testl %ecx, %ecx; jz 4f; pause; jmp 3b\n4: incq 0x108(%r12); movl $0, 0x100(%r12)\n"
	  "lock incl 4(%rbx); decl %r15d; jnz 1b" END);

static void test_atomics(void)
{
	struct user u;
	u8 *low = (u8 *)FRAME(FREE_FRAME + 4), *high = (u8 *)FRAME(FREE_FRAME + 3);
	u32 across = 0;

	test_begin("atomics in a page that each has elsewhere");
	memset(low, 0, 4096);
	memset(high, 0, 4096);
	for (unsigned cpu = 0; cpu <= NR_APS; cpu++) {
		user_map(root, USER_DATA(cpu + 1, 3), (u64)low | RW);
		user_map(root, USER_DATA(cpu + 1, 4), (u64)high | RW);
	}
	job_start(2, counter);
	user_set(&u, USER_CODE_AT(5, counter), USER_STACK(1) + 0x1800);
	u.f.rbx = USER_DATA(2, 1);
	u.f.r12 = USER_DATA(1, 3);
	user_run(&u);
	same("vector", u.f.vector, 0x80);
	job_end();
	memcpy(&across, low + 0xffe, 2);
	memcpy((u8 *)&across + 2, high, 2);
	same("LOCK INC", *(u64 *)low, (NR_APS + 1) * COUNT);
	same("LOCK ADD over lines", *(u32 *)(low + 0x3e), (NR_APS + 1) * COUNT * 2);
	same("LOCK XADD over pages", across, (NR_APS + 1) * COUNT);
	same("LOCK CMPXCHG", *(u64 *)(low + 0x80), (NR_APS + 1) * COUNT * 3);
	same("XCHG as a lock", *(u64 *)(low + 0x108), (NR_APS + 1) * COUNT);
	test_end();
}

void guest_main(void)
{
	root = user_begin();
	for (unsigned r = 0; r < NR_RANGES; r++)
		user_map(root, USER_DATA(r, 1), (u64)control | RW | PG_NX);
	trap_table[14] = on_fault;
	trap_table[0x50] = on_wake;
	trap_table[0x51] = on_flush;
	apic_enable();
	start_aps(NR_APS);
	while (ready < NR_APS)
		pause();
	test_remap(reader, "readers: other pages, no page");
	test_remap(executor, "other code, no code");
	test_writers();
	test_modified();
	test_atomics();
}
