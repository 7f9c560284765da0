#include "session.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARGS 32

double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void must(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static void run_program(const char *const argv[])
{
	const char *args[MAX_ARGS + 2] = { getenv("ANYKVM") ? getenv("ANYKVM") : "build/anykvm" };

	for (int i = 0; argv[i] && i < MAX_ARGS; i++)
		args[i + 1] = argv[i];
	execv(args[0], (char *const *)args);
	perror(args[0]);
	_exit(127);
}

/* In the child: @fds become the standard streams. */
static void set_streams(const int fds[3])
{
	for (int i = 0; i < 3; i++)
		must(dup2(fds[i], i) >= 0, "dup2");
}

static void start_pipes(struct session *s, const char *out_path, const char *const argv[])
{
	int in[2], out[2], err[2];

	must(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC) && !pipe2(err, O_CLOEXEC), "pipe");
	s->pid = fork();
	must(s->pid >= 0, "fork");
	if (s->pid == 0) {
		int to = out_path ? open(out_path, O_WRONLY | O_CLOEXEC) : out[1];

		must(to >= 0, out_path);
		set_streams((int[]){ in[0], to, err[1] });
		run_program(argv);
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	s->in = in[1];
	s->out = out[0];
	s->err = err[0];
}

void session_start(struct session *s, enum session_io io, const char *out_path, const char *const argv[])
{
	*s = (struct session){ .text = calloc(1, 1), .errors = calloc(1, 1) };
	signal(SIGPIPE, SIG_IGN);
	if (io == SESSION_PIPES) {
		start_pipes(s, out_path, argv);
	} else {
		s->pid = forkpty(&s->out, NULL, NULL, NULL);
		must(s->pid >= 0, "forkpty");
		if (s->pid == 0)
			run_program(argv);
		s->in = s->out;
		s->err = -1;
	}
}

/* Appends what is there to read; closes at the end of file. */
static void collect(int *fd, char **text, size_t *len)
{
	char buf[4096];
	ssize_t n = read(*fd, buf, sizeof(buf));

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) { /* EIO: the last user of the terminal is gone */
		close(*fd);
		*fd = -1;
		return;
	}
	*text = realloc(*text, *len + (size_t)n + 1);
	must(*text, "realloc");
	memcpy(*text + *len, buf, (size_t)n);
	*len += (size_t)n;
	(*text)[*len] = 0;
}

/* Waits for output until @deadline. False at the deadline, or when both streams are at their end. */
static bool gather(struct session *s, double deadline)
{
	struct pollfd p[2] = { { s->out, POLLIN, 0 }, { s->err, POLLIN, 0 } };
	double left = deadline - now();

	if (left <= 0 || (s->out < 0 && s->err < 0) || poll(p, 2, (int)(left * 1000) + 1) == 0)
		return false;
	bool same = s->in == s->out;

	if (p[0].revents)
		collect(&s->out, &s->text, &s->len);
	if (p[1].revents)
		collect(&s->err, &s->errors, &s->errors_len);
	if (same)
		s->in = s->out;
	return true;
}

bool session_expect(struct session *s, const char *what, double seconds)
{
	double deadline = now() + seconds;

	for (;;) {
		char *at = memmem(s->text + s->seen, s->len - s->seen, what, strlen(what));

		if (at) {
			s->seen = (size_t)(at - s->text) + strlen(what);
			return true;
		}
		if (!gather(s, deadline))
			break;
	}
	fprintf(stderr, "# '%s' did not come within %.0f s; the end of what came:\n%s\n# standard error:\n%s\n", what,
		seconds, s->text + (s->len > 1500 ? s->len - 1500 : 0), s->errors);
	return false;
}

bool session_expect_error(struct session *s, const char *what, double seconds)
{
	double deadline = now() + seconds;

	while (!strstr(s->errors, what))
		if (!gather(s, deadline)) {
			fprintf(stderr, "# '%s' is not in standard error:\n%s\n", what, s->errors);
			return false;
		}
	return true;
}

void session_send(struct session *s, const char *what)
{
	size_t left = strlen(what);

	while (left && s->in >= 0) {
		ssize_t n = write(s->in, what, left);

		if (n < 0 && errno != EINTR)
			return; /* the program has ended: what waits for its answer will say so */
		if (n > 0) {
			what += n;
			left -= (size_t)n;
		}
	}
}

void session_close_input(struct session *s)
{
	if (s->in >= 0 && s->in != s->out)
		close(s->in);
	s->in = -1;
}

static int decode_status(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int session_wait(struct session *s, double seconds)
{
	double deadline = now() + seconds;
	int status;

	while (gather(s, deadline))
		;
	/* The streams are at their end, so the program is about to be. */
	while (s->pid > 0 && now() < deadline + 1) {
		if (waitpid(s->pid, &status, WNOHANG) == s->pid) {
			s->pid = 0;
			return decode_status(status);
		}
		usleep(1000);
	}
	if (s->pid > 0) {
		fprintf(stderr, "# no end after %.0f s; standard error:\n%s\n", seconds, s->errors);
		kill(s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
		s->pid = 0;
	}
	return -1;
}

bool session_running(struct session *s)
{
	siginfo_t info = { 0 };

	return s->pid > 0 && !waitid(P_PID, (id_t)s->pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid == 0;
}

void session_end(struct session *s)
{
	if (s->pid > 0) {
		kill(s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
	}
	session_close_input(s);
	if (s->out >= 0)
		close(s->out);
	if (s->err >= 0)
		close(s->err);
	free(s->text);
	free(s->errors);
	*s = (struct session){ .in = -1, .out = -1, .err = -1 };
}

const char *guest_file(const char *name)
{
	static char path[2][512];
	static int turn;
	const char *dir = getenv("ANYKVM_GUEST");

	turn ^= 1;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir ? dir : "build/guest", name);
	return path[turn];
}

#define KERNEL_ADDR 0x1000000
#define CODE_OFFSET 0x1000

int write_kernel(const void *code, size_t len, char path[64])
{
	int fd = memfd_create("kernel", 0);
	Elf64_Ehdr e = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = KERNEL_ADDR,
		.e_phoff = sizeof(e),
		.e_ehsize = sizeof(e),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 1,
	};
	Elf64_Phdr p = { PT_LOAD, PF_R | PF_W | PF_X, CODE_OFFSET, KERNEL_ADDR, KERNEL_ADDR, len, 0x10000, 0x1000 };

	must(fd >= 0 && pwrite(fd, &e, sizeof(e), 0) == sizeof(e) &&
		     pwrite(fd, &p, sizeof(p), sizeof(e)) == sizeof(p) &&
		     pwrite(fd, code, len, CODE_OFFSET) == (ssize_t)len,
	     "memfd");
	/* Not close-on-exec, and by our id: the program opens it from its own process. */
	snprintf(path, 64, "/proc/%d/fd/%d", getpid(), fd);
	return fd;
}
