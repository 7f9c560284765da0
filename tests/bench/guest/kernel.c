/* What a kernel does for processes: system calls, pipes, processes, page tables, files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define PAGE 4096
#define CALLS 5000
#define PASSES 200
#define FORKS 5
#define EXECS 2
#define FAULTS 1024
#define PROTECTS 1000
#define FILES 10

static uint64_t getppid_unit(void)
{
	long parent = syscall(SYS_getppid);

	for (int i = 1; i < CALLS; i++)
		if (syscall(SYS_getppid) != parent)
			bench_fail("getppid");
	return CALLS;
}

static int there[2], back[2];
static pid_t peer;

static void pipe_setup(void)
{
	bench_must(pipe(there), "pipe");
}

static void pipe_teardown(void)
{
	close(there[0]);
	close(there[1]);
}

static uint64_t pipe_unit(void)
{
	char c = 'x';

	for (int i = 0; i < CALLS; i++)
		if (write(there[1], &c, 1) != 1 || read(there[0], &c, 1) != 1)
			bench_fail("pipe");
	return (uint64_t)c;
}

/* A child that sends back what it gets, until it gets nothing. */
static void peer_setup(void)
{
	char c;

	bench_must(pipe(there), "pipe");
	bench_must(pipe(back), "pipe");
	peer = (pid_t)bench_must(fork(), "fork");
	if (!peer) {
		close(there[1]);
		while (read(there[0], &c, 1) == 1 && write(back[1], &c, 1) == 1)
			;
		_exit(0);
	}
}

static void peer_teardown(void)
{
	pipe_teardown();
	waitpid(peer, NULL, 0);
	close(back[0]);
	close(back[1]);
}

static uint64_t peer_unit(void)
{
	char c = 'x';

	for (int i = 0; i < PASSES; i++)
		if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
			bench_fail("pipe");
	return (uint64_t)c;
}

static void child_done(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) < 0 || status)
		bench_fail("child");
}

static uint64_t fork_unit(void)
{
	for (int i = 0; i < FORKS; i++) {
		pid_t pid = (pid_t)bench_must(fork(), "fork");

		if (!pid)
			_exit(0);
		child_done(pid);
	}
	return FORKS;
}

static uint64_t exec_unit(void)
{
	for (int i = 0; i < EXECS; i++) {
		pid_t pid = (pid_t)bench_must(fork(), "fork");

		if (!pid) {
			execl("/bin/busybox", "true", (char *)NULL);
			_exit(127);
		}
		child_done(pid);
	}
	return EXECS;
}

static uint64_t fault_unit(void)
{
	char *p = mmap(NULL, FAULTS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t sum = 0;

	if (p == MAP_FAILED)
		bench_fail("mmap");
	madvise(p, FAULTS * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < FAULTS; i++)
		sum += (uint64_t)++*(volatile char *)(p + i * PAGE);
	munmap(p, FAULTS * PAGE);
	return sum;
}

static char *page;

static void protect_setup(void)
{
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		bench_fail("mmap");
}

static void protect_teardown(void)
{
	munmap(page, PAGE);
}

/* The access between the calls brings the translation back that they take away. */
static uint64_t protect_unit(void)
{
	for (int i = 0; i < PROTECTS; i += 2) {
		*(volatile char *)page = (char)i;
		bench_must(mprotect(page, PAGE, PROT_READ), "mprotect");
		if (*(volatile char *)page != (char)i)
			bench_fail("page");
		bench_must(mprotect(page, PAGE, PROT_READ | PROT_WRITE), "mprotect");
	}
	return PROTECTS;
}

static char directory[] = "/dev/shm/anykvm-bench.XXXXXX";

static void files_setup(void)
{
	strcpy(directory + sizeof(directory) - 7, "XXXXXX");
	if (!mkdtemp(directory))
		bench_fail(directory);
}

static void files_teardown(void)
{
	rmdir(directory);
}

/* A file of 64 KiB is made, read, and removed. */
static uint64_t files_unit(void)
{
	static char data[PAGE];
	char name[64];
	struct stat st;
	uint64_t sum = 0;

	for (int i = 0; i < FILES; i++) {
		int fd;

		snprintf(name, sizeof(name), "%s/%d", directory, i);
		fd = (int)bench_must(open(name, O_RDWR | O_CREAT | O_EXCL, 0600), name);
		for (int k = 0; k < 16; k++) {
			memset(data, i + k, 64);
			if (write(fd, data, PAGE) != PAGE)
				bench_fail("write");
		}
		bench_must(lseek(fd, 0, SEEK_SET), "lseek");
		while (read(fd, data, PAGE) == PAGE)
			sum += (unsigned char)data[0];
		bench_must(fstat(fd, &st), "fstat");
		sum += (uint64_t)st.st_size;
		close(fd);
		bench_must(unlink(name), "unlink");
	}
	return sum;
}

const struct bench_test kernel_tests[] = {
	{"getppid", "kernel", CALLS, 0, NULL, getppid_unit},
	{"pipe", "kernel", CALLS, 0, pipe_setup, pipe_unit, pipe_teardown},
	{"pingpong", "kernel", PASSES, 0, peer_setup, peer_unit, peer_teardown},
	{"fork", "kernel", FORKS, 0, NULL, fork_unit},
	{"exec", "kernel", EXECS, 0, NULL, exec_unit},
	{"fault", "kernel", FAULTS, 0, NULL, fault_unit},
	{"mprotect", "kernel", PROTECTS, 0, protect_setup, protect_unit, protect_teardown},
	{"tmpfs", "kernel", FILES, 0, files_setup, files_unit, files_teardown},
	{NULL},
};
