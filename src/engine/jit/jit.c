/* The translating engine: its dispatcher, what generated code calls, and its vendor table. */
#include <errno.h>
#include <immintrin.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/low.h"
#include "base/secret.h"
#include "cpu/exception.h"
#include "cpu/fpu.h"
#include "cpu/mem.h"
#include "cpu/mmu.h"
#include "cpu/seg.h"
#include "engine/guard.h"
#include "engine/jit/jit.h"
#include "engine/jit/perf_map.h"
#include "engine/loop.h"
#include "engine/thunk.h"
#include "engine/x86_ops.h"

#define COPY_ARENA_SIZE (8u << 20)
#define MXCSR_MASKS 0x1f80u
#define EPOCHS (1u << 12)

/* A short number for a value of cpu->exec_gen: that of last time, when it is back. */
static u32 epoch_number(struct jit *j, u64 gen)
{
	for (unsigned n = 0; n < ARRAY_SIZE(j->known); n++)
		if (j->known[n].gen == gen)
			return j->known[n].nr;
	u32 nr = ++j->epoch_last;
	j->known[nr % ARRAY_SIZE(j->known)] = (struct jit_epoch){gen, nr};
	return nr;
}

static void sync_epochs(struct jit *j)
{
	const u64 *gen = j->cpu->exec_gen;

	if (unlikely(j->far_gen != gen[1])) {
		j->far_gen = gen[1];
		jit_unlink_far(j);
	}
	if (likely(j->seen_gen[0] == gen[0] && j->seen_gen[1] == gen[1]))
		return;
	if (j->epoch_last > EPOCHS - 3) { /* no room for two more */
		memset(j->jump, 0, sizeof(j->jump));
		memset(j->known, 0, sizeof(j->known));
		memset(j->seen_gen, 0, sizeof(j->seen_gen));
		j->epoch_last = 0;
		jit_forget_keys(j);
		j->forget_calls = true;
	}
	for (unsigned super = 0; super < 2; super++) {
		if (j->seen_gen[super] == gen[super])
			continue;
		j->seen_gen[super] = gen[super];
		j->epoch_nr[super] = epoch_number(j, gen[super]);
	}
}

/* In the upper 16 bits, which are all alike in RIP, what must be the same too. */
static u64 epoch_at(const struct jit *j, unsigned mode)
{
	return (u64)(j->epoch_nr[!jit_mode_is_user(mode)] << 4 | (mode & 15)) << JIT_EPOCH_SHIFT;
}

/* With AC clear, and where SYSCALL leads to an address that a key can hold. */
static void sync_levels(struct jit *j)
{
	struct cpu *c = j->cpu;
	u64 other = (j->seen.cr0 ^ c->cr0) | (j->seen.cr4 ^ c->cr4) | (j->seen.efer ^ c->efer) |
		    (j->seen.star ^ c->star) | (j->seen.lstar ^ c->lstar);

	if (unlikely(other)) {
		unsigned index[] = {mmu_index_system(c), MMU_USER};

		for (unsigned n = 0; n < ARRAY_SIZE(j->level); n++) {
			struct jit_level *l = &j->level[n];
			fast_syscall_segments(c, n ? 3 : 0, true, &l->cs, &l->ss);
			l->mmu_index = index[n];
			l->tlb = &c->tlbs->array[index[n]];
		}
		j->level_ok = (c->efer & EFER_SCE) && (c->efer & EFER_LMA) && jit_has_key(c->lstar);
		j->seen.cr0 = c->cr0;
		j->seen.cr4 = c->cr4;
		j->seen.efer = c->efer;
		j->seen.star = c->star;
		j->seen.lstar = c->lstar;
	}
	for (unsigned n = 0; n < ARRAY_SIZE(j->level); n++)
		j->level[n].epoch = epoch_at(j, j->level[n].mmu_index);
}

