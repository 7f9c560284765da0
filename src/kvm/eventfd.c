/*
 * irqfd and ioeventfd (api.rst, KVM_IRQFD and KVM_IOEVENTFD). ioeventfds are signalled by the vCPU that writes;
 * irqfds are waited for by one thread per VM, which the first of them starts.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kvm/kvm.h"

/*
 * The number by which the kernel knows the eventfd behind @fd, whatever descriptors lead to it. 0, or -EBADF,
 * or -EINVAL when it is no eventfd. Without /proc every descriptor is taken for an eventfd of its own.
 */
static int eventfd_id(int fd, u64 *id)
{
	char path[64], line[128];
	int r = -EINVAL;

	if (fd < 0 || fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	FILE *f = fopen(path, "re");
	*id = BIT64(32) + (u64)fd;
	if (!f)
		return 0;
	while (r && fgets(line, sizeof(line), f)) {
		int n;

		if (sscanf(line, "eventfd-id: %d", &n) == 1) {
			*id = (u64)n;
			r = 0;
		}
	}
	fclose(f);
	return r;
}

static int dup_eventfd(int fd, u64 *id)
{
	int r = eventfd_id(fd, id);

	if (r)
		return r;
	r = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return r < 0 ? -errno : r;
}

static bool may_block(int fd)
{
	return !(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

/* A counter that is full has woken its reader already. With @blocking a write to it would wait, under our locks. */
static void signal_eventfd(int fd, bool blocking)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	u64 one = 1;

	if (blocking && poll(&p, 1, 0) != 1)
		return;
	ssize_t n = write(fd, &one, sizeof(one));
	(void)n;
}

/* --- irqfd ------------------------------------------------------------------------------------------------------- */

struct irqfd {
	struct vm *vm;
	int fd, resamplefd;   /* our own descriptors; resamplefd -1: edge */
	bool blocking;        /* resamplefd: its write may wait */
	u64 id;
	u32 gsi;
	bool dead;            /* [Q] taken out: to be freed by the thread */
	struct irqfd *next;   /* [Q] */
};

struct eventfd_thread {
	pthread_t thread;
	int epoll, stop;      /* stop: an eventfd that also tells of dead irqfds */
	_Atomic bool stopping;
	struct irqfd *dead;   /* [Q] */
};

/* Takes what is in the counter. False when there was nothing. Never blocks, whatever the client's flags. */
static bool drain(int fd)
{
	u64 count;
	struct iovec iov = {&count, sizeof(count)};

	ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
	if (n < 0 && errno == EOPNOTSUPP) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 0) != 1)
			return false;
		n = read(fd, &count, sizeof(count));
	}
	return n == (ssize_t)sizeof(count);
}

static void irqfd_fire(struct irqfd *f)
{
	struct vm *vm = f->vm;

	if (!drain(f->fd))
		return;
	pthread_mutex_lock(&vm->irq_lock);
	if (f->dead) {
		/* Taken away meanwhile. */
	} else if (f->resamplefd >= 0) {
		irqchip_set_irq(&vm->irqchip, IRQ_SOURCE_RESAMPLE, f->gsi, true);
	} else {
		irqchip_set_irq(&vm->irqchip, IRQ_SOURCE_OTHER, f->gsi, true);
		irqchip_set_irq(&vm->irqchip, IRQ_SOURCE_OTHER, f->gsi, false);
	}
	pthread_mutex_unlock(&vm->irq_lock);
}

static void irqfd_free(struct irqfd *f)
{
	close(f->fd);
	if (f->resamplefd >= 0)
		close(f->resamplefd);
	free(f);
}

/* Between two rounds of events nobody refers to the dead any more. */
static void bury(struct vm *vm, struct eventfd_thread *t)
{
	pthread_mutex_lock(&vm->irq_lock);
	struct irqfd *dead = t->dead;
	t->dead = NULL;
	pthread_mutex_unlock(&vm->irq_lock);
	while (dead) {
		struct irqfd *next = dead->next;

		irqfd_free(dead);
		dead = next;
	}
}

static void *irqfd_main(void *arg)
{
	struct vm *vm = arg;
	struct eventfd_thread *t = vm->irqfd_thread;
	struct epoll_event ev[32];

	prctl(PR_SET_NAME, "anykvm-irqfd");
	while (!atomic_load(&t->stopping)) {
		int n = epoll_wait(t->epoll, ev, ARRAY_SIZE(ev), -1);

		for (int i = 0; i < n; i++) {
			if (ev[i].data.ptr)
				irqfd_fire(ev[i].data.ptr);
			else
				drain(t->stop);
		}
		bury(vm, t);
	}
	return NULL;
}

