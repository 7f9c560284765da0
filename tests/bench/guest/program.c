/* Programs that Debian brings: busybox, lua, sqlite. The same files are on the host and in the guest. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define TEXT_SIZE (256u << 10)
#define OUTPUT_MAX (1u << 20)

/* Files without a name: what a program reads and writes. */
static int input = -1, output = -1;

static int new_file(const char *name)
{
	return (int)bench_must(memfd_create(name, MFD_CLOEXEC), "memfd_create");
}

static void open_output(void)
{
	output = new_file("output");
}

static void close_files(void)
{
	if (input >= 0)
		close(input);
	close(output);
	input = output = -1;
}

/* Runs @argv on the files, and sums what it wrote. */
static uint64_t run_program(const char *const argv[])
{
	static char result[OUTPUT_MAX];
	int status;
	ssize_t n;
	pid_t pid;

	bench_must(ftruncate(output, 0), "ftruncate");
	bench_must(lseek(output, 0, SEEK_SET), "lseek");
	if (input >= 0)
		bench_must(lseek(input, 0, SEEK_SET), "lseek");
	pid = (pid_t)bench_must(fork(), "fork");
	if (!pid) {
		if (input >= 0)
			dup2(input, 0);
		dup2(output, 1);
		execv(argv[0], (char *const *)argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) < 0 || status) {
		errno = ECHILD;
		bench_fail(argv[0]);
	}
	n = bench_must(pread(output, result, sizeof(result), 0), "pread");
	return bench_sum(0, result, (size_t)n);
}

/* Text that compresses like text: words of a small vocabulary. */
static void text_setup(void)
{
	char word[12], vocabulary[500][sizeof(word)];
	uint64_t random = 42;
	size_t written = 0;
	FILE *f;

	for (int i = 0; i < 500; i++) {
		size_t length = 2 + bench_random(&random) % 9;

		for (size_t k = 0; k < length; k++)
			vocabulary[i][k] = (char)('a' + bench_random(&random) % 26);
		vocabulary[i][length] = 0;
	}
	open_output();
	input = new_file("input");
	f = fdopen(dup(input), "w");
	if (!f)
		bench_fail("fdopen");
	while (written < TEXT_SIZE) {
		uint64_t r = bench_random(&random);

		written += (size_t)fprintf(f, "%s%c", vocabulary[(r & 0xffff) * (r >> 48) % 500],
					   r & 0xf0000 ? ' ' : '\n');
	}
	fclose(f);
}

#define PACK(name)                                                                                                     \
	static const char *const name##_pack[] = {"/bin/busybox", #name, "-c", NULL};                                  \
	static const char *const name##_unpack[] = {"/bin/busybox", #name, "-d", "-c", NULL};                          \
	static uint64_t name(void)                                                                                     \
	{                                                                                                              \
		return run_program(name##_pack);                                                                       \
	}                                                                                                              \
	static uint64_t un##name(void)                                                                                 \
	{                                                                                                              \
		return run_program(name##_unpack);                                                                     \
	}                                                                                                              \
	static void name##_packed(void)                                                                                \
	{                                                                                                              \
		int packed;                                                                                            \
                                                                                                                       \
		text_setup();                                                                                          \
		name();                                                                                                \
		packed = output;                                                                                       \
		output = input;                                                                                        \
		input = packed;                                                                                        \
	}

PACK(gzip)
PACK(bzip2)

static uint64_t shell(void)
{
	static const char *const argv[] = {"/bin/busybox", "sh", "-c",
					   "i=0; s=; while [ $i -lt 1000 ]; do i=$((i + 1)); "
					   "case $i in *99) s=$s$(echo $i);; *00) /bin/busybox true;; "
					   "*) t=${s#9}${i%1};; esac; "
					   "done; echo $s $t",
					   NULL};

	return run_program(argv);
}

static uint64_t lua(void)
{
	static const char *const argv[] = {
		"/usr/bin/lua5.4", "-e",
		"local t, words = {}, {} "
		"for i = 1, 20000 do t[i] = (i * 7919) % 10007 end "
		"table.sort(t) "
		"for i = 1, 5000 do local w = string.format('%x', t[i * 4] * 31) words[w] = (words[w] or 0) + #w end "
		"local keys = {} for k in pairs(words) do keys[#keys + 1] = k end table.sort(keys) "
		"local function map(f, n) local s = 0 for i = 1, n do s = s + f(i) end return s end "
		"local s = map(function(x) return x * x % 13 + x // 3 end, 50000) "
		"local text = table.concat(keys, ' ') "
		"local n = select(2, text:gsub('%x+1', function(x) return x:upper() end)) "
		"print(s, n, #text, keys[100], 1.5 * s)",
		NULL};

	return run_program(argv);
}

static uint64_t sqlite(void)
{
	static const char *const argv[] = {
		"/usr/bin/sqlite3", "-init", "/dev/null", ":memory:",
		"create table a (id integer primary key, k int, name text); "
		"with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) "
		"insert into a select i, i * 7919 % 1009, 'name ' || (i * 31 % 997) from n; "
		"create index k on a (k); "
		"select count(*), sum(x.id) from a x join a y on x.k = y.k where x.id < 2000 and y.name like '%7%'; "
		"update a set name = upper(name) where k % 3 = 0; delete from a where k between 100 and 200; "
		"select k % 10 as g, count(*), max(name), avg(id) from a group by g order by g;",
		NULL};

	return run_program(argv);
}

const struct bench_test program_tests[] = {
	{"shell", "kernel", 1, 0, open_output, shell, close_files},
	{"gzip", "program", 1, 0, text_setup, gzip, close_files},
	{"gunzip", "program", 1, 0, gzip_packed, ungzip, close_files},
	{"bzip2", "program", 1, 0, text_setup, bzip2, close_files},
	{"bunzip2", "program", 1, 0, bzip2_packed, unbzip2, close_files},
	{"lua", "program", 1, 0, open_output, lua, close_files},
	{"sqlite", "program", 1, 0, open_output, sqlite, close_files},
	{NULL},
};
