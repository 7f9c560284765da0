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
