/* Whole files in memory: regular ones, and pipes too, with a bound on their size. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "monitor/boot/load.h"

int boot_fail(char error[BOOT_ERROR_MAX], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, BOOT_ERROR_MAX, fmt, ap);
	va_end(ap);
	return -1;
}

void file_free(struct file_image *file)
{
	if (file->data)
		munmap(file->data, file->size);
	*file = (struct file_image){ 0 };
}

/* Makes room for @size bytes. Mappings rather than the heap: the memory goes back to the host when freed. */
static bool file_resize(struct file_image *file, size_t size)
{
	void *p = file->data ? mremap(file->data, file->size, size, MREMAP_MAYMOVE)
			     : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return false;
	file->data = p;
	file->size = size;
	return true;
}

/* Reads until the end of the file, whatever fstat said: pipes have no size, and files grow and shrink. */
static int read_all(int fd, const char *path, const char *what, u64 max, size_t guess, struct file_image *file,
		    char *error)
{
	size_t room = guess + 1, used = 0; /* the spare byte meets the end of file without another round */

	for (;;) {
		if (used == file->size && !file_resize(file, room))
			return boot_fail(error, "no memory to read %s '%s'", what, path);
		ssize_t n = read(fd, file->data + used, file->size - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return boot_fail(error, "cannot read %s '%s': %s", what, path, strerror(errno));
		if (n == 0)
			break;
		used += (size_t)n;
		if (used > max)
			return boot_fail(error, "%s '%s' is larger than %llu MiB", what, path,
					 (unsigned long long)(max >> 20));
		if (used == file->size)
			room = used * 2;
	}
	if (used == 0)
		return boot_fail(error, "%s '%s' is empty", what, path);
	if (!file_resize(file, used))
		return boot_fail(error, "no memory to read %s '%s'", what, path);
	return 0;
}

int file_read(const char *path, const char *what, u64 max, struct file_image *file, char error[BOOT_ERROR_MAX])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	int ret;

	*file = (struct file_image){ 0 };
	if (fd < 0)
		return boot_fail(error, "cannot open %s '%s': %s", what, path, strerror(errno));
	if (fstat(fd, &st) < 0)
		ret = boot_fail(error, "cannot read %s '%s': %s", what, path, strerror(errno));
	else if (S_ISDIR(st.st_mode))
		ret = boot_fail(error, "cannot read %s '%s': %s", what, path, strerror(EISDIR));
	else if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode)) /* /dev/zero has no end */
		ret = boot_fail(error, "%s '%s' is neither a file nor a pipe", what, path);
	else if (S_ISREG(st.st_mode) && (u64)st.st_size > max)
		ret = boot_fail(error, "%s '%s' is larger than %llu MiB", what, path, (unsigned long long)(max >> 20));
	else
		ret = read_all(fd, path, what, max, S_ISREG(st.st_mode) ? (size_t)st.st_size : 1 << 20, file, error);
	close(fd);
	if (ret)
		file_free(file);
	return ret;
}
