/*
 * Code that changes under several vCPUs. Each has its own translations; what one of them writes, the others must see.
 *
 * A page of which some vCPU has translations is marked (gpa_slot.code), and a marked page has no write tag in any TLB,
 * so every write to it comes through cpu->code_write. The writer posts the bytes to the inboxes of the others before it
 * writes and once more after (a block that was made anew in between is wrong), and kicks them; they drop what is stale
 * before they enter their next block. x86 asks no more of cross-modifying code (SDM vol. 3A, 9.1.3).
 *
 * Between the mark and the moment when another vCPU has taken notice of it, that vCPU may still write unseen. A block
 * of a newly marked page is therefore entered only by the dispatcher, which compares its bytes, until all have.
 */
#ifndef ENGINE_JIT_HUB_H
#define ENGINE_JIT_HUB_H

#include <pthread.h>

#include "cpu/cpu.h"

struct jit;
struct jit_block;
struct jit_hub;

struct code_range {
	const u8 *p;
	unsigned size; /* 0: none */
};

#define INBOX_MAX 128
struct jit_inbox {
	_Atomic bool any;    /* [a] */
	u32 nr;              /* [hub lock]; > INBOX_MAX: too many, everything is dropped */
	bool drop_writes;    /* [hub lock]; all write tags: there were many to drop, who sleeps may find thousands */
	struct code_range post[INBOX_MAX]; /* [hub lock]; size PAGE_SIZE + 1: drop write tags to the page */
	_Atomic u64 seen;    /* [a] posts up to this number are dealt with; ~0 outside of runs */
};

int hub_create(void **hub);
void hub_destroy(void *hub);
/* 0 or -ENOMEM. */
int hub_add(struct jit_hub *hub, struct jit *j);
void hub_remove(struct jit *j);

/* Around every run. */
void hub_enter(struct jit *j);
void hub_leave(struct jit *j);

/* Deals with the inbox. */
void hub_read_slow(struct jit *j);

/* The page of @p was marked: everyone's write tags to it go. */
void hub_watch(struct jit *j, const u8 *p);
/* @size bytes of marked code at @p are about to be written; and after the instruction: they are. */
void hub_wrote(struct jit *j, const u8 *p, unsigned size);
void hub_written_slow(struct jit *j);

/* The number of the last post; and whether all others have dealt with those up to number @post. */
u64 hub_now(const struct jit *j);
bool hub_settled(const struct jit *j, u64 post);

#endif
