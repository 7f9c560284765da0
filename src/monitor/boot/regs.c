/* How the boot vCPU starts: the two register sets that the boot protocols ask for. */
#include "monitor/boot/load.h"

#define CR0_PE BIT(0)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_PG BIT(31)
#define CR4_PAE BIT(5)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)

#define PTE_PRESENT BIT(0)
#define PTE_WRITE BIT(1)
#define PTE_HUGE BIT(7)

/* Selectors of __BOOT_CS and __BOOT_DS as the Linux protocols fix them; PVH leaves them open. */
#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS 0x20

enum { GDT_CODE = SEL_CODE / 8, GDT_DATA = SEL_DATA / 8, GDT_TSS = SEL_TSS / 8, GDT_ENTRIES };

#define DESC_CODE32 0x00cf9b000000ffffull
#define DESC_CODE64 0x00af9b000000ffffull
#define DESC_DATA 0x00cf93000000ffffull
#define DESC_TSS_BUSY 0x00008b0000000067ull

/* The hidden part that loading @selector would give for descriptor @desc (SDM Vol. 3A 3.4.5); all bases are zero. */
static struct kvm_segment segment(u16 selector, u64 desc)
{
	u32 limit = (desc & 0xffff) | (desc >> 32 & 0xf0000);
	bool g = desc >> 55 & 1;

	return (struct kvm_segment){
		.selector = selector,
		.limit = g ? limit << 12 | 0xfff : limit,
		.type = desc >> 40 & 15,
		.s = desc >> 44 & 1,
		.dpl = desc >> 45 & 3,
		.present = desc >> 47 & 1,
		.avl = desc >> 52 & 1,
		.l = desc >> 53 & 1,
		.db = desc >> 54 & 1,
		.g = g,
	};
}

static int set_segments(const struct guest_ram *ram, struct kvm_sregs *s, u64 code)
{
	const u64 gdt[GDT_ENTRIES] = { [GDT_CODE] = code, [GDT_DATA] = DESC_DATA, [GDT_TSS] = DESC_TSS_BUSY };

	if (!guest_ram_write(ram, BOOT_GDT_ADDR, gdt, sizeof(gdt)))
		return -1;
	s->cs = segment(SEL_CODE, code);
	s->ds = s->es = s->fs = s->gs = s->ss = segment(SEL_DATA, DESC_DATA);
	s->tr = segment(SEL_TSS, DESC_TSS_BUSY);
	s->ldt = (struct kvm_segment){ .type = 2, .unusable = 1 };
	s->gdt = (struct kvm_dtable){ .base = BOOT_GDT_ADDR, .limit = sizeof(gdt) - 1 };
	s->idt = (struct kvm_dtable){ 0 };
	return 0;
}

int regs_protected(const struct guest_ram *ram, struct boot_entry *entry)
{
	entry->sregs = (struct kvm_sregs){ .cr0 = CR0_PE | CR0_ET };
	entry->regs.rflags = 2;
	return set_segments(ram, &entry->sregs, DESC_CODE32);
}

int regs_long(const struct guest_ram *ram, struct boot_entry *entry)
{
	u64 table[512] = { BOOT_PDPT_ADDR | PTE_PRESENT | PTE_WRITE };

	if (!guest_ram_write(ram, BOOT_PML4_ADDR, table, sizeof(table)))
		return -1;
	for (u64 gb = 0; gb < 4; gb++)
		table[gb] = (BOOT_PD_ADDR + gb * PAGE_SIZE) | PTE_PRESENT | PTE_WRITE;
	if (!guest_ram_write(ram, BOOT_PDPT_ADDR, table, sizeof(table)))
		return -1;
	for (u64 gb = 0; gb < 4; gb++) {
		for (u64 i = 0; i < 512; i++)
			table[i] = (gb << 30 | i << 21) | PTE_PRESENT | PTE_WRITE | PTE_HUGE;
		if (!guest_ram_write(ram, BOOT_PD_ADDR + gb * PAGE_SIZE, table, sizeof(table)))
			return -1;
	}
	entry->sregs = (struct kvm_sregs){
		.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG,
		.cr3 = BOOT_PML4_ADDR,
		.cr4 = CR4_PAE,
		.efer = EFER_LME | EFER_LMA,
	};
	entry->regs.rflags = 2;
	entry->regs.rsp = BOOT_STACK_TOP;
	return set_segments(ram, &entry->sregs, DESC_CODE64);
}

void boot_entry_sregs(const struct boot_entry *entry, struct kvm_sregs *sregs)
{
	u64 apic_base = sregs->apic_base;

	*sregs = entry->sregs;
	sregs->apic_base = apic_base;
}
