/*
 * CPUID: what is offered, what the guest reads, and what it gates.
 *
 * The offer is the host's processor, filtered by the table below: a feature is there when the host has it and the
 * engines run it as it is, or when it is emulated whatever the host has.
 */
#include "cpu/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/fpu.h"
#include "cpu/insn.h"

enum reg { EAX, EBX, ECX, EDX };

#define B(n) BIT(n)

#define LEAF1_EDX_AMD_COPY 0x0183f3ffu /* leaf 1 EDX bits that AMD repeats in 0x80000001 EDX */

/*
 * Speculation. The guest's user and kernel code run in one host process at one host privilege level, and an indirect
 * branch of the guest is an access to a table or a branch of the engine, not one that the guest's own barriers
 * (retpolines, IBPB, RSB stuffing, page-table isolation) would act on. Those cost the guest time and give it nothing
 * here, so the bits that make an operating system leave them out are set. That is a statement about the mitigations,
 * not about the silicon: a guest kernel that must be protected from its own user mode against speculative side
 * channels does not get that protection from this processor.
 */
static const struct offer {
	u32 function, index;
	u8 reg;
	u8 vendor; /* 0 any, else VENDOR_* */
	u32 host;  /* offered when the host has it; instructions (isa.def) are added to this */
	u32 emulated;
} offers[] = {
#define VENDOR_AMD 1
#define VENDOR_INTEL 2
	/* PCID, x2APIC, TSC deadline, hypervisor; VMX, SMX, EST, TM2, CNXT, PDCM, DCA: no */
	{1, 0, ECX, 0, 0, B(17) | B(21) | B(24) | B(31)},
	/* DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA PAT PSE36; VME, DS, ACPI, TM, PBE: no. SS is the host's. */
	{1, 0, EDX, 0, B(27),
	 B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | B(11) | B(12) | B(13) | B(14) | B(16) | B(17)},
	{6, 0, EAX, 0, 0, B(2)}, /* ARAT: the LAPIC timer never stops */
	/* FSGSBASE, TSC_ADJUST, SMEP, ERMS (REP MOVSB goes a page at a time), INVPCID, SMAP; FDP_EXCPTN_ONLY and
	 * ZERO_FCS_FDS describe the host's x87, which runs the guest's */
	{7, 0, EBX, 0, B(6) | B(13), B(0) | B(1) | B(7) | B(9) | B(10) | B(20)},
	{7, 0, ECX, 0, 0, B(2) | B(16) | B(22)},			/* UMIP, LA57, RDPID */
	{7, 0, EDX, 0, 0, B(4)},					/* FSRM */
	{7, 0, EDX, VENDOR_INTEL, 0, B(26) | B(27) | B(29)},		/* SPEC_CTRL, STIBP, ARCH_CAPABILITIES */
	{7, 1, EAX, 0, 0, B(10) | B(11) | B(12)}, /* fast REP MOVSB/STOSB/SCASB of short lengths */
	{0x80000001, 0, ECX, 0, 0, B(0)},				/* LAHF */
	{0x80000001, 0, ECX, VENDOR_AMD, B(22), 0}, /* TOPOEXT; SVM, OSVW, IBS, XOP, LWP, FMA4, TBM: no */
	{0x80000001, 0, EDX, 0, 0, B(11) | B(20) | B(26) | B(27) | B(29)}, /* SYSCALL, NX, 1G pages, RDTSCP, LM */
	{0x80000001, 0, EDX, VENDOR_AMD, B(22), 0},			/* MMXEXT */
	{0x80000007, 0, EDX, 0, B(8), 0}, /* invariant TSC: the guest's is the host's plus an offset */
	/* x87 error pointers always saved, SSB_NO, BTC_NO; IBPB, IBRS, STIBP, SSBD would be registers without effect */
	{0x80000008, 0, EBX, VENDOR_AMD, 0, B(2) | B(26) | B(29)},
	/* no nested data breakpoints, LFENCE serialises, null selector clears base, AutoIBRS, no SMM_CTL, fast short
	 * REP STOSB, SRSO_NO */
	{0x80000021, 0, EAX, VENDOR_AMD, 0, B(0) | B(2) | B(6) | B(8) | B(9) | B(10) | B(29)},
	{0x80000021, 0, ECX, VENDOR_AMD, 0, B(1) | B(2)},		/* TSA_SQ_NO, TSA_L1_NO */
	/* clocksource, no I/O delay, clocksource2, steal time, PV EOI, PV unhalt, send IPI, poll control, sched yield,
	 * MSI extended destination, clocksource stable */
	{0x40000001, 0, EAX, 0, 0,
	 B(0) | B(1) | B(3) | B(5) | B(6) | B(7) | B(11) | B(12) | B(13) | B(15) | B(24)},
};

