#include "monitor/kvm_if_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int sys_open(void)
{
	int fd = open(KVM_DEVICE_PATH, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static long sys_ioctl(int fd, unsigned long request, void *arg)
{
	int r = ioctl(fd, request, arg);

	return r < 0 ? -errno : r;
}

static void *sys_mmap(int fd, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int sys_close(int fd)
{
	return close(fd) < 0 ? -errno : 0;
}

const struct kvm_if sys_kvm_if = {
	.name = "kvm",
	.open = sys_open,
	.ioctl = sys_ioctl,
	.mmap = sys_mmap,
	.close = sys_close,
};
