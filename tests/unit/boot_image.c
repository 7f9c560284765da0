#include "boot_image.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <lz4hc.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "monitor/platform.h"

#define SEGMENT_OFFSET 0x1000
#define BANNER_AT 0x1000
#define NOTE_AT 0x2000
#define SETUP_SECTS 3
#define SETUP_SIZE ((SETUP_SECTS + 1) * 512)
#define PAYLOAD_OFFSET 0x100

u8 image_byte(size_t i)
{
	return (u8)(i * 7 + (i >> 8));
}

struct bytes image_elf(struct elf_spec spec)
{
	struct bytes b = { calloc(1, SEGMENT_OFFSET + IMAGE_FILESZ), SEGMENT_OFFSET + IMAGE_FILESZ };
	u8 *segment = b.data + SEGMENT_OFFSET;
	struct {
		Elf32_Nhdr head;
		char name[4];
		u32 entry;
	} note = { { 4, 4, 18 }, "Xen", IMAGE_PVH_ENTRY };

	for (size_t i = 0; i < IMAGE_FILESZ; i++)
		segment[i] = image_byte(i);
	if (spec.banner)
		strcpy((char *)segment + BANNER_AT, "Linux version 9.9.9 (test)");
	if (spec.pvh)
		memcpy(segment + NOTE_AT, &note, sizeof(note));
	if (spec.is_32bit) {
		Elf32_Ehdr e = {
			.e_type = ET_EXEC,
			.e_machine = EM_386,
			.e_version = 1,
			.e_entry = IMAGE_ENTRY,
			.e_phoff = sizeof(e),
			.e_ehsize = sizeof(e),
			.e_phentsize = sizeof(Elf32_Phdr),
			.e_phnum = 2,
		};
		Elf32_Phdr p[2] = {
			{ PT_LOAD, SEGMENT_OFFSET, 0xc0000000, IMAGE_PADDR, IMAGE_FILESZ, IMAGE_MEMSZ, 7, 4096 },
			{ PT_NOTE, SEGMENT_OFFSET + NOTE_AT, 0, 0, spec.pvh ? sizeof(note) : 0, 0, 4, 4 },
		};

		memcpy(e.e_ident, (u8[]){ 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 }, 7);
		memcpy(b.data, &e, sizeof(e));
		memcpy(b.data + sizeof(e), p, sizeof(p));
	} else {
		Elf64_Ehdr e = {
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = 1,
			.e_entry = IMAGE_ENTRY,
			.e_phoff = sizeof(e),
			.e_ehsize = sizeof(e),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2,
		};
		Elf64_Phdr p[2] = {
			{ PT_LOAD, 7, SEGMENT_OFFSET, 0xffffffff81000000, IMAGE_PADDR, IMAGE_FILESZ, IMAGE_MEMSZ, 0 },
			{ PT_NOTE, 4, SEGMENT_OFFSET + NOTE_AT, 0, 0, spec.pvh ? sizeof(note) : 0, 0, 4 },
		};

		memcpy(e.e_ident, (u8[]){ 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 }, 7);
		memcpy(b.data, &e, sizeof(e));
		memcpy(b.data + sizeof(e), p, sizeof(p));
	}
	return b;
}

static size_t pack_gzip(struct bytes in, u8 *out, size_t max)
{
	z_stream z = { .next_in = in.data, .avail_in = (uInt)in.len, .next_out = out, .avail_out = (uInt)max };

	deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
	deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return z.total_out;
}

static size_t pack_lzma_any(struct bytes in, u8 *out, size_t max, bool alone)
{
	lzma_stream z = LZMA_STREAM_INIT;
	lzma_options_lzma options;

	lzma_lzma_preset(&options, 1);
	if (alone)
		(void)!lzma_alone_encoder(&z, &options);
	else
		(void)!lzma_easy_encoder(&z, 1, LZMA_CHECK_CRC32);
	z.next_in = in.data;
	z.avail_in = in.len;
	z.next_out = out;
	z.avail_out = max;
	if (lzma_code(&z, LZMA_FINISH) != LZMA_STREAM_END)
		abort();
	lzma_end(&z);
	return z.total_out;
}

static size_t pack_lz4(struct bytes in, u8 *out, size_t max)
{
	const u32 magic = 0x184c2102;
	u32 len = (u32)LZ4_compress_HC((char *)in.data, (char *)out + 8, (int)in.len, (int)max - 8, 9);

	memcpy(out, &magic, 4);
	memcpy(out + 4, &len, 4);
	return len + 8;
}

static size_t pack(struct bytes in, enum packing packing, u8 *out, size_t max)
{
	size_t n = packing == PACK_GZIP   ? pack_gzip(in, out, max)
		   : packing == PACK_ZSTD ? ZSTD_compress(out, max, in.data, in.len, 3)
		   : packing == PACK_LZ4  ? pack_lz4(in, out, max)
					  : pack_lzma_any(in, out, max, packing == PACK_LZMA);
	u32 size = (u32)in.len;

	if (packing == PACK_GZIP) /* ends with the size by itself */
		return n;
	memcpy(out + n, &size, 4);
	return n + 4;
}

struct bytes image_bzimage(struct bytes payload, enum packing packing)
{
	size_t max = SETUP_SIZE + PAYLOAD_OFFSET + payload.len * 2 + 4096;
	u8 *data = calloc(1, max);
	size_t n = pack(payload, packing, data + SETUP_SIZE + PAYLOAD_OFFSET, max - SETUP_SIZE - PAYLOAD_OFFSET);
	size_t body = ALIGN_UP(PAYLOAD_OFFSET + n + 64, 16);
	struct setup_header h = {
		.setup_sects = SETUP_SECTS,
		.syssize = (u32)(body / 16),
		.boot_flag = 0xaa55,
		.jump = 0xeb | (0x26c - 0x202) << 8,
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G,
		.cmdline_size = 2047,
		.payload_offset = PAYLOAD_OFFSET,
		.payload_length = (u32)n,
		.pref_address = IMAGE_PADDR,
		.init_size = 0x400000,
	};

	memcpy(data + 0x1f1, &h, sizeof(h));
	return (struct bytes){ data, SETUP_SIZE + body };
}

int image_file(struct bytes b, char path[64])
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	size_t done = 0;

	while (done < b.len) {
		ssize_t n = write(fd, b.data + done, b.len - done);

		if (n <= 0)
			abort();
		done += (size_t)n;
	}
	snprintf(path, 64, "/proc/self/fd/%d", fd);
	return fd;
}

void ram_create(struct guest_ram *ram, u64 mib)
{
	u64 size = mib << 20, low = MIN(size, PLATFORM_RAM_LOW_MAX);

	*ram = (struct guest_ram){ .nr = size > low ? 2 : 1 };
	ram->range[0] = (struct guest_ram_range){ 0, low, NULL };
	ram->range[1] = (struct guest_ram_range){ PLATFORM_RAM_HIGH_BASE, size - low, NULL };
	for (unsigned i = 0; i < ram->nr; i++) {
		ram->range[i].host = mmap(NULL, ram->range[i].size, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (ram->range[i].host == MAP_FAILED)
			abort();
	}
}

void ram_destroy(struct guest_ram *ram)
{
	for (unsigned i = 0; i < ram->nr; i++)
		munmap(ram->range[i].host, ram->range[i].size);
}
