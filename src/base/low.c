#include "base/low.h"

#include <sys/mman.h>

/* LeakSanitizer looks for pointers in the heap only, unless it is told of other places. */
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define LOW_ROOTS
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define LOW_ROOTS
#endif
#ifdef LOW_ROOTS
#include <sanitizer/lsan_interface.h>
#endif

static void root_add(void *p, size_t size)
{
#ifdef LOW_ROOTS
	__lsan_register_root_region(p, size);
#endif
}

void *low_alloc(size_t size)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_32BIT, -1, 0);

	if (p == MAP_FAILED)
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	root_add(p, size);
	return p;
}

void low_free(void *p, size_t size)
{
	if (!p)
		return;
#ifdef LOW_ROOTS
	__lsan_unregister_root_region(p, size);
#endif
	munmap(p, size);
}

/* MAP_32BIT takes from what is above 1 GiB, of which there may not be much. */
static void *reserve(size_t size)
{
	const u64 first = 256u << 20, end = 1u << 30, step = 16u << 20;

	for (u64 at = first; at + size <= end; at += step) {
		void *p = mmap((void *)at, size, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

		if (p == (void *)at)
			return p;
		if (p != MAP_FAILED)
			munmap(p, size); /* a kernel that does not know the flag */
	}
	return NULL;
}

static bool again(void *p, size_t size, void *at)
{
	return mremap(p, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at;
}

void *low_repeat(void *p, size_t size, unsigned times)
{
	u8 *all = reserve(size * times);
	bool ok = all && mmap(all, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
			      -1, 0) == all;

	for (unsigned n = 1; ok && n < times; n++)
		ok = again(all, size, all + n * size);
	if (ok && !again(all, size, p)) {
		/* Whatever was there may be gone. */
		mmap(p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
		ok = false;
	}
	if (ok)
		root_add(all, size * times);
	else if (all)
		munmap(all, size * times);
	return ok ? all : NULL;
}
