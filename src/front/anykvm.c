/* The in-process front end: include/anykvm.h over descriptors. */
#include "anykvm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "kvm/file.h"
#include "kvm/kvm.h"
#include "kvm_if.h"

static pthread_once_t environment_once = PTHREAD_ONCE_INIT;

static void read_environment(void)
{
	const char *name = getenv("ANYKVM_ENGINE"), *perf_map = getenv("ANYKVM_PERF_MAP");
	const char *cache = getenv("ANYKVM_JIT_CACHE");

	if (name && vm_set_engine(name))
		log_warn("ANYKVM_ENGINE=%s: no such engine (there are interp, jit and lockstep)", name);
	if (cache && engine_jit_cache(strtoull(cache, NULL, 0)))
		log_warn("ANYKVM_JIT_CACHE=%s: wanted is a number of bytes from %u to %u", cache, JIT_CACHE_MIN,
			 JIT_CACHE_MAX);
	if (perf_map && strcmp(perf_map, "0") && engine_perf_map())
		log_warn("ANYKVM_PERF_MAP: /tmp/perf-%d.map cannot be written", getpid());
}

int anykvm_set_engine(const char *name)
{
	pthread_once(&environment_once, read_environment);
	return vm_set_engine(name);
}

int anykvm_perf_map(void)
{
	return engine_perf_map();
}

int anykvm_jit_cache(uint64_t bytes)
{
	pthread_once(&environment_once, read_environment);
	return engine_jit_cache(bytes);
}

int anykvm_open(void)
{
	pthread_once(&environment_once, read_environment);
	return dev_open();
}

long anykvm_ioctl(int fd, unsigned long request, void *arg)
{
	struct file *f = file_get(fd);

	if (!f)
		return fcntl(fd, F_GETFD) < 0 ? -EBADF : -ENOTTY;
	long r = file_ioctl(f, (unsigned)request, (unsigned long)arg);
	file_put(f);
	return r;
}

void *anykvm_mmap(int fd, size_t size)
{
	struct file *f = file_get(fd);

	if (!f) {
		errno = fcntl(fd, F_GETFD) < 0 ? EBADF : ENODEV;
		return NULL;
	}
	void *p = file_mmap(f, fd, size);
	int err = errno;
	file_put(f);
	errno = err;
	return p;
}

int anykvm_close(int fd)
{
	return file_close(fd);
}

void anykvm_signal(void)
{
	vcpu_signal_current();
}

bool anykvm_owns(int fd)
{
	struct file *f = file_get(fd);

	if (f)
		file_put(f);
	return f != NULL;
}

const struct kvm_if anykvm_kvm_if = {
	.name = "anykvm",
	.open = anykvm_open,
	.ioctl = anykvm_ioctl,
	.mmap = anykvm_mmap,
	.close = anykvm_close,
};
