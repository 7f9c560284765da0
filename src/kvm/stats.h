/* KVM's binary statistics (api.rst, 4.133 KVM_GET_STATS_FD). */
#ifndef KVM_STATS_H
#define KVM_STATS_H

#include "base/types.h"

struct vcpu;
struct vm;

/* What a vCPU counts besides cpu.stat and its engine, on its own thread. [v] */
struct vcpu_stat {
	u64 exits, io_exits, mmio_exits, signal_exits, request_irq_exits, hypercalls, irq_injections, nmi_injections;
	u64 req_event, halt_wakeup, halt_wait_ns;
};

struct vm_stat {
	u64 remote_tlb_flush, remote_tlb_flush_requests; /* [S] */
};

/* A statistics file: the memory that its descriptors show. All zero: none was asked for yet. */
struct stats_file {
	void *map;
	size_t size;
	u64 *data; /* in @map; NULL without a file */
	int fd;    /* from which further descriptors are opened */
	u64 dev, ino;
};

/*
 * KVM_GET_STATS_FD: a new descriptor, read-only and close-on-exec, with a file position of its own; or -errno. It
 * outlives the VM and then shows the last values. It holds no reference to the VM: there is nothing left to count.
 * What it shows is of the latest stats_publish_*(): the end of a vCPU's stay in its engine, the latest change of the
 * VM's memory map, or this call.
 */
int vcpu_stats_fd(struct vcpu *v); /* [v] */
int vm_stats_fd(struct vm *vm);    /* [S] */

/* Copies the counters to the file, if there is one. Same locks. */
void vcpu_stats_publish(struct vcpu *v);
void vm_stats_publish(struct vm *vm);

/* The memory goes; descriptors that the client has keep theirs. */
void stats_file_fini(struct stats_file *f);

#endif
