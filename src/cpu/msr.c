/*
 * Model-specific registers: RDMSR, WRMSR and KVM_GET/SET_MSRS over the table in msr.def (SDM vol. 4; APM vol. 2,
 * appendix A).
 */
#include "cpu/msr.h"

#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/mmu.h"
#include "cpu/seg.h"

#define M_LIST BIT(0)	 /* in KVM_GET_MSR_INDEX_LIST */
#define M_FEATURE BIT(1) /* in KVM_GET_MSR_FEATURE_INDEX_LIST */
#define M_RO BIT(2)	 /* WRMSR: #GP */
#define M_WO BIT(3)	 /* RDMSR: #GP */
#define M_IGNORE BIT(4)	 /* what WRMSR writes goes nowhere */
#define M_OUTSIDE BIT(5) /* the owner's */
#define M_SEG BIT(6)	 /* part of a segment register, whose reset is not ours */
#define M_INTEL BIT(7)	 /* listed on such a host only */
#define M_AMD BIT(8)

#define ALL (~0ull)
#define NR_VAR_MTRR 8
#define NR_MC_BANK 32
#define HWCR_IGNORED (BIT64(3) | BIT64(6) | BIT64(8)) /* TLBCACHEDIS, FFDIS, IGNNE_EM: hints that firmware sets */
#define HWCR_MC_STATUS_WR BIT64(18)
#define HWCR_BITS (HWCR_IGNORED | HWCR_MC_STATUS_WR | BIT64(24) /* TscFreqSel */)

/*
 * RDCL_NO IBRS_ALL SKIP_L1DFLUSH SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO PBRSB_NO
 * GDS_NO RFDS_NO ITS_NO. See the word on speculation in cpuid.c.
 */
#define ARCH_CAPABILITIES                                                                                              \
	(BIT64(0) | BIT64(1) | BIT64(3) | BIT64(4) | BIT64(5) | BIT64(6) | BIT64(8) | BIT64(13) | BIT64(14) |          \
	 BIT64(15) | BIT64(20) | BIT64(24) | BIT64(26) | BIT64(27) | BIT64(62))

struct msr_row {
	u32 index;
	u16 count;
	u16 slot;    /* of the first one in cpu->msr[] */
	u16 offset;  /* of the field in struct cpu, or NO_FIELD */
	u16 flags;
	u64 reset, guest, host;
	bool (*gate)(const struct cpu *c, u32 n);
	bool (*check)(struct cpu *c, u32 n, u64 v, bool host);
	u64 (*read)(struct cpu *c);
	bool (*write)(struct cpu *c, const struct msr_row *r, u64 v, bool host);
};
#define NO_FIELD 0xffff

/* Places in cpu->msr[]. A register that lives elsewhere takes none. */
#define SLOT 1
#define F(field) 0
enum {
#define MSR(name, index, count, where, reset, guest, host, gate, flags, ...)                                           \
	SLOT_##name,                                                                                                   \
	SLOT_END_##name = SLOT_##name + (where && !((flags)&M_OUTSIDE) ? (count) : 0) - 1,
#include "cpu/msr.def"
#undef MSR
	NR_SLOT
};
#undef SLOT
#undef F

static u64 *slot(const struct cpu *c, unsigned n)
{
	return &c->msr[n];
}

/* --- Gates: what CPUID must show (@n counts from the row's first register) ---------------------------- */

static bool gate_intel(const struct cpu *c, u32 n)
{
	return !cpuid_amd(c);
}

static bool gate_tsc_adjust(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 7, 0, 1, 1);
}

static bool gate_spec_ctrl(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 7, 0, 3, 26) || cpuid_has(c, 7, 0, 3, 27) || cpuid_has(c, 7, 0, 3, 31) ||
	       cpuid_has(c, 0x80000008, 0, 1, 14) || cpuid_has(c, 0x80000008, 0, 1, 15) ||
	       cpuid_has(c, 0x80000008, 0, 1, 24);
}

static bool gate_pred_cmd(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 7, 0, 3, 26) || cpuid_has(c, 0x80000008, 0, 1, 12);
}

static bool gate_waitpkg(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 7, 0, 2, 5);
}

static bool gate_arch_cap(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 7, 0, 3, 29);
}

static bool gate_tsx_ctrl(const struct cpu *c, u32 n)
{
	return gate_arch_cap(c, 0) && (*slot(c, SLOT_ARCH_CAPABILITIES) & BIT64(7));
}

static bool gate_mcg_ctl(const struct cpu *c, u32 n)
{
	return *slot(c, SLOT_MCG_CAP) & BIT64(8);
}

static bool gate_mc(const struct cpu *c, u32 n)
{
	return n / 4 < (*slot(c, SLOT_MCG_CAP) & 0xff);
}

static bool gate_mc_ctl2(const struct cpu *c, u32 n)
{
	return (*slot(c, SLOT_MCG_CAP) & BIT64(10)) && n < (*slot(c, SLOT_MCG_CAP) & 0xff);
}

static bool gate_xsaves(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 0xd, 1, 0, 3);
}

