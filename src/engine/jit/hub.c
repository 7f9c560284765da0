#include "engine/jit/hub.h"

#include <errno.h>
#include <stdlib.h>

#include "cpu/mmu.h"
#include "engine/jit/jit.h"

#define DROP_WRITES (PAGE_SIZE + 1)

struct jit_hub {
	pthread_mutex_t lock;
	_Atomic u64 posts; /* [a] grows under lock */
	u32 nr, max;       /* [lock] */
	struct jit **jit;  /* [lock] */
};

int hub_create(void **hub)
{
	struct jit_hub *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	pthread_mutex_init(&h->lock, NULL);
	*hub = h;
	return 0;
}

void hub_destroy(void *hub)
{
	struct jit_hub *h = hub;

	if (!h)
		return;
	pthread_mutex_destroy(&h->lock);
	free(h->jit);
	free(h);
}

int hub_add(struct jit_hub *h, struct jit *j)
{
	int r = 0;

	j->hub = h;
	atomic_store(&j->inbox.seen, ~0ull);
	if (!h)
		return 0;
	pthread_mutex_lock(&h->lock);
	if (h->nr == h->max) {
		struct jit **more = realloc(h->jit, (h->max + 8) * sizeof(*more));
		if (more) {
			h->jit = more;
			h->max += 8;
		} else {
			r = -ENOMEM;
		}
	}
	if (!r)
		h->jit[h->nr++] = j;
	pthread_mutex_unlock(&h->lock);
	return r;
}

void hub_remove(struct jit *j)
{
	struct jit_hub *h = j->hub;

	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	for (u32 n = 0; n < h->nr; n++)
		if (h->jit[n] == j)
			h->jit[n] = h->jit[--h->nr];
	pthread_mutex_unlock(&h->lock);
}

static void post(struct jit *from, const u8 *p, unsigned size)
{
	struct jit_hub *h = from->hub;

	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	if (h->nr > 1)
		atomic_fetch_add(&h->posts, 1);
	for (u32 n = 0; n < h->nr; n++) {
		struct jit *j = h->jit[n];

		if (j == from)
			continue;
		if (size == DROP_WRITES && j->inbox.nr >= INBOX_MAX / 2) {
			j->inbox.drop_writes = true;
		} else {
			if (j->inbox.nr < INBOX_MAX)
				j->inbox.post[j->inbox.nr] = (struct code_range){p, size};
			if (j->inbox.nr <= INBOX_MAX)
				j->inbox.nr++;
		}
		atomic_store(&j->inbox.any, true);
		cpu_request(j->cpu, REQ_ENGINE);
	}
	pthread_mutex_unlock(&h->lock);
}

void hub_watch(struct jit *j, const u8 *p)
{
	post(j, p, DROP_WRITES);
}

void hub_wrote(struct jit *j, const u8 *p, unsigned size)
{
	post(j, p, size);
	/* One instruction writes few places: a second one makes it the whole page. */
	if (!j->wrote.size)
		j->wrote = (struct code_range){p, size};
	else if ((((u64)j->wrote.p ^ (u64)p) & PAGE_MASK) == 0)
		j->wrote = (struct code_range){(const u8 *)((u64)p & PAGE_MASK), PAGE_SIZE};
	else
		hub_written_slow(j), j->wrote = (struct code_range){p, size};
}

void hub_written_slow(struct jit *j)
{
	post(j, j->wrote.p, j->wrote.size);
	j->wrote.size = 0;
}

void hub_read_slow(struct jit *j)
{
	struct jit_hub *h = j->hub;
	struct code_range work[INBOX_MAX];

	pthread_mutex_lock(&h->lock);
	u32 nr = j->inbox.nr;
	memcpy(work, j->inbox.post, MIN(nr, (u32)INBOX_MAX) * sizeof(work[0]));
	bool drop_writes = j->inbox.drop_writes;
	j->inbox.nr = 0;
	j->inbox.drop_writes = false;
	atomic_store(&j->inbox.any, false);
	atomic_fetch_and(&j->cpu->request, ~REQ_ENGINE);
	u64 seen = atomic_load(&h->posts);
	pthread_mutex_unlock(&h->lock);

	if (nr > INBOX_MAX)
		jit_flush(j);
	if (nr > INBOX_MAX || drop_writes)
		tlb_flush_all(j->cpu);
	for (u32 n = 0; n < nr && nr <= INBOX_MAX; n++) {
		if (work[n].size == DROP_WRITES)
			tlb_drop_writes(j->cpu, work[n].p);
		else
			jit_invalidate(j, work[n].p, work[n].size);
	}
	atomic_store(&j->inbox.seen, seen);
}

void hub_enter(struct jit *j)
{
	if (j->hub)
		hub_read_slow(j);
}

void hub_leave(struct jit *j)
{
	if (j->wrote.size)
		hub_written_slow(j);
	atomic_store(&j->inbox.seen, ~0ull);
}

u64 hub_now(const struct jit *j)
{
	return j->hub ? atomic_load(&j->hub->posts) : 0;
}

bool hub_settled(const struct jit *j, u64 post)
{
	struct jit_hub *h = j->hub;
	bool all = true;

	if (!h)
		return true;
	pthread_mutex_lock(&h->lock);
	for (u32 n = 0; n < h->nr; n++)
		all &= h->jit[n] == j || atomic_load(&h->jit[n]->inbox.seen) >= post;
	pthread_mutex_unlock(&h->lock);
	return all;
}