/* [L] */
static int start_thread(struct vm *vm)
{
	struct eventfd_thread *t = calloc(1, sizeof(*t));
	struct epoll_event ev = {.events = EPOLLIN};
	sigset_t all, old;

	if (!t)
		return -ENOMEM;
	t->epoll = epoll_create1(EPOLL_CLOEXEC);
	t->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->epoll < 0 || t->stop < 0 || epoll_ctl(t->epoll, EPOLL_CTL_ADD, t->stop, &ev) < 0)
		goto fail;
	vm->irqfd_thread = t;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int err = pthread_create(&t->thread, NULL, irqfd_main, vm);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err == 0)
		return 0;
	vm->irqfd_thread = NULL;
fail:
	close(t->epoll);
	close(t->stop);
	free(t);
	return -ENOMEM;
}

static int irqfd_assign(struct vm *vm, const struct kvm_irqfd *arg)
{
	struct irqfd *f = calloc(1, sizeof(*f));
	u64 id;
	int r;

	if (!f)
		return -ENOMEM;
	*f = (struct irqfd){.vm = vm, .fd = -1, .resamplefd = -1, .gsi = arg->gsi};
	r = f->fd = dup_eventfd((int)arg->fd, &f->id);
	if (r >= 0 && (arg->flags & KVM_IRQFD_FLAG_RESAMPLE))
		r = f->resamplefd = dup_eventfd((int)arg->resamplefd, &id);
	f->blocking = f->resamplefd >= 0 && may_block(f->resamplefd);
	if (r >= 0 && !vm->irqfd_thread)
		r = start_thread(vm);
	if (r < 0)
		goto fail;

	pthread_mutex_lock(&vm->irq_lock);
	struct irqfd *other = vm->irqfds;
	while (other && other->id != f->id)
		other = other->next;
	if (!other) {
		f->next = vm->irqfds;
		vm->irqfds = f;
	}
	pthread_mutex_unlock(&vm->irq_lock);
	if (other) {
		r = -EBUSY;
		goto fail;
	}
	/* Reports at once what is in the counter already. */
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = f};
	if (epoll_ctl(vm->irqfd_thread->epoll, EPOLL_CTL_ADD, f->fd, &ev) == 0)
		return 0;
	r = -errno;
	pthread_mutex_lock(&vm->irq_lock);
	for (struct irqfd **p = &vm->irqfds; *p; p = &(*p)->next)
		if (*p == f) {
			*p = f->next;
			break;
		}
	pthread_mutex_unlock(&vm->irq_lock);
fail:
	if (f->fd >= 0)
		close(f->fd);
	if (f->resamplefd >= 0)
		close(f->resamplefd);
	free(f);
	return r;
}

static int irqfd_deassign(struct vm *vm, const struct kvm_irqfd *arg)
{
	u64 id;
	int r = eventfd_id((int)arg->fd, &id);

	if (r)
		return r;
	pthread_mutex_lock(&vm->irq_lock);
	for (struct irqfd **p = &vm->irqfds; *p;) {
		struct irqfd *f = *p;

		if (f->id != id || f->gsi != arg->gsi) {
			p = &f->next;
			continue;
		}
		*p = f->next;
		epoll_ctl(vm->irqfd_thread->epoll, EPOLL_CTL_DEL, f->fd, NULL);
		if (f->resamplefd >= 0)
			irqchip_set_irq(&vm->irqchip, IRQ_SOURCE_RESAMPLE, f->gsi, false);
		f->dead = true;
		f->next = vm->irqfd_thread->dead;
		vm->irqfd_thread->dead = f;
		signal_eventfd(vm->irqfd_thread->stop, false);
	}
	pthread_mutex_unlock(&vm->irq_lock);
	return 0;
}