/* Instructions whose state XCR0 must be able to hold: their CPUID bits go when the component is not supported. */
static const struct needs_state {
	u32 function, index;
	u8 reg;
	u64 xcr0;
	u32 bits;
} needs_state[] = {
	{1, 0, ECX, 0x3, B(26)},				/* XSAVE */
	{1, 0, ECX, 0x7, B(12) | B(28) | B(29)},		/* FMA, AVX, F16C */
	{7, 0, EBX, 0x7, B(5)},					/* AVX2 */
	{7, 0, ECX, 0x7, B(9) | B(10)},				/* VAES, VPCLMULQDQ */
	{7, 0, EBX, 0xe7, B(16) | B(17) | B(21) | B(28) | B(30) | B(31)},
	{7, 0, ECX, 0xe7, B(1) | B(6) | B(11) | B(12) | B(14)},
	{7, 0, EDX, 0xe7, B(8)},				/* VP2INTERSECT */
	{7, 1, EAX, 0xe7, B(5)},				/* BF16 */
	{7, 0, ECX, 0x200, B(3)},				/* PKU: XSAVE has a place for PKRU */
};

/* How a leaf outside the feature words is made. */
enum how { HOW_FEATURES, HOW_HOST, HOW_ZERO };

static const struct leaf {
	u32 function;
	u8 vendor;
	u8 how;
	u8 subleaves; /* 0: the index means nothing */
} leaves[] = {
	{0x1, 0, HOW_FEATURES, 0},
	{0x2, VENDOR_INTEL, HOW_HOST, 0},
	{0x4, VENDOR_INTEL, HOW_HOST, 8}, /* caches; ends at type 0 */
	{0x6, 0, HOW_FEATURES, 0},
	{0x7, 0, HOW_FEATURES, 2},
	{0xb, 0, HOW_ZERO, 1}, /* topology is the client's to say */
	{0x80000001, 0, HOW_FEATURES, 0},
	{0x80000002, 0, HOW_HOST, 0},
	{0x80000003, 0, HOW_HOST, 0},
	{0x80000004, 0, HOW_HOST, 0},
	{0x80000005, VENDOR_AMD, HOW_HOST, 0},
	{0x80000006, 0, HOW_HOST, 0},
	{0x80000007, 0, HOW_FEATURES, 0},
	{0x80000008, 0, HOW_FEATURES, 0},
	{0x80000019, VENDOR_AMD, HOW_HOST, 0},
	{0x8000001a, VENDOR_AMD, HOW_HOST, 0},
	{0x8000001d, VENDOR_AMD, HOW_HOST, 8},
	{0x8000001e, VENDOR_AMD, HOW_ZERO, 0},
	{0x80000021, VENDOR_AMD, HOW_FEATURES, 0},
};

#define MAX_BASIC 0xdu
#define MAX_EXTENDED_INTEL 0x80000008u
#define MAX_EXTENDED_AMD 0x80000021u

static const struct isa_bit {
	u32 function, index;
	u8 reg, bit;
} isa_bits[NR_ISA] = {
#define ISA(name, leaf, subleaf, reg, bit) [ISA_##name] = {leaf, subleaf, reg, bit},
#include "cpu/isa.def"
#undef ISA
};

/* --- The host ------------------------------------------------------------------------------------- */

static void host_cpuid(u32 function, u32 index, u32 r[4])
{
	u32 max = __get_cpuid_max(function & 0x80000000, NULL);

	memset(r, 0, 4 * sizeof(*r));
	if (function <= max)
		__cpuid_count(function, index, r[EAX], r[EBX], r[ECX], r[EDX]);
}

static bool vendor_is(const u32 r[4], const char id[12])
{
	return !memcmp(&r[EBX], id, 4) && !memcmp(&r[EDX], id + 4, 4) && !memcmp(&r[ECX], id + 8, 4);
}

