#include "monitor/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CODE_BYTES 16u

struct text {
	char buf[MACHINE_MESSAGE_MAX];
	size_t len;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *fmt, ...)
{
	size_t room = sizeof(t->buf) - t->len;
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(t->buf + t->len, room, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->len += MIN((size_t)n, room - 1);
}

static void put_bytes(struct text *t, const char *what, const u8 *bytes, unsigned n)
{
	put(t, "  %s:", what);
	for (unsigned i = 0; i < n; i++)
		put(t, " %02x", bytes[i]);
	put(t, "\n");
}

const char *exit_name(u32 reason)
{
	static const char *const name[] = {
		[KVM_EXIT_UNKNOWN] = "UNKNOWN",
		[KVM_EXIT_EXCEPTION] = "EXCEPTION",
		[KVM_EXIT_IO] = "IO",
		[KVM_EXIT_HYPERCALL] = "HYPERCALL",
		[KVM_EXIT_DEBUG] = "DEBUG",
		[KVM_EXIT_HLT] = "HLT",
		[KVM_EXIT_MMIO] = "MMIO",
		[KVM_EXIT_IRQ_WINDOW_OPEN] = "IRQ_WINDOW_OPEN",
		[KVM_EXIT_SHUTDOWN] = "SHUTDOWN",
		[KVM_EXIT_FAIL_ENTRY] = "FAIL_ENTRY",
		[KVM_EXIT_INTR] = "INTR",
		[KVM_EXIT_SET_TPR] = "SET_TPR",
		[KVM_EXIT_TPR_ACCESS] = "TPR_ACCESS",
		[KVM_EXIT_NMI] = "NMI",
		[KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR",
		[KVM_EXIT_SYSTEM_EVENT] = "SYSTEM_EVENT",
		[KVM_EXIT_IOAPIC_EOI] = "IOAPIC_EOI",
		[KVM_EXIT_X86_RDMSR] = "X86_RDMSR",
		[KVM_EXIT_X86_WRMSR] = "X86_WRMSR",
	};

	return reason < ARRAY_SIZE(name) && name[reason] ? name[reason] : "?";
}

/* The operands of the exit that ends the run. */
static void put_exit(struct text *t, const struct kvm_run *run)
{
	put(t, "  exit: %s (%u)", exit_name(run->exit_reason), run->exit_reason);
	switch (run->exit_reason) {
	case KVM_EXIT_UNKNOWN: put(t, ", hardware reason 0x%llx", run->hw.hardware_exit_reason); break;
	case KVM_EXIT_FAIL_ENTRY:
		put(t, ", hardware reason 0x%llx", run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_SYSTEM_EVENT: put(t, ", type %u", run->system_event.type); break;
	case KVM_EXIT_INTERNAL_ERROR: {
		put(t, ", suberror %u%s", run->internal.suberror,
		    run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION ? " (emulation)" : "");
		if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
			break;
		for (u32 i = 0; i < MIN(run->internal.ndata, (u32)ARRAY_SIZE(run->internal.data)); i++)
			put(t, "%s0x%llx", i ? " " : ", data ", run->internal.data[i]);
		break;
	}
	}
	put(t, "\n");
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
	    run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->internal.ndata >= 3 &&
	    (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		put_bytes(t, "instruction", run->emulation_failure.insn_bytes,
			  MIN(run->emulation_failure.insn_size, (u8)sizeof(run->emulation_failure.insn_bytes)));
}

static void put_last(struct text *t, const struct last_exit *last)
{
	if (!last->size)
		put(t, "  last access to a device: none\n");
	else
		put(t, "  last access to a device: %s of %u byte%s %s %s 0x%llx%s\n", last->write ? "write" : "read",
		    last->size, last->size > 1 ? "s" : "", last->write ? "to" : "from",
		    last->reason == KVM_EXIT_IO ? "port" : "address", (unsigned long long)last->addr,
		    last->count > 1 ? ", repeated" : "");
}

/* What lies at linear address @addr, as far as its page goes. Returns how many bytes that is. */
static unsigned guest_code(struct vcpu *v, u64 addr, u8 code[CODE_BYTES])
{
	struct kvm_translation tr = {.linear_address = addr};
	unsigned n = (unsigned)MIN((u64)CODE_BYTES, PAGE_SIZE - addr % PAGE_SIZE);

	if (v->machine->kvm->ioctl(v->fd, KVM_TRANSLATE, &tr) < 0 || !tr.valid)
		return 0;

	const u8 *host = guest_ram_ptr(&v->machine->ram, tr.physical_address, n);

	if (!host)
		return 0;
	memcpy(code, host, n);
	return n;
}

static void put_state(struct text *t, struct vcpu *v)
{
	const struct kvm_if *kvm = v->machine->kvm;
	struct kvm_regs r;
	struct kvm_sregs s;
	u8 code[CODE_BYTES];

	if (kvm->ioctl(v->fd, KVM_GET_REGS, &r) < 0 || kvm->ioctl(v->fd, KVM_GET_SREGS, &s) < 0) {
		put(t, "  its registers cannot be read\n");
		return;
	}
	put(t, "  RIP %04x:%016llx  RSP %04x:%016llx  RFLAGS %08llx\n", s.cs.selector, r.rip, s.ss.selector, r.rsp,
	    r.rflags);
	put(t, "  RAX %016llx  RBX %016llx  RCX %016llx  RDX %016llx\n", r.rax, r.rbx, r.rcx, r.rdx);
	put(t, "  RSI %016llx  RDI %016llx  RBP %016llx  R8  %016llx\n", r.rsi, r.rdi, r.rbp, r.r8);
	put(t, "  R9  %016llx  R10 %016llx  R11 %016llx  R12 %016llx\n", r.r9, r.r10, r.r11, r.r12);
	put(t, "  R13 %016llx  R14 %016llx  R15 %016llx\n", r.r13, r.r14, r.r15);
	put(t, "  CR0 %08llx  CR2 %016llx  CR3 %016llx  CR4 %08llx  EFER %04llx\n", s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
	put(t, "  CS base %llx limit %x type %x dpl %u %s  IDT %llx limit %x  GDT %llx limit %x\n", s.cs.base,
	    s.cs.limit,
	    s.cs.type, s.cs.dpl, s.cs.l ? "64-bit" : s.cs.db ? "32-bit" : "16-bit", s.idt.base, s.idt.limit, s.gdt.base,
	    s.gdt.limit);
	unsigned n = guest_code(v, s.cs.base + r.rip, code);
	if (n)
		put_bytes(t, "code at RIP", code, n);
	else
		put(t, "  code at RIP: not in RAM\n");
}

static void finish(struct text *t, struct vcpu *v)
{
	put_state(t, v);
	put_last(t, &v->last);
	if (t->len && t->buf[t->len - 1] == '\n')
		t->buf[--t->len] = 0;
	machine_stop(v->machine, STOP_GUEST_ERROR, 0, t->buf);
}

void report_exit(struct vcpu *v, const char *what)
{
	struct text t = {.len = 0};

	put(&t, "guest error on CPU %u: %s\n", v->id, what);
	put_exit(&t, v->run);
	finish(&t, v);
}

void report_error(struct vcpu *v, int error)
{
	struct text t = {.len = 0};

	put(&t, "CPU %u cannot run: KVM_RUN: %s\n", v->id, strerror(error));
	finish(&t, v);
}
