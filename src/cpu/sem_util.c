/* Read-modify-write of memory that has no single host address. */
#include <pthread.h>

#include "cpu/sem_util.h"

/* Serialises LOCKed accesses that cross a page; those within a page are the host's own atomics. */
static pthread_mutex_t split_lock = PTHREAD_MUTEX_INITIALIZER;

u64 rmw_begin(struct cpu *c, struct rmw *m, enum seg_reg seg, u64 la, unsigned size, bool lock)
{
	unsigned first = PAGE_SIZE - (la & (PAGE_SIZE - 1));
	u64 v;

	*m = (struct rmw){.seg = seg, .la = la, .size = size, .first = first};
	mem_probe(c, seg, la, size, ACC_WRITE);
	if (!lock || first >= size)
		return mem_read_slow(c, seg, la, size);
	u8 *lo = mem_host(c, seg, la, first, ACC_WRITE);
	u8 *hi = mem_host(c, seg, la + first, size - first, ACC_WRITE);
	if (!lo || !hi)
		return mem_read_slow(c, seg, la, size);
	/* A mapping that does not answer leaves here, before the lock is taken. */
	(void)*(volatile u8 *)lo;
	(void)*(volatile u8 *)hi;
	pthread_mutex_lock(&split_lock);
	m->part[0] = lo;
	m->part[1] = hi;
	v = 0;
	memcpy(&v, lo, first);
	memcpy((u8 *)&v + first, hi, size - first);
	return v;
}

void rmw_end(struct cpu *c, struct rmw *m, u64 value)
{
	if (!m->part[0]) {
		mem_write_slow(c, m->seg, m->la, m->size, value);
		return;
	}
	memcpy(m->part[0], &value, m->first);
	memcpy(m->part[1], (u8 *)&value + m->first, m->size - m->first);
	pthread_mutex_unlock(&split_lock);
}
