#include "abi.h"

#include <sys/mman.h>

#include "monitor/kvm_if_sys.h"

const struct kvm_if *kvm = &anykvm_kvm_if;

static __attribute__((constructor)) void choose(void)
{
	const char *name = getenv("ANYKVM_TEST_KVM");

	if (name && !strcmp(name, "sys"))
		kvm = &sys_kvm_if;
}

bool abi_is_ours(void)
{
	return kvm == &anykvm_kvm_if;
}

int abi_set_memory(struct abi_vm *m, u32 slot, u32 flags, u64 gpa, u64 size, void *hva)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (u64)hva,
	};

	return (int)ioc(m->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

void abi_create_vm(struct abi_vm *m, enum abi_irqchip irqchip)
{
	memset(m, 0, sizeof(*m));
	m->vcpu = -1;
	m->sys = kvm->open();
	assert_true(m->sys >= 0);
	m->vm = (int)ioc_ok(m->sys, KVM_CREATE_VM, 0);
	m->run_size = (size_t)ioc_ok(m->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	m->mem = mmap(NULL, ABI_MEM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m->mem, MAP_FAILED);
	ioc_ok(m->vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	if (irqchip == ABI_IRQCHIP)
		ioc_ok(m->vm, KVM_CREATE_IRQCHIP, 0);
	if (irqchip == ABI_SPLIT_IRQCHIP) {
		struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
		ioc_ok(m->vm, KVM_ENABLE_CAP, &cap);
	}
	assert_int_equal(abi_set_memory(m, 0, 0, 0, ABI_MEM_SIZE, m->mem), 0);
}

int abi_add_vcpu(struct abi_vm *m, u32 id, struct kvm_run **run)
{
	int fd = (int)ioc_ok(m->vm, KVM_CREATE_VCPU, id);

	*run = kvm->mmap(fd, m->run_size);
	assert_non_null(*run);
	return fd;
}

void abi_create(struct abi_vm *m, enum abi_irqchip irqchip)
{
	abi_create_vm(m, irqchip);
	m->vcpu = abi_add_vcpu(m, 0, &m->run);
}

void abi_destroy(struct abi_vm *m)
{
	if (m->run)
		munmap(m->run, m->run_size);
	if (m->vcpu >= 0)
		assert_int_equal(kvm->close(m->vcpu), 0);
	assert_int_equal(kvm->close(m->vm), 0);
	assert_int_equal(kvm->close(m->sys), 0);
	munmap(m->mem, ABI_MEM_SIZE);
}

static struct abi_vm fixture;

int abi_setup(void **state)
{
	abi_create(&fixture, ABI_NO_IRQCHIP);
	*state = &fixture;
	return 0;
}

int abi_setup_irqchip(void **state)
{
	abi_create(&fixture, ABI_IRQCHIP);
	*state = &fixture;
	return 0;
}

int abi_teardown(void **state)
{
	abi_destroy(*state);
	return 0;
}

void abi_load(struct abi_vm *m, int vcpu, const u8 *code, size_t size)
{
	struct kvm_regs regs = {.rip = ABI_CODE, .rflags = 2, .rsp = 0x8000};
	struct kvm_sregs sregs;

	memcpy(m->mem + ABI_CODE, code, size);
	ioc_ok(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs.selector = sregs.ds.selector = sregs.es.selector = sregs.ss.selector = 0;
	sregs.cs.base = sregs.ds.base = sregs.es.base = sregs.ss.base = 0;
	ioc_ok(vcpu, KVM_SET_SREGS, &sregs);
	ioc_ok(vcpu, KVM_SET_REGS, &regs);
}

void abi_flat_ds(struct abi_vm *m, int vcpu)
{
	struct kvm_sregs sregs;

	ioc_ok(vcpu, KVM_GET_SREGS, &sregs);
	sregs.ds.limit = 0xffffffff;
	sregs.ds.g = 1;
	ioc_ok(vcpu, KVM_SET_SREGS, &sregs);
}

void abi_vector(struct abi_vm *m, unsigned n, u16 offset)
{
	memcpy(m->mem + n * 4, &(u32){offset}, 4);
}

void abi_run(struct abi_vm *m, u32 reason)
{
	long r = ioc(m->vcpu, KVM_RUN, 0);

	if (r < 0)
		fail_msg("KVM_RUN: error %ld, exit reason %u", -r, m->run->exit_reason);
	if (m->run->exit_reason != reason)
		fail_msg("exit reason %u instead of %u", m->run->exit_reason, reason);
}

u32 abi_io_value(const struct kvm_run *run)
{
	u32 v = 0;

	memcpy(&v, (const u8 *)run + run->io.data_offset, run->io.size);
	return v;
}

u32 abi_run_to_out(struct abi_vm *m, u16 port)
{
	abi_run(m, KVM_EXIT_IO);
	assert_int_equal(m->run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(m->run->io.port, port);
	return abi_io_value(m->run);
}

struct kvm_regs abi_regs(struct abi_vm *m)
{
	struct kvm_regs regs;

	ioc_ok(m->vcpu, KVM_GET_REGS, &regs);
	return regs;
}

#define PML4 0x10000u
#define PDPT 0x11000u
#define PD 0x12000u

void abi_enter_64bit(struct abi_vm *m, int vcpu, u64 rip)
{
	const struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	const struct kvm_segment data = {
		.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_regs regs = {.rip = rip, .rflags = 2, .rsp = ABI_STACK64};
	struct kvm_sregs s;

	*(u64 *)(m->mem + PML4) = PDPT | 7;
	*(u64 *)(m->mem + PDPT) = PD | 7;
	for (u64 n = 0; n < 512; n++)
		((u64 *)(m->mem + PD))[n] = n << 21 | 0x87;
	ioc_ok(vcpu, KVM_GET_SREGS, &s);
	s.cs = code;
	s.ds = s.es = s.ss = s.fs = s.gs = data;
	s.cr0 = 0x80000011;
	s.cr3 = PML4;
	s.cr4 = 0x20;
	s.efer = 0x500;
	ioc_ok(vcpu, KVM_SET_SREGS, &s);
	ioc_ok(vcpu, KVM_SET_REGS, &regs);
}
