#include "monitor/accel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/timer.h"
#include "monitor/accel_guest.h"
#include "monitor/kvm_if_sys.h"

/* How long to wait for a killed child; one that the kernel holds on to is left to it. */
#define REAP_MS 50
#define WATCH_MS 5
#define MS 1000000ull

/* What child and parent share: the guest's memory, so that a hang can be told by its stage, and the verdict. */
struct shared {
	u8 memory[ACCEL_GUEST_MEMORY] __attribute__((aligned(PAGE_SIZE)));
	struct accel_check check;
};

static void unusable(struct accel_check *check, const char *what, const char *why)
{
	check->usable = false;
	snprintf(check->why, sizeof(check->why), "%s%s%s", what, why ? ": " : "", why ? why : "");
}

static _Noreturn void child(struct shared *shared, int done, pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent) {
		accel_guest_run(&sys_kvm_if, shared->memory, &shared->check);
		if (write(done, "", 1) < 0)
			_exit(1);
	}
	_exit(0);
}

static void reap(pid_t pid)
{
	const struct timespec ms = {.tv_nsec = MS};

	kill(pid, SIGKILL);
	for (int i = 0; i < REAP_MS; i++) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return;
		nanosleep(&ms, NULL);
	}
}

/* Processor time @pid has used: on a busy machine its progress is measured by that. */
static u64 used_ns(pid_t pid)
{
	clockid_t clock;

	return clock_getcpuclockid(pid, &clock) ? 0 : clock_ns(clock);
}

/*
 * Waits for the child's word until it has had ACCEL_DEADLINE_MS in all, or ACCEL_LOOP_MS of processor time for the
 * loop, which is a few milliseconds' work. 1: it came; 0: too late; -1: the child died without.
 */
static int wait_done(int done, const struct shared *shared, pid_t pid, u64 start)
{
	bool looping = false;
	u64 loop_start = 0;

	for (;;) {
		struct pollfd p = {.fd = done, .events = POLLIN};
		int rc = poll(&p, 1, WATCH_MS);
		u64 used = used_ns(pid);
		char byte;

		if (rc > 0)
			return read(done, &byte, 1) == 1 ? 1 : -1;
		if (!looping)
			loop_start = used;
		looping = accel_guest_stage(shared->memory) == ACCEL_LOOP;
		if (timer_now() - start > ACCEL_DEADLINE_MS * MS || (looping && used - loop_start > ACCEL_LOOP_MS * MS))
			return 0;
	}
}

static void check_in_child(struct shared *shared, struct accel_check *check)
{
	u64 start = timer_now();
	int done[2];

	if (pipe2(done, O_CLOEXEC) < 0)
		return unusable(check, "it could not be tested", strerror(errno));

	pid_t self = getpid();
	pid_t pid = fork();

	if (pid == 0) {
		close(done[0]);
		child(shared, done[1], self);
	}
	close(done[1]);
	if (pid < 0) {
		unusable(check, "it could not be tested", strerror(errno));
	} else {
		int rc = wait_done(done[0], shared, pid, start);
		u64 took = (timer_now() - start) / MS;

		if (rc > 0)
			*check = shared->check;
		else if (rc == 0)
			snprintf(check->why, sizeof(check->why), "after %llu ms a test guest was still at %s",
				 (unsigned long long)took, accel_guest_doing(shared->memory));
		else
			snprintf(check->why, sizeof(check->why), "the test died at %s",
				 accel_guest_doing(shared->memory));
		reap(pid);
	}
	close(done[0]);
	check->elapsed_ns = timer_now() - start;
}

void accel_check_kvm(struct accel_check *check)
{
	*check = (struct accel_check){.usable = false};
	if (access(KVM_DEVICE_PATH, R_OK | W_OK) < 0)
		return unusable(check, errno == ENOENT ? "there is none" : "no access",
				errno == ENOENT ? NULL : strerror(errno));

	struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return unusable(check, "it could not be tested", strerror(errno));
	check_in_child(shared, check);
	munmap(shared, sizeof(*shared));
}
