#include "cpu_fixture.h"

#include <stdlib.h>

#include "cpu/cpuid.h"

int fixture_setup(void **state)
{
	struct fixture *f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));
	struct cpuid_entry e[CPUID_MAX_ENTRIES];

	assert_non_null(f);
	memset(f, 0, sizeof(*f));
	f->ram = aligned_alloc(PAGE_SIZE, RAM_SIZE);
	f->high = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	f->rom = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	f->map = calloc(1, sizeof(*f->map) + 3 * sizeof(f->map->slot[0]));
	assert_true(f->ram && f->high && f->rom && f->map);
	memset(f->ram, 0, RAM_SIZE);
	memset(f->high, 0, PAGE_SIZE);
	memset(f->rom, 0x5a, PAGE_SIZE);
	f->map->nr = 3;
	f->map->slot[0] = (struct gpa_slot){.gpa = 0, .size = RAM_SIZE, .hva = f->ram, .flags = GPA_LOG_DIRTY,
					    .dirty = f->dirty};
	f->map->slot[1] = (struct gpa_slot){.gpa = ROM_GPA, .size = PAGE_SIZE, .hva = f->rom, .flags = GPA_READONLY};
	f->map->slot[2] = (struct gpa_slot){.gpa = HIGH_GPA, .size = PAGE_SIZE, .hva = f->high};
	f->next_table = 0x800000;
	assert_int_equal(cpu_init(&f->cpu), 0);
	assert_int_equal(cpuid_set(&f->cpu, e, MIN(cpuid_supported(e, CPUID_MAX_ENTRIES), CPUID_MAX_ENTRIES)), 0);
	/* Whatever the host is: 40 bits of physical address. */
	f->cpu.maxphyaddr = 40;
	f->cpu.map = f->map;
	*state = f;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	cpu_fini(&f->cpu);
	free(f->ram);
	free(f->high);
	free(f->rom);
	free(f->map);
	free(f);
	return 0;
}

void put(struct fixture *f, u64 gpa, unsigned size, u64 v)
{
	assert_true(gpa + size <= RAM_SIZE);
	memcpy(f->ram + gpa, &v, size);
}

u64 get(struct fixture *f, u64 gpa, unsigned size)
{
	u64 v = 0;

	assert_true(gpa + size <= RAM_SIZE);
	memcpy(&v, f->ram + gpa, size);
	return v;
}

static u64 new_table(struct fixture *f)
{
	u64 at = f->next_table;

	f->next_table += PAGE_SIZE;
	memset(f->ram + at, 0, PAGE_SIZE);
	return at;
}

void paging_on(struct fixture *f, enum paging paging)
{
	struct cpu *c = &f->cpu;

	c->cr3 = new_table(f);
	c->cr0 |= CR0_PE | CR0_PG | CR0_WP;
	c->cr4 = (paging == PAGING_32 ? CR4_PSE : CR4_PAE) | CR4_PGE | (paging == PAGING_5 ? CR4_LA57 : 0);
	c->efer = paging == PAGING_32 ? 0 : EFER_NX;
	c->seg[SEG_CS].db = c->seg[SEG_SS].db = 1;
	if (paging >= PAGING_4) {
		c->efer |= EFER_LME | EFER_LMA;
		c->seg[SEG_CS].l = 1;
		c->seg[SEG_CS].db = 0;
	}
	tlb_flush_all(c);
	cpu_update_mode(c);
}

u64 map_page(struct fixture *f, enum paging paging, u64 la, u64 gpa, unsigned page_bits, u64 upper, u64 leaf)
{
	static const unsigned levels[] = {2, 3, 4, 5};
	unsigned bytes = paging == PAGING_32 ? 4 : 8, index_bits = paging == PAGING_32 ? 10 : 9;
	u64 table = f->cpu.cr3 & ~0xfffull;

	for (unsigned level = levels[paging];; level--) {
		unsigned shift = 12 + (level - 1) * index_bits;
		u64 at = table + (la >> shift & ((1u << index_bits) - 1)) * bytes;

		if (shift == page_bits) {
			u64 address = gpa;
			if (paging == PAGING_32 && page_bits == 22)
				address = (gpa & 0xffc00000) | (gpa >> 32 & 0xff) << 13;
			put(f, at, bytes, address | leaf | 1 | (page_bits > 12 ? P_PS : 0));
			if (paging == PAGING_PAE)
				assert_true(mmu_load_pdptes(&f->cpu, f->cpu.cr3));
			return at;
		}
		u64 e = get(f, at, bytes);
		if (!(e & 1))
			e = new_table(f);
		/* PDPTEs of PAE paging have no rights. */
		if (paging == PAGING_PAE && level == 3)
			e |= 1;
		else
			e = (e & ~(P_W | P_U | P_NX)) | upper | 1;
		put(f, at, bytes, e);
		table = e & 0xffffffffff000ull;
	}
}

void set_cpl(struct cpu *c, unsigned cpl)
{
	c->seg[SEG_SS].dpl = (u8)cpl;
	cpu_update_mode(c);
}

u64 make_desc(u32 base, u32 limit, u32 attr)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xf0ff) << 40 |
	       (u64)(limit >> 16 & 15) << 48 |
	       (u64)(base >> 24) << 56;
}
