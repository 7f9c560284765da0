/*
 * Memory behind a descriptor, of huge pages where the host gives any. Shared memory of the usual kind has none on most
 * hosts (/sys/kernel/mm/transparent_hugepage/shmem_enabled is "never"); a tmpfs of one's own has a setting of its own.
 */
#ifndef HOST_HUGE_FILE_H
#define HOST_HUGE_FILE_H

#include "base/types.h"

#define HUGE_PAGE (2ull << 20)

/*
 * A descriptor of an empty file of @size bytes without a name, to be mapped at a multiple of HUGE_PAGE and advised
 * with MADV_HUGEPAGE; the caller closes it. Pages are there when they are touched, and count as shared memory.
 * -1: not on this host, or not for this user. May take a millisecond.
 */
int huge_file_open(u64 size);

#endif
