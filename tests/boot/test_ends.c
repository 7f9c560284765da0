/* How runs end, on guests of a few instructions: exit codes, reports, signals, bad input, streams that fail. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "session.h"

#define SECONDS 20

/* Bytes to COM1 wait for the transmitter, as a driver would. @1: the character. */
#define PUTC                                                                                                           \
	"mov $0x3fd, %edx\n1: in (%dx), %al\ntest $0x20, %al\njz 1b\n"                                                \
	"mov $0x3f8, %edx\nmov %cl, %al\nout %al, (%dx)\n"

ASM_GUEST(guest_exit_42, "mov $42, %al\nout %al, $0xf4\n1: hlt\njmp 1b");
ASM_GUEST(guest_exit_0, "xor %eax, %eax\nout %al, $0xf4\n1: hlt\njmp 1b");
ASM_GUEST(guest_triple_fault, "ud2");
ASM_GUEST(guest_spin, "mov $'S', %cl\n" PUTC "cli\n1: jmp 1b");
ASM_GUEST(guest_halt, "mov $'H', %cl\n" PUTC "cli\n1: hlt\njmp 1b");
ASM_GUEST(guest_reset, "mov $'R', %cl\n" PUTC "mov $0xfe, %al\nout %al, $0x64\n1: hlt\njmp 1b");
ASM_GUEST(guest_reset_cf9, "mov $0xcf9, %edx\nmov $6, %al\nout %al, (%dx)\n1: hlt\njmp 1b");
ASM_GUEST(guest_poweroff, "mov $0x604, %edx\nmov $0x3400, %eax\nout %ax, (%dx)\n1: hlt\njmp 1b");
ASM_GUEST(guest_chatter, "mov $'x', %cl\n2:\n" PUTC "jmp 2b");
/* Opens the port (DTR and RTS) and sends back what comes, up to a 'q'. */
ASM_GUEST(guest_echo, "mov $0x3fc, %edx\nmov $3, %al\nout %al, (%dx)\n"
		      "2: mov $0x3fd, %edx\n1: in (%dx), %al\ntest $1, %al\njz 1b\nmov $0x3f8, %edx\nin (%dx), %al\n"
		      "mov %al, %cl\n" PUTC "cmp $'q', %cl\njne 2b\nmov $7, %al\nout %al, $0xf4\n3: jmp 3b");
/* 100,000 characters from '0' to 'o', then the exit. */
ASM_GUEST(guest_pages, "mov $100000, %ebx\n2: mov %bl, %cl\nand $0x3f, %cl\nadd $'0', %cl\n" PUTC
		       "dec %ebx\njnz 2b\nxor %eax, %eax\nout %al, $0xf4\n3: hlt\njmp 3b");

static struct session s;
static int kernel_fd = -1;

static int teardown(void **state)
{
	session_end(&s);
	if (kernel_fd >= 0)
		close(kernel_fd);
	kernel_fd = -1;
	return 0;
}

static void start_with(enum session_io io, const char *out_path, const char *code, const char *end, const char *option)
{
	char path[64];

	kernel_fd = write_kernel(code, (size_t)(end - code), path);
	const char *const argv[] = { "run", "--accel", "soft", "--kernel", path, "--mem", "64M", option, NULL };

	session_start(&s, io, out_path, argv);
}

#define START(name) start_with(SESSION_PIPES, NULL, name, name##_end, NULL)

static void exit_port_sets_the_status(void **state)
{
	START(guest_exit_42);
	assert_int_equal(session_wait(&s, SECONDS), 42);
	session_end(&s);
	close(kernel_fd);
	START(guest_exit_0);
	assert_int_equal(session_wait(&s, SECONDS), 0);
}

static void power_off(void **state)
{
	START(guest_poweroff);
	assert_int_equal(session_wait(&s, SECONDS), 0);
}

static void reset_ends_the_run(void **state)
{
	START(guest_reset);
	assert_int_equal(session_wait(&s, SECONDS), 0);
	assert_string_equal(s.text, "R");
	session_end(&s);
	close(kernel_fd);
	START(guest_reset_cf9);
	assert_int_equal(session_wait(&s, SECONDS), 0);
}

static void reset_reboots_on_request(void **state)
{
	start_with(SESSION_PIPES, NULL, guest_reset, guest_reset_end, "--reboot");
	assert_true(session_expect(&s, "RRRR", SECONDS));
	kill(s.pid, SIGTERM);
	assert_int_equal(session_wait(&s, SECONDS), 128 + SIGTERM);
}

/* Where it happened: the report names the cause and the instruction's address. */
static void triple_fault_is_reported(void **state)
{
	START(guest_triple_fault);
	assert_int_equal(session_wait(&s, SECONDS), 3);
	assert_non_null(strcasestr(s.errors, "triple fault"));
	assert_non_null(strcasestr(s.errors, "1000000"));
	assert_non_null(strcasestr(s.errors, "cr3"));
}

