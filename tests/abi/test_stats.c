/* KVM_GET_STATS_FD: the form of what it gives, and that it counts. */
#include "abi.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_DESC 256

GUEST16(three_outs, "mov $3, %cx\n1: out %al, $0x80\nloop 1b\nhlt");
GUEST16(mmio_read, "mov $0x300000, %ebx\nmovb (%ebx), %al\nhlt");
GUEST16(halt, "hlt");
GUEST16(spin, "out %al, $0x80\n1: jmp 1b");

struct stats {
	struct kvm_stats_header head;
	char id[256];
	unsigned nr;
	struct {
		struct kvm_stats_desc desc;
		char name[256];
	} row[MAX_DESC];
};

/* Reads all but the data and checks what api.rst promises of it. */
static void read_head(int fd, struct stats *s)
{
	u64 data_end = 0;
	struct kvm_stats_header *h = &s->head;

	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(read(fd, h, sizeof(*h)), sizeof(*h));
	assert_int_equal(h->flags, 0);
	assert_in_range(h->name_size, 1, sizeof(s->id));
	assert_in_range(h->num_desc, 1, MAX_DESC);
	assert_true(h->id_offset >= sizeof(*h) && h->desc_offset >= sizeof(*h) && h->data_offset >= sizeof(*h));
	assert_int_equal(pread(fd, s->id, h->name_size, h->id_offset), h->name_size);
	assert_non_null(memchr(s->id, 0, h->name_size));
	assert_memory_equal(s->id, "kvm-", 4);
	s->nr = h->num_desc;
	for (unsigned n = 0; n < s->nr; n++) {
		struct kvm_stats_desc *d = &s->row[n].desc;
		u8 raw[sizeof(*d) + 256];
		size_t size = sizeof(*d) + h->name_size;

		assert_int_equal(pread(fd, raw, size, (off_t)(h->desc_offset + n * size)), size);
		memcpy(d, raw, sizeof(*d));
		memcpy(s->row[n].name, raw + sizeof(*d), h->name_size);
		assert_non_null(memchr(s->row[n].name, 0, h->name_size));
		assert_true(s->row[n].name[0]);
		for (unsigned o = 0; o < n; o++)
			assert_string_not_equal(s->row[o].name, s->row[n].name);
		u32 type = d->flags & KVM_STATS_TYPE_MASK, unit = d->flags & KVM_STATS_UNIT_MASK;
		assert_true(type <= KVM_STATS_TYPE_MAX && unit <= KVM_STATS_UNIT_MAX);
		assert_true((d->flags & KVM_STATS_BASE_MASK) <= KVM_STATS_BASE_MAX);
		if (type <= KVM_STATS_TYPE_PEAK)
			assert_int_equal(d->size, 1);
		assert_true(d->size > 0 && d->offset % sizeof(u64) == 0);
		/* Seconds in fractions, bytes in powers of two. */
		assert_true(unit != KVM_STATS_UNIT_SECONDS || d->exponent <= 0);
		assert_true(unit != KVM_STATS_UNIT_BYTES || (d->flags & KVM_STATS_BASE_MASK) == KVM_STATS_BASE_POW2);
		data_end = MAX(data_end, d->offset + d->size * sizeof(u64));
	}
	/* All data in one read, and nothing behind. */
	u8 *data = malloc(data_end + 8);
	assert_int_equal(pread(fd, data, data_end + 8, h->data_offset), data_end);
	free(data);
}

static u64 value(int fd, const struct stats *s, const char *name)
{
	u64 v;

	for (unsigned n = 0; n < s->nr; n++)
		if (!strcmp(s->row[n].name, name)) {
			assert_int_equal(pread(fd, &v, 8, (off_t)s->head.data_offset + s->row[n].desc.offset), 8);
			return v;
		}
	fail_msg("there is no %s", name);
	return 0;
}

