/*
 * What becomes of an exit: a table indexed by its reason. A handler returns 1 to go on in the guest, 0 for an exit
 * to the client with kvm_run filled, or -errno.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "cpu/exception.h"
#include "kvm/kvm.h"

typedef int exit_handler(struct vcpu *v);

static struct io_op *waiting_op(struct vcpu *v)
{
	return &v->cpu.io.op[v->cpu.io.done];
}

/* The answer is in op.data: the instruction is executed again with it. */
static int answered(struct vcpu *v)
{
	v->cpu.io.done++;
	v->cpu.io.pending = false;
	return 1;
}

static int to_client(struct vcpu *v, u32 exit_reason, enum wait_kind wait)
{
	v->run->exit_reason = exit_reason;
	v->wait = wait;
	return 0;
}

static u64 cut(u64 data, unsigned size)
{
	return size < 8 ? data & (BIT64(size * 8) - 1) : data;
}

/* --- Port I/O and memory-mapped I/O ----------------------------------------------------------------------- */

static int handle_pio(struct vcpu *v, struct io_op *op)
{
	bool in = op->kind == IO_PIO_IN;
	struct kvm_run *run = v->run;
	u64 data = op->data;

	v->stat.io_exits++;
	int r = in ? (data = 0, iobus_read(v, BUS_PIO, op->addr, op->size, &data))
		   : iobus_write(v, BUS_PIO, op->addr, op->size, &data);
	if (r == 0) {
		op->data = data;
		return answered(v);
	}
	run->io.direction = in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
	run->io.size = op->size;
	run->io.port = (u16)op->addr;
	run->io.count = 1;
	run->io.data_offset = PAGE_SIZE;
	if (!in)
		memcpy((u8 *)run + PAGE_SIZE, &data, op->size);
	return to_client(v, KVM_EXIT_IO, WAIT_PIO);
}

/* After a change at the LAPIC by its own vCPU. [Q] */
static void look_for_interrupt(struct vcpu *v)
{
	if (irqchip_has_interrupt(&v->vm->irqchip, &v->lapic))
		vcpu_request(v, VREQ_EVENT);
}

static bool lapic_page(struct vcpu *v, struct io_op *op)
{
	bool taken;

	if (!lapic_in_kernel(v) || (op->addr & PAGE_MASK) != (v->cpu.apic_base & PAGE_MASK))
		return false;
	pthread_mutex_lock(&v->vm->irq_lock);
	if (op->kind == IO_MMIO_READ) {
		taken = lapic_mmio_read(&v->lapic, op->addr, &op->data, op->size);
	} else {
		taken = lapic_mmio_write(&v->lapic, op->addr, &op->data, op->size);
		look_for_interrupt(v);
	}
	pthread_mutex_unlock(&v->vm->irq_lock);
	return taken;
}

static int handle_mmio(struct vcpu *v, struct io_op *op)
{
	bool read = op->kind == IO_MMIO_READ;
	struct kvm_run *run = v->run;

	if (lapic_page(v, op))
		return answered(v);
	int r = read ? iobus_read(v, BUS_MMIO, op->addr, op->size, &op->data)
		     : iobus_write(v, BUS_MMIO, op->addr, op->size, &op->data);
	if (r == 0)
		return answered(v);
	v->stat.mmio_exits++;
	run->mmio.phys_addr = op->addr;
	run->mmio.len = op->size;
	run->mmio.is_write = !read;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (!read)
		memcpy(run->mmio.data, &op->data, op->size);
	return to_client(v, KVM_EXIT_MMIO, WAIT_MMIO);
}

/* --- MSRs, CR8, hypercalls ------------------------------------------------------------------------------------ */

static int msr_to_client(struct vcpu *v, struct io_op *op, u32 why)
{
	struct kvm_run *run = v->run;

	if (!(atomic_load_explicit(&v->vm->user_msr_mask, memory_order_relaxed) & why)) {
		op->fault = true;
		return answered(v);
	}
	memset(&run->msr, 0, sizeof(run->msr));
	run->msr.reason = why;
	run->msr.index = (u32)op->addr;
	if (op->kind == IO_WRMSR)
		run->msr.data = op->data;
	return to_client(v, op->kind == IO_RDMSR ? KVM_EXIT_X86_RDMSR : KVM_EXIT_X86_WRMSR, WAIT_MSR);
}

static int handle_msr(struct vcpu *v, struct io_op *op)
{
	bool write = op->kind == IO_WRMSR;
	enum msr_result r;

	if (!vm_msr_allowed(v->vm, (u32)op->addr, write))
		return msr_to_client(v, op, KVM_MSR_EXIT_REASON_FILTER);
	r = write ? vcpu_wrmsr(v, (u32)op->addr, op->data, false) : vcpu_rdmsr(v, (u32)op->addr, &op->data, false);
	if (r == MSR_OK)
		return answered(v);
	return msr_to_client(v, op, r == MSR_UNKNOWN ? KVM_MSR_EXIT_REASON_UNKNOWN : KVM_MSR_EXIT_REASON_INVAL);
}

static int handle_cr8(struct vcpu *v, struct io_op *op)
{
	u64 before = vcpu_get_cr8(v);

	if (op->kind == IO_CR8_READ) {
		op->data = before;
		return answered(v);
	}
	op->fault = !vcpu_set_cr8(v, op->data);
	answered(v);
	/* Without an irqchip of ours the client must know when the guest lets more interrupts through. */
	if (op->fault || lapic_in_kernel(v) || before <= op->data)
		return 1;
	return to_client(v, KVM_EXIT_SET_TPR, WAIT_NONE);
}

