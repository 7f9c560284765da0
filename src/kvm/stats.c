/*
 * A statistics file is a memfd: a header, the owner's name, descriptors and one u64 for each. Counters are counted
 * where they happen, in plain variables, and copied to the file by the thread that owns them: only once a client has
 * asked for a descriptor, so that others pay nothing.
 */
#include "kvm/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvm/kvm.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define NAME_SIZE 48 /* KVM's own */

#define COUNT(name_, field) {.name = name_, .kind = X86_STAT_COUNT, .offset = offsetof(struct vcpu, field)}
#define STAT(field) COUNT(#field, stat.field)
#define EXITS(name_, reason) COUNT(name_, cpu.stat.exits[reason])

/* KVM's names, as far as there is what they stand for; the others are from tlb_misses on. */
static const struct x86_stat vcpu_rows[] = {
	STAT(exits),
	STAT(io_exits),
	STAT(mmio_exits),
	STAT(signal_exits),
	EXITS("irq_window_exits", EXIT_IRQ_WINDOW),
	EXITS("nmi_window_exits", EXIT_NMI_WINDOW),
	EXITS("halt_exits", EXIT_HLT),
	STAT(halt_wakeup),
	{.name = "halt_wait_ns", .kind = X86_STAT_NS, .offset = offsetof(struct vcpu, stat.halt_wait_ns)},
	STAT(request_irq_exits),
	EXITS("irq_exits", EXIT_KICK),
	STAT(irq_injections),
	STAT(nmi_injections),
	STAT(req_event),
	COUNT("insn_emulation", cpu.stat.insns),
	EXITS("insn_emulation_fail", EXIT_EMULATION),
	COUNT("tlb_flush", cpu.stat.tlb_flushes),
	STAT(hypercalls),
	COUNT("tlb_misses", cpu.stat.tlb_misses),
	COUNT("events_delivered", cpu.stat.injections),
	EXITS("pause_exits", EXIT_PAUSE),
	EXITS("debug_exits", EXIT_DEBUG),
	{.name = NULL},
};

static const struct x86_stat vm_rows[] = {
	{.name = "remote_tlb_flush", .offset = offsetof(struct vm, stat.remote_tlb_flush)},
	{.name = "remote_tlb_flush_requests", .offset = offsetof(struct vm, stat.remote_tlb_flush_requests)},
	{.name = NULL},
};

/* One table of rows and the structure that their offsets are in. */
struct source {
	const struct x86_stat *rows; /* NULL: none */
	const void *base;
};

static u32 source_rows(const struct source *s)
{
	u32 n = 0;

	while (s->rows && s->rows[n].name)
		n++;
	return n;
}

static u64 *source_copy(const struct source *s, u64 *to)
{
	for (const struct x86_stat *r = s->rows; r && r->name; r++) {
		u64 value = *(const u64 *)((const u8 *)s->base + r->offset);

		if (r->kind == X86_STAT_TICKS)
			value = (u64)((u128)value * 1000000u / host_tsc_khz());
		__atomic_store_n(to++, value, __ATOMIC_RELAXED);
	}
	return to;
}

static void describe(struct kvm_stats_desc *d, const struct x86_stat *r, u32 index)
{
	static const struct {
		u32 flags;
		s16 exponent;
	} kinds[] = {
		[X86_STAT_COUNT] = {KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE, 0},
		[X86_STAT_NS] = {KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS, -9},
		[X86_STAT_TICKS] = {KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS, -9},
		[X86_STAT_BYTES] = {KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW2, 0},
	};

	d->flags = kinds[r->kind].flags;
	d->exponent = kinds[r->kind].exponent;
	d->size = 1;
	d->offset = index * (u32)sizeof(u64);
	snprintf(d->name, NAME_SIZE, "%s", r->name);
}

