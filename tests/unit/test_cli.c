/* What people type: sizes, counts, the escape key; and the queue their keys wait in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli.h"
#include "host/escape.h"
#include "monitor/console.h"

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		u64 bytes;
	} good[] = {
		{"512", 512ull << 20}, {"512M", 512ull << 20}, {"512m", 512ull << 20}, {"2G", 2ull << 30},
		{"1GiB", 1ull << 30},  {"64KB", 64ull << 10},  {"1T", 1ull << 40},     {"0", 0},
		{"16777215T", 16777215ull << 40},
	};
	static const char *const bad[] = {"",	  "M",	 "-1",  "+1",	 " 1", "1 M", "1X", "1MM", "1.5G", "0x10",
					  "1Mib2", "99999999999999999999", "16777216T", "17592186044416"};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		u64 bytes = ~0ull;

		assert_true(cli_parse_size(good[i].text, &bytes));
		assert_int_equal(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		u64 bytes;

		if (cli_parse_size(bad[i], &bytes))
			fail_msg("'%s' was taken as a size", bad[i]);
	}
}

static void test_counts(void **state)
{
	static const char *const bad[] = {"", "-1", "+1", "1x", " 1", "1.0", "99999999999999999999"};
	u64 n = 0;

	assert_true(cli_parse_count("255", &n));
	assert_int_equal(n, 255);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(cli_parse_count(bad[i], &n));
}

/* Feeds @in in pieces of @step keys; the guest's go to @out. Returns the last action asked for. */
static enum escape_action feed(const char *in, size_t step, char *out)
{
	struct escape e = {.armed = false};
	enum escape_action last = ESCAPE_NONE, action;
	size_t n = strlen(in), total = 0;

	for (size_t i = 0; i < n;) {
		size_t got;
		size_t taken = escape_filter(&e, (const u8 *)in + i, MIN(step, n - i), (u8 *)out + total, &got,
					     &action);

		assert_true(taken > 0);
		i += taken;
		total += got;
		if (action != ESCAPE_NONE)
			last = action;
	}
	out[total] = 0;
	return last;
}

static void test_escape(void **state)
{
	char out[64];

	for (size_t step = 1; step < 8; step++) {
		assert_int_equal(feed("plain", step, out), ESCAPE_NONE);
		assert_string_equal(out, "plain");
		assert_int_equal(feed("a\001x", step, out), ESCAPE_QUIT);
		assert_string_equal(out, "a");
		assert_int_equal(feed("a\001hb", step, out), ESCAPE_HELP);
		assert_string_equal(out, "ab");
		assert_int_equal(feed("a\001\001x\001ay", step, out), ESCAPE_NONE);
		assert_string_equal(out, "a\001x\001y");
		assert_int_equal(feed("a\001zb", step, out), ESCAPE_NONE);
		assert_string_equal(out, "ab");
	}
}

static void test_queue(void **state)
{
	static struct console c;
	u8 data[CONSOLE_QUEUE], back[CONSOLE_QUEUE];
	bool half;

	console_init(&c);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 7);
	assert_int_equal(console_put(&c, data, 100), 100);
	assert_int_equal(console_get(&c, back, 60, &half), 60);
	assert_memory_equal(back, data, 60);
	assert_false(half);
	/* Around the end of the ring, until it is full. */
	assert_int_equal(console_put(&c, data + 100, sizeof(data) - 100), sizeof(data) - 100);
	assert_int_equal(console_put(&c, data, 100), 60);
	assert_int_equal(console_space(&c), 0);
	assert_int_equal(console_put(&c, data, 1), 0);
	/* Half empty is told once. */
	assert_int_equal(console_get(&c, back, CONSOLE_QUEUE / 2 - 1, &half), CONSOLE_QUEUE / 2 - 1);
	assert_false(half);
	assert_int_equal(console_get(&c, back + CONSOLE_QUEUE / 2 - 1, 1, &half), 1);
	assert_true(half);
	assert_int_equal(console_get(&c, back + CONSOLE_QUEUE / 2, CONSOLE_QUEUE, &half), CONSOLE_QUEUE / 2);
	assert_false(half);
	assert_memory_equal(back, data + 60, sizeof(data) - 60);
	assert_memory_equal(back + sizeof(data) - 60, data, 60);
	assert_int_equal(console_get(&c, back, 1, &half), 0);
	assert_int_equal(console_space(&c), CONSOLE_QUEUE);
	console_fini(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_escape),
		cmocka_unit_test(test_queue),
	};

	return cmocka_run_group_tests_name("cli", tests, NULL, NULL);
}
