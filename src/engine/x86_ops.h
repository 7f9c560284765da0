/*
 * The vendor table: the one door between the run loop and whoever executes guest code
 * (after KVM's kvm_x86_ops). docs/x86_ops.md says where the other members of KVM's table live.
 */
#ifndef ENGINE_X86_OPS_H
#define ENGINE_X86_OPS_H

#include "cpu/cpu.h"

/* A counter for people: a u64 at @offset in *cpu->engine, written by the vCPU's thread alone. */
struct x86_stat {
	const char *name;
	enum x86_stat_kind {
		X86_STAT_COUNT,
		X86_STAT_NS,
		X86_STAT_TICKS, /* of the host's TSC; told in ns */
		X86_STAT_BYTES, /* as of now; the others only grow */
	} kind;
	u32 offset;
};

struct x86_ops {
	const char *name;

	/* Before each VM's first vCPU; idempotent. 0 or -errno. */
	int (*hardware_setup)(void);

	/* What the engine shares between the vCPUs of a VM. NULL members: nothing. 0 or -ENOMEM. */
	int (*vm_init)(void **engine_vm);
	void (*vm_destroy)(void *engine_vm);

	/* The engine's part of a vCPU: cpu->engine. 0 or -errno. */
	int (*vcpu_create)(struct cpu *c);
	void (*vcpu_free)(struct cpu *c);

	/* Bracket a stretch of runs on the calling thread. */
	void (*vcpu_load)(struct cpu *c);
	void (*vcpu_put)(struct cpu *c);

	/*
	 * Runs the guest until an exit; fills cpu->exit and returns its reason. Delivers cpu->inject first.
	 * With an instruction half done (cpu->io), executes that one before it looks at cpu->request.
	 */
	enum exit_reason (*run)(struct cpu *c);

	/* Forgets all translations. */
	void (*tlb_flush_all)(struct cpu *c);

	/* To be delivered at the start of the next run. The caller has checked that it is allowed. */
	void (*inject)(struct cpu *c, const struct event *e);
	void (*enable_irq_window)(struct cpu *c);
	void (*enable_nmi_window)(struct cpu *c);

	/* From any thread: the run ends soon. Sets @req in cpu->request. */
	void (*kick)(struct cpu *c, u32 req);

	/* Up to a row without a name. NULL: none. */
	const struct x86_stat *stats;
};

extern const struct x86_ops interp_x86_ops;
extern const struct x86_ops jit_x86_ops;
extern const struct x86_ops lockstep_x86_ops;

/*
 * From now on translated code is named in /tmp/perf-PID.map, for perf(1). Process-wide; a child after fork(2) writes to
 * its parent's. 0 or -errno.
 */
int engine_perf_map(void);

/*
 * Bytes of translated code that each vCPU created from now on keeps at most; as much again and a half is for what
 * must be known of it. 0, or -EINVAL: not from JIT_CACHE_MIN to JIT_CACHE_MAX.
 */
#define JIT_CACHE_MIN (128u << 10)
#define JIT_CACHE_MAX (64u << 20)
int engine_jit_cache(u64 bytes);

/* The engine of that name ("interp", "jit", "lockstep"), or NULL. */
const struct x86_ops *engine_find(const char *name);

#endif
