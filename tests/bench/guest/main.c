/*
 * Commands on standard input, answers on standard output, a line each:
 *
 *	list		test NAME GROUP OPS, for each test; then "bench: ready"
 *	run NAME COUNT	"bench: begin NAME", COUNT units of it, "bench: end NAME SUM"
 *	quit
 *
 * As the first process of a machine it mounts what it needs, and its console
 * is /dev/ttyS0.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "bench.h"

#define HUGE_PAGE (2u << 20)

static const struct bench_test *const groups[] = {
	integer_tests, memory_tests, fp_tests, kernel_tests, program_tests, smp_tests,
};

void bench_fail(const char *what)
{
	printf("bench: failed %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

long bench_must(long r, const char *what)
{
	if (r < 0)
		bench_fail(what);
	return r;
}

void *bench_alloc(size_t size)
{
	char *p = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t skip;

	if (p == MAP_FAILED)
		bench_fail("mmap");
	skip = -(uintptr_t)p & (HUGE_PAGE - 1);
	munmap(p + skip + size, HUGE_PAGE - skip);
	if (skip)
		munmap(p, skip);
	madvise(p + skip, size, MADV_HUGEPAGE);
	return p + skip;
}

void bench_free(void *p, size_t size)
{
	munmap(p, size);
}

static void be_init(void)
{
	struct termios t;
	int tty;

	mkdir("/dev", 0755);
	mkdir("/proc", 0755);
	mkdir("/tmp", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	mkdir("/dev/shm", 0777);
	mount("shm", "/dev/shm", "tmpfs", 0, NULL);
	tty = open("/dev/ttyS0", O_RDWR);
	if (tty < 0 || tcgetattr(tty, &t) < 0)
		return;
	cfmakeraw(&t);
	tcsetattr(tty, TCSANOW, &t);
	for (int fd = 0; fd < 3; fd++)
		dup2(tty, fd);
	if (tty > 2)
		close(tty);
}

/* @count units; ends the program when they do not all give the same sum. */
static uint64_t units(const struct bench_test *t, unsigned long count)
{
	uint64_t sum = t->unit();

	for (unsigned long i = 1; i < count; i++) {
		if (t->unit() != sum) {
			errno = EILSEQ;
			bench_fail(t->name);
		}
	}
	return sum;
}

/* The same in @t->procs processes. */
static uint64_t units_at_once(const struct bench_test *t, unsigned long count)
{
	uint64_t sum;
	int status;

	for (unsigned i = 1; i < t->procs; i++)
		if (!bench_must(fork(), "fork")) {
			units(t, count);
			_exit(0);
		}
	sum = units(t, count);
	for (unsigned i = 1; i < t->procs; i++)
		if (wait(&status) < 0 || status)
			bench_fail("the other process");
	return sum;
}

static void run(const struct bench_test *t, unsigned long count)
{
	cpu_set_t all, one;
	uint64_t sum;
	int cpu = sched_getcpu();

	/* One processor on hosts as in guests with one. */
	if (!t->procs && cpu >= 0 && !sched_getaffinity(0, sizeof(all), &all)) {
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	} else {
		cpu = -1;
	}
	if (t->setup)
		t->setup();
	printf("bench: begin %s\n", t->name);
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
	sum = units_at_once(t, count);
	printf("bench: end %s %016" PRIx64 "\n", t->name, sum);
	fflush(stdout);
	if (t->teardown)
		t->teardown();
	if (cpu >= 0)
		sched_setaffinity(0, sizeof(all), &all);
	printf("bench: done %s\n", t->name);
}

static const struct bench_test *find(const char *name)
{
	for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
		for (const struct bench_test *t = groups[g]; t->name; t++)
			if (!strcmp(t->name, name))
				return t;
	return NULL;
}

static void list(void)
{
	for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
		for (const struct bench_test *t = groups[g]; t->name; t++)
			printf("bench: test %s %s %u\n", t->name, t->group, t->ops);
}

int main(void)
{
	const struct bench_test *t;
	char line[256], name[64];
	unsigned long count;

	if (getpid() == 1)
		be_init();
	setvbuf(stdout, NULL, _IOFBF, BUFSIZ);
	printf("bench: ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "quit\n"))
			break;
		if (!strcmp(line, "list\n")) {
			list();
			printf("bench: ready\n");
		} else if (sscanf(line, "run %63s %lu", name, &count) == 2 && count && (t = find(name))) {
			run(t, count);
		} else {
			errno = EINVAL;
			bench_fail("command");
		}
		fflush(stdout);
	}
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	return 0;
}
