/*
 * Guest physical memory as the CPU sees it: an immutable, sorted list of the client's
 * mappings. The kvm room builds a new one for each change of the memslots and frees the
 * old one when no vCPU runs on it any more.
 */
#ifndef CPU_GPA_H
#define CPU_GPA_H

#include <stdatomic.h>

#include "base/types.h"

#define GPA_READONLY BIT(0)
#define GPA_LOG_DIRTY BIT(1)

struct gpa_slot {
	u64 gpa, size;      /* page-aligned, size > 0 */
	u8 *hva;            /* the client's own mapping */
	u32 flags;
	u32 id;             /* memslot number, for the owner */
	_Atomic u64 *dirty; /* [a] a bit per page, with GPA_LOG_DIRTY */
	_Atomic u16 *code;  /* [a] for each page, how many vCPUs hold translations of it; NULL: none ever does */
	u64 code_id;        /* tells one array @code from all others, past and present */
};

struct gpa_map {
	u64 gen; /* unique among all maps */
	u32 nr;
	struct gpa_slot slot[];
};

/* The slot that holds @gpa, or NULL: MMIO. */
static inline const struct gpa_slot *gpa_find(const struct gpa_map *m, u64 gpa)
{
	u32 lo = 0, hi = m ? m->nr : 0;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;
		const struct gpa_slot *s = &m->slot[mid];
		if (gpa < s->gpa)
			hi = mid;
		else if (gpa - s->gpa >= s->size)
			lo = mid + 1;
		else
			return s;
	}
	return NULL;
}

/* Likewise, looking first at @near, a slot of @m or NULL. */
static inline const struct gpa_slot *gpa_find_near(const struct gpa_map *m, const struct gpa_slot *near, u64 gpa)
{
	return near && gpa - near->gpa < near->size ? near : gpa_find(m, gpa);
}

/* Writes to this page must be seen by the engine: it gets no write tag in any TLB. */
static inline bool gpa_has_code(const struct gpa_slot *s, u64 gpa)
{
	return s->code && atomic_load_explicit(&s->code[(gpa - s->gpa) >> PAGE_SHIFT], memory_order_relaxed);
}

static inline void gpa_mark_dirty(const struct gpa_slot *s, u64 gpa)
{
	if (!(s->flags & GPA_LOG_DIRTY))
		return;
	u64 page = (gpa - s->gpa) >> PAGE_SHIFT;
	_Atomic u64 *word = &s->dirty[page / 64];
	u64 bit = BIT64(page % 64);
	if (!(atomic_load_explicit(word, memory_order_relaxed) & bit))
		atomic_fetch_or_explicit(word, bit, memory_order_acq_rel);
}

#endif