void jit_sync(struct jit *j)
{
	struct cpu *c = j->cpu;

	sync_epochs(j);
	jit_mode_sync(j);
	u64 epoch = epoch_at(j, j->mode);
	j->forget_calls |= epoch != j->epoch;
	j->epoch = epoch;
	sync_levels(j);

	const u64 avx = 6, avx512 = 0xe6;
	bool fpu = !(c->cr0 & (CR0_EM | CR0_TS)), xsave = c->cr4 & CR4_OSXSAVE;
	j->vec_bad = (fpu && (c->cr4 & CR4_OSFXSR) ? 0 : VEC_SSE) |
		     (!(c->cr0 & CR0_TS) && xsave && (c->xcr0 & avx) == avx ? 0 : VEC_AVX) |
		     (!(c->cr0 & CR0_TS) && xsave && (c->xcr0 & avx512) == avx512 ? 0 : VEC_AVX512) |
		     ((c->fpu.mxcsr & MXCSR_MASKS) == MXCSR_MASKS ? 0 : VEC_FP) |
		     (fpu && jit_x87_plain(j) ? 0 : VEC_X87) | (j->vec_bad & VEC_AWAY);
}

/*
 * The guest's MXCSR is the host's while generated code runs, if it masks all exceptions. C code has its own: around
 * every call from generated code. What flags are set is all the same to it, though, and to load MXCSR takes a while.
 */
static inline void mxcsr_set(struct jit *j, u32 v)
{
	if (unlikely(j->mxcsr != v))
		_mm_setcsr(v);
	j->mxcsr = v;
}

static inline void mxcsr_to_cpu(struct jit *j)
{
	if (j->vec_bad & VEC_FP)
		return;
	j->cpu->fpu.mxcsr = j->mxcsr = _mm_getcsr();
	if (unlikely((j->mxcsr ^ j->host_mxcsr) & ~MXCSR_FLAGS))
		mxcsr_set(j, j->host_mxcsr);
}

static inline void mxcsr_from_cpu(struct jit *j)
{
	mxcsr_set(j, j->vec_bad & VEC_FP ? j->host_mxcsr : j->cpu->fpu.mxcsr);
}

/* --- Called from generated code ------------------------------------------------------------------------------ */

/* The instruction at cpu->rip, which is that of @site: as the interpreter finds it, unless the site has kept it. */
static const struct insn *insn_at(struct jit *j, const struct jit_site *site)
{
	return site->kept ? site->insn : block_get(&j->bc, j->cpu)->insns;
}

/* It is what was translated. */
static bool is_translated(const struct jit_site *site, const struct insn *i)
{
	const struct jit_block *b = low_at(site->block);
	u64 at = site->place - (b->fixed ? b->rip : b->rip & ~PAGE_MASK);

	return at + i->len <= b->len && !memcmp(b->bytes + at, i->bytes, i->len);
}

u64 jit_helper(struct jit *j, const struct jit_site *site)
{
	struct cpu *c = j->cpu;
	u64 rip = jit_site_rip(j, site);

	jit_flags_to_cpu(j);
	mxcsr_to_cpu(j);
	c->rip = rip;
	const struct insn *i = insn_at(j, site);
	c->insn = i;
	c->smc = false;
	j->stat.helpers++;
	if (jit_uses_x87(i))
		jit_x87_save(j);
	i->fn(c, i);
	hub_written(j);
	jit_flags_from_cpu(j);
	bool ends = block_ends_at(i);
	if (!ends)
		c->rip = jit_site_cut(site, rip + i->len);
	jit_sync(j);
	mxcsr_from_cpu(j);
	bool leave = c->smc || j->mode == JIT_MODE_NONE || (ends ? j->alone : j->forget_calls) ||
		     loop_attention(c);
	/* See loop_exec(): what IRET has loaded is gone with the next instruction. */
	if (!leave)
		c->rflags &= ~FL_RF;
	c->smc = false;
	j->forget_calls = false; /* else stubs.c has done it */
	j->exit_code = leave;
	return leave;
}

static bool window_tag(struct cpu *c, u64 la, const struct jit_site *site)
{
	return tlb_has(c->tlb, la, (enum access)site->span_acc);
}