static bool gate_tsc_aux(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 0x80000001, 0, 3, 27) || cpuid_has(c, 7, 0, 2, 22);
}

static bool gate_virt_ssbd(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 0x80000008, 0, 1, 25);
}

static bool gate_osvw(const struct cpu *c, u32 n)
{
	return cpuid_has(c, 0x80000001, 0, 2, 9);
}

/* --- Checks of values --------------------------------------------------------------------------------- */

static u64 canonical(const struct cpu *c, u64 v)
{
	unsigned shift = 64 - (c->maxlinear ? c->maxlinear : 48);

	return (u64)((s64)(v << shift) >> shift);
}

static bool check_canonical(struct cpu *c, u32 n, u64 v, bool host)
{
	return canonical(c, v) == v;
}

/* Once locked, it stays so until RESET#. */
static bool check_feat_ctl(struct cpu *c, u32 n, u64 v, bool host)
{
	return host || !(*slot(c, SLOT_FEAT_CTL) & 1);
}

static bool check_cpuid_fault(struct cpu *c, u32 n, u64 v, bool host)
{
	return host || !(v & 1) || (*slot(c, SLOT_PLATFORM_INFO) & BIT64(31));
}

static bool check_all_or_none(struct cpu *c, u32 n, u64 v, bool host)
{
	return v == 0 || v == ALL;
}

/* Memory types (SDM vol. 3A, table 12-2): UC, WC, WT, WP, WB. */
static bool mtrr_type(u64 t)
{
	return t < 7 && (0x73 >> t & 1);
}

static bool check_mtrr_fix(struct cpu *c, u32 n, u64 v, bool host)
{
	for (unsigned i = 0; i < 64; i += 8)
		if (!mtrr_type(v >> i & 0xff))
			return false;
	return true;
}

static bool check_mtrr_def(struct cpu *c, u32 n, u64 v, bool host)
{
	return mtrr_type(v & 0xff);
}

static bool check_mtrr_var(struct cpu *c, u32 n, u64 v, bool host)
{
	u64 address = (BIT64(c->maxphyaddr ? c->maxphyaddr : 52) - 1) & PAGE_MASK;

	if (n & 1) /* the mask and its valid bit */
		return !(v & ~(address | BIT64(11)));
	return !(v & ~(address | 0xff)) && mtrr_type(v & 0xff);
}

static bool check_pat(struct cpu *c, u32 n, u64 v, bool host)
{
	for (unsigned i = 0; i < 64; i += 8)
		if ((v >> i & 0xff) > 7 || !(0xf3 >> (v >> i & 7) & 1))
			return false;
	return true;
}

/*
 * IA32_MCi_CTL takes all ones or zero (a bit that old systems clear by habit is let through), IA32_MCi_STATUS only zero
 * unless HWCR.McStatusWrEn lets software make up errors.
 */
static bool check_mc(struct cpu *c, u32 n, u64 v, bool host)
{
	if (host || n % 4 >= 2)
		return true;
	if (n % 4 == 0)
		return v == 0 || (v | BIT64(10) | 1) == ALL;
	return v == 0 || (*slot(c, SLOT_HWCR) & HWCR_MC_STATUS_WR);
}

/* --- Registers that are more than a value --------------------------------------------------------------- */

static u64 read_tsc(struct cpu *c)
{
	return cpu_rdtsc(c);
}

/* The guest's write shows in IA32_TSC_ADJUST (SDM vol. 3B, 18.17.3), the client's does not. */
static bool write_tsc(struct cpu *c, const struct msr_row *r, u64 v, bool host)
{
	u64 delta = v - cpu_rdtsc(c);

	c->tsc_offset += delta;
	if (!host)
		*slot(c, SLOT_TSC_ADJUST) += delta;
	return true;
}

static bool write_tsc_adjust(struct cpu *c, const struct msr_row *r, u64 v, bool host)
{
	if (!host)
		c->tsc_offset += v - *slot(c, SLOT_TSC_ADJUST);
	*slot(c, SLOT_TSC_ADJUST) = v;
	return true;
}

static bool write_none(struct cpu *c, const struct msr_row *r, u64 v, bool host)
{
	return true;
}

/* AMD's SYSENTER registers hold 32 bits, Intel's fault: made canonical they are good for both. */
static bool write_canonical(struct cpu *c, const struct msr_row *r, u64 v, bool host)
{
	v = canonical(c, v);
	memcpy((char *)c + r->offset, &v, sizeof(v));
	return true;
}

static bool write_hwcr(struct cpu *c, const struct msr_row *r, u64 v, bool host)
{
	*slot(c, SLOT_HWCR) = v & ~HWCR_IGNORED;
	return true;
}

/* The client may set any bit there is, in any order with CR0 and CPUID; LMA is not for it to change. */
static bool write_efer(struct cpu *c, const struct msr_row *r, u64 v, bool host)
{
	const u64 known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX | EFER_FFXSR | EFER_AUTOIBRS;

	if (!host)
		return efer_write(c, v);
	if (v & ~known)
		return false;
	v = (v & ~EFER_LMA) | (c->efer & EFER_LMA);
	if ((v ^ c->efer) & EFER_NX)
		tlb_flush_all(c);
	c->efer = v;
	cpu_update_mode(c);
	return true;
}