static void end_by_signal(const char *code, const char *end, const char *sign, int signal)
{
	start_with(SESSION_PIPES, NULL, code, end, NULL);
	assert_true(session_expect(&s, sign, SECONDS));
	assert_true(session_running(&s));
	double before = now();

	kill(s.pid, signal);
	assert_int_equal(session_wait(&s, SECONDS), 128 + signal);
	assert_true(now() - before < 2);
	session_end(&s);
	close(kernel_fd);
	kernel_fd = -1;
}

static void signals_end_any_guest(void **state)
{
	end_by_signal(guest_spin, guest_spin_end, "S", SIGTERM);
	end_by_signal(guest_spin, guest_spin_end, "S", SIGINT);
	end_by_signal(guest_halt, guest_halt_end, "H", SIGTERM);
	end_by_signal(guest_chatter, guest_chatter_end, "xxxx", SIGTERM);
}

static void end_of_input_is_not_the_end(void **state)
{
	START(guest_halt);
	session_close_input(&s);
	assert_true(session_expect(&s, "H", SECONDS));
	usleep(500000);
	assert_true(session_running(&s));
	kill(s.pid, SIGTERM);
	assert_int_equal(session_wait(&s, SECONDS), 128 + SIGTERM);
}

/* More input at once than the UART's FIFO holds: nothing is lost, either way. */
static void input_is_not_lost(void **state)
{
	char line[2001];

	for (size_t i = 0; i < sizeof(line) - 1; i++)
		line[i] = "abcdefghijklmnop"[i % 16];
	line[sizeof(line) - 2] = 'q';
	line[sizeof(line) - 1] = 0;
	START(guest_echo);
	session_send(&s, line);
	session_close_input(&s);
	assert_int_equal(session_wait(&s, SECONDS), 7);
	assert_string_equal(s.text, line);
}

static void output_is_not_lost(void **state)
{
	START(guest_pages);
	usleep(300000); /* the pipe is full meanwhile */
	assert_int_equal(session_wait(&s, SECONDS), 0);
	assert_int_equal(s.len, 100000);
	for (unsigned i = 0; i < 100000; i++)
		assert_int_equal(s.text[i], '0' + ((100000 - i) & 0x3f));
}

static unsigned lines_with(const char *text, const char *what)
{
	unsigned n = 0;

	for (const char *at = text; (at = strstr(at, what)); at++)
		n++;
	return n;
}

static void full_disk(void **state)
{
	start_with(SESSION_PIPES, "/dev/full", guest_chatter, guest_chatter_end, NULL);
	assert_true(session_wait(&s, SECONDS) > 0);
	assert_int_equal(lines_with(s.errors, "No space left on device"), 1);
}

static void output_closed(void **state)
{
	START(guest_chatter);
	assert_true(session_expect(&s, "xxxx", SECONDS));
	close(s.out);
	s.out = -1;
	int status = session_wait(&s, SECONDS);

	assert_true(status > 0 && status != 128 + SIGPIPE);
}

/* Waits until keys go to the program as they are. The guest may print before that. */
static void await_raw_terminal(void)
{
	struct termios t;
	double deadline = now() + SECONDS;

	do {
		usleep(1000);
		assert_int_equal(tcgetattr(s.out, &t), 0);
	} while (t.c_lflag & (ICANON | ECHO | ISIG) && now() < deadline);
	assert_int_equal(t.c_lflag & (ICANON | ECHO | ISIG), 0);
}

static void assert_terminal_restored(int slave, const struct termios *before)
{
	struct termios after;

	assert_int_equal(tcgetattr(slave, &after), 0);
	assert_int_equal(after.c_lflag, before->c_lflag);
	assert_int_equal(after.c_iflag, before->c_iflag);
	assert_int_equal(after.c_oflag, before->c_oflag);
}

