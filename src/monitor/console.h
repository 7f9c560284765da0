/* Keys on their way from the terminal to the console's device: a bounded queue between two threads. */
#ifndef MONITOR_CONSOLE_H
#define MONITOR_CONSOLE_H

#include <pthread.h>

#include "base/types.h"

#define CONSOLE_QUEUE 4096u

struct console {
	pthread_mutex_t lock;
	unsigned head, count;  /* [lock] */
	u8 queue[CONSOLE_QUEUE]; /* [lock] */
};

void console_init(struct console *c);
void console_fini(struct console *c);

size_t console_space(struct console *c);
/* Puts what fits of @n bytes; returns how many. */
size_t console_put(struct console *c, const u8 *data, size_t n);
/* Takes up to @n of the oldest bytes; returns how many. @half: the queue has just become half empty. */
size_t console_get(struct console *c, u8 *data, size_t n, bool *half);

#endif
