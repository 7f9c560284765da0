/* What --stats counts and reads: places of exits, KVM's statistics files (broken ones too), how values look. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "monitor/exit_stats.h"
#include "monitor/kvm_stats.h"
#include "monitor/machine.h"
#include "monitor/stats.h"

/* --- Exits ------------------------------------------------------------------------------------------------------- */

static struct exit_stats exits, more;
static struct kvm_run run;

static void reset_exits(void)
{
	memset(&exits, 0, sizeof(exits));
	memset(&more, 0, sizeof(more));
	memset(&run, 0, sizeof(run));
	exits.sites = more.sites = true;
}

static void io_exit(struct exit_stats *s, u64 rip, u16 port, bool out, unsigned times)
{
	run.exit_reason = KVM_EXIT_IO;
	run.io.port = port;
	run.io.direction = out ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run.s.regs.regs.rip = rip;
	while (times--)
		exit_stats_count(s, &run, 0);
}

static void test_exits(void **state)
{
	struct exit_site top[3];

	reset_exits();
	io_exit(&exits, 0x1000, 0x3f8, true, 5);
	io_exit(&exits, 0x1000, 0x3f8, false, 2);
	io_exit(&exits, 0x1000, 0x3f9, true, 3);
	io_exit(&exits, 0x2000, 0x3f8, true, 9);
	run.exit_reason = KVM_EXIT_MMIO;
	run.mmio.phys_addr = 0xfee00000;
	exit_stats_count(&exits, &run, 0);
	run.exit_reason = 0xffffffff; /* of a KVM to come */
	exit_stats_count(&exits, &run, 0);
	exit_stats_count(&exits, &run, -EINTR);
	exit_stats_count(&exits, &run, -EAGAIN);
	assert_int_equal(exits.reason[KVM_EXIT_IO], 19);
	assert_int_equal(exits.reason[KVM_EXIT_MMIO], 1);
	assert_int_equal(exits.reason[KVM_EXIT_UNKNOWN], 1);
	assert_int_equal(exits.reason[KVM_EXIT_INTR], 1);
	assert_int_equal(exit_stats_top(&exits, top, 3), 3);
	assert_int_equal(top[0].count, 9);
	assert_int_equal(top[0].rip, 0x2000);
	assert_int_equal(top[1].count, 5);
	assert_int_equal(top[1].addr, 0x3f8);
	assert_true(top[1].write);
	assert_int_equal(top[2].addr, 0x3f9);

	/* Another CPU's, added. */
	io_exit(&more, 0x1000, 0x3f8, true, 5);
	exit_stats_add(&exits, &more);
	assert_int_equal(exits.reason[KVM_EXIT_IO], 24);
	exit_stats_top(&exits, top, 1);
	assert_int_equal(top[0].count, 10);
	assert_int_equal(top[0].rip, 0x1000);
}

/* More places than there is room for: nothing is counted twice or forgotten. */
static void test_full(void **state)
{
	static struct exit_site top[EXIT_SITES + 1];
	u64 sum = 0;

	reset_exits();
	for (u64 rip = 0; rip < 4 * EXIT_SITES; rip++)
		io_exit(&exits, rip * 16, 0x80, true, 2);
	unsigned nr = exit_stats_top(&exits, top, ARRAY_SIZE(top));
	assert_in_range(nr, EXIT_SITES / 2, EXIT_SITES);
	for (unsigned i = 0; i < nr; i++)
		sum += top[i].count;
	assert_int_equal(sum + exits.lost, 8 * EXIT_SITES);
	exit_stats_add(&more, &exits);
	assert_int_equal(more.lost, exits.lost);
	/* Without registers from KVM there are no places. */
	reset_exits();
	exits.sites = false;
	io_exit(&exits, 1, 0x80, true, 7);
	assert_int_equal(exits.reason[KVM_EXIT_IO], 7);
	assert_int_equal(exit_stats_top(&exits, top, 1), 0);
}

/* --- Statistics files -------------------------------------------------------------------------------------------- */

struct file {
	struct kvm_stats_header head;
	char id[16];
	struct {
		struct kvm_stats_desc desc; /* and its name behind it */
		char name[16];
	} row[3];
	u64 data[5];
};

