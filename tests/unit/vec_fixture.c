#include "vec_fixture.h"

#include <stdio.h>

#include "engine/guard.h"

struct copy_arena vec_arena;

int vec_setup(void **state)
{
	fixture_setup(state);
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	decode_init();
	paging_on(f, PAGING_4);
	map_page(f, PAGING_4, DATA, DATA_GPA, 12, P_W | P_U, P_W);
	map_page(f, PAGING_4, DATA + PAGE_SIZE, DATA2_GPA, 12, P_W | P_U, P_W);
	map_page(f, PAGING_4, DATA_RO, DATA_RO_GPA, 12, P_W | P_U, 0);
	c->cr0 = (c->cr0 | CR0_NE | CR0_MP) & ~(CR0_EM | CR0_TS);
	c->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	c->xcr0 = xsave_supported();
	fpu_reset(&c->fpu);
	assert_int_equal(copy_arena_init(&vec_arena, 1 << 20), 0);
	guard_set_cpu(c);
	c->in_engine = true;
	return 0;
}

int vec_teardown(void **state)
{
	guard_set_cpu(NULL);
	copy_arena_fini(&vec_arena);
	return fixture_teardown(state);
}

void vec_decode(struct fixture *f, const char *hex, struct insn *i)
{
	u8 bytes[15] = {0};
	unsigned n = 0, b;

	for (; sscanf(hex + 2 * n, "%2x", &b) == 1; n++)
		bytes[n] = (u8)b;
	assert_int_equal(decode(i, bytes, sizeof(bytes), f->cpu.code_bits), DECODE_OK);
	assert_int_equal(i->len, n);
	if (!insn_rows[i->row].sem)
		assert_true(copy_prepare(&vec_arena, i));
	assert_non_null(i->fn);
}

static void run(struct cpu *c, const struct insn *i)
{
	insn_check(c, &insn_rows[i->row]);
	i->fn(c, i);
}

int vec_exec(struct fixture *f, const char *hex)
{
	struct insn i;

	vec_decode(f, hex, &i);
	assert_int_equal(guard_install(), 0); /* cmocka has put handlers of its own in front */
	return CATCH(&f->cpu, run(&f->cpu, &i));
}

static u8 *host_of(struct fixture *f, u64 la)
{
	u64 page = la & PAGE_MASK, gpa = page == DATA ? DATA_GPA : page == DATA_RO ? DATA_RO_GPA : DATA2_GPA;

	assert_true(page == DATA || page == DATA + PAGE_SIZE || page == DATA_RO);
	return f->ram + gpa + (la - page);
}

void vec_put(struct fixture *f, u64 la, const void *from, unsigned size)
{
	for (unsigned n = 0; n < size; n++)
		*host_of(f, la + n) = ((const u8 *)from)[n];
}

void vec_get(struct fixture *f, u64 la, void *to, unsigned size)
{
	for (unsigned n = 0; n < size; n++)
		((u8 *)to)[n] = *host_of(f, la + n);
}