static int handle_io(struct vcpu *v)
{
	struct io_op *op = waiting_op(v);

	op->fault = false;
	switch (op->kind) {
	case IO_PIO_IN:
	case IO_PIO_OUT:
		return handle_pio(v, op);
	case IO_MMIO_READ:
	case IO_MMIO_WRITE:
		return handle_mmio(v, op);
	case IO_RDMSR:
	case IO_WRMSR:
		return handle_msr(v, op);
	case IO_CR8_READ:
	case IO_CR8_WRITE:
		return handle_cr8(v, op);
	default:
		v->stat.hypercalls++;
		op->data = pv_hypercall(v);
		return answered(v);
	}
}

int vcpu_complete(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	enum wait_kind wait = v->wait;
	struct io_op *op = waiting_op(v);

	v->wait = WAIT_NONE;
	/* The client may have thrown the instruction away by setting registers. */
	if (wait == WAIT_NONE || !v->cpu.io.pending)
		return 1;
	switch (wait) {
	case WAIT_PIO:
		if (op->kind == IO_PIO_IN) {
			op->data = 0;
			memcpy(&op->data, (u8 *)run + PAGE_SIZE, op->size);
		}
		break;
	case WAIT_MMIO:
		if (op->kind == IO_MMIO_READ) {
			memcpy(&op->data, run->mmio.data, sizeof(op->data));
			op->data = cut(op->data, op->size);
		}
		break;
	case WAIT_MSR:
		op->fault = run->msr.error != 0;
		if (op->kind == IO_RDMSR)
			op->data = run->msr.data;
		break;
	default:
		break;
	}
	return answered(v);
}

/* --- The other reasons -------------------------------------------------------------------------------------------- */

static int handle_kick(struct vcpu *v)
{
	return 1;
}

static int handle_window(struct vcpu *v)
{
	vcpu_request(v, VREQ_EVENT);
	return 1;
}

static int handle_halt(struct vcpu *v)
{
	if (!lapic_in_kernel(v))
		return to_client(v, KVM_EXIT_HLT, WAIT_NONE);
	v->mp_state = KVM_MP_STATE_HALTED;
	return 1;
}

static int handle_pause(struct vcpu *v)
{
	if (!(v->vm->disabled_exits & KVM_X86_DISABLE_EXITS_PAUSE) &&
	    atomic_load_explicit(&v->vm->nr_vcpus, memory_order_relaxed) > 1)
		sched_yield();
	return 1;
}

static int handle_triple_fault(struct vcpu *v)
{
	return to_client(v, KVM_EXIT_SHUTDOWN, WAIT_NONE);
}

static int handle_debug(struct vcpu *v)
{
	struct kvm_debug_exit_arch *d = &v->run->debug.arch;

	memset(d, 0, sizeof(*d));
	d->exception = v->cpu.exit.debug.exception;
	d->pc = v->cpu.exit.debug.pc;
	d->dr6 = v->cpu.exit.debug.dr6;
	d->dr7 = v->cpu.exit.debug.dr7;
	return to_client(v, KVM_EXIT_DEBUG, WAIT_NONE);
}

/* As KVM: the guest's user code gets #UD, unless the client wants to know; its kernel cannot go on. */
static int handle_emulation(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	struct cpu *c = &v->cpu;

	cpu_io_retire(c);
	if (!v->vm->exit_on_emulation_failure && c->cpl != 0) {
		v->vm->ops->inject(c, &(struct event){.type = EV_EXCEPTION, .vector = VEC_UD});
		return 1;
	}
	memset(&run->emulation_failure, 0, sizeof(run->emulation_failure));
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->emulation_failure.ndata = 1;
	if (c->exit.insn_len) {
		run->emulation_failure.ndata = 3;
		run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
		run->emulation_failure.insn_size = MIN(c->exit.insn_len, sizeof(run->emulation_failure.insn_bytes));
		memset(run->emulation_failure.insn_bytes, 0x90, sizeof(run->emulation_failure.insn_bytes));
		memcpy(run->emulation_failure.insn_bytes, c->exit.insn, run->emulation_failure.insn_size);
	}
	return to_client(v, KVM_EXIT_INTERNAL_ERROR, WAIT_NONE);
}

static int handle_memory_fault(struct vcpu *v)
{
	struct run_memory_fault f = {.gpa = v->cpu.exit.gpa & PAGE_MASK, .size = PAGE_SIZE};

	cpu_io_retire(&v->cpu);
	memcpy(&v->run->hw, &f, sizeof(f));
	v->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
	return -EFAULT;
}

static int handle_engine_error(struct vcpu *v)
{
	cpu_io_retire(&v->cpu);
	v->run->internal.suberror = KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON;
	v->run->internal.ndata = 0;
	return to_client(v, KVM_EXIT_INTERNAL_ERROR, WAIT_NONE);
}

static exit_handler *const exit_handlers[NR_EXIT_REASON] = {
	[EXIT_KICK] = handle_kick,
	[EXIT_IRQ_WINDOW] = handle_window,
	[EXIT_NMI_WINDOW] = handle_window,
	[EXIT_IO] = handle_io,
	[EXIT_HLT] = handle_halt,
	[EXIT_PAUSE] = handle_pause,
	[EXIT_TRIPLE_FAULT] = handle_triple_fault,
	[EXIT_DEBUG] = handle_debug,
	[EXIT_EMULATION] = handle_emulation,
	[EXIT_MEMORY_FAULT] = handle_memory_fault,
	[EXIT_ENGINE_ERROR] = handle_engine_error,
};

int vcpu_handle_exit(struct vcpu *v, enum exit_reason reason)
{
	return exit_handlers[reason](v);
}