/* The check for several accesses from @la on may hold when the first has filled the TLB. */
static bool window_possible(struct cpu *c, u64 la, const struct jit_site *site)
{
	return tlb_in_page(la, site->span) && (site->acc == site->span_acc || window_tag(c, la, site));
}

void *jit_slow(struct jit *j, u64 left, const struct jit_site *site, u64 index)
{
	struct cpu *c = j->cpu;
	u64 la = left ^ c->tlb->tag[site->span ? site->span_acc : site->acc][index % TLB_SIZE];
	u64 rip = jit_site_rip(j, site);

	jit_flags_to_cpu(j);
	mxcsr_to_cpu(j);
	c->rip = rip;
	c->insn = NULL;
	c->smc = false;
	j->stat.slow++;
	if (site->span && !window_possible(c, la, site)) {
		jit_flags_from_cpu(j);
		mxcsr_from_cpu(j);
		return JIT_SLOW_SKIP;
	}
	/* #GP for a misaligned address comes before #PF. */
	la = jit_site_cut(site, la + site->first);
	bool alone = la & site->align || site->masked;
	u8 *host = alone ? NULL : mem_host(c, site->seg, la, site->size, site->acc);
	/* A write to marked code is done here, so that the others are told at once when it is. */
	if (host && !c->smc && !j->wrote.size && (!site->span || window_tag(c, la, site))) {
		jit_flags_from_cpu(j);
		mxcsr_from_cpu(j);
		return host - site->first;
	}
	u32 bad = j->vec_bad;
	const struct insn *i = insn_at(j, site);
	bool known = is_translated(site, i);
	c->insn = i;
	if (jit_uses_x87(i))
		jit_x87_save(j);
	i->fn(c, i);
	hub_written(j);
	jit_flags_from_cpu(j);
	jit_sync(j);
	mxcsr_from_cpu(j);
	/* The rest of the block relies on what it has found ready. */
	bool leave = j->forget_calls || (j->vec_bad & ~bad & ~(u32)VEC_AWAY) || c->smc || !known || site->span ||
		     site->leave || block_ends_at(i) || loop_attention(c);
	if (!block_ends_at(i))
		c->rip = jit_site_cut(site, rip + i->len);
	c->smc = false;
	if (!leave && (j->vec_bad & ~bad & VEC_AWAY_X87))
		jit_x87_load(j);
	return leave ? JIT_SLOW_LEAVE : JIT_SLOW_SKIP;
}

/* --- Code that changes ------------------------------------------------------------------------------------------- */

static void jit_code_write(struct cpu *c, const struct gpa_slot *slot, u64 gpa, u8 *host, unsigned size)
{
	struct jit *j = jit_of(c);

	if (jit_count_write(j, host)) {
		host = (u8 *)((u64)host & PAGE_MASK);
		size = PAGE_SIZE;
	}
	/* The block under execution may be among them: it is left after this instruction. */
	if (jit_invalidate(j, host, size))
		c->smc = true;
	hub_wrote(j, host, size);
}

/* --- The dispatcher ---------------------------------------------------------------------------------------------- */

/*
 * Of the supervisor's, which only C finds again, one that loses its own place to another gets the place beside that,
 * where stubs.c looks too.
 */
static void jump_enter(struct jit *j, bool user, u64 key, u64 code)
{
	unsigned n = jit_jump_index(key);
	struct jump_entry *e = &j->jump[user][n];

	if (!user && e->key != key && jit_jump_index(e->key) == n)
		j->jump[user][n ^ 1] = *e;
	*e = (struct jump_entry){key, code};
}

/* From now on generated code finds @b at cpu->rip by itself. */
static void remember(struct jit *j, const struct jit_block *b)
{
	u64 key = j->cpu->rip ^ j->epoch;

	jump_enter(j, jit_mode_is_user(b->mode), key, b->entry);
	if (b->mode == MMU_USER && !b->fixed)
		j->shared[jit_shared_index(b->code)] = (struct jump_entry){(u64)b->code, b->entry};
}

