/* Coalesced I/O, ioeventfds, irqfds. */
#include "abi.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

static int new_eventfd(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* What was counted, 0 if nothing. */
static u64 counted(int fd)
{
	u64 n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void signal_it(int fd)
{
	assert_int_equal(write(fd, &(u64){1}, sizeof(u64)), sizeof(u64));
}

/* --- Coalesced I/O ------------------------------------------------------------------------------------------- */

GUEST16(writes, "movw $0x70, %dx; movw $1, %ax; 1: outb %al, %dx; incw %ax; cmpw $6, %ax; jne 1b\n"
		"outw %ax, $0x71; outb %al, $0x80; 1: movw %ax, %ax; outb %al, $0x70; jmp 1b");

static struct kvm_coalesced_mmio_ring *ring_of(struct abi_vm *m)
{
	return (void *)((u8 *)m->run + 2 * PAGE_SIZE);
}

static void test_coalesced(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_coalesced_mmio_zone z = {.addr = 0x70, .size = 1, .pio = 1};
	struct kvm_coalesced_mmio_ring *r = ring_of(m);

	assert_int_equal(ioc_ok(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO), 2);
	z.pio = 2;
	ioc_err(m->vm, KVM_REGISTER_COALESCED_MMIO, &z, EINVAL);
	z.pio = 1;
	ioc_ok(m->vm, KVM_REGISTER_COALESCED_MMIO, &z);
	ABI_LOAD(m, writes);
	/* Outside of the zone: a normal exit, and what came before is in the ring. */
	assert_int_equal(abi_run_to_out(m, 0x71), 6);
	assert_int_equal(r->first, 0);
	assert_int_equal(r->last, 5);
	for (u32 i = 0; i < 5; i++) {
		assert_int_equal(r->coalesced_mmio[i].phys_addr, 0x70);
		assert_int_equal(r->coalesced_mmio[i].len, 1);
		assert_int_equal(r->coalesced_mmio[i].pio, 1);
		assert_int_equal(r->coalesced_mmio[i].data[0], i + 1);
	}
	r->first = r->last;
	abi_run_to_out(m, 0x80);
	/* Full, with one slot free: the write is an exit of its own. */
	abi_run_to_out(m, 0x70);
	assert_int_equal((r->last + 1) % KVM_COALESCED_MMIO_MAX, r->first);
	/* A ring that the client has spoilt is nobody's crash. */
	r->last = 0xffffffff;
	abi_run_to_out(m, 0x70);
	r->first = r->last = 0;
	ioc_ok(m->vm, KVM_UNREGISTER_COALESCED_MMIO, &z);
	abi_run_to_out(m, 0x70);
	assert_int_equal(r->last, 0);
	ioc_ok(m->vm, KVM_UNREGISTER_COALESCED_MMIO, &z);
}

/* --- ioeventfd --------------------------------------------------------------------------------------------------- */

GUEST16(notify, "movl $0xf0000000, %ebx\n"
		"movw $1, (%ebx); movl $2, (%ebx); movb $3, (%ebx); movw $1, 2(%ebx)\n"
		"movl $7, %eax; outl %eax, $0x50; movl $8, %eax; outl %eax, $0x50; inl $0x50, %eax");

static void test_ioeventfd(void **state)
{
	struct abi_vm *m = *state;
	int word = new_eventfd(), pio = new_eventfd();
	struct kvm_ioeventfd e = {.addr = 0xf0000000, .len = 2, .fd = word};

	ioc_ok(m->vm, KVM_IOEVENTFD, &e);
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EEXIST);
	e = (struct kvm_ioeventfd){.addr = 0x50, .len = 4, .fd = pio, .datamatch = 7,
				   .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH};
	ioc_ok(m->vm, KVM_IOEVENTFD, &e);
	ABI_LOAD(m, notify);
	abi_flat_ds(m, m->vcpu);
	/* Address and length must be exact. */
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.len, 4);
	assert_int_equal(counted(word), 1);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.len, 1);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.phys_addr, 0xf0000002);
	assert_int_equal(counted(word), 0);
	/* The value must match; reads are not for it. */
	assert_int_equal(abi_run_to_out(m, 0x50), 8);
	assert_int_equal(counted(pio), 1);
	abi_run(m, KVM_EXIT_IO);
	assert_int_equal(m->run->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(counted(pio), 0);

	e.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	ioc_ok(m->vm, KVM_IOEVENTFD, &e);
	ioc_err(m->vm, KVM_IOEVENTFD, &e, ENOENT);
	close(word);
	close(pio);
}

