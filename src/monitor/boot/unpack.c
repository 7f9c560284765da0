/*
 * Unpacking of kernel payloads on the host: many times faster than the
 * kernel's own stub in the guest. One table row per format.
 */
#include <endian.h>
#include <string.h>
#include <sys/mman.h>

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "monitor/boot/load.h"

#define STEP (1u << 20)                 /* bytes of input between two looks at the progress */
#define LZMA_MEMORY_MAX (512ull << 20)  /* dictionaries beyond this are not the kernel build's */
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_LEGACY_BLOCK (8u << 20)

struct stream {
	const u8 *in;
	size_t in_len;
	u8 *out;
	size_t out_len; /* room; exactly this much is expected */
	const struct boot_config *config;
};

static u32 le32_at(const u8 *p)
{
	u32 v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static void show_progress(const struct stream *s, u64 done)
{
	if (s->config->progress)
		s->config->progress(s->config->opaque, "unpacking the kernel", (unsigned)(done * 100 / s->out_len));
}

/* Each unpacker returns NULL on success, else what is wrong with the stream. */

static const char *unpack_gzip(struct stream *s)
{
	z_stream z = { .next_in = (Bytef *)s->in, .next_out = s->out };
	size_t left_in = s->in_len, left_out = s->out_len;
	int ret = inflateInit2(&z, 16 + MAX_WBITS);

	if (ret != Z_OK)
		return "no memory to unpack it";
	while (ret == Z_OK) {
		uInt in = (uInt)MIN(left_in, STEP), out = (uInt)MIN(left_out, (size_t)1 << 30);

		z.avail_in = in;
		z.avail_out = out;
		ret = inflate(&z, Z_NO_FLUSH);
		left_in -= in - z.avail_in;
		left_out -= out - z.avail_out;
		show_progress(s, s->out_len - left_out);
	}
	inflateEnd(&z);
	if (ret != Z_STREAM_END)
		return ret == Z_BUF_ERROR && left_out ? "the gzip stream ends early" : "damaged gzip stream";
	return left_out ? "it unpacks to less than it declares" : NULL;
}

static const char *unpack_lzma_any(struct stream *s, lzma_stream *z, const char *damaged)
{
	size_t left_in = s->in_len - 4; /* the appended size */
	lzma_ret ret = LZMA_OK;

	z->next_in = s->in;
	z->next_out = s->out;
	z->avail_out = s->out_len;
	while (ret == LZMA_OK) {
		size_t in = MIN(left_in, STEP / 4);

		z->avail_in = in;
		ret = lzma_code(z, in == left_in ? LZMA_FINISH : LZMA_RUN);
		left_in -= in - z->avail_in;
		show_progress(s, s->out_len - z->avail_out);
	}
	size_t left_out = z->avail_out;

	lzma_end(z);
	if (ret == LZMA_MEM_ERROR || ret == LZMA_MEMLIMIT_ERROR)
		return "no memory to unpack it";
	if (ret != LZMA_STREAM_END)
		return damaged;
	return left_out ? "it unpacks to less than it declares" : NULL;
}

static const char *unpack_xz(struct stream *s)
{
	lzma_stream z = LZMA_STREAM_INIT;

	if (lzma_stream_decoder(&z, LZMA_MEMORY_MAX, 0) != LZMA_OK)
		return "no memory to unpack it";
	return unpack_lzma_any(s, &z, "damaged or truncated xz stream");
}

static const char *unpack_lzma(struct stream *s)
{
	lzma_stream z = LZMA_STREAM_INIT;

	if (lzma_alone_decoder(&z, LZMA_MEMORY_MAX) != LZMA_OK)
		return "no memory to unpack it";
	return unpack_lzma_any(s, &z, "damaged or truncated lzma stream");
}

/* In one call: streaming would need a window of up to 128 MiB beside the output, which is here anyway. */
static const char *unpack_zstd(struct stream *s)
{
	size_t len = ZSTD_findFrameCompressedSize(s->in, s->in_len);

	if (ZSTD_isError(len))
		return "damaged or truncated zstd stream";
	show_progress(s, 0);
	size_t n = ZSTD_decompress(s->out, s->out_len, s->in, len);

	if (ZSTD_isError(n))
		return "damaged zstd stream";
	return n != s->out_len ? "it unpacks to less than it declares" : NULL;
}

/* The "legacy" frame: a magic number, then blocks of up to 8 MiB, each after its packed size. */
static const char *unpack_lz4(struct stream *s)
{
	size_t pos = 4, end = s->in_len - 4, done = 0;

	while (pos < end) {
		if (end - pos < 4)
			return "truncated lz4 stream";
		u32 len = le32_at(s->in + pos);

		pos += 4;
		if (len == LZ4_LEGACY_MAGIC) /* concatenated streams */
			continue;
		if (len > end - pos || len > (u32)LZ4_compressBound(LZ4_LEGACY_BLOCK))
			return "truncated or damaged lz4 stream";
		int n = LZ4_decompress_safe((const char *)s->in + pos, (char *)s->out + done, (int)len,
					    (int)MIN(s->out_len - done, (size_t)LZ4_LEGACY_BLOCK));

		if (n < 0)
			return "damaged lz4 stream";
		pos += len;
		done += (size_t)n;
		show_progress(s, done);
	}
	return done != s->out_len ? "it unpacks to less than it declares" : NULL;
}

static const struct format {
	const char *name;
	u8 magic[6];
	u8 magic_len;
	const char *(*run)(struct stream *s); /* NULL: known, not supported */
} formats[] = {
	{ "gzip", { 0x1f, 0x8b }, 2, unpack_gzip },
	{ "xz", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, unpack_xz },
	{ "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, unpack_zstd },
	{ "lz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, unpack_lz4 },
	{ "lzma", { 0x5d, 0x00, 0x00 }, 3, unpack_lzma },
	{ "bzip2", { 'B', 'Z', 'h' }, 3, NULL },
	{ "lzo", { 0x89, 'L', 'Z', 'O' }, 4, NULL },
};

static const struct format *find_format(const u8 *in, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (len >= formats[i].magic_len + 4u && !memcmp(in, formats[i].magic, formats[i].magic_len))
			return &formats[i];
	return NULL;
}

int unpack(const u8 *in, size_t in_len, u64 max, struct file_image *out, const struct boot_config *config,
	   char error[BOOT_ERROR_MAX])
{
	const struct format *format = find_format(in, in_len);

	*out = (struct file_image){ 0 };
	if (!format)
		return boot_fail(error, "kernel '%s' has a payload of unknown format", config->kernel);
	if (!format->run)
		return boot_fail(error, "kernel '%s' is packed with %s, which is not supported", config->kernel,
				 format->name);

	u32 size = le32_at(in + in_len - 4);

	if (size == 0 || size > max)
		return boot_fail(error, "kernel '%s' is damaged or needs more memory: it unpacks to %u bytes, "
				 "%llu are allowed", config->kernel, size, (unsigned long long)max);
	u8 *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (data == MAP_FAILED)
		return boot_fail(error, "no memory to unpack kernel '%s'", config->kernel);
	madvise(data, size, MADV_HUGEPAGE); /* fewer faults while it fills; a hint only */

	struct stream stream = { .in = in, .in_len = in_len, .out = data, .out_len = size, .config = config };
	const char *wrong = format->run(&stream);

	*out = (struct file_image){ .data = data, .size = size };
	if (wrong) {
		file_free(out);
		return boot_fail(error, "cannot unpack kernel '%s': %s", config->kernel, wrong);
	}
	show_progress(&stream, size);
	return 0;
}