/*
 * Others may write to its code directly until they have seen that it is translated (hub.h). What they wrote before that
 * is in memory when they have: so first they are asked, then there is a look.
 */
static void check_settled(struct jit *j, struct jit_block *b)
{
	if (!b->settled_at || b->dead)
		return;
	bool settled = hub_settled(j, b->settled_at);
	if (!block_same_bytes(b->code, b->bytes, b->len))
		jit_block_kill(j, b);
	else if (settled)
		b->settled_at = 0;
}

static struct jit_block *jit_get(struct jit *j, struct jit_link **link)
{
	struct cpu *c = j->cpu;
	const u8 *p = block_code_at(c, c->rip);
	if (j->no_windows)
		j->mode |= JIT_MODE_NO_WINDOWS;
	j->no_windows = false;
	struct jit_block *b = jit_find(j, c->rip, p);

	j->stat.lookups++;
	if (j->entered)
		jit_verify_blocks(j, p);
	if (b)
		check_settled(j, b);
	j->entered = false;
	if (b && b->dead) {
		b = NULL;
		*link = NULL;
	}
	if (!b) {
		b = jit_translate(j, p);
		if (!b) {
			jit_flush(j);
			*link = NULL;
			b = jit_translate(j, p);
		}
		if (!b || !b->nr)
			return NULL;
		jit_insert(j, b);
		check_settled(j, b);
		if (b->dead)
			return NULL;
	}
	if (b->settled_at) {
		*link = NULL;
		return b;
	}
	if (!j->alone && !(b->mode & JIT_MODE_NO_WINDOWS))
		remember(j, b);
	return b;
}

/* In generated code: may leave it by cpu->unwind. */
static const u8 *code_at_rip(struct jit *j)
{
	struct cpu *c = j->cpu;

	if (likely(tlb_has(c->tlb, c->rip, ACC_EXEC)))
		return tlb_host(c->tlb, c->rip);
	jit_flags_to_cpu(j);
	mxcsr_to_cpu(j);
	c->insn = NULL;
	const u8 *p = block_code_at(c, c->rip);
	jit_flags_from_cpu(j);
	mxcsr_from_cpu(j);
	return p;
}

/* The usual case of jit_get() where generated code goes on at once: nothing but its place in the jump cache is lost. */
u64 jit_lookup(struct jit *j, struct jit_link *link)
{
	struct cpu *c = j->cpu;

	if (j->alone || j->no_windows)
		return 0;
	jit_mode_sync(j);
	if (j->mode == JIT_MODE_NONE)
		return 0;
	struct jit_block *b = jit_find(j, c->rip, code_at_rip(j));
	if (!b || b->settled_at)
		return 0;
	j->stat.lookups++;
	j->page_rip = c->rip & PAGE_MASK;
	remember(j, b);
	if (link && !jit_link_from(link)->dead)
		jit_link_set(j, link, b);
	return b->entry;
}

struct jit_link *jit_block_run(struct jit *j, const struct jit_block *b)
{
	j->cpu->rflags &= ~FL_RF; /* as in loop_exec() */
	jit_flags_from_cpu(j);
	j->mxcsr = _mm_getcsr(); /* a signal may have changed it */
	mxcsr_from_cpu(j);
	j->page_rip = j->cpu->rip & PAGE_MASK;
	j->forget_calls = false;
	j->enter(b->entry);
	mxcsr_to_cpu(j);
	jit_flags_to_cpu(j);
	if (j->exit_code <= 1)
		return NULL;
	struct jit_link *link = (struct jit_link *)j->exit_code;
	j->cpu->rip = jit_link_rip(j, link);
	j->no_windows = link->no_windows;
	return link;
}

struct jit_block *jit_block_at(struct jit *j, struct jit_link **link)
{
	jit_sync(j);
	if (j->mode == JIT_MODE_NONE || j->off)
		return NULL;
	return jit_get(j, link);
}

