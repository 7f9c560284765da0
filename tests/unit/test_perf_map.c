/* Names for perf(1): a line for each block, and a map that ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "engine/jit/perf_map.h"
#include "engine/x86_ops.h"

static char path[32];

static long size(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

static int setup(void **state)
{
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
	log_set_level(LOG_ERROR); /* that the map has ended is said once */
	return access(path, F_OK) == 0 && unlink(path);
}

static int teardown(void **state)
{
	return unlink(path);
}

static void test_lines(void **state)
{
	char text[128] = "";

	perf_map_block((void *)0x1000, 0x20, 0xffffffff81000000, false); /* not asked for yet */
	assert_int_not_equal(access(path, F_OK), 0);
	assert_int_equal(engine_perf_map(), 0);
	perf_map_stubs((void *)0x1000, 0x20);
	perf_map_block((void *)0x1020, 0x30, 0x401000, true);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
	fclose(f);
	assert_string_equal(text, "1000 20 jit_stubs\n1020 30 guest_user_401000\n");
}

static void test_end(void **state)
{
	assert_int_equal(engine_perf_map(), 0);
	assert_int_equal(truncate(path, PERF_MAP_MAX - 1), 0); /* a hole: nothing is stored */
	perf_map_block((void *)0x1000, 0x20, 0x1000, false);
	assert_true(size() > PERF_MAP_MAX);
	long full = size();
	perf_map_block((void *)0x1000, 0x20, 0x1000, false);
	assert_int_equal(size(), full);
	/* Asked for again, it begins anew, by the same descriptor. */
	int before = dup(STDERR_FILENO);
	close(before);
	assert_int_equal(engine_perf_map(), 0);
	int after = dup(STDERR_FILENO);
	close(after);
	assert_int_equal(after, before);
	assert_int_equal(size(), 0);
	perf_map_block((void *)0x1000, 0x20, 0x1000, false);
	assert_true(size() > 0 && size() < 64);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_end),
	};

	return cmocka_run_group_tests_name("perf_map", tests, setup, teardown);
}
