/* Debian's cloud kernel, to a shell and off again, on the software engine. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "session.h"

/* Generous: the sanitizers' machines are slow ones, and a hang is a failure either way. */
#define BOOT_SECONDS 240
#define COMMAND_SECONDS 30
#define CLOCK_SECONDS 8

static void boot(struct session *s, const char *cpus)
{
	const char *const argv[] = {
		"run", "--accel", "soft", "--kernel", guest_file("vmlinuz"), "--initrd", guest_file("initramfs.cpio"),
		"--cpus", cpus, "--mem", "512M", NULL,
	};

	session_start(s, SESSION_PIPES, NULL, argv);
	assert_true(session_expect(s, "Linux version", BOOT_SECONDS));
	assert_true(session_expect(s, "guest: init has started", BOOT_SECONDS));
	assert_true(session_expect(s, "# ", BOOT_SECONDS)); /* the prompt */
}

/*
 * Runs @command in the guest's shell and gives its first number, as text, in
 * @answer. The marks are split so that the terminal's echo does not look like them.
 */
static void ask(struct session *s, const char *command, char *answer, size_t max)
{
	char line[512];

	snprintf(line, sizeof(line), "echo BE''GIN $(%s) E''ND\n", command);
	session_send(s, line);
	assert_true(session_expect(s, "BEGIN", COMMAND_SECONDS));
	size_t from = s->seen;

	assert_true(session_expect(s, " END", COMMAND_SECONDS));
	int len = (int)(s->seen - strlen(" END") - from);

	snprintf(answer, max, "%.*s", len ? len - 1 : 0, s->text + from + 1);
}

static double ask_number(struct session *s, const char *command)
{
	char answer[64];

	ask(s, command, answer, sizeof(answer));
	return strtod(answer, NULL);
}

static void poweroff(struct session *s)
{
	session_send(s, "poweroff\n");
	assert_int_equal(session_wait(s, 60), 0);
}

/* Guest time against host time over some seconds. No process is started in the guest between question and answer. */
static void check_clock(struct session *s)
{
	double guest[2], host[2];

	for (int i = 0; i < 2; i++) {
		if (i) { /* the guest is idle meanwhile, and sleeps as long as it should */
			double before = now();

			ask_number(s, "sleep 8");
			double slept = now() - before;

			assert_true(slept >= CLOCK_SECONDS && slept < CLOCK_SECONDS + 2);
		}
		session_send(s, "read up idle </proc/uptime; echo UP''TIME $up\n");
		assert_true(session_expect(s, "UPTIME ", COMMAND_SECONDS));
		host[i] = now();
		size_t from = s->seen;

		assert_true(session_expect(s, "\n", COMMAND_SECONDS));
		guest[i] = strtod(s->text + from, NULL);
	}
	double ratio = (guest[1] - guest[0]) / (host[1] - host[0]);

	printf("# guest clock / host clock over %.1f s: %.5f\n", host[1] - host[0], ratio);
	assert_true(fabs(ratio - 1) < 0.01);
	/* The time of day came from the clock chip. */
	assert_true(fabs(ask_number(s, "date +%s") - (double)time(NULL)) < 5);
}

/* The number in column @cpu of the line of /proc/interrupts that has @name. */
static double interrupts(struct session *s, const char *name, int cpu)
{
	char command[128];

	snprintf(command, sizeof(command), "grep -w %s /proc/interrupts | awk \"{print \\$%d}\"", name, cpu + 2);
	return ask_number(s, command);
}

static void one_cpu(void **state)
{
	struct session *s = *state;
	char answer[128];

	boot(s, "1");
	assert_int_equal(ask_number(s, "nproc"), 1);
	ask(s, "uname -sm", answer, sizeof(answer));
	assert_string_equal(answer, "Linux x86_64");
	assert_int_equal(ask_number(s, "expr 1234 \\* 5678"), 1234 * 5678);
	ask(s, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource", answer, sizeof(answer));
	assert_true(!strcmp(answer, "kvm-clock") || !strcmp(answer, "tsc"));
	assert_true(interrupts(s, "LOC", 0) > 0);
	assert_true(interrupts(s, "ttyS0", 0) > 0);
	assert_int_equal(ask_number(s, "grep -c acpi /proc/interrupts"), 1);
	assert_int_equal(ask_number(s, "dmesg | grep -ciE \"call trace|kernel BUG|firmware bug\""), 0);
	/* Memory: what was asked for, less what the kernel keeps. */
	double kib = ask_number(s, "awk \"/MemTotal/{print \\$2}\" /proc/meminfo");

	assert_true(kib > 400 * 1024 && kib <= 512 * 1024);
	check_clock(s);
	poweroff(s);
}

static void two_cpus(void **state)
{
	struct session *s = *state;

	boot(s, "2");
	assert_int_equal(ask_number(s, "nproc"), 2);
	assert_int_equal(ask_number(s, "cat /sys/devices/system/cpu/online | tr - ' ' | awk \"{print \\$2}\""), 1);
	/* Both take timer interrupts, and each has run something. */
	assert_true(interrupts(s, "LOC", 0) > 0);
	assert_true(interrupts(s, "LOC", 1) > 0);
	assert_int_equal(ask_number(s, "taskset 2 sh -c \"taskset -p \\$\\$\" | sed 's/.*: //'"), 2);
	/* Two busy loops at once. */
	assert_int_equal(ask_number(s, "for i in 1 2; do "
				       "(n=0; while [ $n -lt 500 ]; do n=$((n+1)); done; echo $n) & done "
				       "| awk \"{s+=\\$1}END{print s}\""), 1000);
	check_clock(s);
	poweroff(s);
}

/* A kernel without a root file system panics; the console shows it and panic=-1 resets, which ends the run. */
static void panic_ends_the_run(void **state)
{
	struct session *s = *state;
	const char *const argv[] = {
		"run", "--accel", "soft", "--kernel", guest_file("vmlinuz"),
		"--append", "panic=-1", "--mem", "256M", NULL,
	};

	session_start(s, SESSION_PIPES, NULL, argv);
	assert_true(session_expect(s, "Kernel panic - not syncing", BOOT_SECONDS));
	assert_int_equal(session_wait(s, 60), 0);
}

static int new_session(void **state)
{
	*state = calloc(1, sizeof(struct session));
	return 0;
}

static int drop_session(void **state)
{
	session_end(*state);
	free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_cpu, new_session, drop_session),
		cmocka_unit_test_setup_teardown(two_cpus, new_session, drop_session),
		cmocka_unit_test_setup_teardown(panic_ends_the_run, new_session, drop_session),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
