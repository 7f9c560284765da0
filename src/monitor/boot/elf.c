/* ELF kernels: their segments, by physical address, and the PVH entry note. */
#include <elf.h>
#include <string.h>

#include "monitor/boot/load.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define LINUX_BANNER "Linux version "

/* One program header, widened. */
struct segment {
	u32 type;
	u64 offset, filesz, paddr, memsz;
};

bool elf_is(const struct file_image *file)
{
	return file->size >= SELFMAG && !memcmp(file->data, ELFMAG, SELFMAG);
}

/* True when [offset, offset + len) lies in the file. */
static bool in_file(const struct file_image *file, u64 offset, u64 len)
{
	return offset <= file->size && len <= file->size - offset;
}

/* The part of an ELF header that is needed here. */
struct header {
	bool is_64bit;
	u16 machine, phentsize, phnum;
	u64 entry, phoff;
};

static bool read_header(const struct file_image *file, struct header *h)
{
	Elf64_Ehdr e64;
	Elf32_Ehdr e32;

	if (!in_file(file, 0, sizeof(e32)) || file->data[EI_DATA] != ELFDATA2LSB)
		return false;
	if (file->data[EI_CLASS] == ELFCLASS64) {
		if (!in_file(file, 0, sizeof(e64)))
			return false;
		memcpy(&e64, file->data, sizeof(e64));
		*h = (struct header){ true, e64.e_machine, e64.e_phentsize, e64.e_phnum, e64.e_entry, e64.e_phoff };
		return h->machine == EM_X86_64 && h->phentsize == sizeof(Elf64_Phdr);
	}
	memcpy(&e32, file->data, sizeof(e32));
	*h = (struct header){ false, e32.e_machine, e32.e_phentsize, e32.e_phnum, e32.e_entry, e32.e_phoff };
	return file->data[EI_CLASS] == ELFCLASS32 && h->machine == EM_386 && h->phentsize == sizeof(Elf32_Phdr);
}

/* Reads program header @i. The table as a whole was checked to lie in the file. */
static struct segment read_segment(const struct file_image *file, const struct header *h, unsigned i)
{
	const u8 *at = file->data + h->phoff + (u64)i * h->phentsize;

	if (h->is_64bit) {
		Elf64_Phdr p;

		memcpy(&p, at, sizeof(p));
		return (struct segment){ p.p_type, p.p_offset, p.p_filesz, p.p_paddr, p.p_memsz };
	}
	Elf32_Phdr p;

	memcpy(&p, at, sizeof(p));
	return (struct segment){ p.p_type, p.p_offset, p.p_filesz, p.p_paddr, p.p_memsz };
}

/* Looks for the PVH entry among the notes of one segment. Both parts of a note are padded to four bytes. */
static void read_notes(const struct file_image *file, const struct segment *seg, struct elf_image *elf)
{
	u64 pos = seg->offset, end = seg->offset + seg->filesz;

	while (end - pos >= sizeof(Elf32_Nhdr)) {
		Elf32_Nhdr n;

		memcpy(&n, file->data + pos, sizeof(n));
		pos += sizeof(n);
		u64 name = pos, desc = pos + ALIGN_UP((u64)n.n_namesz, 4);

		if (desc > end || n.n_descsz > end - desc)
			return;
		if (n.n_type == XEN_ELFNOTE_PHYS32_ENTRY && n.n_namesz == 4 && !memcmp(file->data + name, "Xen", 4) &&
		    (n.n_descsz == 4 || n.n_descsz == 8)) {
			elf->pvh_entry = 0;
			memcpy(&elf->pvh_entry, file->data + desc, n.n_descsz);
			elf->has_pvh = true;
		}
		pos = MIN(desc + ALIGN_UP((u64)n.n_descsz, 4), end);
	}
}

static bool within_load_segment(const struct file_image *file, const struct header *h, u64 addr)
{
	for (unsigned i = 0; i < h->phnum; i++) {
		struct segment seg = read_segment(file, h, i);

		if (seg.type == PT_LOAD && addr >= seg.paddr && addr - seg.paddr < seg.filesz)
			return true;
	}
	return false;
}

static int check_load_segment(const struct segment *seg, const char *path, char *error)
{
	if (seg->filesz > seg->memsz || seg->paddr + seg->memsz < seg->paddr)
		return boot_fail(error, "kernel '%s' is damaged: impossible segment sizes", path);
	if (seg->paddr < BOOT_KERNEL_MIN)
		return boot_fail(error, "kernel '%s' wants to be loaded at 0x%llx, below 1 MiB", path,
				 (unsigned long long)seg->paddr);
	return 0;
}

int elf_parse(const struct file_image *file, const char *path, struct elf_image *elf, char error[BOOT_ERROR_MAX])
{
	struct header h;

	if (!read_header(file, &h))
		return boot_fail(error, "kernel '%s' is an ELF file, but not a complete one for x86", path);
	if (!in_file(file, h.phoff, (u64)h.phnum * h.phentsize))
		return boot_fail(error, "kernel '%s' is truncated: its program headers lie behind its end", path);
	*elf = (struct elf_image){ .is_64bit = h.is_64bit, .entry = h.entry, .start = UINT64_MAX };
	for (unsigned i = 0; i < h.phnum; i++) {
		struct segment seg = read_segment(file, &h, i);

		if ((seg.type != PT_LOAD && seg.type != PT_NOTE) || seg.memsz + seg.filesz == 0)
			continue;
		if (!in_file(file, seg.offset, seg.filesz))
			return boot_fail(error,
					 "kernel '%s' is truncated: a segment ends at byte %llu, the file has %zu",
					 path,
					 (unsigned long long)(seg.offset + seg.filesz), file->size);
		if (seg.type == PT_NOTE) {
			read_notes(file, &seg, elf);
			continue;
		}
		if (check_load_segment(&seg, path, error))
			return -1;
		elf->start = MIN(elf->start, seg.paddr);
		elf->end = MAX(elf->end, seg.paddr + seg.memsz);
	}
	if (!elf->end)
		return boot_fail(error, "kernel '%s' has nothing to load", path);
	if (!within_load_segment(file, &h, elf->entry)) {
		if (!elf->has_pvh)
			return boot_fail(error, "kernel '%s' has its entry point (0x%llx) outside its segments", path,
					 (unsigned long long)elf->entry);
		elf->entry = 0; /* a virtual address: only the PVH entry can be used */
	}
	if (elf->has_pvh && !within_load_segment(file, &h, elf->pvh_entry))
		return boot_fail(error, "kernel '%s' has its PVH entry point (0x%llx) outside its segments", path,
				 (unsigned long long)elf->pvh_entry);
	elf->is_linux = elf->entry && memmem(file->data, file->size, LINUX_BANNER, strlen(LINUX_BANNER));
	return 0;
}

int elf_place(const struct file_image *file, const char *path, const struct guest_ram *ram,
	      char error[BOOT_ERROR_MAX])
{
	struct header h;

	if (!read_header(file, &h))
		return boot_fail(error, "kernel '%s' is not an ELF file", path);
	for (unsigned i = 0; i < h.phnum; i++) {
		struct segment seg = read_segment(file, &h, i);

		if (seg.type == PT_LOAD && !guest_ram_write(ram, seg.paddr, file->data + seg.offset, seg.filesz))
			return boot_fail(error, "kernel '%s' has a segment (0x%llx) outside guest RAM", path,
					 (unsigned long long)seg.paddr);
	}
	return 0;
}
