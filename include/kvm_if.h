/*
 * The wall between the two halves: the four calls through which a client
 * reaches KVM. A monitor holds one of these and nothing else of the kernel
 * half; the system calls are one implementation, libanykvm is the other.
 */
#ifndef KVM_IF_H
#define KVM_IF_H

#include <stddef.h>

struct kvm_if {
	const char *name;
	/* Opens the KVM device. Returns a file descriptor, or -errno. */
	int (*open)(void);
	/* ioctl(2) on a descriptor of this interface. Returns its value (>= 0) or -errno. */
	long (*ioctl)(int fd, unsigned long request, void *arg);
	/* mmap(2), shared and read-write, of a vCPU descriptor's first @size bytes. NULL and errno on failure. */
	void *(*mmap)(int fd, size_t size);
	/* close(2). The object lives until the last descriptor that refers to it is closed. */
	int (*close)(int fd);
};

#endif
