/*
 * Names of blocks for perf(1): /tmp/perf-PID.map, a line "start size name" a block, in hexadecimal. perf takes the last
 * line about an address, so blocks that are made where others were (after a flush of the cache) need no more than their
 * own line; samples of the earlier ones then carry the later ones' names.
 */
#include "engine/jit/perf_map.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/x86_ops.h"

/* One for the process; set once, under enable_lock, before on. */
static struct {
	_Atomic bool on;
	int fd;
	dev_t dev;
	ino_t ino;
} map;

static pthread_mutex_t enable_lock = PTHREAD_MUTEX_INITIALIZER;

/* A client that closed our descriptor may have got its number for a file of its own. */
static bool still_open(struct stat *st)
{
	return fstat(map.fd, st) == 0 && st->st_dev == map.dev && st->st_ino == map.ino;
}

/* Opened in a folder that everybody writes to: neither a link nor somebody else's file is written to. */
static int open_map(void)
{
	char path[32];
	struct stat st, before;

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	/* An earlier process of that number may have left one. */
	bool ours = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && st.st_nlink == 1;
	if (!ours || ftruncate(fd, 0) < 0) {
		close(fd);
		return -EPERM;
	}
	/* The one that has ended: other threads may be about to look at its descriptor, which stays. */
	if (still_open(&before) && before.st_dev == st.st_dev && before.st_ino == st.st_ino) {
		close(fd);
		return map.fd;
	}
	map.dev = st.st_dev;
	map.ino = st.st_ino;
	return fd;
}

int engine_perf_map(void)
{
	int r = 0;

	pthread_mutex_lock(&enable_lock);
	if (!atomic_load(&map.on)) {
		r = map.fd = open_map();
		if (r >= 0)
			atomic_store(&map.on, true);
	}
	pthread_mutex_unlock(&enable_lock);
	return MIN(r, 0);
}

static bool is_on(void)
{
	return unlikely(atomic_load_explicit(&map.on, memory_order_acquire));
}

static void add(const void *start, size_t size, const char *name)
{
	char line[80];
	struct stat st;

	int n = snprintf(line, sizeof(line), "%lx %zx %s\n", (u64)start, size, name);
	bool ours = still_open(&st);
	if (ours && st.st_size < PERF_MAP_MAX && write(map.fd, line, (size_t)n) == n)
		return;
	/* Gone, at its end, or the disk is full. */
	if (atomic_exchange(&map.on, false) && ours)
		log_warn("/tmp/perf-%d.map is full: no more names for perf", getpid());
}

void perf_map_block(const void *start, size_t size, u64 rip, bool user)
{
	char name[40];

	if (!is_on())
		return;
	snprintf(name, sizeof(name), "guest_%s%lx", user ? "user_" : "", rip);
	add(start, size, name);
}

void perf_map_stubs(const void *start, size_t size)
{
	if (is_on())
		add(start, size, "jit_stubs");
}
