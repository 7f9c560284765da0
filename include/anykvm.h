/*
 * libanykvm: KVM in user space, for x86-64 Linux.
 *
 * The same calls as on /dev/kvm, with the same arguments, results and errors
 * (<linux/kvm.h>); descriptors are real ones, so that mmap(2), dup(2), poll(2)
 * and close-on-exec work on them. Every function is thread-safe.
 */
#ifndef ANYKVM_H
#define ANYKVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvm_if;

/* What open("/dev/kvm") is on a kernel with KVM. Returns a descriptor, or -errno. */
int anykvm_open(void);

/* ioctl(2). @arg is the ioctl's argument: a pointer, or the number itself. Returns >= 0 or -errno. */
long anykvm_ioctl(int fd, unsigned long request, void *arg);

/* mmap(2) of a vCPU descriptor (run page, PIO page, coalesced ring). Returns NULL with errno set on failure. */
void *anykvm_mmap(int fd, size_t size);

/* close(2). Returns 0 or -errno. */
int anykvm_close(int fd);

/*
 * Tells that a signal handler ran on the calling thread: a KVM_RUN under way
 * on it ends with -EINTR, as the kernel's does on any signal. Async-signal-safe.
 * (A handler that sets kvm_run.immediate_exit must call it too when it may interrupt a running guest.)
 */
void anykvm_signal(void);

/*
 * Names the engine that runs the guests of VMs created from now on: "jit" (the translator), "interp" (the interpreter)
 * or "lockstep" (both, compared: docs/engine.md; one vCPU). Before the first call it is the environment's
 * ANYKVM_ENGINE, or else the translator. 0, or -EINVAL.
 */
int anykvm_set_engine(const char *name);

/*
 * Lets perf(1) name guest code: from now on the translator writes a line for each block to /tmp/perf-PID.map, up to
 * 128 MiB; called after that, begins it anew. The environment's ANYKVM_PERF_MAP=1 does the same. 0 or -errno.
 */
int anykvm_perf_map(void);

/*
 * How much translated code each vCPU created from now on keeps: 128 KiB to 64 MiB, 32 MiB to begin with. When that is
 * full it is translated anew. The environment's ANYKVM_JIT_CACHE does the same, in bytes. 0, or -EINVAL.
 */
int anykvm_jit_cache(uint64_t bytes);

/* True when @fd is one of ours. */
bool anykvm_owns(int fd);

/* The same four calls as a table for monitors written against struct kvm_if. */
extern const struct kvm_if anykvm_kvm_if;

#ifdef __cplusplus
}
#endif

#endif
