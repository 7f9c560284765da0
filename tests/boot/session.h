/* A run of the anykvm program, driven through its standard streams or a terminal. */
#ifndef TESTS_BOOT_SESSION_H
#define TESTS_BOOT_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct session {
	pid_t pid;
	int in, out, err; /* our ends; in a terminal, all the same one; -1 when closed */
	char *text;       /* what came on standard output so far, NUL-terminated */
	size_t len, seen; /* seen: how far session_expect() has got */
	char *errors;     /* the same for standard error */
	size_t errors_len;
};

enum session_io { SESSION_PIPES, SESSION_TERMINAL };

/*
 * Starts the program under test ($ANYKVM, build/anykvm when unset) with the
 * arguments in @argv (NULL-terminated, without the program). @out_path, when
 * not NULL, is opened as its standard output. Aborts when it cannot.
 */
void session_start(struct session *s, enum session_io io, const char *out_path, const char *const argv[]);

/* Waits up to @seconds for @what on standard output, behind what was found before. */
bool session_expect(struct session *s, const char *what, double seconds);

/* The same on standard error, from its beginning. */
bool session_expect_error(struct session *s, const char *what, double seconds);

/* Writes all of @what to the program's standard input. */
void session_send(struct session *s, const char *what);

/* Closes the program's standard input. */
void session_close_input(struct session *s);

/*
 * Collects output until the program ends. Returns its exit status, 128 + the
 * signal that ended it, or -1 after @seconds, with the program killed.
 */
int session_wait(struct session *s, double seconds);

/* True while the program runs. */
bool session_running(struct session *s);

/* Ends the program if it still runs and frees everything. */
void session_end(struct session *s);

/* Seconds of CLOCK_MONOTONIC. */
double now(void);

/* The path of a file of the Linux guest, in $ANYKVM_GUEST or build/guest. The last two stay valid. */
const char *guest_file(const char *name);

/* Writes an ELF kernel whose 64-bit entry is @code, to a file without a name: its path. Close what is returned. */
int write_kernel(const void *code, size_t len, char path[64]);

/*
 * Machine code for tests, from assembly: ASM_GUEST(name, "...") and then
 * WRITE_GUEST(name, path) for write_kernel(). It starts at its first instruction.
 */
#define ASM_GUEST(name, code)                                                                                          \
	__asm__(".pushsection .rodata\n.global " #name "\n.global " #name "_end\n" #name ":\n" code "\n" #name         \
		"_end:\n.popsection\n");                                                                               \
	extern const char name[], name##_end[]
#define WRITE_GUEST(name, path) write_kernel(name, (size_t)(name##_end - name), path)

#endif