/* Length 0: any access that starts there. */
static void test_ioeventfd_any(void **state)
{
	struct abi_vm *m = *state;
	int fd = new_eventfd();
	struct kvm_ioeventfd e = {.addr = 0xf0000000, .fd = fd};

	ioc_ok(m->vm, KVM_IOEVENTFD, &e);
	e.len = 4;
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EEXIST);
	ABI_LOAD(m, notify);
	abi_flat_ds(m, m->vcpu);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.phys_addr, 0xf0000002);
	assert_int_equal(counted(fd), 3);
	close(fd);
}

static void test_ioeventfd_bad(void **state)
{
	struct abi_vm *m = *state;
	int fd = new_eventfd(), null = open("/dev/null", O_RDWR);
	struct kvm_ioeventfd good = {.addr = 0x1000, .len = 4, .fd = fd}, e;

	e = good, e.len = 3;
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EINVAL);
	e = good, e.len = 16;
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EINVAL);
	e = good, e.addr = ~0ull;
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EINVAL);
	e = good, e.flags = 1 << 20;
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EINVAL);
	e = good, e.len = 0, e.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EINVAL);
	e = good, e.fd = -1;
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EBADF);
	e = good, e.fd = null;
	ioc_err(m->vm, KVM_IOEVENTFD, &e, EINVAL);
	close(fd);
	close(null);
}

/* --- irqfd ------------------------------------------------------------------------------------------------------- */

/* The PICs at vectors 0x20 and 0x28, IR4 open; the handler of IR4 says so and ends the interrupt. */
GUEST16(pic, "cli; movb $0x11, %al; outb %al, $0x20; movb $0x20, %al; outb %al, $0x21; movb $4, %al; outb %al, $0x21\n"
	     "movb $1, %al; outb %al, $0x21; movb $0xef, %al; outb %al, $0x21; sti; outb %al, $0x10; 1: hlt; jmp 1b\n"
	     ".org pic + 0x100; pushw %ax; movb $0x24, %al; outb %al, $0x99; movb $0x20, %al; outb %al, $0x20; "
	     "popw %ax; iret");

static void load_pic(struct abi_vm *m)
{
	struct kvm_lapic_state lapic;

	ABI_LOAD(m, pic);
	abi_vector(m, 0x24, ABI_CODE + 0x100);
	ioc_ok(m->vcpu, KVM_GET_LAPIC, &lapic);
	*(u32 *)(lapic.regs + 0xf0) = 0x1ff;
	*(u32 *)(lapic.regs + 0x350) = 0x700; /* LINT0: ExtINT */
	ioc_ok(m->vcpu, KVM_SET_LAPIC, &lapic);
	abi_run_to_out(m, 0x10);
}

static void *signal_later(void *fd)
{
	usleep(20000);
	signal_it((int)(long)fd);
	return NULL;
}

/* A write to the eventfd wakes the halted vCPU, from whichever thread it comes, and from another process too. */
static void test_irqfd(void **state)
{
	struct abi_vm *m = *state;
	int fd = new_eventfd();
	struct kvm_irqfd f = {.fd = (u32)fd, .gsi = 4};
	pthread_t t;

	ioc_ok(m->vm, KVM_IRQFD, &f);
	ioc_err(m->vm, KVM_IRQFD, &f, EBUSY);
	int again = dup(fd);
	f.fd = (u32)again;
	f.gsi = 5;
	ioc_err(m->vm, KVM_IRQFD, &f, EBUSY);
	close(again);
	load_pic(m);
	pthread_create(&t, NULL, signal_later, (void *)(long)fd);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x24);
	pthread_join(t, NULL);
	if (fork() == 0) {
		usleep(10000);
		signal_it(fd);
		_exit(0);
	}
	assert_int_equal(abi_run_to_out(m, 0x99), 0x24);
	wait(NULL);
	/* Ours is a reference of its own: the client may close what it gave. */
	f = (struct kvm_irqfd){.fd = (u32)fd, .gsi = 4};
	pthread_create(&t, NULL, signal_later, (void *)(long)dup(fd));
	close(fd);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x24);
	pthread_join(t, NULL);
}