static const struct file good = {
	.head = {.name_size = 16,
		 .num_desc = 3,
		 .id_offset = offsetof(struct file, id),
		 .desc_offset = offsetof(struct file, row),
		 .data_offset = offsetof(struct file, data)},
	.id = "kvm-1",
	.row = {{{.size = 1, .offset = 8}, "jit_blocks"},
		{{.flags = KVM_STATS_UNIT_SECONDS, .exponent = -9, .size = 1, .offset = 0}, "jit_translate_ns"},
		{{.flags = KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS, .exponent = -9, .size = 3, .offset = 16},
		 "hist"}},
	.data = {3000000, 1500, 1, 2, 4},
};

static int file_of(const struct file *f, size_t size)
{
	int fd = memfd_create("stats", MFD_CLOEXEC);

	assert_true(fd >= 0 && pwrite(fd, f, size, 0) == (ssize_t)size);
	return fd;
}

static int read_back(const struct file *f, size_t size, struct kvm_stats *s)
{
	int fd = file_of(f, size), r = kvm_stats_read(fd, s);

	close(fd);
	return r;
}

static void test_read(void **state)
{
	struct kvm_stats s;

	assert_int_equal(read_back(&good, sizeof(good), &s), 0);
	assert_int_equal(s.nr, 3);
	assert_int_equal(kvm_stats_find(&s, "jit_blocks")->value, 1500);
	assert_int_equal(s.stat[1].exponent, -9);
	assert_int_equal(s.stat[1].value, 3000000);
	assert_string_equal(s.stat[1].name, "jit_translate_ns"); /* without room for its end */
	assert_int_equal(kvm_stats_find(&s, "hist")->value, 7);
	assert_null(kvm_stats_find(&s, "jit"));
	kvm_stats_free(&s);
	assert_int_equal(s.nr, 0);
}

#define BREAK(field, value_)                                                \
	do {                                                                \
		struct file f_ = good;                                      \
		f_.field = value_;                                          \
		assert_int_equal(read_back(&f_, sizeof(f_), &s), -EINVAL);  \
		assert_null(s.stat);                                        \
	} while (0)

static void test_broken(void **state)
{
	struct kvm_stats s;

	for (size_t size = 0; size < sizeof(good); size += 4)
		assert_int_equal(read_back(&good, size, &s), -EINVAL);
	BREAK(head.name_size, 0);
	BREAK(head.name_size, 0xffffffff);
	BREAK(head.num_desc, 4);
	BREAK(head.num_desc, 0xffffffff);
	BREAK(head.desc_offset, 0xfffffff0);
	BREAK(head.data_offset, 0xffffffff);
	BREAK(row[1].desc.offset, 0xffffffff);
	BREAK(row[1].desc.size, 0);
	BREAK(row[1].desc.size, 0xffff);
	assert_int_equal(kvm_stats_read(-1, &s), -EBADF);
}

