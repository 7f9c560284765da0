/* A small writer for AML (ACPI 6.5, chapter 20): enough for a static namespace. */
#ifndef BOOT_AML_H
#define BOOT_AML_H

#include "base/types.h"

/* Appends to a fixed buffer. What does not fit is dropped and @overflow set: check it once at the end. */
struct aml {
	u8 *buf;
	size_t len, max;
	bool overflow;
};

void aml_bytes(struct aml *a, const void *data, size_t len);
void aml_byte(struct aml *a, u8 byte);

/* Data objects. Names are four characters. */
void aml_integer(struct aml *a, u64 value);
void aml_string(struct aml *a, const char *text);
void aml_eisa_id(struct aml *a, const char id[7]); /* "PNP0501" */
void aml_name(struct aml *a, const char name[4]);  /* DefName; its value is to follow */

/* Blocks. Each returns what aml_end() wants. */
size_t aml_scope(struct aml *a, const char *path); /* "\\_SB_": root and one name */
size_t aml_device(struct aml *a, const char name[4]);
size_t aml_package(struct aml *a, u8 elements);
size_t aml_resources(struct aml *a); /* Buffer of resource descriptors; end it with aml_resources_end() */
void aml_end(struct aml *a, size_t block);
void aml_resources_end(struct aml *a, size_t block);

/* Resource descriptors (6.4.2). */
void aml_io_ports(struct aml *a, u16 port, u8 count);
void aml_irq(struct aml *a, u8 irq); /* edge, active high, exclusive */

#endif