static enum exit_reason jit_blocks(struct cpu *c)
{
	struct jit *j = jit_of(c);
	struct jit_link *link = NULL;
	enum exit_reason reason;

	for (;;) {
		cpu_looks(c);
		hub_written(j); /* by an instruction that left by way of cpu->unwind */
		u64 flushes = j->stat.flushes;
		hub_read(j);
		if (unlikely(flushes != j->stat.flushes))
			link = NULL; /* which is gone */
		if (unlikely(loop_attention(c))) {
			link = NULL;
			jit_x87_save(j);
			if (loop_attend(c, &reason))
				return reason;
			continue;
		}
		struct jit_block *b = NULL;
		jit_sync(j);
		if (likely(j->mode != JIT_MODE_NONE && !j->off))
			b = jit_get(j, &link);
		if (!b) {
			/* Rare modes, and instructions that cross a page. */
			jit_x87_save(j);
			const struct block *i = block_get(&j->bc, c);
			loop_exec(c, i, i->nr);
			c->code_page = 0;
			link = NULL;
			continue;
		}
		if (link && jit_link_rip(j, link) == c->rip && !link->to && !jit_link_from(link)->dead) {
			jit_link_set(j, link, b);
			j->stat.links++;
		}
		link = jit_block_run(j, b);
	}
}

/*
 * The client writes to guest memory unseen: between two KVM_RUNs, or before it raises an interrupt. To compare all code
 * after each of them would cost more than many a device access. Compared are: the page where KVM_RUN goes on; a page
 * that comes (back) into the TLB, which is how code that was read from a disk comes into use. So it is every page after
 * the client has flushed the TLB or set a debug register (breakpoints of a debugger).
 */
static void jit_code_fill(struct cpu *c, const u8 *host)
{
	jit_verify_page(jit_of(c), host);
}

static void jit_vcpu_load(struct cpu *c)
{
	struct jit *j = jit_of(c);

	loop_vcpu_load(c);
	j->kicked = j->entered = true;
}

static void jit_tlb_flush_all(struct cpu *c)
{
	struct jit *j = jit_of(c);

	tlb_flush_all(c);
	j->client_gen++;
}

enum exit_reason jit_run_blocks(struct cpu *c, enum exit_reason (*blocks)(struct cpu *c))
{
	struct jit *j = jit_of(c);
	u64 map_gen = c->map ? c->map->gen : 0; /* a VM need not have memory */

	if (j->kicked)
		j->client_gen++;

	if (j->map_gen != map_gen) {
		jit_flush(j);
		j->map_gen = map_gen;
	}
	hub_enter(j);
	j->host_mxcsr = _mm_getcsr();
	enum exit_reason reason = loop_run(c, blocks);
	jit_x87_save(j);
	_mm_setcsr(j->host_mxcsr);
	hub_leave(j);
	j->kicked = reason == EXIT_KICK;
	return reason;
}

static enum exit_reason jit_run(struct cpu *c)
{
	return jit_run_blocks(c, jit_blocks);
}

/* --- The table --------------------------------------------------------------------------------------------------- */

static int jit_hardware_setup(void)
{
	tr_make_facts();
	return interp_x86_ops.hardware_setup();
}

static void jit_vcpu_free(struct cpu *c)
{
	struct jit *j = c->engine;

	if (!j)
		return;
	hub_remove(j);
	block_cache_fini(&j->bc);
	copy_arena_fini(&j->copy);
	if (j->rw)
		munmap(j->rw, j->code_size);
	if (j->rx)
		munmap(j->rx, j->code_size);
	low_free(j->data, j->data_size);
	low_free(j, sizeof(*j));
	c->engine = NULL;
}

static bool is_low(const void *p)
{
	return (u64)p < BIT64(31);
}

/*
 * Smaller caches make a boot of Debian's kernel slower: by 5 % with 8 and 16 MiB, by 30 % with 4 MiB. It fills about
 * 17 MiB of 32.
 */
static _Atomic u64 cache_size = 32u << 20; /* [a] */

