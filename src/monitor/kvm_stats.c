#include "monitor/kvm_stats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_SIZE_MAX 4096u
#define NR_MAX 4096u
#define VALUES_MAX 1024u /* buckets of a histogram */

static int read_at(int fd, void *to, size_t n, u64 offset)
{
	ssize_t got = pread(fd, to, n, (off_t)offset);

	return got < 0 ? -errno : (size_t)got == n ? 0 : -EINVAL;
}

static int read_value(int fd, const struct kvm_stats_header *h, const struct kvm_stats_desc *d, u64 *sum)
{
	u64 values[VALUES_MAX];

	if (d->size == 0 || d->size > VALUES_MAX)
		return -EINVAL;
	int r = read_at(fd, values, d->size * sizeof(u64), (u64)h->data_offset + d->offset);
	*sum = 0;
	for (unsigned i = 0; r == 0 && i < d->size; i++)
		*sum += values[i];
	return r;
}

static int read_all(int fd, const struct kvm_stats_header *h, struct kvm_stat *stat)
{
	u8 raw[sizeof(struct kvm_stats_desc) + NAME_SIZE_MAX];
	size_t step = sizeof(struct kvm_stats_desc) + h->name_size;
	struct kvm_stats_desc d;
	int r = 0;

	for (u32 i = 0; r == 0 && i < h->num_desc; i++, stat++) {
		r = read_at(fd, raw, step, h->desc_offset + (u64)i * step);
		if (r)
			break;
		memcpy(&d, raw, sizeof(d));
		snprintf(stat->name, sizeof(stat->name), "%.*s", (int)h->name_size, raw + sizeof(d));
		/* The unit of a histogram is that of its buckets' borders: in them are numbers. */
		u32 type = d.flags & KVM_STATS_TYPE_MASK;
		bool histogram = type == KVM_STATS_TYPE_LINEAR_HIST || type == KVM_STATS_TYPE_LOG_HIST;
		stat->flags = histogram ? type : d.flags;
		stat->exponent = histogram ? 0 : d.exponent;
		r = read_value(fd, h, &d, &stat->value);
	}
	return r;
}

int kvm_stats_read(int stats_fd, struct kvm_stats *s)
{
	struct kvm_stats_header h;
	int r = read_at(stats_fd, &h, sizeof(h), 0);

	*s = (struct kvm_stats){.nr = 0};
	if (r)
		return r;
	if (h.name_size == 0 || h.name_size > NAME_SIZE_MAX || h.num_desc > NR_MAX)
		return -EINVAL;
	s->stat = calloc(MAX(h.num_desc, 1u), sizeof(s->stat[0]));
	if (!s->stat)
		return -ENOMEM;
	s->nr = h.num_desc;
	r = read_all(stats_fd, &h, s->stat);
	if (r)
		kvm_stats_free(s);
	return r;
}

int kvm_stats_get(const struct kvm_if *kvm, int fd, struct kvm_stats *s)
{
	long stats_fd = kvm->ioctl(fd, KVM_GET_STATS_FD, NULL);

	*s = (struct kvm_stats){.nr = 0};
	if (stats_fd < 0)
		return (int)stats_fd;
	int r = kvm_stats_read((int)stats_fd, s);
	kvm->close((int)stats_fd);
	return r;
}

void kvm_stats_free(struct kvm_stats *s)
{
	free(s->stat);
	*s = (struct kvm_stats){.nr = 0};
}

const struct kvm_stat *kvm_stats_find(const struct kvm_stats *s, const char *name)
{
	for (unsigned i = 0; i < s->nr; i++)
		if (!strcmp(s->stat[i].name, name))
			return &s->stat[i];
	return NULL;
}

void kvm_stat_format(char *text, size_t max, u64 value, u32 flags, s16 exponent)
{
	static const struct {
		double least;
		const char *name;
	} times[] = {{1, "s"}, {1e-3, "ms"}, {1e-6, "us"}, {1e-9, "ns"}},
	  sizes[] = {{0x1p40, "TiB"}, {0x1p30, "GiB"}, {0x1p20, "MiB"}, {0x1p10, "KiB"}, {1, "B"}};
	u32 unit = flags & KVM_STATS_UNIT_MASK;
	unsigned i = 0, base = (flags & KVM_STATS_BASE_MASK) == KVM_STATS_BASE_POW2 ? 2 : 10;
	double v = (double)value;

	for (int n = exponent; n > 0; n--)
		v *= base;
	for (int n = exponent; n < 0; n++)
		v /= base;

	switch (unit) {
	case KVM_STATS_UNIT_SECONDS:
		while (i < ARRAY_SIZE(times) - 1 && v < times[i].least)
			i++;
		snprintf(text, max, "%.2f %s", v / times[i].least, times[i].name);
		break;
	case KVM_STATS_UNIT_BYTES:
		while (i < ARRAY_SIZE(sizes) - 1 && v < sizes[i].least)
			i++;
		snprintf(text, max, "%.*f %s", sizes[i].least > 1, v / sizes[i].least, sizes[i].name);
		break;
	default:
		if (exponent)
			snprintf(text, max, "%.4g", v);
		else
			snprintf(text, max, "%llu", (unsigned long long)value);
	}
}