static void test_irqfd_deassign(void **state)
{
	struct abi_vm *m = *state;
	int fd = new_eventfd();
	struct kvm_irqfd f = {.fd = (u32)fd, .gsi = 4};

	signal_it(fd); /* before it is assigned: delivered then */
	load_pic(m);
	ioc_ok(m->vm, KVM_IRQFD, &f);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x24);
	f.flags = KVM_IRQFD_FLAG_DEASSIGN;
	ioc_ok(m->vm, KVM_IRQFD, &f);
	signal_it(fd);
	usleep(10000);
	assert_int_equal(counted(fd), 1); /* nobody took it */
	f.flags = 0;
	ioc_ok(m->vm, KVM_IRQFD, &f);
	f.flags = KVM_IRQFD_FLAG_DEASSIGN;
	ioc_ok(m->vm, KVM_IRQFD, &f);
	close(fd);
}

struct device {
	int fd, resample;
};

/* A device that, asked whether it still wants service, says yes once. */
static void *ask_again(void *arg)
{
	struct device *d = arg;
	struct pollfd p = {.fd = d->resample, .events = POLLIN};

	if (poll(&p, 1, 10000) == 1 && counted(d->resample) == 1)
		signal_it(d->fd);
	return NULL;
}

/* Level: held until the guest's EOI, which signals the resamplefd. ELCR makes IR4 level-triggered. */
static void test_irqfd_resample(void **state)
{
	struct abi_vm *m = *state;
	int fd = new_eventfd(), resample = new_eventfd();
	struct kvm_irqfd f = {.fd = (u32)fd, .resamplefd = (u32)resample, .gsi = 4, .flags = KVM_IRQFD_FLAG_RESAMPLE};
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};

	ioc_ok(m->vm, KVM_IRQFD, &f);
	load_pic(m);
	ioc_ok(m->vm, KVM_GET_IRQCHIP, &chip);
	chip.chip.pic.elcr = 1 << 4;
	ioc_ok(m->vm, KVM_SET_IRQCHIP, &chip);
	signal_it(fd);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x24);
	assert_int_equal(counted(resample), 0);
	/* The EOI is what asks. */
	struct device d = {fd, resample};
	pthread_t t;
	pthread_create(&t, NULL, ask_again, &d);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x24);
	pthread_join(t, NULL);
	assert_int_equal(counted(resample), 0);
	close(fd);
	close(resample);
}

static void test_irqfd_bad(void **state)
{
	struct abi_vm m;
	int fd = new_eventfd(), null = open("/dev/null", O_RDWR);
	struct kvm_irqfd f = {.fd = (u32)fd};

	abi_create_vm(&m, ABI_NO_IRQCHIP);
	ioc_err(m.vm, KVM_IRQFD, &f, EAGAIN);
	ioc_ok(m.vm, KVM_CREATE_IRQCHIP, 0);
	f.flags = 1 << 20;
	ioc_err(m.vm, KVM_IRQFD, &f, EINVAL);
	f = (struct kvm_irqfd){.fd = (u32)-1};
	ioc_err(m.vm, KVM_IRQFD, &f, EBADF);
	f.fd = (u32)null;
	ioc_err(m.vm, KVM_IRQFD, &f, EINVAL);
	abi_destroy(&m);
	close(fd);
	close(null);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, abi_setup_irqchip, abi_teardown)
	const struct CMUnitTest tests[] = {
		T(test_coalesced), T(test_ioeventfd), T(test_ioeventfd_any), T(test_ioeventfd_bad), T(test_irqfd),
		T(test_irqfd_deassign), T(test_irqfd_resample), cmocka_unit_test(test_irqfd_bad),
	};

	return cmocka_run_group_tests_name("eventfd", tests, NULL, NULL);
}
