#include "kvm/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct file {
	const struct file_ops *ops; /* [I] immutable */
	void *obj;                  /* [I] */
	dev_t dev;                  /* [I] */
	ino_t ino;                  /* [I] */
	u32 process;                /* [I] which of the processes that share this memory by fork made it */
	u32 refs;                   /* [registry_lock] one for being open, one per call under way */
	bool seen;                  /* [registry_lock] a descriptor was found by the sweep */
	struct file *next;          /* [registry_lock] */
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *registry[64]; /* [registry_lock] by inode */
static u32 this_process = 1;      /* changed in a forked child before it has a second thread */
static u32 closings = 1;          /* [registry_lock] invalidates the threads' last_used */

/* The descriptor that this thread used last: saves an fstat(2) per KVM_RUN. */
static _Thread_local struct {
	int fd;
	u32 closings;
	struct file *f;
} last_used;

static void after_fork(void)
{
	this_process++;
	closings++;
	pthread_mutex_init(&registry_lock, NULL);
}

static void registry_init(void)
{
	pthread_atfork(NULL, NULL, after_fork);
}

static struct file **bucket(ino_t ino)
{
	return &registry[ino % ARRAY_SIZE(registry)];
}

static struct file *lookup(const struct stat *st)
{
	for (struct file *f = *bucket(st->st_ino); f; f = f->next)
		if (f->ino == st->st_ino && f->dev == st->st_dev)
			return f;
	return NULL;
}

/* A forked child keeps the parent's entries: their descriptors are open in it too, and answer -EIO. */
int file_create(const struct file_ops *ops, void *obj, size_t size, void **map)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct stat st;
	struct file *f = calloc(1, sizeof(*f));

	pthread_once(&once, registry_init);
	if (!f)
		return -ENOMEM;
	int fd = memfd_create(ops->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0) {
		int err = -errno;
		free(f);
		return err;
	}
	/* Sealed in size: a client that truncates it would make our own accesses fault. */
	if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
	    fstat(fd, &st) < 0)
		goto fail;
	if (size) {
		/* Generated code looks at a vCPU's on each turn of a loop: low addresses are shorter there. */
		*map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_32BIT, fd, 0);
		if (*map == MAP_FAILED)
			*map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (*map == MAP_FAILED)
			goto fail;
	}
	*f = (struct file){.ops = ops, .obj = obj, .dev = st.st_dev, .ino = st.st_ino, .process = this_process,
			   .refs = 1};
	pthread_mutex_lock(&registry_lock);
	f->next = *bucket(f->ino);
	*bucket(f->ino) = f;
	pthread_mutex_unlock(&registry_lock);
	return fd;
fail:
	close(fd);
	free(f);
	return -ENOMEM;
}

struct file *file_get(int fd)
{
	struct file *f = NULL;
	struct stat st;

	pthread_mutex_lock(&registry_lock);
	if (last_used.f && last_used.fd == fd && last_used.closings == closings)
		f = last_used.f;
	else if (fstat(fd, &st) == 0)
		f = lookup(&st);
	if (f) {
		f->refs++;
		last_used.fd = fd;
		last_used.closings = closings;
		last_used.f = f;
	}
	pthread_mutex_unlock(&registry_lock);
	return f;
}

static void unlink_file(struct file *f)
{
	struct file **p = bucket(f->ino);

	while (*p != f)
		p = &(*p)->next;
	*p = f->next;
	closings++;
}

void file_put(struct file *f)
{
	pthread_mutex_lock(&registry_lock);
	bool last = --f->refs == 0;
	pthread_mutex_unlock(&registry_lock);
	if (!last)
		return;
	/* What a parent process created is the parent's to tear down. */
	if (f->process == this_process)
		f->ops->release(f->obj);
	free(f);
}

long file_ioctl(struct file *f, unsigned cmd, unsigned long arg)
{
	return f->process == this_process ? f->ops->ioctl(f->obj, cmd, arg) : -EIO;
}

void *file_mmap(struct file *f, int fd, size_t size)
{
	if (f->process != this_process || !f->ops->mmap) {
		errno = f->process != this_process ? EIO : ENODEV;
		return NULL;
	}
	return f->ops->mmap(f->obj, fd, size);
}

/* Marks every object that some descriptor of this process leads to. False when that cannot be found out. */
static bool mark_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *d;

	if (!dir)
		return false;
	while ((d = readdir(dir))) {
		struct stat st;

		if (d->d_name[0] == '.' || fstat(atoi(d->d_name), &st) < 0)
			continue;
		struct file *f = lookup(&st);
		if (f)
			f->seen = true;
	}
	closedir(dir);
	return true;
}

/*
 * dup(2) and a plain close(2) are the client's own business and pass us by, so who is still open is asked of
 * the kernel. Where /proc is not there, @closed alone (the object of the descriptor just closed) is taken as gone.
 */
static void sweep(const struct stat *closed)
{
	struct file *gone = NULL;

	pthread_mutex_lock(&registry_lock);
	for (unsigned i = 0; i < ARRAY_SIZE(registry); i++)
		for (struct file *f = registry[i]; f; f = f->next)
			f->seen = false;
	bool known = mark_open();
	for (unsigned i = 0; i < ARRAY_SIZE(registry); i++) {
		for (struct file *f = registry[i], *next; f; f = next) {
			next = f->next;
			if (known ? f->seen : f->ino != closed->st_ino || f->dev != closed->st_dev)
				continue;
			unlink_file(f);
			f->next = gone;
			gone = f;
		}
	}
	pthread_mutex_unlock(&registry_lock);
	while (gone) {
		struct file *next = gone->next;
		file_put(gone);
		gone = next;
	}
}

int file_close(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	pthread_mutex_lock(&registry_lock);
	closings++;
	pthread_mutex_unlock(&registry_lock);
	if (close(fd) < 0)
		return -errno;
	sweep(&st);
	return 0;
}