static int setup(void **state)
{
	int sys = kvm->open();

	*state = calloc(1, sizeof(struct stats));
	bool there = sys >= 0 && ioc(sys, KVM_CHECK_EXTENSION, KVM_CAP_BINARY_STATS_FD) > 0;
	if (sys >= 0)
		kvm->close(sys);
	return there || !abi_is_ours() ? 0 : -1;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void test_form(void **state)
{
	struct stats *s = *state;
	struct abi_vm m;

	abi_create(&m, ABI_IRQCHIP);
	int vm = (int)ioc_ok(m.vm, KVM_GET_STATS_FD, 0), vcpu = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	read_head(vm, s);
	char id[256];
	strcpy(id, s->id);
	read_head(vcpu, s);
	assert_memory_equal(s->id, id, strlen(id));
	assert_non_null(strstr(s->id, "/vcpu-0"));
	ioc_err(m.sys, KVM_GET_STATS_FD, 0, EINVAL);
	ioc_err(vcpu, KVM_GET_STATS_FD, 0, ENOTTY);
	ioc_err(vcpu, KVM_RUN, 0, ENOTTY);
	assert_int_equal(kvm->close(vm), 0);
	assert_int_equal(kvm->close(vcpu), 0);
	abi_destroy(&m);
}

static void test_counts(void **state)
{
	struct stats *s = *state;
	struct abi_vm m;

	abi_create(&m, ABI_NO_IRQCHIP);
	int fd = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	read_head(fd, s);
	assert_int_equal(value(fd, s, "exits"), 0);
	ABI_LOAD(&m, three_outs);
	for (int i = 0; i < 3; i++)
		abi_run_to_out(&m, 0x80);
	abi_run(&m, KVM_EXIT_HLT);
	assert_true(value(fd, s, "exits") >= 4);
	assert_int_equal(value(fd, s, "io_exits"), 3);
	assert_int_equal(value(fd, s, "halt_exits"), 1);
	assert_int_equal(value(fd, s, "mmio_exits"), 0);
	ABI_LOAD(&m, mmio_read);
	abi_flat_ds(&m, m.vcpu);
	abi_run(&m, KVM_EXIT_MMIO);
	abi_run(&m, KVM_EXIT_HLT);
	assert_int_equal(value(fd, s, "mmio_exits"), 1);
	/* One that is asked for later shows the same. */
	int late = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	assert_int_equal(value(late, s, "exits"), value(fd, s, "exits"));
	assert_int_equal(value(late, s, "halt_exits"), 2);
	close(late);
	close(fd);
	abi_destroy(&m);
}

static void on_signal(int sig)
{
}

/* A halt that a signal ends has waited and not been woken. */
static void test_halted(void **state)
{
	struct sigaction sa = {.sa_handler = on_signal}, old;
	struct stats *s = *state;
	struct abi_vm m;

	abi_create(&m, ABI_IRQCHIP);
	int fd = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	read_head(fd, s);
	ABI_LOAD(&m, halt);
	sigaction(SIGALRM, &sa, &old);
	ualarm(20000, 20000); /* the first may come too early */
	ioc_err(m.vcpu, KVM_RUN, 0, EINTR);
	ualarm(0, 0);
	sigaction(SIGALRM, &old, NULL);
	assert_int_equal(value(fd, s, "halt_exits"), 1);
	assert_true(value(fd, s, "halt_wait_ns") > 0);
	assert_int_equal(value(fd, s, "halt_wakeup"), 0);
	close(fd);
	abi_destroy(&m);
}

/* What counts goes on counting in a descriptor that was opened before, however often others came and went. */
static void test_many(void **state)
{
	struct stats *s = *state;
	struct abi_vm m;

	abi_create(&m, ABI_NO_IRQCHIP);
	int first = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0), last = first;
	read_head(first, s);
	for (int i = 0; i < 300; i++) {
		last = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
		assert_int_not_equal(last, first);
		if (i < 299)
			assert_int_equal(i % 2 ? close(last) : kvm->close(last), 0);
	}
	/* Each has its own position. */
	read_head(last, s);
	ABI_LOAD(&m, halt);
	abi_run(&m, KVM_EXIT_HLT);
	assert_int_equal(value(first, s, "halt_exits"), 1);
	assert_int_equal(value(last, s, "halt_exits"), 1);
	close(first);
	close(last);
	abi_destroy(&m);
}

