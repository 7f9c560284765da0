/* The accessors: page crossings, MMIO and its replay, read-only memory, alignment checks, self-modification. */
#include "cpu_fixture.h"

#define LA 0x00c3a000ull

static void test_canonical(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_4);
	ASSERT_FAULT(c, VEC_GP, 0, mem_read(c, SEG_DS, 0x0000800000000000, 1));
	ASSERT_FAULT(c, VEC_SS, 0, mem_read(c, SEG_SS, 0xffff7fffffffffff, 1));
	map_page(f, PAGING_4, 0x00007ffffffff000, 0x10000, 12, P_W, P_W);
	ASSERT_FINE(c, mem_read(c, SEG_DS, 0x00007ffffffffff8, 8));
	ASSERT_FAULT(c, VEC_GP, 0, mem_read(c, SEG_DS, 0x00007ffffffffffc, 8));
	c->cr4 |= CR4_LA57;
	cpu_update_mode(c);
	assert_int_equal(c->maxlinear, 57);
}

/* An access over two pages changes nothing unless both may be written. */
static void test_crossing(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 v = 0;
	u8 block[64];

	paging_on(f, PAGING_4);
	map_page(f, PAGING_4, LA, 0x10000, 12, P_W, P_W);
	u64 at = map_page(f, PAGING_4, LA + 0x1000, 0x20000, 12, P_W, 0);
	put(f, 0x10ffc, 4, 0x11111111);
	put(f, 0x20000, 4, 0x22222222);
	ASSERT_FINE(c, v = mem_read(c, SEG_DS, LA + 0xffc, 8));
	assert_int_equal(v, 0x2222222211111111);
	ASSERT_FAULT(c, VEC_PF, PF_P | PF_W, mem_write(c, SEG_DS, LA + 0xffc, 8, 0));
	assert_int_equal(c->fault.payload, LA + 0x1000);
	assert_int_equal(get(f, 0x10ffc, 4), 0x11111111);
	memset(block, 0xee, sizeof(block));
	ASSERT_FAULT(c, VEC_PF, PF_P | PF_W, mem_write_block(c, SEG_DS, LA + 0xfe0, block, 64));
	assert_int_equal(get(f, 0x10ffc, 4), 0x11111111);
	put(f, at, 8, get(f, at, 8) | P_W);
	tlb_flush_page(c, LA + 0x1000);
	ASSERT_FINE(c, mem_write(c, SEG_DS, LA + 0xffd, 8, 0x8877665544332211));
	assert_int_equal(get(f, 0x10ffd, 3), 0x332211);
	assert_int_equal(get(f, 0x20000, 5), 0x8877665544);
	ASSERT_FINE(c, mem_write_block(c, SEG_DS, LA + 0xfe0, block, 64));
	u8 back[64];
	ASSERT_FINE(c, mem_read_block(c, SEG_DS, LA + 0xfe0, back, 64));
	assert_memory_equal(block, back, 64);
	assert_int_equal(get(f, 0x2001f, 2), 0x00ee);
	/* A crossing access never comes from the fast path: there is no pointer for it. */
	ASSERT_FINE(c, assert_null(mem_host(c, SEG_DS, LA + 0xffc, 8, ACC_READ)));
	ASSERT_FINE(c, assert_ptr_equal(mem_host(c, SEG_DS, LA + 8, 8, ACC_WRITE), f->ram + 0x10008));
}

