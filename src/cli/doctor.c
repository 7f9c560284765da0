/* anykvm doctor: what this machine offers, and what --accel auto would choose. */
#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/cli.h"
#include "monitor/accel.h"
#include "monitor/kvm_if_sys.h"

static void line(const char *what, const char *value)
{
	printf("%-22s %s\n", what, value);
}

static void show_host(void)
{
	struct utsname u;
	char text[160];

	if (uname(&u) == 0) {
		snprintf(text, sizeof(text), "%.32s %.96s, %.16s", u.sysname, u.release, u.machine);
		line("system", text);
	}
	snprintf(text, sizeof(text), "%ld online", sysconf(_SC_NPROCESSORS_ONLN));
	line("processors", text);
}

static void show_processor(void)
{
	u32 brand[13] = {0};

	for (u32 i = 0; i < 3; i++)
		__get_cpuid(0x80000002 + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2], &brand[4 * i + 3]);

	const char *name = (const char *)brand;

	line("processor", name + strspn(name, " "));
}

enum { EAX, EBX, ECX, EDX };

/* What decides about the kernel's KVM and about the speed of ours. */
static void show_features(void)
{
	static const struct {
		const char *name;
		u32 leaf, subleaf;
		u8 reg, bit;
	} feature[] = {
		{"vmx", 1, 0, ECX, 5},          {"svm", 0x80000001, 0, ECX, 2}, {"sse4.2", 1, 0, ECX, 20},
		{"xsave", 1, 0, ECX, 26},       {"avx", 1, 0, ECX, 28},         {"fma", 1, 0, ECX, 12},
		{"aes", 1, 0, ECX, 25},         {"avx2", 7, 0, EBX, 5},         {"bmi1", 7, 0, EBX, 3},
		{"bmi2", 7, 0, EBX, 8},         {"sha", 7, 0, EBX, 29},         {"adx", 7, 0, EBX, 19},
		{"avx512f", 7, 0, EBX, 16},     {"fsgsbase", 7, 0, EBX, 0},     {"pku", 7, 0, ECX, 3},
		{"hypervisor", 1, 0, ECX, 31},
	};
	char has[256] = "", lacks[256] = "";

	for (size_t i = 0; i < ARRAY_SIZE(feature); i++) {
		u32 r[4] = {0};
		char *list = __get_cpuid_count(feature[i].leaf, feature[i].subleaf, &r[0], &r[1], &r[2], &r[3]) &&
					     (r[feature[i].reg] & BIT(feature[i].bit))
				     ? has
				     : lacks;
		size_t n = strlen(list);

		snprintf(list + n, sizeof(has) - n, "%s%s", n ? " " : "", feature[i].name);
	}
	line("  has", has);
	line("  has not", *lacks ? lacks : "nothing of note");
}

/* The first line of a small file in /proc, or NULL. */
static const char *first_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "r");
	const char *got = f ? fgets(buf, (int)size, f) : NULL;

	if (f)
		fclose(f);
	if (got)
		buf[strcspn(buf, "\n")] = 0;
	return got;
}

static void show_memory(void)
{
	static const char *const wanted[] = {"MemTotal:", "MemAvailable:"};
	char buf[160], text[64];
	FILE *f = fopen("/proc/meminfo", "r");

	while (f && fgets(buf, sizeof(buf), f))
		for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
			unsigned long long kib;

			if (strncmp(buf, wanted[i], strlen(wanted[i])) ||
			    sscanf(buf + strlen(wanted[i]), "%llu", &kib) != 1)
				continue;
			snprintf(text, sizeof(text), "%llu MiB", kib >> 10);
			line(i ? "memory available" : "memory", text);
		}
	if (f)
		fclose(f);
}

static void show_limits(void)
{
	static const struct {
		const char *name;
		int resource;
		unsigned shift;
		const char *unit;
	} limit[] = {
		{"address space", RLIMIT_AS, 20, " MiB"},
		{"locked memory", RLIMIT_MEMLOCK, 10, " KiB"},
		{"open files", RLIMIT_NOFILE, 0, ""},
		{"processes", RLIMIT_NPROC, 0, ""},
	};
	char buf[64], text[64];

	for (size_t i = 0; i < ARRAY_SIZE(limit); i++) {
		struct rlimit r;

		if (getrlimit((__rlimit_resource_t)limit[i].resource, &r) < 0)
			continue;
		if (r.rlim_cur == RLIM_INFINITY)
			snprintf(text, sizeof(text), "unlimited");
		else
			snprintf(text, sizeof(text), "%llu%s", (unsigned long long)r.rlim_cur >> limit[i].shift,
				 limit[i].unit);
		line(limit[i].name, text);
	}
	line("max_map_count", first_line("/proc/sys/vm/max_map_count", buf, sizeof(buf)) ? buf : "unknown");
	line("overcommit_memory", first_line("/proc/sys/vm/overcommit_memory", buf, sizeof(buf)) ? buf : "unknown");
}

static void show_kvm(void)
{
	struct accel_check check;
	char text[64];

	accel_check_kvm(&check);
	printf("%-22s %s: %s\n", KVM_DEVICE_PATH, check.usable ? "usable" : "not usable", check.why);
	if (check.elapsed_ns) {
		snprintf(text, sizeof(text), "%llu ms", (unsigned long long)check.elapsed_ns / 1000000);
		line("  tested in", text);
	}
	line("anykvm's own KVM", "usable: engines jit, interp");
	line("--accel auto uses", check.usable ? KVM_DEVICE_PATH : "anykvm's own KVM, in user space");
}

int cli_doctor(int argc, char **argv)
{
	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		puts("Usage: anykvm doctor\n\n"
		     "Tells what this machine offers: a usable /dev/kvm or why there is none, the\n"
		     "processor's features, limits, and what anykvm run --accel auto would use.");
		return STATUS_OK;
	}
	if (argc > 1)
		return cli_usage_error("doctor", "'%s' is one argument too many", argv[1]);
	show_host();
	show_processor();
	show_features();
	show_memory();
	show_limits();
	show_kvm();
	return STATUS_OK;
}