int vm_irqfd(struct vm *vm, const struct kvm_irqfd *arg)
{
	if (arg->flags & ~(u32)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	if (arg->flags & KVM_IRQFD_FLAG_DEASSIGN)
		return irqfd_deassign(vm, arg);
	if (atomic_load(&vm->irqchip_mode) == IRQCHIP_NONE)
		return -EAGAIN;
	return irqfd_assign(vm, arg);
}

/* The guest has ended an interrupt of @gsi: its level goes, and whoever drives it says whether it stays wanted. */
void irqfd_ack(struct vm *vm, u32 gsi)
{
	bool any = false;

	for (struct irqfd *f = vm->irqfds; f; f = f->next)
		any |= f->gsi == gsi && f->resamplefd >= 0;
	if (!any)
		return;
	irqchip_set_irq(&vm->irqchip, IRQ_SOURCE_RESAMPLE, gsi, false);
	for (struct irqfd *f = vm->irqfds; f; f = f->next)
		if (f->gsi == gsi && f->resamplefd >= 0)
			signal_eventfd(f->resamplefd, f->blocking);
}

void vm_stop_eventfds(struct vm *vm)
{
	struct eventfd_thread *t = vm->irqfd_thread;

	if (!t)
		return;
	atomic_store(&t->stopping, true);
	signal_eventfd(t->stop, false);
	pthread_join(t->thread, NULL);
	bury(vm, t);
	while (vm->irqfds) {
		struct irqfd *f = vm->irqfds;

		vm->irqfds = f->next;
		irqfd_free(f);
	}
	close(t->epoll);
	close(t->stop);
	free(t);
	vm->irqfd_thread = NULL;
}

/* --- ioeventfd --------------------------------------------------------------------------------------------------- */

struct ioeventfd {
	struct kvm_io_device dev;
	struct vm *vm;
	enum bus bus;
	u64 addr, datamatch, id;
	u32 len;
	bool wildcard;          /* any value */
	int fd;                 /* our own descriptor */
	bool blocking;          /* a write to it may wait */
	struct ioeventfd *next; /* [B] */
};

static int ioeventfd_write(struct vcpu *v, struct kvm_io_device *dev, u64 addr, unsigned len, const void *val)
{
	struct ioeventfd *e = container_of(dev, struct ioeventfd, dev);
	u64 data = 0;

	if (addr != e->addr || (e->len && e->len != len))
		return -EOPNOTSUPP;
	if (!e->wildcard) {
		memcpy(&data, val, MIN(len, sizeof(data)));
		if (data != e->datamatch)
			return -EOPNOTSUPP;
	}
	signal_eventfd(e->fd, e->blocking);
	return 0;
}

static void ioeventfd_destroy(struct kvm_io_device *dev)
{
	struct ioeventfd *e = container_of(dev, struct ioeventfd, dev), **p = &e->vm->ioeventfds;

	while (*p != e)
		p = &(*p)->next;
	*p = e->next;
	close(e->fd);
	free(e);
}

static const struct kvm_io_device_ops ioeventfd_ops = {.write = ioeventfd_write, .destructor = ioeventfd_destroy};

static bool collides(const struct ioeventfd *a, const struct ioeventfd *b)
{
	return a->bus == b->bus && a->addr == b->addr &&
	       (!a->len || !b->len ||
		(a->len == b->len && (a->wildcard || b->wildcard || a->datamatch == b->datamatch)));
}

static int ioeventfd_assign(struct vm *vm, enum bus bus, const struct kvm_ioeventfd *arg)
{
	struct ioeventfd *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return -ENOMEM;
	*e = (struct ioeventfd){
		.dev.ops = &ioeventfd_ops, .vm = vm, .bus = bus, .addr = arg->addr, .len = arg->len,
		.datamatch = arg->datamatch, .wildcard = !(arg->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
	};
	e->fd = dup_eventfd(arg->fd, &e->id);
	if (e->fd < 0) {
		r = e->fd;
		free(e);
		return r;
	}
	e->blocking = may_block(e->fd);
	pthread_rwlock_wrlock(&vm->bus_lock);
	struct ioeventfd *other = vm->ioeventfds;
	while (other && !collides(e, other))
		other = other->next;
	r = other ? -EEXIST : iobus_register(vm, bus, e->addr, e->len, &e->dev);
	if (r == 0) {
		e->next = vm->ioeventfds;
		vm->ioeventfds = e;
	}
	pthread_rwlock_unlock(&vm->bus_lock);
	if (r) {
		close(e->fd);
		free(e);
	}
	return r;
}

static int ioeventfd_deassign(struct vm *vm, enum bus bus, const struct kvm_ioeventfd *arg)
{
	bool wildcard = !(arg->flags & KVM_IOEVENTFD_FLAG_DATAMATCH);
	u64 id;
	int r = eventfd_id(arg->fd, &id);

	if (r)
		return r;
	pthread_rwlock_wrlock(&vm->bus_lock);
	struct ioeventfd *e = vm->ioeventfds;
	while (e && (e->bus != bus || e->id != id || e->addr != arg->addr || e->len != arg->len ||
		     e->wildcard != wildcard ||
		     (!wildcard && e->datamatch != arg->datamatch)))
		e = e->next;
	if (e)
		iobus_unregister(vm, bus, &e->dev);
	pthread_rwlock_unlock(&vm->bus_lock);
	return e ? 0 : -ENOENT;
}

int vm_ioeventfd(struct vm *vm, const struct kvm_ioeventfd *arg)
{
	const u32 known = KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN;
	enum bus bus = arg->flags & KVM_IOEVENTFD_FLAG_PIO ? BUS_PIO : BUS_MMIO;

	if (arg->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		return ioeventfd_deassign(vm, bus, arg);
	if (arg->len > 8 || (arg->len & (arg->len - 1)) || arg->addr + arg->len < arg->addr || arg->flags & ~known)
		return -EINVAL;
	/* Without a length there is no value to compare. */
	if (!arg->len && (arg->flags & KVM_IOEVENTFD_FLAG_DATAMATCH))
		return -EINVAL;
	return ioeventfd_assign(vm, bus, arg);
}
