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

void *low_alloc(size_t size)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_32BIT, -1, 0);

	if (p == MAP_FAILED)
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
#ifdef LOW_ROOTS
	__lsan_register_root_region(p, size);
#endif
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
