/*
 * The copy engine: rows of CLASS_COPY without C semantics are executed by the host itself, through a thunk that is
 * made once per decoded instruction. Guest state is in struct cpu before and after.
 */
#ifndef ENGINE_COPY_H
#define ENGINE_COPY_H

#include "cpu/insn.h"

struct thunk;
struct copy_slot;

/* Memory for thunks, mapped twice: once writable, once executable. Owned by one vCPU; no lock. */
struct copy_arena {
	u8 *rw, *rx;
	size_t size, used;
	struct copy_slot *slots; /* recent thunks by what they do: equal instructions share one */
};

/* @bytes is rounded up to pages. 0 or -errno. */
int copy_arena_init(struct copy_arena *a, size_t bytes);
void copy_arena_fini(struct copy_arena *a);
/* Forgets all thunks: no insn that was prepared before may run again. */
void copy_arena_reset(struct copy_arena *a);

/* Sets fn and thunk of @i. False: the arena is full; the caller forgets its decoded code, resets it, decodes again. */
bool copy_prepare(struct copy_arena *a, struct insn *i);

#endif
