/* The system descriptor: what open("/dev/kvm") gives. */
#include <errno.h>

#include "cpu/fpu.h"
#include "kvm/file.h"
#include "kvm/kvm.h"
#include "kvm/uaccess.h"

#define MCE_CAP_SUPPORTED (BIT64(8) | BIT64(24)) /* MCG_CTL_P, MCG_SER_P */
#define X86_XCOMP_GUEST_SUPP 0                   /* the one system attribute */

static long dev_attr(unsigned cmd, unsigned long arg)
{
	struct kvm_device_attr a;

	if (uaccess_read(&a, (void *)arg, sizeof(a)))
		return -EFAULT;
	if (a.group || a.attr != X86_XCOMP_GUEST_SUPP)
		return -ENXIO;
	u64 supported = xsave_supported();
	return cmd == KVM_HAS_DEVICE_ATTR ? 0 : uaccess_write((void *)a.addr, &supported, sizeof(supported));
}

static long dev_ioctl(void *obj, unsigned cmd, unsigned long arg)
{
	u64 mce = MCE_CAP_SUPPORTED;

	switch (cmd) {
	case KVM_GET_API_VERSION:
		return arg ? -EINVAL : KVM_API_VERSION;
	case KVM_CREATE_VM:
		return vm_create_fd(arg);
	case KVM_CHECK_EXTENSION:
		return vm_check_extension(NULL, arg);
	case KVM_GET_VCPU_MMAP_SIZE:
		return arg ? -EINVAL : (long)(3 * PAGE_SIZE);
	case KVM_GET_SUPPORTED_CPUID:
		return dev_get_supported_cpuid(cmd, arg);
	case KVM_GET_MSR_INDEX_LIST:
	case KVM_GET_MSR_FEATURE_INDEX_LIST:
	case KVM_GET_MSRS:
		return dev_get_msrs(cmd, arg);
	case KVM_X86_GET_MCE_CAP_SUPPORTED:
		return uaccess_write((void *)arg, &mce, sizeof(mce));
	case KVM_GET_DEVICE_ATTR:
	case KVM_HAS_DEVICE_ATTR:
		return dev_attr(cmd, arg);
	default:
		return -EINVAL; /* KVM's own answer on this descriptor */
	}
}

static void dev_release(void *obj)
{
}

static const struct file_ops dev_file_ops = {.name = "anykvm", .ioctl = dev_ioctl, .release = dev_release};

int dev_open(void)
{
	host_tsc_start();
	return file_create(&dev_file_ops, NULL, 0, NULL);
}