int engine_jit_cache(u64 bytes)
{
	if (bytes < JIT_CACHE_MIN || bytes > JIT_CACHE_MAX)
		return -EINVAL;
	atomic_store(&cache_size, ALIGN_UP(bytes, (u64)PAGE_SIZE));
	return 0;
}

/*
 * Code memory that is never writable and executable at one address: anonymous, since perf looks into its map of names
 * only for that, and mapped a second time by mremap(2) of no bytes.
 */
static int code_map(struct jit *j)
{
	void *p = mmap(NULL, j->code_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	j->rw = p;
	p = mremap(j->rw, 0, j->code_size, MREMAP_MAYMOVE);
	if (p == MAP_FAILED)
		return -ENOMEM;
	j->rx = p;
	return mprotect(j->rx, j->code_size, PROT_READ | PROT_EXEC) < 0 ? -errno : 0;
}

static int jit_vcpu_create(struct cpu *c)
{
	struct jit *j = low_alloc(sizeof(*j));

	if (!j)
		return -ENOMEM;
	c->engine = j;
	j->cpu = c;
	j->code_size = atomic_load(&cache_size);
	j->data_size = j->code_size / 2 * 3;
	j->data = low_alloc(j->data_size);
	int r = hub_add(c->engine_vm, j);
	if (!r)
		r = block_cache_init(&j->bc);
	if (!r)
		r = copy_arena_init(&j->copy, COPY_ARENA_SIZE);
	if (!r)
		r = j->data ? code_map(j) : -ENOMEM;
	if (r) {
		jit_vcpu_free(c);
		return r;
	}
	j->e = (struct emit){.p = j->rw, .rx = j->rx - j->rw};
	j->data_p = j->data_touched = j->data;
	j->code_touched = j->rw;
	j->vec_bad = VEC_AWAY;
	j->user_end = BIT64(47);
	j->vec_max = xsave_supported() & BIT64(6) ? 64 : xsave_supported() & BIT64(2) ? 32 : 16;
	j->bmi2 = __builtin_cpu_supports("bmi2");
	j->hash_key = secret_new();
	j->off = !(is_low(c + 1) && is_low(c->tlbs + 1) && is_low(j + 1) && is_low(j->data + j->data_size));
	if (!j->off) {
		tlb_widen(c->tlbs, MMU_USER);
		jit_make_stubs(j);
		perf_map_stubs(j->rx, (size_t)(j->code_start - j->rw));
	}
	c->code_write = jit_code_write;
	c->code_fill = jit_code_fill;
	c->host_fault = jit_host_fault;
	return 0;
}

#define STAT(name_, kind_, field) {.name = name_, .kind = kind_, .offset = offsetof(struct jit, stat.field)}

static const struct x86_stat jit_stats[] = {
	STAT("jit_blocks", X86_STAT_COUNT, blocks),
	STAT("jit_insns", X86_STAT_COUNT, insns),
	STAT("jit_translate_ns", X86_STAT_TICKS, ticks),
	STAT("jit_code_bytes", X86_STAT_BYTES, code_bytes),
	STAT("jit_flushes", X86_STAT_COUNT, flushes),
	STAT("jit_lookups", X86_STAT_COUNT, lookups),
	STAT("jit_links", X86_STAT_COUNT, links),
	STAT("jit_helpers", X86_STAT_COUNT, helpers),
	STAT("jit_slow_accesses", X86_STAT_COUNT, slow),
	{.name = NULL},
};

const struct x86_ops jit_x86_ops = {
	.name = "jit",
	.hardware_setup = jit_hardware_setup,
	.vm_init = hub_create,
	.vm_destroy = hub_destroy,
	.vcpu_create = jit_vcpu_create,
	.vcpu_free = jit_vcpu_free,
	.vcpu_load = jit_vcpu_load,
	.run = jit_run,
	.tlb_flush_all = jit_tlb_flush_all,
	LOOP_OPS,
	.stats = jit_stats,
};
