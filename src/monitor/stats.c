#include "monitor/stats.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/exit_stats.h"
#include "monitor/kvm_stats.h"
#include "monitor/report.h"

#define LABEL_WIDTH 28
#define COLUMN_WIDTH 12
#define COLUMNS_MAX 7 /* on a line */
#define TOP 10

/* One line: a value for each vCPU. */
struct row {
	char label[KVM_STAT_NAME_MAX];
	u32 flags;
	s16 exponent;
	bool mean; /* total is not the sum of @value */
	u64 total;
	u64 value[MACHINE_MAX_CPUS];
};

struct table {
	const char *title;
	unsigned nr_cpus, nr, max;
	struct row *rows;
};

static bool table_init(struct table *t, const char *title, unsigned nr_cpus, unsigned max)
{
	*t = (struct table){.title = title, .nr_cpus = nr_cpus, .max = max, .rows = calloc(max, sizeof(struct row))};
	return t->rows != NULL;
}

static struct row *table_add(struct table *t, const char *label, u32 flags, s16 exponent)
{
	struct row *r = &t->rows[t->nr++];

	snprintf(r->label, sizeof(r->label), "%s", label);
	r->flags = flags;
	r->exponent = exponent;
	return r;
}

/* The sum first; with many vCPUs, in several tables one below the other. Lines of zeros are left out. */
static void table_print(struct table *t, FILE *out)
{
	unsigned columns = t->nr_cpus > 1 ? t->nr_cpus + 1 : 1, shown = 0;
	char text[32];

	for (unsigned i = 0; i < t->nr; i++) {
		for (unsigned cpu = 0; cpu < t->nr_cpus && !t->rows[i].mean; cpu++)
			t->rows[i].total += t->rows[i].value[cpu];
		shown += t->rows[i].total != 0;
	}
	for (unsigned from = 0; shown && from < columns; from += COLUMNS_MAX) {
		unsigned to = MIN(from + COLUMNS_MAX, columns);

		fprintf(out, "%-*s", LABEL_WIDTH, t->title);
		for (unsigned c = from; c < to; c++) {
			snprintf(text, sizeof(text), c ? "CPU %u" : "total", c - 1);
			fprintf(out, "%*s", COLUMN_WIDTH, text);
		}
		fputc('\n', out);
		for (unsigned i = 0; i < t->nr; i++) {
			const struct row *r = &t->rows[i];

			if (!r->total)
				continue;
			fprintf(out, "  %-*s", LABEL_WIDTH - 2, r->label);
			for (unsigned c = from; c < to; c++) {
				u64 value = c ? r->value[c - 1] : r->total;

				kvm_stat_format(text, sizeof(text), value, r->flags, r->exponent);
				fprintf(out, " %*s", COLUMN_WIDTH - 1, text);
			}
			fputc('\n', out);
		}
	}
	free(t->rows);
}

static void print_exits(struct machine *m, FILE *out)
{
	struct table t;

	if (!table_init(&t, "Exits to the monitor", m->nr_vcpus, EXIT_REASONS))
		return;
	for (u32 reason = 0; reason < EXIT_REASONS; reason++) {
		struct row *r = table_add(&t, exit_name(reason), 0, 0);

		for (unsigned cpu = 0; cpu < m->nr_vcpus; cpu++)
			r->value[cpu] = m->vcpus[cpu].exits->reason[reason];
	}
	table_print(&t, out);
}

