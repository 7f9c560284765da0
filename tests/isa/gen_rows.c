/* Rows that cannot be compared, and where the generator does not go because processors differ. */
#include "cpu/cpuid.h"
#include "gen.h"

/* Outside of 64-bit code VEX.W chooses nothing here, but AMD's processors do not take 1. */
bool w_matters(const struct insn_row *r)
{
	return starts(r, "vpextr") || starts(r, "vpinsr");
}

const char *row_excluded(const struct insn_row *r)
{
	static const struct {
		const char *name, *why;
	} excluded[] = {
		{"cpuid", "its result is the machine's own"},
		{"rdtsc", "its result is the machine's own"},
		{"rdtscp", "its result is the machine's own"},
		{"rdrand", "its result is random"},
		{"rdseed", "its result is random"},
		{"rdpid", "its result is the machine's own"},
		{"rdpru", "its result is the machine's own"},
		{"syscall", "it would call the host's kernel"},
		{"sysenter", "it would call the host's kernel"},
		{"vmcall", "it would call the host's hypervisor"},
		{"vmmcall", "it would call the host's hypervisor"},
		{"sgdt", "the host's kernel emulates it"},
		{"sidt", "the host's kernel emulates it"},
		{"sldt", "the host's kernel emulates it"},
		{"str", "the host's kernel emulates it"},
		{"smsw", "the host's kernel emulates it"},
		{"int1", "a virtual host reports it before it has retired"},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(excluded); n++)
		if (named(r, excluded[n].name))
			return excluded[n].why;
	if (w_matters(r) && r->w == W_1 && r->modes == IN_16_32 && cpuid_host_amd())
		return "#UD on AMD's processors";
	if (named(r, "nop") && r->map == 1 && r->opcode == 0x0d && cpuid_host_amd())
		return "#UD on AMD's processors";
	return NULL;
}

/* Several accesses to the stack: which one faults first, and what is done by then, is the processor's choice. */
bool stack_order(const struct insn_row *r)
{
	return named(r, "ret") || starts(r, "iret") || named(r, "call") || starts(r, "pusha") || starts(r, "popa") ||
	       (starts(r, "pop") && operand_info[r->operand[0]].kind != OK_E &&
		operand_info[r->operand[0]].kind != OK_Z && !starts(r, "popf"));
}
