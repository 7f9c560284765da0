/* --stats and --perf-map: small guests whose numbers are known, and a Linux guest whose numbers are plausible. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "session.h"

#define SECONDS 20
#define BOOT_SECONDS 240

/* 1000 writes to a port with nothing behind it, ten reads of another, then the exit. It is at 16 MiB. */
ASM_GUEST(guest_ports, "mov $1000, %ecx\n1: out %al, $0x80\ndec %ecx\njnz 1b\n"
		       "mov $10, %ecx\n2: in $0x61, %al\nin $0x92, %al\ndec %ecx\njnz 2b\n"
		       "xor %eax, %eax\nout %al, $0xf4\n3: hlt\njmp 3b");
ASM_GUEST(guest_spin, "out %al, $0x80\nmov $'S', %al\nout %al, $0xe9\n1: jmp 1b");

static struct session s;
static int kernel_fd = -1;
static char map_path[64];

static int teardown(void **state)
{
	session_end(&s);
	if (kernel_fd >= 0)
		close(kernel_fd);
	kernel_fd = -1;
	if (map_path[0])
		unlink(map_path);
	map_path[0] = 0;
	return 0;
}

static void start(const char *code, const char *end, const char *engine, const char *option)
{
	char path[64];

	kernel_fd = write_kernel(code, (size_t)(end - code), path);
	const char *const argv[] = {"run", "--accel", "soft", "--engine", engine, "--kernel", path,
				    "--mem", "64M", option, NULL};

	session_start(&s, SESSION_PIPES, NULL, argv);
	snprintf(map_path, sizeof(map_path), "/tmp/perf-%d.map", s.pid);
}

#define START(name, engine, option) start(name, name##_end, engine, option)

/* The first number behind @label, at the beginning of a line of standard error. -1: there is no such line. */
static double number(const char *label)
{
	for (const char *at = s.errors; at; at = (at = strchr(at, '\n')) ? at + 1 : NULL) {
		const char *text = at + strspn(at, " ");

		if (!strncmp(text, label, strlen(label)) && text[strlen(label)] == ' ')
			return strtod(text + strlen(label), NULL);
	}
	return -1;
}

static void exits_are_counted(void **state)
{
	static const char *const engines[] = {"interp", "jit"};

	for (int i = 0; i < 2; i++) {
		START(guest_ports, engines[i], "--stats");
		assert_int_equal(session_wait(&s, SECONDS), 0);
		assert_true(number("IO") == 1011);
		assert_true(number("MMIO") == -1); /* none */
		assert_true(number("io_exits") == 1021); /* port 0x61 is KVM's */
		assert_true(number("exits") >= 1021);
		const char *top = strstr(s.errors, "Most frequent exits");

		assert_non_null(top);
		const char *write = strstr(top, "write to port 0x80\n"), *read = strstr(top, "read from port 0x92\n");

		assert_true(write && read && write < read);
		/* The loop is at the kernel's start, or just behind. */
		assert_non_null(strstr(top, "1000  000000000100000"));
		assert_true(engines[i][0] == 'i' ? number("jit_blocks") == -1 : number("jit_blocks") >= 3);
		teardown(NULL);
	}
}

/* Not asked for: not told. */
static void quiet_without(void **state)
{
	START(guest_ports, "interp", NULL);
	assert_int_equal(session_wait(&s, SECONDS), 0);
	assert_null(strstr(s.errors, "statistics"));
}

static void a_signal_ends_with_statistics(void **state)
{
	START(guest_spin, "jit", "--stats");
	assert_true(session_expect(&s, "S", SECONDS));
	kill(s.pid, SIGTERM);
	assert_int_equal(session_wait(&s, SECONDS), 128 + SIGTERM);
	assert_true(number("IO") == 2 && number("io_exits") == 2);
}

/* Counts the lines of the map, each of which must be well formed. *@found: those that name a block at @rip. */
static unsigned map_lines(const char *prefix, unsigned long rip, unsigned *found)
{
	FILE *f = fopen(map_path, "r");
	char line[256], name[128];
	unsigned long at, size, named;
	unsigned n = 0;

	assert_non_null(f);
	*found = 0;
	while (fgets(line, sizeof(line), f)) {
		assert_int_equal(sscanf(line, "%lx %lx %127s", &at, &size, name), 3);
		assert_true(at > 0x10000 && size > 0 && size < 1 << 20);
		if (!strncmp(name, prefix, strlen(prefix)) && sscanf(name + strlen(prefix), "%lx", &named) == 1)
			*found += !rip || named == rip;
		n++;
	}
	fclose(f);
	return n;
}

static void perf_map_names_blocks(void **state)
{
	unsigned found;

	START(guest_ports, "jit", "--perf-map");
	assert_int_equal(session_wait(&s, SECONDS), 0);
	assert_non_null(strstr(s.errors, map_path));
	assert_true(map_lines("guest_", 0x1000000, &found) >= 4);
	assert_true(found >= 1);
	teardown(NULL);

	/* By the environment; and not without. */
	setenv("ANYKVM_PERF_MAP", "1", 1);
	START(guest_ports, "jit", NULL);
	unsetenv("ANYKVM_PERF_MAP");
	assert_int_equal(session_wait(&s, SECONDS), 0);
	map_lines("guest_", 0x1000000, &found);
	assert_true(found >= 1);
	teardown(NULL);
	START(guest_ports, "jit", "--stats");
	assert_int_equal(session_wait(&s, SECONDS), 0);
	assert_int_not_equal(access(map_path, F_OK), 0);
}

static void linux_guest(void **state)
{
	const char *const argv[] = {
		"run", "--accel", "soft", "--engine", "jit", "-k", guest_file("vmlinuz"),
		"-i", guest_file("initramfs.cpio"), "-c", "2", "--stats", "--perf-map", NULL,
	};
	unsigned found;

	session_start(&s, SESSION_PIPES, NULL, argv);
	snprintf(map_path, sizeof(map_path), "/tmp/perf-%d.map", s.pid);
	assert_true(session_expect(&s, "# ", BOOT_SECONDS));
	session_send(&s, "poweroff\n");
	assert_int_equal(session_wait(&s, SECONDS), 0);
	assert_non_null(strstr(s.errors, "CPU 1"));
	double blocks = number("jit_blocks"), insns = number("jit_insns");

	assert_true(blocks > 10000 && insns > 2 * blocks && insns < 64 * blocks);
	assert_true(number("IO") > 1000 && number("io_exits") >= number("IO"));
	assert_true(number("exits") > number("io_exits"));
	assert_true(number("irq_injections") > 10 && number("tlb_misses") > 1000);
	assert_true(number("halt_wakeup") > 10 && number("halt_wakeup") <= number("halt_exits"));
	assert_true(number("jit_translate_ns") > 0 && number("jit_translate_ns per block") > 0);
	/* The console is what a boot talks to most. */
	assert_non_null(strstr(s.errors, "write to port 0x3f8"));
	/* A line for each block and each vCPU's stubs. */
	unsigned lines = map_lines("guest_ffffffff", 0, &found);

	assert_true(lines >= blocks + 2);
	assert_true(found > blocks / 2);
	map_lines("guest_user_", 0, &found);
	assert_true(found > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(exits_are_counted, teardown),
		cmocka_unit_test_teardown(quiet_without, teardown),
		cmocka_unit_test_teardown(a_signal_ends_with_statistics, teardown),
		cmocka_unit_test_teardown(perf_map_names_blocks, teardown),
		cmocka_unit_test_teardown(linux_guest, teardown),
	};

	return cmocka_run_group_tests_name("stats", tests, NULL, NULL);
}
