/* Names of blocks for perf(1). engine_perf_map() of engine/x86_ops.h turns it on. */
#ifndef ENGINE_JIT_PERF_MAP_H
#define ENGINE_JIT_PERF_MAP_H

#include "base/types.h"

/*
 * A block of guest code at @rip, the guest's user mode's or its kernel's, is at @start in executable memory. Does
 * nothing when no map is wanted. From any thread; one line is one write(2).
 */
void perf_map_block(const void *start, size_t size, u64 rip, bool user);
/* The same for the code that all blocks of a vCPU share. */
void perf_map_stubs(const void *start, size_t size);

#endif