static bool vendor_amd(const u32 r[4])
{
	return vendor_is(r, "AuthenticAMD") || vendor_is(r, "HygonGenuine");
}

bool cpuid_host_amd(void)
{
	u32 r[4];

	host_cpuid(0, 0, r);
	return vendor_amd(r);
}

/* --- The offer ------------------------------------------------------------------------------------ */

struct builder {
	struct cpuid_entry *e;
	unsigned n, max;
	u8 vendor;
};

static void add(struct builder *b, u32 function, u32 index, bool indexed, const u32 r[4])
{
	if (b->n < b->max)
		b->e[b->n] = (struct cpuid_entry){
			.function = function,
			.index = index,
			.flags = indexed ? CPUID_SIGNIFICANT_INDEX : 0,
			.eax = r[EAX],
			.ebx = r[EBX],
			.ecx = r[ECX],
			.edx = r[EDX],
		};
	b->n++;
}

/* The feature bits of one leaf. */
static void features(u8 vendor, u32 function, u32 index, u32 r[4])
{
	u32 host[4], mask[4] = {0};

	host_cpuid(function, index, host);
	memset(r, 0, 4 * sizeof(*r));
	for (unsigned i = 0; i < NR_ISA; i++) {
		const struct isa_bit *f = &isa_bits[i];
		if (i != ISA_BASE && i != ISA_MONITOR && f->function == function && f->index == index)
			mask[f->reg] |= B(f->bit);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(offers); i++) {
		const struct offer *o = &offers[i];
		if (o->function != function || o->index != index || (o->vendor && o->vendor != vendor))
			continue;
		mask[o->reg] |= o->host;
		r[o->reg] |= o->emulated;
	}
	for (unsigned i = 0; i < 4; i++)
		r[i] |= host[i] & mask[i];
	for (unsigned i = 0; i < ARRAY_SIZE(needs_state); i++) {
		const struct needs_state *s = &needs_state[i];
		if (s->function != function || s->index != index)
			continue;
		if ((xsave_supported() & s->xcr0) != s->xcr0)
			r[s->reg] &= ~s->bits;
		else if (s->xcr0 == 0x200) /* the MMU checks keys by itself */
			r[s->reg] |= s->bits;
	}
}

static unsigned max_phys_bits(void)
{
	u32 r[4];

	host_cpuid(0x80000008, 0, r);
	unsigned bits = r[EAX] & 0xff;
	return bits < 36 ? 36 : MIN(bits, 52u);
}

/* What a leaf holds beside feature bits. */
static void features_extra(u8 vendor, u32 function, u32 index, u32 r[4])
{
	u32 host[4];

	host_cpuid(function, index, host);
	switch (function) {
	case 1:
		r[EAX] = host[EAX];		/* family, model, stepping */
		r[EBX] = host[EBX] & 0xff00;	/* CLFLUSH size; the APIC id is the client's to say */
		break;
	case 7:
		if (index == 0)
			r[EAX] = 1;
		break;
	case 0x80000001:
		if (vendor == VENDOR_AMD) {
			u32 leaf1[4];
			features(vendor, 1, 0, leaf1);
			r[EAX] = host[EAX];
			r[EBX] = host[EBX] & 0xf0000000; /* package type */
			r[EDX] |= leaf1[EDX] & LEAF1_EDX_AMD_COPY;
		}
		break;
	case 0x80000008:
		r[EAX] = max_phys_bits() | 57 << 8;
		break;
	}
}

/* Leaf 0xD: what XSAVE keeps and where (SDM vol. 1, 13.2). Sizes of 0xD.0/1 EBX are for XCR0 as it is at reset. */
static void xsave_leaves(struct builder *b)
{
	u64 xcr0 = xsave_supported();
	u32 r[4] = {0};

	if (!xcr0)
		return;
	r[EAX] = (u32)xcr0;
	r[EBX] = r[ECX] = xsave_size(xcr0, false);
	r[EDX] = xcr0 >> 32;
	add(b, 0xd, 0, true, r);
	features(b->vendor, 0xd, 1, r);
	if (r[EAX] & (B(1) | B(3)))
		r[EBX] = xsave_size(xcr0, true);
	add(b, 0xd, 1, true, r);
	for (unsigned n = 2; n < 63; n++) {
		if (!(xcr0 >> n & 1))
			continue;
		unsigned offset, size;
		u32 host[4];
		xsave_component(n, &offset, &size);
		host_cpuid(0xd, n, host);
		r[EAX] = size;
		r[EBX] = offset;
		r[ECX] = host[ECX] & B(1); /* aligned to 64 bytes in the compacted form */
		r[EDX] = 0;
		add(b, 0xd, n, true, r);
	}
}