static void print_sites(struct machine *m, FILE *out)
{
	struct exit_stats *sum = calloc(1, sizeof(*sum));
	struct exit_site top[TOP];

	if (!sum)
		return;
	for (unsigned cpu = 0; cpu < m->nr_vcpus; cpu++)
		exit_stats_add(sum, m->vcpus[cpu].exits);
	unsigned nr = exit_stats_top(sum, top, TOP);

	if (nr)
		fprintf(out, "%-*s%*s  guest RIP         access\n", LABEL_WIDTH, "Most frequent exits", COLUMN_WIDTH,
			"times");
	for (unsigned i = 0; i < nr; i++) {
		const struct exit_site *e = &top[i];
		bool io = e->reason == KVM_EXIT_IO;

		fprintf(out, "  %-*s%*llu  %016llx", LABEL_WIDTH - 2, exit_name(e->reason), COLUMN_WIDTH,
			(unsigned long long)e->count, (unsigned long long)e->rip);
		if (io || e->reason == KVM_EXIT_MMIO)
			fprintf(out, "  %s %s 0x%llx", e->write ? "write to" : "read from", io ? "port" : "address",
				(unsigned long long)e->addr);
		fputc('\n', out);
	}
	if (sum->lost)
		fprintf(out, "  and %llu exits at places that there was no room to count\n",
			(unsigned long long)sum->lost);
	free(sum);
}

/* What a translator's block took on average, where KVM tells enough for it. */
static void add_mean(struct table *t)
{
	const struct row *time = NULL, *blocks = NULL;

	for (unsigned i = 0; i < t->nr; i++) {
		if (!strcmp(t->rows[i].label, "jit_translate_ns"))
			time = &t->rows[i];
		if (!strcmp(t->rows[i].label, "jit_blocks"))
			blocks = &t->rows[i];
	}
	if (!time || !blocks || t->nr == t->max)
		return;

	struct row *r = table_add(t, "jit_translate_ns per block", time->flags, time->exponent);
	u64 all_time = 0, all_blocks = 0;

	for (unsigned cpu = 0; cpu < t->nr_cpus; cpu++) {
		all_time += time->value[cpu];
		all_blocks += blocks->value[cpu];
		r->value[cpu] = blocks->value[cpu] ? time->value[cpu] / blocks->value[cpu] : 0;
	}
	r->mean = true;
	r->total = all_blocks ? all_time / all_blocks : 0;
}

/* KVM's statistics of @nr objects, whose descriptors are @fds, as @title. 0 or -errno. */
static int print_kvm(const struct kvm_if *kvm, const char *title, const int *fds, unsigned nr, FILE *out)
{
	struct kvm_stats s;
	struct table t;
	int r = kvm_stats_get(kvm, fds[0], &s);

	if (r)
		return r;
	if (!table_init(&t, title, nr, s.nr + 1)) {
		kvm_stats_free(&s);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < s.nr; i++)
		table_add(&t, s.stat[i].name, s.stat[i].flags, s.stat[i].exponent)->value[0] = s.stat[i].value;
	kvm_stats_free(&s);
	for (unsigned n = 1; n < nr && r == 0; n++) {
		r = kvm_stats_get(kvm, fds[n], &s);
		for (unsigned i = 0; r == 0 && i < t.nr; i++) {
			const struct kvm_stat *stat = kvm_stats_find(&s, t.rows[i].label);
			t.rows[i].value[n] = stat ? stat->value : 0;
		}
		if (r == 0)
			kvm_stats_free(&s);
	}
	add_mean(&t);
	table_print(&t, out);
	return r;
}

void stats_print(struct machine *m, FILE *out)
{
	int fds[MACHINE_MAX_CPUS];

	fprintf(out, "anykvm: statistics\n");
	print_exits(m, out);
	print_sites(m, out);
	if (m->kvm->ioctl(m->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_BINARY_STATS_FD) <= 0) {
		fprintf(out, "This KVM (%s) has no statistics of its own.\n", m->kvm->name);
		return;
	}
	for (unsigned i = 0; i < m->nr_vcpus; i++)
		fds[i] = m->vcpus[i].fd;
	int r = print_kvm(m->kvm, "KVM, of its vCPUs", fds, m->nr_vcpus, out);
	if (r == 0)
		r = print_kvm(m->kvm, "KVM, of the machine", &m->vm_fd, 1, out);
	if (r)
		fprintf(out, "This KVM's (%s) statistics cannot be read: %s.\n", m->kvm->name, strerror(-r));
}
