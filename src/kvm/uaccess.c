#include "kvm/uaccess.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * The kernel does the copy between two parts of this very process, and says EFAULT instead of raising SIGSEGV.
 * Where a sandbox forbids the system call, a plain copy is the best there is.
 */
static int copy(struct iovec *mine, struct iovec *theirs, bool write)
{
	ssize_t n = write ? process_vm_writev(getpid(), mine, 1, theirs, 1, 0)
			  : process_vm_readv(getpid(), mine, 1, theirs, 1, 0);

	if (n >= 0)
		return (size_t)n == mine->iov_len ? 0 : -EFAULT;
	if (errno == EFAULT || errno == EINVAL)
		return -EFAULT;
	if (write)
		memcpy(theirs->iov_base, mine->iov_base, mine->iov_len);
	else
		memcpy(mine->iov_base, theirs->iov_base, mine->iov_len);
	return 0;
}

int uaccess_read(void *to, const void *from, size_t n)
{
	if (n == 0)
		return 0;
	return copy(&(struct iovec){to, n}, &(struct iovec){(void *)from, n}, false);
}

int uaccess_write(void *to, const void *from, size_t n)
{
	if (n == 0)
		return 0;
	return copy(&(struct iovec){(void *)from, n}, &(struct iovec){to, n}, true);
}