static void add_leaf(struct builder *b, const struct leaf *l)
{
	u32 r[4] = {0};

	for (unsigned i = 0; i < MAX(l->subleaves, 1); i++) {
		switch (l->how) {
		case HOW_FEATURES:
			features(b->vendor, l->function, i, r);
			features_extra(b->vendor, l->function, i, r);
			break;
		case HOW_HOST:
			host_cpuid(l->function, i, r);
			break;
		}
		add(b, l->function, i, l->subleaves != 0, r);
		if (l->how == HOW_HOST && l->subleaves && !(r[EAX] & 0x1f))
			break;
	}
}

unsigned cpuid_supported(struct cpuid_entry *e, unsigned max)
{
	struct builder b = {.e = e, .max = max};
	static const u32 kvm[4] = {0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d}; /* KVMKVMKVM\0\0\0 */
	u32 id[4], r[4];

	host_cpuid(0, 0, id);
	b.vendor = vendor_amd(id) ? VENDOR_AMD : VENDOR_INTEL;
	id[EAX] = MAX_BASIC;
	add(&b, 0, 0, false, id);
	bool extended = false;
	for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
		const struct leaf *l = &leaves[i];
		if (l->function >= 0x80000000 && !extended) {
			extended = true;
			xsave_leaves(&b);
			add(&b, 0x40000000, 0, false, kvm);
			features(b.vendor, 0x40000001, 0, r);
			add(&b, 0x40000001, 0, false, r);
			id[EAX] = b.vendor == VENDOR_AMD ? MAX_EXTENDED_AMD : MAX_EXTENDED_INTEL;
			if (b.vendor != VENDOR_AMD)
				id[EBX] = id[ECX] = id[EDX] = 0;
			add(&b, 0x80000000, 0, false, id);
		}
		if (!l->vendor || l->vendor == b.vendor)
			add_leaf(&b, l);
	}
	return b.n;
}

/* --- One processor's table ------------------------------------------------------------------------ */