static void test_misuse(void **state)
{
	struct stats *s = *state;
	struct abi_vm m;
	u8 junk[64] = {0xff}, *volatile nowhere = BAD_POINTER;

	abi_create(&m, ABI_NO_IRQCHIP);
	int fd = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	read_head(fd, s);
	/* Not to be written, cut or mapped for writing. */
	assert_true(write(fd, junk, sizeof(junk)) < 0);
	assert_true(pwrite(fd, junk, sizeof(junk), 0) < 0);
	assert_true(ftruncate(fd, 0) < 0);
	assert_ptr_equal(mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	/* Sizes and offsets. */
	assert_int_equal(pread(fd, junk, 0, 0), 0);
	assert_int_equal(pread(fd, junk, 1, 1), 1);
	assert_int_equal(pread(fd, junk, sizeof(junk), 1 << 30), 0);
	assert_true(pread(fd, junk, sizeof(junk), -1) < 0);
	assert_true(pread(fd, nowhere, sizeof(junk), 0) < 0);
	ABI_LOAD(&m, halt);
	abi_run(&m, KVM_EXIT_HLT);
	assert_int_equal(value(fd, s, "halt_exits"), 1);
	close(fd);
	abi_destroy(&m);
}

/* The descriptors outlive what they tell of. */
static void test_lifetime(void **state)
{
	struct stats *s = *state;
	struct abi_vm m;

	abi_create(&m, ABI_NO_IRQCHIP);
	ABI_LOAD(&m, halt);
	int vm = (int)ioc_ok(m.vm, KVM_GET_STATS_FD, 0), vcpu = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	abi_run(&m, KVM_EXIT_HLT);
	munmap(m.run, m.run_size);
	m.run = NULL;
	assert_int_equal(kvm->close(m.vcpu), 0);
	m.vcpu = -1;
	read_head(vcpu, s);
	assert_int_equal(value(vcpu, s, "halt_exits"), 1);
	abi_destroy(&m);
	assert_true(lseek(vcpu, 0, SEEK_SET) == 0);
	read_head(vcpu, s);
	assert_int_equal(value(vcpu, s, "halt_exits"), 1);
	read_head(vm, s);
	close(vm);
	close(vcpu);
}

/* A client that closes every descriptor it did not make: a new one is made, and nothing of the client's is touched. */
static void test_closed_behind_our_back(void **state)
{
	struct stats *s = *state;
	struct abi_vm m;
	char text[8] = {0};

	if (!abi_is_ours())
		skip();
	abi_create(&m, ABI_NO_IRQCHIP);
	int fd = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	int last = dup(fd);
	close(fd);
	/* All but the known ones become this file. */
	int own = memfd_create("client", 0);
	assert_int_equal(write(own, "client", 6), 6);
	for (int i = 3; i < last; i++) {
		if (i == m.sys || i == m.vm || i == m.vcpu || i == own)
			continue;
		assert_int_equal(dup2(own, i), i);
	}
	fd = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	read_head(fd, s);
	ABI_LOAD(&m, halt);
	abi_run(&m, KVM_EXIT_HLT);
	assert_int_equal(value(fd, s, "halt_exits"), 1);
	assert_int_equal(pread(own, text, sizeof(text), 0), 6);
	assert_string_equal(text, "client");
	abi_destroy(&m);
	for (int i = 3; i <= MAX(last, fd); i++)
		close(i);
}

static void *run_thread(void *arg)
{
	struct abi_vm *m = arg;

	abi_run_to_out(m, 0x80);
	return (void *)ioc(m->vcpu, KVM_RUN, 0);
}

/* Read while the guest runs: never more than what was counted, and the exit before is seen. */
static void test_while_running(void **state)
{
	struct stats *s = *state;
	struct abi_vm m;
	pthread_t thread;
	void *result;

	abi_create(&m, ABI_NO_IRQCHIP);
	ABI_LOAD(&m, spin);
	int fd = (int)ioc_ok(m.vcpu, KVM_GET_STATS_FD, 0);
	read_head(fd, s);
	pthread_create(&thread, NULL, run_thread, &m);
	for (int i = 0; i < 2000 && value(fd, s, "io_exits") == 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(value(fd, s, "io_exits"), 1);
	assert_int_equal(value(fd, s, "signal_exits"), 0);
	/* Another memory map makes the vCPU look up, which shows. */
	u64 before = value(fd, s, "exits");
	void *more = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (abi_is_ours()) {
		int vm = (int)ioc_ok(m.vm, KVM_GET_STATS_FD, 0);
		struct stats *of_vm = calloc(1, sizeof(*of_vm));
		read_head(vm, of_vm);
		u64 flushes = value(vm, of_vm, "remote_tlb_flush_requests");
		assert_int_equal(abi_set_memory(&m, 1, 0, 0x40000000, PAGE_SIZE, more), 0);
		assert_int_equal(abi_set_memory(&m, 1, 0, 0x40000000, 0, more), 0);
		assert_true(value(vm, of_vm, "remote_tlb_flush_requests") > flushes);
		close(vm);
		free(of_vm);
		for (int i = 0; i < 2000 && value(fd, s, "exits") == before; i++)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		assert_true(value(fd, s, "exits") > before);
	}
	/* No signal handler here: a request by the run page, and the memory map again to have it seen. */
	__atomic_store_n(&m.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	assert_int_equal(abi_set_memory(&m, 1, 0, 0x40000000, PAGE_SIZE, more), 0);
	assert_int_equal(abi_set_memory(&m, 1, 0, 0x40000000, 0, more), 0);
	pthread_join(thread, &result);
	assert_int_equal((long)result, -EINTR);
	munmap(more, PAGE_SIZE);
	close(fd);
	abi_destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_form, setup, teardown),
		cmocka_unit_test_setup_teardown(test_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_halted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_misuse, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lifetime, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closed_behind_our_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_while_running, setup, teardown),
	};

	return cmocka_run_group_tests_name("stats", tests, NULL, NULL);
}
