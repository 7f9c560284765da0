#include "monitor/cpuid.h"

#include <errno.h>
#include <stdlib.h>

#include "base/types.h"

struct kvm_cpuid2 *vcpu_cpuid_offered(const struct kvm_if *kvm, int kvm_fd)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_MAX_ENTRIES * sizeof(cpuid->entries[0]));

	if (!cpuid)
		return NULL;
	cpuid->nent = CPUID_MAX_ENTRIES;
	long rc = kvm->ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
	if (rc < 0) {
		free(cpuid);
		errno = (int)-rc;
		return NULL;
	}
	cpuid->nent = MIN(cpuid->nent, CPUID_MAX_ENTRIES);
	return cpuid;
}

/* Bits needed to number @n things. */
static unsigned bits_for(unsigned n)
{
	unsigned bits = 0;

	while (1u << bits < n)
		bits++;
	return bits;
}

static u32 with_field(u32 reg, unsigned low, unsigned width, u32 value)
{
	u32 mask = (width == 32 ? ~0u : BIT(width) - 1) << low;

	return (reg & ~mask) | (value << low & mask);
}

static void with_bit(u32 *reg, unsigned bit, bool on)
{
	*reg = with_field(*reg, bit, 1, on);
}

/* Leaves 4 and 0x8000001d share a format: the last level is shared by the package, the others by nobody. */
static void set_cache(struct kvm_cpuid_entry2 *e, unsigned nr, bool intel)
{
	unsigned level = e->eax >> 5 & 7;

	if (!(e->eax & 31))
		return; /* no more caches */
	/* Intel counts ids rounded up to a power of two, AMD sharers. */
	e->eax = with_field(e->eax, 14, 12, level >= 3 ? (intel ? BIT(bits_for(nr)) : nr) - 1 : 0);
	if (intel)
		e->eax = with_field(e->eax, 26, 6, MIN(BIT(bits_for(nr)), 64u) - 1);
}

static void set_entry(struct kvm_cpuid_entry2 *e, unsigned id, unsigned nr, bool amd, int tsc_deadline)
{
	switch (e->function) {
	case 1:
		e->ebx = with_field(e->ebx, 24, 8, id);
		e->ebx = with_field(e->ebx, 16, 8, nr);
		with_bit(&e->edx, 28, nr > 1); /* HTT: EBX[23:16] counts */
		with_bit(&e->ecx, 31, true);   /* a hypervisor is there */
		with_bit(&e->ecx, 24, tsc_deadline);
		break;
	case 4: set_cache(e, nr, true); break;
	case 0x80000001:
		if (amd)
			with_bit(&e->ecx, 1, nr > 1); /* CmpLegacy */
		break;
	case 0x80000008:
		if (amd) /* ApicIdSize and the number of cores less one */
			e->ecx = with_field(with_field(e->ecx, 0, 8, nr - 1), 12, 4, bits_for(nr));
		break;
	case 0x8000001d: set_cache(e, nr, false); break;
	case 0x8000001e:
		e->eax = id;
		e->ebx = with_field(e->ebx & 0xffff0000u, 0, 8, id); /* core id; one thread a core */
		e->ecx = 0;                                          /* node 0 of one */
		break;
	}
}

static void drop_leaf(struct kvm_cpuid2 *cpuid, u32 function)
{
	u32 kept = 0;

	for (u32 i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function != function)
			cpuid->entries[kept++] = cpuid->entries[i];
	cpuid->nent = kept;
}

static struct kvm_cpuid_entry2 *find_leaf(struct kvm_cpuid2 *cpuid, u32 function)
{
	for (u32 i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == function)
			return &cpuid->entries[i];
	return NULL;
}

/* The extended topology leaves, 0xb and 0x1f: a level of threads, a level of cores, the end. */
static void set_extended_topology(struct kvm_cpuid2 *cpuid, u32 function, unsigned id, unsigned nr)
{
	const struct {
		u32 shift, count, type;
	} level[] = {{0, 1, 1}, {bits_for(nr), nr, 2}, {0, 0, 0}};

	drop_leaf(cpuid, function);
	for (u32 i = 0; i < ARRAY_SIZE(level) && cpuid->nent < CPUID_MAX_ENTRIES; i++)
		cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
			.function = function,
			.index = i,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = level[i].shift,
			.ebx = level[i].count,
			.ecx = level[i].type << 8 | i,
			.edx = id,
		};
}

void vcpu_cpuid_set_topology(struct kvm_cpuid2 *cpuid, unsigned id, unsigned nr, int tsc_deadline)
{
	const struct kvm_cpuid_entry2 *base = find_leaf(cpuid, 0);
	u32 max = base ? base->eax : 0;
	/* The last letters of AuthenticAMD and HygonGenuine. */
	bool amd = base && (base->ecx == 0x444d4163 || base->ecx == 0x656e6975);

	for (u32 i = 0; i < cpuid->nent; i++)
		set_entry(&cpuid->entries[i], id, nr, amd, tsc_deadline);
	if (max >= 0xb)
		set_extended_topology(cpuid, 0xb, id, nr);
	if (max >= 0x1f)
		set_extended_topology(cpuid, 0x1f, id, nr);
}
