/*
 * Objects behind descriptors, as the kernel's anonymous inodes are: a memfd names the object by its inode,
 * so that every dup(2) of it leads to the same one.
 */
#ifndef KVM_FILE_H
#define KVM_FILE_H

#include "base/types.h"

struct file_ops {
	const char *name;
	long (*ioctl)(void *obj, unsigned cmd, unsigned long arg);
	void *(*mmap)(void *obj, int fd, size_t size); /* NULL: ENODEV */
	void (*release)(void *obj); /* the last descriptor is gone; called without locks */
};

struct file;

/*
 * A new descriptor for @obj, close-on-exec, of @size bytes (0 or whole pages) that can be mapped;
 * *@map is a mapping of them for the object itself, to be unmapped by release. On an error nothing is owned.
 * Returns the descriptor, or -EMFILE, -ENFILE, -ENOMEM.
 */
int file_create(const struct file_ops *ops, void *obj, size_t size, void **map);

/* The object behind @fd with a reference held, or NULL when it is not one of ours. */
struct file *file_get(int fd);
void file_put(struct file *f);

/* file_get has said yes; the three calls. -EIO when this process is not the one that created the object. */
long file_ioctl(struct file *f, unsigned cmd, unsigned long arg);
void *file_mmap(struct file *f, int fd, size_t size);

/* close(2), then releases every object that no descriptor of this process refers to any more. */
int file_close(int fd);

#endif
