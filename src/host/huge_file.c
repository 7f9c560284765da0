#include "host/huge_file.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#define OWN_NAMESPACES (CLONE_NEWUSER | CLONE_NEWNS)
#define STACK_SIZE 16384

struct request {
	u64 size;
	uid_t uid;
	gid_t gid;
	bool in_namespace;
	int fd;
};

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	size_t n = strlen(text);
	bool ok = fd >= 0 && write(fd, text, n) == (ssize_t)n;

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Who creates a file must have a name in the namespace (user_namespaces(7)): here everybody keeps his own. */
static bool keep_ids(const struct request *r)
{
	char users[32], groups[32];

	snprintf(users, sizeof(users), "%u %u 1", r->uid, r->uid);
	snprintf(groups, sizeof(groups), "%u %u 1", r->gid, r->gid);
	return write_file("/proc/self/uid_map", users) && write_file("/proc/self/setgroups", "deny") &&
	       write_file("/proc/self/gid_map", groups);
}

/* A tmpfs that is mounted nowhere and lives as long as its file. Returns the mount, or -1. */
static int make_tmpfs(u64 size)
{
	char limit[32];
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), mount = -1;

	if (fs < 0)
		return -1;
	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)ALIGN_UP(size, HUGE_PAGE));
	if (fsconfig(fs, FSCONFIG_SET_STRING, "huge", "advise", 0) == 0 &&
	    fsconfig(fs, FSCONFIG_SET_STRING, "size", limit, 0) == 0 &&
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		mount = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	close(fs);
	return mount;
}

static int make_file(void *opaque)
{
	struct request *r = opaque;

	if (r->in_namespace && !keep_ids(r))
		return 1;

	int mount = make_tmpfs(r->size);

	if (mount < 0)
		return 1;
	r->fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	close(mount);
	return 0;
}

/*
 * In a child that shares memory and descriptors, for which the caller waits: a sandbox that kills whoever makes an
 * unusual system call kills the child, and the caller's own namespaces stay what they are.
 */
static int in_child(struct request *r, int namespaces)
{
	char stack[STACK_SIZE] __attribute__((aligned(16)));

	r->in_namespace = namespaces != 0;
	r->fd = -1;

	int flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD | namespaces;
	pid_t pid = clone(make_file, stack + sizeof(stack), flags, r);

	if (pid > 0)
		waitpid(pid, NULL, 0);
	return r->fd;
}

/* Does the host promise all pages of a mapping or refuse it (proc(5), overcommit_memory)? A file's are never promised. */
static bool pages_promised(void)
{
	int fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
	char mode = '0';

	if (fd >= 0) {
		if (read(fd, &mode, 1) != 1)
			mode = '0';
		close(fd);
	}
	return mode == '2';
}

int huge_file_open(u64 size)
{
	struct request r = {.size = size, .uid = geteuid(), .gid = getegid()};

	if (pages_promised())
		return -1;

	int fd = in_child(&r, 0); /* root; others are root in a namespace of their own, where they may have one */

	if (fd < 0)
		fd = in_child(&r, OWN_NAMESPACES);
	if (fd >= 0 && ftruncate(fd, (off_t)size) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}
