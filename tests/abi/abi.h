/*
 * What the ABI tests share. All of them run on libanykvm, or with ANYKVM_TEST_KVM=sys on the kernel's /dev/kvm.
 */
#ifndef TESTS_ABI_H
#define TESTS_ABI_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "anykvm.h"
#include "base/types.h"
#include "kvm_if.h"

/* The implementation under test. */
extern const struct kvm_if *kvm;
bool abi_is_ours(void);

/* A VM with memory at 0, one vCPU in 16-bit real mode. */
#define ABI_MEM_SIZE 0x200000u
#define ABI_CODE 0x1000u
struct abi_vm {
	int sys, vm, vcpu;
	struct kvm_run *run;
	size_t run_size;
	u8 *mem;
};

enum abi_irqchip { ABI_NO_IRQCHIP, ABI_IRQCHIP, ABI_SPLIT_IRQCHIP };

/* Fails the test on any error. */
void abi_create(struct abi_vm *m, enum abi_irqchip irqchip);
/* VM and memory alone. */
void abi_create_vm(struct abi_vm *m, enum abi_irqchip irqchip);
/* vCPU @id: its descriptor, its run page in *@run. */
int abi_add_vcpu(struct abi_vm *m, u32 id, struct kvm_run **run);
void abi_destroy(struct abi_vm *m);

/* Fixtures: *@state is such a VM with one vCPU. */
int abi_setup(void **state);
int abi_setup_irqchip(void **state);
int abi_teardown(void **state);

/* ioctl(2) through the interface under test; @arg is a pointer or a number. */
#define ioc(fd, req, arg) kvm->ioctl(fd, req, (void *)(uintptr_t)(arg))
/* Expects success (the value is returned), or just this error. */
#define ioc_ok(fd, req, arg)                                    \
	({                                                      \
		long r_ = ioc(fd, req, arg);                    \
		if (r_ < 0)                                     \
			fail_msg("%s: error %ld", #req, -r_);   \
		r_;                                             \
	})
#define ioc_err(fd, req, arg, err)                                                              \
	do {                                                                                    \
		long r_ = ioc(fd, req, arg);                                                    \
		if (r_ != -(err))                                                               \
			fail_msg("%s: %ld instead of %s", #req, r_, #err);                      \
	} while (0)

int abi_set_memory(struct abi_vm *m, u32 slot, u32 flags, u64 gpa, u64 size, void *hva);

/*
 * A piece of guest code: GUEST16(name, "assembly") defines it, ABI_LOAD(vm, name) puts it at ABI_CODE of guest memory
 * and points the vCPU there, flags clear, segments 0.
 */
#define GUEST_CODE(bits, name, text)                                                                        \
	extern const u8 name[], name##_end[];                                                               \
	__asm__(".pushsection .rodata\n.code" #bits "\n.globl " #name "\n" #name ":\n" text                 \
		"\n.globl " #name "_end\n" #name "_end:\n.code64\n.popsection\n")
#define GUEST16(name, text) GUEST_CODE(16, name, text)
#define ABI_LOAD(m, name) abi_load(m, (m)->vcpu, name, (size_t)(name##_end - name))
void abi_load(struct abi_vm *m, int vcpu, const u8 *code, size_t size);

/* The same in 64-bit mode at CPL 0, with the first GiB at its own address by large pages; stack below ABI_STACK64. */
#define ABI_STACK64 0x18000u
void abi_enter_64bit(struct abi_vm *m, int vcpu, u64 rip);
#define ABI_LOAD64(m, name)                                                      \
	do {                                                                     \
		memcpy((m)->mem + ABI_CODE, name, (size_t)(name##_end - name));  \
		abi_enter_64bit(m, (m)->vcpu, ABI_CODE);                         \
	} while (0)

/* Lets DS reach all 4 GiB in real mode, and points vector @n of the interrupt table to @offset of segment 0. */
void abi_flat_ds(struct abi_vm *m, int vcpu);
void abi_vector(struct abi_vm *m, unsigned n, u16 offset);

/* KVM_RUN that must end with @reason. */
void abi_run(struct abi_vm *m, u32 reason);
/* Runs until the guest writes to port @port; fails on any other exit. Returns the value. */
u32 abi_run_to_out(struct abi_vm *m, u16 port);
/* The value of the KVM_EXIT_IO under way. */
u32 abi_io_value(const struct kvm_run *run);

struct kvm_regs abi_regs(struct abi_vm *m);

/* A pointer that cannot be read or written. */
#define BAD_POINTER ((void *)0x10)

#endif