/* --- The table --------------------------------------------------------------------------------------- */

#define SLOT NO_FIELD
#define F(field) offsetof(struct cpu, field)
static const struct msr_row rows[] = {
#define MSR(name_, index_, count_, where_, reset_, guest_, host_, gate_, flags_, check_, read_, write_)                \
	{.index = index_, .count = count_, .slot = SLOT_##name_, .offset = where_, .flags = flags_, .reset = reset_,   \
	 .guest = guest_, .host = host_, .gate = gate_, .check = check_, .read = read_, .write = write_},
#include "cpu/msr.def"
#undef MSR
};

static const struct msr_row *find(u32 index)
{
	unsigned lo = 0, hi = ARRAY_SIZE(rows);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		if (index < rows[mid].index)
			hi = mid;
		else if (index - rows[mid].index >= rows[mid].count)
			lo = mid + 1;
		else
			return &rows[mid];
	}
	return NULL;
}

static u64 *place(struct cpu *c, const struct msr_row *r, u32 n)
{
	return r->offset != NO_FIELD ? (u64 *)((char *)c + r->offset) : slot(c, r->slot + n);
}

static u64 value_of(struct cpu *c, const struct msr_row *r, u32 n)
{
	return r->read ? r->read(c) : *place(c, r, n);
}

enum msr_result msr_read(struct cpu *c, u32 index, u64 *value, bool host)
{
	const struct msr_row *r = find(index);

	if (!r)
		return MSR_UNKNOWN;
	if (r->flags & M_OUTSIDE)
		return MSR_OUTSIDE;
	u32 n = index - r->index;
	if (!host && ((r->flags & M_WO) || (r->gate && !r->gate(c, n))))
		return MSR_UNKNOWN;
	*value = value_of(c, r, n);
	return MSR_OK;
}

enum msr_result msr_write(struct cpu *c, u32 index, u64 value, bool host)
{
	const struct msr_row *r = find(index);

	if (!r)
		return MSR_UNKNOWN;
	if (r->flags & M_OUTSIDE)
		return MSR_OUTSIDE;
	u32 n = index - r->index;
	if (!host) {
		if (r->gate && !r->gate(c, n))
			return MSR_UNKNOWN;
		if (r->flags & M_RO)
			return MSR_INVALID;
		if (r->flags & M_IGNORE)
			return MSR_OK;
	}
	u64 change = host ? r->host : r->guest;
	if (change != ALL && (value ^ value_of(c, r, n)) & ~change)
		return (r->flags & M_IGNORE) ? MSR_OK : MSR_INVALID;
	if (r->check && !r->check(c, n, value, host))
		return MSR_INVALID;
	if (r->write)
		return r->write(c, r, value, host) ? MSR_OK : MSR_INVALID;
	*place(c, r, n) = value;
	return MSR_OK;
}

bool cpuid_faulting(const struct cpu *c)
{
	return (*slot(c, SLOT_MISC_FEATURES_ENABLES) & 1) && c->cpl;
}

/* --- Lists and reset ----------------------------------------------------------------------------------- */

unsigned msr_list(u32 *index, unsigned max, bool feature)
{
	u16 foreign = cpuid_host_amd() ? M_INTEL : M_AMD;
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct msr_row *r = &rows[i];
		if (!(r->flags & (feature ? M_FEATURE : M_LIST)) || (r->flags & foreign))
			continue;
		for (unsigned k = 0; k < r->count; k++, n++)
			if (n < max)
				index[n] = r->index + k;
	}
	return n;
}

static u64 reset_value(const struct msr_row *r)
{
	/* A microcode revision no smaller than those that operating systems ask for by name. */
	if (r->index == 0x8b)
		return cpuid_host_amd() ? 0x01000065 : 0x100000000;
	return r->reset;
}

enum msr_result msr_feature(u32 index, u64 *value)
{
	const struct msr_row *r = find(index);
	u16 foreign = cpuid_host_amd() ? M_INTEL : M_AMD;

	if (!r || !(r->flags & M_FEATURE) || (r->flags & foreign))
		return MSR_UNKNOWN;
	*value = reset_value(r);
	return MSR_OK;
}

/* INIT leaves them alone (SDM vol. 3A, table 10-1). The TSC goes on; the segment bases are the segments' business. */
void msr_reset(struct cpu *c, bool init)
{
	if (init)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct msr_row *r = &rows[i];
		if ((r->flags & (M_OUTSIDE | M_SEG)) || r->read)
			continue;
		for (u32 n = 0; n < r->count; n++)
			*place(c, r, n) = reset_value(r);
	}
	for (unsigned b = 0; b < NR_MC_BANK; b++)
		*slot(c, SLOT_MC_BANK + 4 * b) = ALL;
}

unsigned msr_count(void)
{
	return NR_SLOT;
}
