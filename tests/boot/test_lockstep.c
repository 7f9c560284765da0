/* Debian's cloud kernel to a shell with both engines in lock step: no difference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session.h"

#define SECONDS 200

static void boot_is_the_same(void **state)
{
	const char *const argv[] = {
		"run", "--accel", "soft", "--engine", "lockstep", "--mem", "512M",
		"--kernel", guest_file("vmlinuz"), "--initrd", guest_file("initramfs.cpio"), NULL,
	};
	struct session s;

	/* Each block is compared when it is young. */
	assert_int_equal(setenv("ANYKVM_LOCKSTEP", "8", 1), 0);
	session_start(&s, SESSION_PIPES, NULL, argv);
	bool started = session_expect(&s, "guest: init has started", SECONDS);
	bool prompt = started && session_expect(&s, "# ", SECONDS);
	if (prompt)
		session_send(&s, "poweroff\n");
	int status = session_wait(&s, prompt ? 60 : 1);

	if (!prompt || status)
		print_message("%s\n%s\n", s.text, s.errors);
	assert_true(started);
	assert_true(prompt);
	assert_int_equal(status, 0);
	const char *sum = strstr(s.errors, "lockstep: ");
	assert_non_null(sum);
	assert_null(strstr(s.errors, "differ"));
	unsigned long long compared = strtoull(sum + strlen("lockstep: "), NULL, 10);
	printf("# %llu blocks compared\n", compared);
	assert_true(compared > 500000);
	session_end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(boot_is_the_same)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