/* Runs the spinning guest on a terminal and ends it by a key or a signal: settings come back. */
static void end_on_terminal(const char *keys, int signal)
{
	struct termios cooked;
	int slave = -1;

	/* The settings of a fresh terminal, before the program is there. */
	int probe = posix_openpt(O_RDWR | O_NOCTTY);

	assert_true(probe >= 0 && !grantpt(probe) && !unlockpt(probe) && !tcgetattr(probe, &cooked));
	close(probe);

	start_with(SESSION_TERMINAL, NULL, guest_spin, guest_spin_end, NULL);
	slave = ioctl(s.out, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	assert_true(slave >= 0);
	assert_true(session_expect(&s, "S", SECONDS));
	await_raw_terminal();
	if (keys)
		session_send(&s, keys);
	else
		kill(s.pid, signal);

	int status;
	double deadline = now() + SECONDS;

	while (session_running(&s) && now() < deadline)
		usleep(1000);
	assert_false(session_running(&s));
	assert_terminal_restored(slave, &cooked);
	close(slave);
	status = session_wait(&s, 2);
	assert_true(status >= 0);
	session_end(&s);
	close(kernel_fd);
	kernel_fd = -1;
}

static void terminal_is_restored(void **state)
{
	end_on_terminal("\001x", 0);
	end_on_terminal(NULL, SIGTERM);
	end_on_terminal(NULL, SIGHUP);
	end_on_terminal(NULL, SIGALRM);
	end_on_terminal(NULL, SIGQUIT);
	end_on_terminal(NULL, SIGSEGV);
}

static void escape_help(void **state)
{
	start_with(SESSION_TERMINAL, NULL, guest_spin, guest_spin_end, NULL);
	assert_true(session_expect(&s, "S", SECONDS));
	await_raw_terminal();
	session_send(&s, "\001h");
	assert_true(session_expect(&s, "Ctrl-A x", SECONDS));
	session_send(&s, "\001x");
	assert_true(session_wait(&s, SECONDS) >= 0);
}

/* Runs with @argv and wants one line with @says, a failure status, and that soon. */
static void assert_refused(const char *says, const char *const argv[])
{
	session_start(&s, SESSION_PIPES, NULL, argv);
	int status = session_wait(&s, 5);

	if (status <= 0 || status >= 128 || !strstr(s.errors, says))
		fail_msg("status %d, expected '%s' in: %s", status, says, s.errors);
	/* The choice of the accelerator may have its line; the error is one more. */
	assert_true(lines_with(s.errors, "\n") <= 2);
	assert_string_equal(s.text, "");
	session_end(&s);
}

#define REFUSED(says, ...) assert_refused(says, (const char *const[]){ __VA_ARGS__, NULL })

static void bad_kernels(void **state)
{
	const char *vmlinuz = guest_file("vmlinuz");
	static char bytes[3000000], path[64];
	int fd = memfd_create("kernel", 0);

	REFUSED("'/nonexistent': No such file", "run", "--accel", "soft", "-k", "/nonexistent");
	REFUSED("Is a directory", "run", "--accel", "soft", "-k", "/");
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), fd);
	REFUSED("is empty", "run", "--accel", "soft", "-k", path);

	/* The first part of a real one. */
	int real = open(vmlinuz, O_RDONLY);

	assert_true(real >= 0);
	assert_int_equal(read(real, bytes, sizeof(bytes)), sizeof(bytes));
	close(real);
	assert_int_equal(pwrite(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	REFUSED("truncated", "run", "--accel", "soft", "-k", path);
	REFUSED("use -m", "run", "--accel", "soft", "-m", "32M", "-k", vmlinuz);
	REFUSED("'/nonexistent': No such file", "run", "--accel", "soft", "-k", vmlinuz, "-i", "/nonexistent");

	srand(1);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)rand();
	assert_int_equal(pwrite(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	REFUSED("neither a bzImage nor an ELF file", "run", "--accel", "soft", "-k", path);
	REFUSED("neither a cpio archive", "run", "--accel", "soft", "-k", vmlinuz, "-i", path);
	close(fd);
}

static void bad_options(void **state)
{
	REFUSED("kernel", "run", "--accel", "soft");
	REFUSED("--frobnicate", "run", "--frobnicate");
	REFUSED("0", "run", "--accel", "soft", "-k", "/dev/null", "-c", "0");
	REFUSED("-5", "run", "--accel", "soft", "-k", "/dev/null", "-c", "-5");
	REFUSED("100000", "run", "--accel", "soft", "-k", "/dev/null", "-c", "100000");
	REFUSED("many", "run", "--accel", "soft", "-k", "/dev/null", "-c", "many");
	REFUSED("0", "run", "--accel", "soft", "-k", "/dev/null", "-m", "0");
	REFUSED("12Q", "run", "--accel", "soft", "-k", "/dev/null", "-m", "12Q");
	REFUSED("99999999T", "run", "--accel", "soft", "-k", "/dev/null", "-m", "99999999T");
	REFUSED("warp", "run", "--accel", "warp", "-k", "/dev/null");
	REFUSED("dance", "dance");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(exit_port_sets_the_status, teardown),
		cmocka_unit_test_teardown(power_off, teardown),
		cmocka_unit_test_teardown(reset_ends_the_run, teardown),
		cmocka_unit_test_teardown(reset_reboots_on_request, teardown),
		cmocka_unit_test_teardown(triple_fault_is_reported, teardown),
		cmocka_unit_test_teardown(signals_end_any_guest, teardown),
		cmocka_unit_test_teardown(end_of_input_is_not_the_end, teardown),
		cmocka_unit_test_teardown(input_is_not_lost, teardown),
		cmocka_unit_test_teardown(output_is_not_lost, teardown),
		cmocka_unit_test_teardown(full_disk, teardown),
		cmocka_unit_test_teardown(output_closed, teardown),
		cmocka_unit_test_teardown(terminal_is_restored, teardown),
		cmocka_unit_test_teardown(escape_help, teardown),
		cmocka_unit_test_teardown(bad_kernels, teardown),
		cmocka_unit_test_teardown(bad_options, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