const struct cpuid_entry *cpuid_find(const struct cpu *c, u32 function, u32 index)
{
	for (u32 i = 0; i < c->nr_cpuid; i++) {
		const struct cpuid_entry *e = &c->cpuid[i];
		if (e->function == function && (!(e->flags & CPUID_SIGNIFICANT_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

bool cpuid_amd(const struct cpu *c)
{
	const struct cpuid_entry *e = cpuid_find(c, 0, 0);

	return e && vendor_amd((const u32[4]){e->eax, e->ebx, e->ecx, e->edx});
}

bool cpuid_has(const struct cpu *c, u32 function, u32 index, unsigned reg, unsigned bit)
{
	const struct cpuid_entry *e = cpuid_find(c, function, index);

	return e && (&e->eax)[reg] >> bit & 1;
}

/*
 * A function beyond the highest of its range: Intel's processors answer as for the highest basic function
 * (SDM vol. 2A, CPUID), AMD's with zeros.
 */
static const struct cpuid_entry *out_of_range(const struct cpu *c, u32 function, u32 index)
{
	const struct cpuid_entry *basic = cpuid_find(c, 0, 0);
	const struct cpuid_entry *first;

	if (!basic || cpuid_amd(c))
		return NULL;
	if (function >= 0x40000000 && function <= 0x4fffffff)
		first = cpuid_find(c, function & 0xffffff00, 0);
	else
		first = cpuid_find(c, function & 0x80000000, 0);
	if (first && function <= first->eax)
		return NULL;
	return cpuid_find(c, basic->eax, index);
}

static u32 put_bit(u32 word, unsigned bit, bool on)
{
	return (word & ~B(bit)) | (u32)on << bit;
}

/* Bits that follow the processor's state (SDM vol. 2A, CPUID). */
static void dynamic_bits(const struct cpu *c, const struct cpuid_entry *e, u32 out[4])
{
	switch (e->function) {
	case 1:
		out[ECX] = put_bit(out[ECX], 27, c->cr4 & CR4_OSXSAVE);
		out[EDX] = put_bit(out[EDX], 9, (out[EDX] & B(9)) && (c->apic_base & BIT64(11)));
		break;
	case 7:
		if (e->index == 0)
			out[ECX] = put_bit(out[ECX], 4, c->cr4 & CR4_PKE);
		break;
	case 0xd:
		if (e->index == 0)
			out[EBX] = xsave_size(c->xcr0, false);
		else if (e->index == 1 && (out[EAX] & (B(1) | B(3))))
			out[EBX] = xsave_size(c->xcr0, true);
		break;
	}
}

void cpuid_execute(const struct cpu *c, u32 function, u32 index, u32 out[4])
{
	const struct cpuid_entry *e = cpuid_find(c, function, index);

	memset(out, 0, 4 * sizeof(*out));
	if (!e)
		e = out_of_range(c, function, index);
	if (e) {
		out[EAX] = e->eax;
		out[EBX] = e->ebx;
		out[ECX] = e->ecx;
		out[EDX] = e->edx;
		dynamic_bits(c, e, out);
	} else if (function == 0xb || function == 0x1f) {
		/* A level that is not there still tells its number and the x2APIC id. */
		e = cpuid_find(c, function, 0);
		if (e) {
			out[ECX] = index & 0xff;
			out[EDX] = e->edx;
		}
	}
}

static void derive(struct cpu *c, const struct cpuid_entry *e, unsigned n)
{
	c->maxphyaddr = 36; /* where 0x80000008 is absent (SDM vol. 3A, 4.1.4) */
	memset(c->isa, 0, sizeof(c->isa));
	c->isa[ISA_BASE / 64] |= BIT64(ISA_BASE % 64);
	for (unsigned k = 0; k < n; k++) {
		for (unsigned i = 0; i < NR_ISA; i++) {
			const struct isa_bit *f = &isa_bits[i];
			bool same = e[k].function == f->function &&
				    (!(e[k].flags & CPUID_SIGNIFICANT_INDEX) || e[k].index == f->index);
			if (i != ISA_BASE && same && (&e[k].eax)[f->reg] >> f->bit & 1)
				c->isa[i / 64] |= BIT64(i % 64);
		}
		if (e[k].function == 0x80000008 && (e[k].eax & 0xff))
			c->maxphyaddr = MIN(MAX(e[k].eax & 0xff, 32u), 52u);
	}
}

/* What a client asks for beyond the offer does not open an instruction that nobody here can run. */
static void limit_to_offer(struct cpu *c)
{
	u64 asked[ARRAY_SIZE(c->isa)];
	u8 bits = c->maxphyaddr;
	struct cpuid_entry offer[CPUID_MAX_ENTRIES];
	unsigned n = MIN(cpuid_supported(offer, CPUID_MAX_ENTRIES), CPUID_MAX_ENTRIES);

	memcpy(asked, c->isa, sizeof(asked));
	derive(c, offer, n);
	c->isa[ISA_MONITOR / 64] |= BIT64(ISA_MONITOR % 64); /* not offered, but it runs when a client shows it */
	for (unsigned i = 0; i < ARRAY_SIZE(asked); i++)
		c->isa[i] &= asked[i];
	c->maxphyaddr = bits;
}

int cpuid_set(struct cpu *c, const struct cpuid_entry *e, unsigned n)
{
	struct cpuid_entry *copy = NULL;

	if (n > CPUID_MAX_ENTRIES)
		return -EINVAL;
	if (n) {
		copy = malloc(n * sizeof(*copy));
		if (!copy)
			return -ENOMEM;
		memcpy(copy, e, n * sizeof(*copy));
	}
	free(c->cpuid);
	c->cpuid = copy;
	c->nr_cpuid = n;
	if (n) {
		derive(c, copy, n);
		limit_to_offer(c);
	} else {
		/* Nobody has said yet what the processor is: everything that can run does. */
		struct cpuid_entry offer[CPUID_MAX_ENTRIES];
		derive(c, offer, MIN(cpuid_supported(offer, CPUID_MAX_ENTRIES), CPUID_MAX_ENTRIES));
	}
	return 0;
}