static void test_format(void **state)
{
	static const struct {
		u64 value;
		u32 flags;
		s16 exponent;
		const char *text;
	} cases[] = {
		{0, 0, 0, "0"},
		{18446744073709551615ull, 0, 0, "18446744073709551615"},
		{1500000, KVM_STATS_UNIT_SECONDS, -9, "1.50 ms"},
		{1, KVM_STATS_UNIT_SECONDS, -9, "1.00 ns"},
		{0, KVM_STATS_UNIT_SECONDS, -9, "0.00 ns"},
		{61, KVM_STATS_UNIT_SECONDS, 0, "61.00 s"},
		{1023, KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW2, 0, "1023 B"},
		{3, KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW2, 20, "3.0 MiB"},
		{1536, KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW2, 0, "1.5 KiB"},
		{7, 0, 3, "7000"},
		{1, 0, 32767, "inf"},
		{1, 0xffffffff, -32768, "0"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[32];

		kvm_stat_format(text, sizeof(text), cases[i].value, cases[i].flags, cases[i].exponent);
		assert_string_equal(text, cases[i].text);
	}
}

/* --- The table --------------------------------------------------------------------------------------------------- */

static bool with_statistics;

/* A KVM whose vCPU n, descriptor 1000 + n, has n + 1 times the values of good; the VM has good itself. */
static long fake_ioctl(int fd, unsigned long request, void *arg)
{
	struct file f = good;

	if (request == KVM_CHECK_EXTENSION)
		return with_statistics && arg == (void *)KVM_CAP_BINARY_STATS_FD;
	if (request != KVM_GET_STATS_FD)
		return -ENOTTY;
	for (size_t i = 0; i < ARRAY_SIZE(f.data); i++)
		f.data[i] *= fd >= 1000 ? (u64)(fd - 1000 + 1) : 1;
	return file_of(&f, sizeof(f));
}

static int fake_close(int fd)
{
	return close(fd);
}

static const struct kvm_if fake = {.name = "fake", .ioctl = fake_ioctl, .close = fake_close};

static char *print(unsigned nr_cpus)
{
	struct machine *m = calloc(1, sizeof(*m));
	char *text;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	m->kvm = &fake;
	m->vm_fd = 999;
	m->nr_vcpus = nr_cpus;
	m->vcpus = calloc(nr_cpus, sizeof(m->vcpus[0]));
	for (unsigned i = 0; i < nr_cpus; i++) {
		m->vcpus[i].fd = (int)(1000 + i);
		m->vcpus[i].exits = &exits;
	}
	stats_print(m, out);
	fclose(out);
	free(m->vcpus);
	free(m);
	return text;
}

/* The line of @text that begins with @label, its spaces made one. */
static const char *line(const char *text, const char *label)
{
	static char found[256];
	const char *at = text;
	size_t n = 0;

	while (at && strncmp(at + strspn(at, " "), label, strlen(label)))
		at = (at = strchr(at, '\n')) ? at + 1 : NULL;
	if (!at)
		return "(none)";
	for (at += strspn(at, " "); *at && *at != '\n' && n < sizeof(found) - 1; at++)
		if (*at != ' ' || at[1] != ' ')
			found[n++] = *at;
	found[n] = 0;
	return found;
}

static void test_table(void **state)
{
	reset_exits();
	io_exit(&exits, 0xffffffff81000000, 0x3f8, true, 5);
	with_statistics = true;
	char *text = print(2);
	assert_string_equal(line(text, "IO"), "IO 10 5 5");
	assert_string_equal(line(text, "Most"), "Most frequent exits times guest RIP access");
	assert_string_equal(line(strstr(text, "Most"), "IO"), "IO 10 ffffffff81000000 write to port 0x3f8");
	assert_string_equal(line(text, "MMIO"), "(none)"); /* zeros are left out */
	assert_string_equal(line(text, "jit_blocks"), "jit_blocks 4500 1500 3000");
	assert_string_equal(line(text, "jit_translate_ns"), "jit_translate_ns 9.00 ms 3.00 ms 6.00 ms");
	assert_string_equal(line(text, "jit_translate_ns per"), "jit_translate_ns per block 2.00 us 2.00 us 2.00 us");
	assert_string_equal(line(strstr(text, "of the machine"), "hist"), "hist 7");
	free(text);

	/* One CPU: the total says it all. Many: several tables. */
	text = print(1);
	assert_string_equal(line(text, "jit_blocks"), "jit_blocks 1500");
	free(text);
	text = print(MACHINE_MAX_CPUS);
	assert_non_null(strstr(text, "CPU 254"));
	assert_string_equal(line(strstr(strstr(text, "KVM, of its"), "CPU 254"), "jit_blocks"),
			    "jit_blocks 378000 379500 381000 382500");
	for (const char *at = text, *end; (end = strchr(at, '\n')); at = end + 1)
		assert_true(end - at < 120);
	free(text);

	with_statistics = false;
	text = print(1);
	assert_non_null(strstr(text, "(fake) has no statistics"));
	assert_string_equal(line(text, "IO"), "IO 5");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exits),  cmocka_unit_test(test_full),   cmocka_unit_test(test_read),
		cmocka_unit_test(test_broken), cmocka_unit_test(test_format), cmocka_unit_test(test_table),
	};

	return cmocka_run_group_tests_name("stats", tests, NULL, NULL);
}
