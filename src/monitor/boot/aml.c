#include "monitor/boot/aml.h"

#include <string.h>

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_EXT = 0x5b,
	OP_EXT_DEVICE = 0x82,
};

/* Every package length takes three bytes: 20 bits, enough for a whole table, and none has to be moved afterwards. */
#define PKG_LENGTH_SIZE 3

void aml_bytes(struct aml *a, const void *data, size_t len)
{
	if (len > a->max - a->len) {
		a->overflow = true;
		return;
	}
	memcpy(a->buf + a->len, data, len);
	a->len += len;
}

void aml_byte(struct aml *a, u8 byte)
{
	aml_bytes(a, &byte, 1);
}

/* Little endian, as AML and the host are. */
static void prefixed(struct aml *a, u8 op, const void *data, size_t len)
{
	aml_byte(a, op);
	aml_bytes(a, data, len);
}

void aml_integer(struct aml *a, u64 value)
{
	if (value <= 1)
		aml_byte(a, value ? OP_ONE : OP_ZERO);
	else if (value <= UINT8_MAX)
		prefixed(a, OP_BYTE, &value, 1);
	else if (value <= UINT16_MAX)
		prefixed(a, OP_WORD, &value, 2);
	else if (value <= UINT32_MAX)
		prefixed(a, OP_DWORD, &value, 4);
	else
		prefixed(a, OP_QWORD, &value, 8);
}

void aml_string(struct aml *a, const char *text)
{
	prefixed(a, OP_STRING, text, strlen(text) + 1);
}

static u32 hex_digit(char c)
{
	return c <= '9' ? (u32)(c - '0') : (u32)(c - 'A') + 10;
}

/* Three letters of five bits and four digits, in big-endian order (19.3.4, EISAID). */
void aml_eisa_id(struct aml *a, const char id[7])
{
	u32 v = (u32)(id[0] - '@') << 26 | (u32)(id[1] - '@') << 21 | (u32)(id[2] - '@') << 16 |
		hex_digit(id[3]) << 12 | hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 | hex_digit(id[6]);

	v = __builtin_bswap32(v);
	prefixed(a, OP_DWORD, &v, 4);
}

void aml_name(struct aml *a, const char name[4])
{
	prefixed(a, OP_NAME, name, 4);
}

static size_t begin(struct aml *a)
{
	static const u8 room[PKG_LENGTH_SIZE];
	size_t at = a->len;

	aml_bytes(a, room, sizeof(room));
	return at;
}

size_t aml_scope(struct aml *a, const char *path)
{
	aml_byte(a, OP_SCOPE);
	size_t block = begin(a);

	aml_bytes(a, path, strlen(path));
	return block;
}

size_t aml_device(struct aml *a, const char name[4])
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_DEVICE);
	size_t block = begin(a);

	aml_bytes(a, name, 4);
	return block;
}

size_t aml_package(struct aml *a, u8 elements)
{
	aml_byte(a, OP_PACKAGE);
	size_t block = begin(a);

	aml_byte(a, elements);
	return block;
}

/* A length counts its own bytes; the first one holds the low four bits and how many bytes follow (20.2.4). */
void aml_end(struct aml *a, size_t block)
{
	if (a->overflow)
		return;
	size_t len = a->len - block;

	a->buf[block] = (u8)((PKG_LENGTH_SIZE - 1) << 6 | (len & 0xf));
	a->buf[block + 1] = (u8)(len >> 4);
	a->buf[block + 2] = (u8)(len >> 12);
}

/* The buffer's size comes as a word constant whose value is known at the end. */
size_t aml_resources(struct aml *a)
{
	static const u8 size[] = { OP_WORD, 0, 0 };

	aml_byte(a, OP_BUFFER);
	size_t block = begin(a);

	aml_bytes(a, size, sizeof(size));
	return block;
}

void aml_resources_end(struct aml *a, size_t block)
{
	static const u8 end_tag[] = { 0x79, 0 }; /* checksum 0: not used */

	aml_bytes(a, end_tag, sizeof(end_tag));
	if (a->overflow)
		return;
	u16 size = (u16)(a->len - block - PKG_LENGTH_SIZE - 3);

	memcpy(a->buf + block + PKG_LENGTH_SIZE + 1, &size, sizeof(size));
	aml_end(a, block);
}

void aml_io_ports(struct aml *a, u16 port, u8 count)
{
	const u8 d[] = { 0x47, 1, (u8)port, (u8)(port >> 8), (u8)port, (u8)(port >> 8), 1, count };

	aml_bytes(a, d, sizeof(d));
}

void aml_irq(struct aml *a, u8 irq)
{
	const u8 d[] = { 0x22, (u8)BIT(irq), (u8)(BIT(irq) >> 8) };

	aml_bytes(a, d, sizeof(d));
}
