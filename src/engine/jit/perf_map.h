/* Names of blocks for perf(1). engine_perf_map() of engine/x86_ops.h turns it on. */
#ifndef ENGINE_JIT_PERF_MAP_H
#define ENGINE_JIT_PERF_MAP_H

#include "base/types.h"

/*
 * Bytes at which the map ends, for /tmp may be memory: about three million lines, twenty full caches of the default
 * size. What is translated behind that has no line of its own, and no name or that of an earlier block in its place.
 */
#define PERF_MAP_MAX (128u << 20)

/*
 * A block of guest code at @rip, the guest's user mode's or its kernel's, is at @start in executable memory. Does
 * nothing when no map is wanted. From any thread; one line is one write(2).
 */
void perf_map_block(const void *start, size_t size, u64 rip, bool user);
/* The same for the code that all blocks of a vCPU share. */
void perf_map_stubs(const void *start, size_t size);

#endif
