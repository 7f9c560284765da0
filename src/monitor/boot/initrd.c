/*
 * Is a file something that Linux takes as an initial RAM disk, and is it all
 * there? An initramfs is a sequence of cpio archives, each packed or not, with
 * zeros between them (Documentation/driver-api/early-userspace/buffer-format).
 * A guest would notice damage only after its long way through the boot.
 */
#include <stdio.h>
#include <string.h>

#include <zlib.h>
#include <zstd.h>

#include "monitor/boot/load.h"

/* The rest of the file at some point. */
struct cursor {
	const u8 *at;
	size_t left;
};

enum verdict { COMPLETE, TRUNCATED, DAMAGED };

static void skip(struct cursor *c, size_t n)
{
	n = MIN(n, c->left);
	c->at += n;
	c->left -= n;
}

static bool starts_with(const struct cursor *c, const char *magic, size_t len)
{
	return c->left >= len && !memcmp(c->at, magic, len);
}

/* One field of a "newc" header: eight hexadecimal digits. */
static bool hex_field(const u8 *at, u32 *value)
{
	*value = 0;
	for (int i = 0; i < 8; i++) {
		u32 digit = at[i] - (u32)'0', letter = (at[i] | 0x20u) - 'a';

		if (digit > 9 && letter > 5)
			return false;
		*value = *value << 4 | (digit <= 9 ? digit : letter + 10);
	}
	return true;
}

#define NEWC_HEADER 110

/* Walks a cpio archive from header to header up to its trailer. Each step moves on by at least a header. */
static enum verdict walk_cpio(struct cursor *c)
{
	for (;;) {
		u32 file_size, name_size;

		if (c->left < NEWC_HEADER)
			return TRUNCATED;
		if (!starts_with(c, "07070", 5) || !hex_field(c->at + 54, &file_size) ||
		    !hex_field(c->at + 94, &name_size))
			return DAMAGED;
		u64 body = ALIGN_UP((u64)NEWC_HEADER + name_size, 4);
		bool trailer = name_size == 11 && c->left >= NEWC_HEADER + 11 &&
			       !memcmp(c->at + NEWC_HEADER, "TRAILER!!!", 11);

		if (trailer) {
			skip(c, body);
			return COMPLETE;
		}
		if (body + file_size > c->left)
			return TRUNCATED;
		skip(c, ALIGN_UP(body + file_size, 4));
	}
}

#define GZIP_STEP (1u << 16)

/* Only unpacking shows whether a gzip stream is whole. */
static enum verdict walk_gzip(struct cursor *c)
{
	u8 out[GZIP_STEP];
	z_stream z = { .next_in = (Bytef *)c->at };
	size_t left = c->left;
	int ret = inflateInit2(&z, 16 + MAX_WBITS);

	while (ret == Z_OK) {
		uInt in = (uInt)MIN(left, (size_t)1 << 30);

		z.avail_in = in;
		z.next_out = out;
		z.avail_out = sizeof(out);
		ret = inflate(&z, Z_NO_FLUSH);
		left -= in - z.avail_in;
	}
	inflateEnd(&z);
	if (ret != Z_STREAM_END)
		return ret == Z_BUF_ERROR ? TRUNCATED : DAMAGED;
	skip(c, c->left - left);
	return COMPLETE;
}

static enum verdict walk_zstd(struct cursor *c)
{
	size_t n = ZSTD_findFrameCompressedSize(c->at, c->left);

	if (ZSTD_isError(n))
		return TRUNCATED;
	skip(c, n);
	return COMPLETE;
}

static enum verdict walk_lz4(struct cursor *c)
{
	skip(c, 4);
	while (c->left >= 4) {
		u32 len;

		memcpy(&len, c->at, 4);
		if (len == 0 || starts_with(c, "07070", 5)) /* padding or another archive: the stream's end */
			break;
		if (len != 0x184c2102 && len > c->left - 4)
			return TRUNCATED;
		skip(c, len == 0x184c2102 ? 4 : 4u + len);
	}
	return COMPLETE;
}

/* An xz stream ends with the two bytes "YZ"; nothing else is cheap to check. */
static enum verdict walk_xz(struct cursor *c)
{
	size_t end = c->left;

	while (end && c->at[end - 1] == 0)
		end--;
	if (end < 2 || memcmp(c->at + end - 2, "YZ", 2))
		return TRUNCATED;
	skip(c, c->left);
	return COMPLETE;
}

/* Formats whose end cannot be told without unpacking them: the guest has to. */
static enum verdict walk_rest(struct cursor *c)
{
	skip(c, c->left);
	return COMPLETE;
}

static const struct format {
	const char *magic;
	u8 len;
	u16 offset;
	enum verdict (*walk)(struct cursor *c);
} formats[] = {
	{ "070701", 6, 0, walk_cpio },
	{ "070702", 6, 0, walk_cpio },
	{ "\x1f\x8b", 2, 0, walk_gzip },
	{ "\x28\xb5\x2f\xfd", 4, 0, walk_zstd },
	{ "\x02\x21\x4c\x18", 4, 0, walk_lz4 },
	{ "\xfd" "7zXZ", 6, 0, walk_xz },
	{ "\x5d\x00\x00", 3, 0, walk_rest }, /* lzma */
	{ "BZh", 3, 0, walk_rest },
	{ "\x89LZO", 4, 0, walk_rest },
	/* File systems that Linux accepts as a RAM disk's contents. */
	{ "hsqs", 4, 0, walk_rest },
	{ "-rom1fs-", 8, 0, walk_rest },
	{ "\x45\x3d\xcd\x28", 4, 0, walk_rest }, /* cramfs */
	{ "\x53\xef", 2, 1024 + 56, walk_rest },  /* ext2 and later */
};

int initrd_check(const struct file_image *file, const char *path, char error[BOOT_ERROR_MAX])
{
	struct cursor c = { file->data, file->size };

	while (c.left) {
		const struct format *format = NULL;

		for (size_t i = 0; i < ARRAY_SIZE(formats) && !format; i++) {
			struct cursor at = c;

			skip(&at, formats[i].offset);
			if (starts_with(&at, formats[i].magic, formats[i].len))
				format = &formats[i];
		}
		if (!format && c.left == file->size)
			return boot_fail(error,
					 "initrd '%s' is neither a cpio archive, packed or not, nor a file system",
					 path);
		if (!format)
			return boot_fail(error, "initrd '%s' is damaged at byte %zu", path, file->size - c.left);
		switch (format->walk(&c)) {
		case COMPLETE:
			while (c.left && *c.at == 0) /* padding */
				skip(&c, 1);
			break;
		case TRUNCATED:
			return boot_fail(error, "initrd '%s' is truncated", path);
		case DAMAGED:
			return boot_fail(error, "initrd '%s' is damaged at byte %zu", path, file->size - c.left);
		}
	}
	return 0;
}