/* MMIO: the request is recorded and the answer replayed; RAM beside it is written only when all answers are there. */
static void test_mmio(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 v = 0, mmio = 0xfee00000;

	assert_int_equal(CATCH(c, mem_read(c, SEG_DS, mmio + 0x20, 4)), UNWIND_EXIT);
	assert_int_equal(c->exit.reason, EXIT_IO);
	assert_true(c->io.pending);
	assert_int_equal(c->io.op[0].kind, IO_MMIO_READ);
	assert_int_equal(c->io.op[0].addr, mmio + 0x20);
	assert_int_equal(c->io.op[0].size, 4);
	c->io.op[0].data = 0x12345678;
	c->io.done = 1;
	c->io.pending = false;
	ASSERT_FINE(c, v = mem_read(c, SEG_DS, mmio + 0x20, 4));
	assert_int_equal(v, 0x12345678);
	cpu_io_retire(c);

	/* 16 bytes from the last 4 of RAM: two requests of 8 and 4, then the RAM part. */
	u8 data[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	u64 la = RAM_SIZE - 4;
	put(f, la, 4, 0xffffffff);
	assert_int_equal(CATCH(c, mem_write_block(c, SEG_DS, la, data, 16)), UNWIND_EXIT);
	assert_int_equal(c->io.op[0].size, 8);
	assert_int_equal(c->io.op[0].data, 0x0b0a090807060504);
	c->io.done = 1;
	assert_int_equal(CATCH(c, mem_write_block(c, SEG_DS, la, data, 16)), UNWIND_EXIT);
	assert_int_equal(c->io.op[1].addr, RAM_SIZE + 8);
	assert_int_equal(c->io.op[1].size, 4);
	assert_int_equal(c->io.op[1].data, 0x0f0e0d0c);
	assert_int_equal(get(f, la, 4), 0xffffffff);
	c->io.done = 2;
	ASSERT_FINE(c, mem_write_block(c, SEG_DS, la, data, 16));
	assert_int_equal(get(f, la, 4), 0x03020100);
	cpu_io_retire(c);

	/* A store over two pages of MMIO is one request for each. */
	assert_int_equal(CATCH(c, mem_write(c, SEG_DS, mmio + 0xffd, 8, 0x8877665544332211)), UNWIND_EXIT);
	c->io.done = 1;
	assert_int_equal(CATCH(c, mem_write(c, SEG_DS, mmio + 0xffd, 8, 0x8877665544332211)), UNWIND_EXIT);
	assert_int_equal(c->io.op[0].size, 3);
	assert_int_equal(c->io.op[0].data, 0x332211);
	assert_int_equal(c->io.op[1].addr, mmio + 0x1000);
	assert_int_equal(c->io.op[1].size, 5);
	assert_int_equal(c->io.op[1].data, 0x8877665544);
	c->io.done = 2;
	ASSERT_FINE(c, mem_write(c, SEG_DS, mmio + 0xffd, 8, 0x8877665544332211));
	cpu_io_retire(c);

	/* Answers of another way through the instruction are dropped. */
	c->io.done = 2;
	assert_int_equal(CATCH(c, mem_read(c, SEG_DS, mmio, 4)), UNWIND_EXIT);
	assert_int_equal(c->io.done, 0);
	/* A refused request is a #GP. */
	c->io.op[0] = (struct io_op){.kind = IO_RDMSR, .size = 8, .addr = 0x123, .fault = true};
	c->io.done = 1;
	ASSERT_FAULT(c, VEC_GP, 0, cpu_io(c, IO_RDMSR, 0x123, 8, 0));
	assert_int_equal(c->io.done, 0);
}

static void test_io_overflow(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	for (unsigned n = 0; n < IO_OPS_MAX; n++)
		c->io.op[n] = (struct io_op){.kind = IO_PIO_IN, .size = 1, .addr = n};
	c->io.done = IO_OPS_MAX;
	int how = CATCH(c, for (unsigned n = 0; n < IO_OPS_MAX + 1; n++) cpu_io(c, IO_PIO_IN, n, 1, 0));
	assert_int_equal(how, UNWIND_EXIT);
	assert_int_equal(c->exit.reason, EXIT_EMULATION);
}

static void test_readonly_slot(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 v = 0;

	ASSERT_FINE(c, v = mem_read(c, SEG_DS, ROM_GPA + 8, 2));
	assert_int_equal(v, 0x5a5a);
	assert_int_equal(CATCH(c, mem_write(c, SEG_DS, ROM_GPA + 8, 2, 0x1234)), UNWIND_EXIT);
	assert_int_equal(c->io.op[0].kind, IO_MMIO_WRITE);
	assert_int_equal(c->io.op[0].data, 0x1234);
	assert_int_equal(f->rom[8], 0x5a);
}

static void test_alignment(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_4);
	map_page(f, PAGING_4, LA, 0, 12, P_W | P_U, P_W | P_U);
	c->cr0 |= CR0_AM;
	c->rflags |= FL_AC;
	set_cpl(c, 3);
	for (unsigned size = 1; size <= 8; size *= 2) {
		for (unsigned off = 0; off < 8; off++) {
			if (off % size) {
				ASSERT_FAULT(c, VEC_AC, 0, mem_read(c, SEG_DS, LA + off, size));
				ASSERT_FAULT(c, VEC_AC, 0, mem_write(c, SEG_DS, LA + off, size, 0));
				ASSERT_FAULT(c, VEC_AC, 0, mem_host(c, SEG_DS, LA + off, size, ACC_READ));
			} else {
				ASSERT_FINE(c, mem_read(c, SEG_DS, LA + off, size));
				ASSERT_FINE(c, mem_write(c, SEG_DS, LA + off, size, 0));
			}
		}
	}
	ASSERT_FAULT(c, VEC_AC, 0, mem_host(c, SEG_DS, LA + PAGE_SIZE - 1, 2, ACC_READ));
	/* Where a flat segment of 32-bit code ends, its limit comes first, which the caller knows. */
	void *host = c;
	u8 bits = c->code_bits;
	c->code_bits = 32;
	ASSERT_FINE(c, host = mem_host(c, SEG_DS, 0xffffffff, 2, ACC_READ));
	assert_null(host);
	c->code_bits = bits;
	/* Not at level 0, not without AC, not without AM. */
	set_cpl(c, 0);
	ASSERT_FINE(c, mem_read(c, SEG_DS, LA + 1, 8));
	set_cpl(c, 3);
	ASSERT_FAULT(c, VEC_AC, 0, mem_read(c, SEG_DS, LA + 1, 8));
	c->rflags &= ~FL_AC;
	set_cpl(c, 3);
	ASSERT_FINE(c, mem_read(c, SEG_DS, LA + 1, 8));
	c->rflags |= FL_AC;
	c->cr0 &= ~CR0_AM;
	set_cpl(c, 3);
	ASSERT_FINE(c, mem_read(c, SEG_DS, LA + 1, 8));
}

static void test_self_modification(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	c->code_page = (u64)(f->ram + 0x3000);
	ASSERT_FINE(c, mem_write(c, SEG_DS, 0x2ff0, 8, 0));
	assert_false(c->smc);
	ASSERT_FINE(c, mem_write(c, SEG_DS, 0x2ffc, 8, 0));
	assert_true(c->smc);
	for (unsigned n = 0; n < 2; n++) {
		c->smc = false;
		ASSERT_FINE(c, mem_write(c, SEG_DS, 0x3800, 1, 0));
		assert_true(c->smc);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_canonical), TEST(test_crossing), TEST(test_mmio), TEST(test_io_overflow),
		TEST(test_readonly_slot), TEST(test_alignment), TEST(test_self_modification),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
