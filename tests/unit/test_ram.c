/* Guest RAM of the monitor: shared memory, of huge pages where the host lets us have them. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/huge_file.h"
#include "monitor/platform.h"
#include "monitor/ram.h"

/* A page of RAM is mapped a second time: what is written through one mapping is read through the other. */
static void check_twice(u8 *host)
{
	u8 *other = mremap(host, 0, PAGE_SIZE, MREMAP_MAYMOVE);

	assert_ptr_not_equal(other, MAP_FAILED);
	host[1] = 0x5a;
	assert_int_equal(other[1], 0x5a);
	other[PAGE_SIZE - 1] = 0xa5;
	assert_int_equal(host[PAGE_SIZE - 1], 0xa5);
	munmap(other, PAGE_SIZE);
}

static void check_ram(u64 size)
{
	struct guest_ram ram;

	assert_int_equal(ram_map(&ram, size), 0);
	assert_int_equal(guest_ram_size(&ram), size);
	for (unsigned i = 0; i < ram.nr; i++) {
		const struct guest_ram_range *r = &ram.range[i];

		assert_int_equal((uintptr_t)r->host % HUGE_PAGE, 0);
		assert_int_equal(r->host[0] | r->host[r->size - PAGE_SIZE], 0);
		check_twice(r->host);
		check_twice(r->host + r->size - PAGE_SIZE);
		memset(r->host, (int)i + 1, 1);
	}
	for (unsigned i = 0; i < ram.nr; i++)
		assert_int_equal(ram.range[i].host[0], i + 1);
	ram_unmap(&ram);
	assert_int_equal(ram.nr, 0);
}

static void test_one_range(void **state)
{
	check_ram(PAGE_SIZE);
	check_ram(HUGE_PAGE + 3 * PAGE_SIZE);
	check_ram(PLATFORM_RAM_LOW_MAX);
}

static void test_two_ranges(void **state)
{
	check_ram(PLATFORM_RAM_LOW_MAX + PAGE_SIZE);
	check_ram(PLATFORM_RAM_LOW_MAX + (1ull << 30));
}

/* Where no file can have the size there is RAM all the same. */
static void test_without_file(void **state)
{
	struct rlimit old, none;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &none);
	assert_int_equal(huge_file_open(HUGE_PAGE), -1);
	check_ram(2 * HUGE_PAGE);
	check_ram(PLATFORM_RAM_LOW_MAX + HUGE_PAGE);
	setrlimit(RLIMIT_FSIZE, &old);
}

static void test_too_much(void **state)
{
	struct guest_ram ram;

	assert_int_equal(ram_map(&ram, 1ull << 60), -ENOMEM);
	assert_int_equal(ram.nr, 0);
}

/* KiB of [@host, @host + @size) that are mapped as huge pages. */
static unsigned long huge_kib(const u8 *host, u64 size)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long long from = 0;
	unsigned long kib = 0;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		unsigned long long start, end;
		unsigned long n;

		if (sscanf(line, "%llx-%llx ", &start, &end) == 2)
			from = start;
		else if (from >= (uintptr_t)host && from < (uintptr_t)host + size &&
			 sscanf(line, "ShmemPmdMapped: %lu", &n) == 1)
			kib += n;
	}
	fclose(f);
	return kib;
}

/* The host's word against all huge pages of shared memory, whatever a file system says. */
static bool host_denies(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "r");
	char line[128] = "";
	bool denies = !f || !fgets(line, sizeof(line), f) || strstr(line, "[deny]");

	if (f)
		fclose(f);
	return denies;
}

/* The exit status of a child: 0 when a file has huge pages, 2 when there is none to be had, 1 when it is wrong. */
static int try_file(void)
{
	struct stat st;
	int fd = huge_file_open(4 * HUGE_PAGE), flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	if (fd < 0 || host_denies())
		return 2;
	u8 *area = mmap(NULL, 5 * HUGE_PAGE, PROT_NONE, flags, -1, 0);
	u8 *host = (u8 *)ALIGN_UP((uintptr_t)area, HUGE_PAGE);

	if (fstat(fd, &st) < 0 || st.st_size != 4 * HUGE_PAGE || st.st_nlink != 0 || area == MAP_FAILED ||
	    mmap(host, 4 * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return 1;
	madvise(host, 4 * HUGE_PAGE, MADV_HUGEPAGE);
	for (unsigned i = 0; i < 4; i++)
		host[i * HUGE_PAGE] = 1;
	return huge_kib(host, 4 * HUGE_PAGE) ? 0 : 1; /* one at least: memory may be in pieces */
}

/* As if nobody's own program had been started: files in /proc/self are its own. */
static bool become_nobody(void)
{
	return setgid(65534) == 0 && setuid(65534) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0;
}

static int status_of(bool as_nobody)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(as_nobody && !become_nobody() ? 2 : try_file());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* A file is of huge pages, whoever asks; some hosts give none. */
static void test_huge(void **state)
{
	int own = status_of(false), nobody = status_of(true);

	assert_int_not_equal(own, 1);
	assert_int_not_equal(nobody, 1);
	if (own == 2 && nobody == 2)
		skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_range), cmocka_unit_test(test_two_ranges),
		cmocka_unit_test(test_without_file), cmocka_unit_test(test_too_much), cmocka_unit_test(test_huge),
	};

	return cmocka_run_group_tests_name("ram", tests, NULL, NULL);
}
