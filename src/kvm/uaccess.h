/* Copies from and to memory that somebody else maps: the client's arguments, guest RAM. */
#ifndef KVM_UACCESS_H
#define KVM_UACCESS_H

#include "base/types.h"

/* 0, or -EFAULT when not all of it is mapped so. A partial copy may have happened. */
int uaccess_read(void *to, const void *from, size_t n);
int uaccess_write(void *to, const void *from, size_t n);

#endif
