/* Console and checks, for 32- and 64-bit programs. */
#include "guest.h"

void *memset(void *p, int v, unsigned long n)
{
	void *d = p;
	asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory");
	return p;
}

void *memcpy(void *to, const void *from, unsigned long n)
{
	void *d = to;
	asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void guest_exit(int status)
{
	outb(PORT_EXIT, (u8)status);
	for (;;)
		asm volatile("cli; hlt");
}

void print(const char *s)
{
	while (*s)
		outb(PORT_CONSOLE, (u8)*s++);
}

void print_hex(u64 v)
{
	print("0x");
	for (int shift = 60; shift >= 0; shift -= 4)
		outb(PORT_CONSOLE, (u8)"0123456789abcdef"[v >> shift & 15]);
}

void check(bool ok, const char *name)
{
	print(ok ? "ok - " : "not ok - ");
	print(name);
	print("\n");
}

void check_eq(u64 got, u64 want, const char *name)
{
	check(got == want, name);
	if (got != want) {
		print("# got ");
		print_hex(got);
		print(", want ");
		print_hex(want);
		print("\n");
	}
}

void expect(u64 vector, u64 error, const char *name)
{
	check_eq(trap_last.vector, vector, name);
	if (trap_last.vector == vector && trap_last.error != error)
		check_eq(trap_last.error, error, "... error code");
}

void expect_none(const char *name)
{
	check_eq(trap_last.taken ? trap_last.vector : ~0ull, ~0ull, name);
}

void unexpected(u64 vector, u64 error, u64 at)
{
	print("not ok - unexpected exception ");
	print_hex(vector);
	print(" error ");
	print_hex(error);
	print(" at ");
	print_hex(at);
	print(" cr2 ");
	print_hex(read_cr2());
	print("\n");
	guest_exit(1);
}