/* Fills a fresh file but for its data. */
static void write_head(struct stats_file *f, const char *id, const struct source *src, u32 nr_src, u32 rows)
{
	const u32 step = sizeof(struct kvm_stats_desc) + NAME_SIZE;
	struct kvm_stats_header *h = f->map;
	u32 n = 0;

	*h = (struct kvm_stats_header){.name_size = NAME_SIZE, .num_desc = rows, .id_offset = sizeof(*h)};
	h->desc_offset = h->id_offset + NAME_SIZE;
	h->data_offset = h->desc_offset + rows * step;
	snprintf((char *)f->map + h->id_offset, NAME_SIZE, "%s", id);
	for (u32 s = 0; s < nr_src; s++)
		for (u32 i = 0; i < source_rows(&src[s]); i++, n++)
			describe((void *)((u8 *)f->map + h->desc_offset + n * step), &src[s].rows[i], n);
	f->data = (u64 *)((u8 *)f->map + h->data_offset);
}

static int create(struct stats_file *f, const char *id, const struct source *src, u32 nr_src)
{
	struct stat st;
	u32 rows = 0;

	for (u32 s = 0; s < nr_src; s++)
		rows += source_rows(&src[s]);
	size_t size = sizeof(struct kvm_stats_header) + NAME_SIZE +
		      rows * (sizeof(struct kvm_stats_desc) + NAME_SIZE + sizeof(u64));
	int fd = memfd_create("anykvm-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	void *map = MAP_FAILED;
	if (ftruncate(fd, (off_t)size) == 0 && fstat(fd, &st) == 0)
		map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	/* This mapping stays the only way to write, and the client cannot cut it short. */
	if (map == MAP_FAILED ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0) {
		if (map != MAP_FAILED)
			munmap(map, size);
		close(fd);
		return -ENOMEM;
	}
	*f = (struct stats_file){.map = map, .size = size, .fd = fd, .dev = st.st_dev, .ino = st.st_ino};
	write_head(f, id, src, nr_src, rows);
	return 0;
}

/* Whether our descriptor is still what it was: clients close descriptors that they do not know. */
static bool still_open(const struct stats_file *f)
{
	struct stat st;

	return f->map && fstat(f->fd, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino;
}

void stats_file_fini(struct stats_file *f)
{
	if (still_open(f))
		close(f->fd);
	if (f->map)
		munmap(f->map, f->size);
	*f = (struct stats_file){.map = NULL};
}

/* Opened anew, so that it has its own position and no right to write; without /proc, a duplicate. */
static int open_again(const struct stats_file *f)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno != EMFILE && errno != ENFILE)
		fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static void vcpu_sources(const struct vcpu *v, struct source src[2])
{
	src[0] = (struct source){vcpu_rows, v};
	src[1] = (struct source){v->vm->ops->stats, v->cpu.engine};
}

void vcpu_stats_publish(struct vcpu *v)
{
	struct source src[2];

	if (!v->stats.data)
		return;
	vcpu_sources(v, src);
	source_copy(&src[1], source_copy(&src[0], v->stats.data));
}

int vcpu_stats_fd(struct vcpu *v)
{
	struct source src[2];
	char id[NAME_SIZE];

	if (!still_open(&v->stats)) {
		stats_file_fini(&v->stats);
		vcpu_sources(v, src);
		snprintf(id, sizeof(id), "kvm-%d/vcpu-%u", getpid(), v->id);
		int r = create(&v->stats, id, src, ARRAY_SIZE(src));
		if (r)
			return r;
	}
	vcpu_stats_publish(v);
	return open_again(&v->stats);
}

void vm_stats_publish(struct vm *vm)
{
	if (vm->stats.data)
		source_copy(&(struct source){vm_rows, vm}, vm->stats.data);
}

int vm_stats_fd(struct vm *vm)
{
	char id[NAME_SIZE];

	if (!still_open(&vm->stats)) {
		stats_file_fini(&vm->stats);
		snprintf(id, sizeof(id), "kvm-%d", getpid());
		int r = create(&vm->stats, id, &(struct source){vm_rows, vm}, 1);
		if (r)
			return r;
	}
	vm_stats_publish(vm);
	return open_again(&vm->stats);
}
