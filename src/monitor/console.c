#include "monitor/console.h"

void console_init(struct console *c)
{
	pthread_mutex_init(&c->lock, NULL);
	c->head = c->count = 0;
}

void console_fini(struct console *c)
{
	pthread_mutex_destroy(&c->lock);
}

size_t console_space(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	size_t space = CONSOLE_QUEUE - c->count;

	pthread_mutex_unlock(&c->lock);
	return space;
}

size_t console_put(struct console *c, const u8 *data, size_t n)
{
	pthread_mutex_lock(&c->lock);
	n = MIN(n, CONSOLE_QUEUE - c->count);
	for (size_t i = 0; i < n; i++)
		c->queue[(c->head + c->count + i) % CONSOLE_QUEUE] = data[i];
	c->count += (unsigned)n;
	pthread_mutex_unlock(&c->lock);
	return n;
}

size_t console_get(struct console *c, u8 *data, size_t n, bool *half)
{
	pthread_mutex_lock(&c->lock);
	bool was_above = c->count > CONSOLE_QUEUE / 2;

	n = MIN(n, c->count);
	for (size_t i = 0; i < n; i++)
		data[i] = c->queue[(c->head + i) % CONSOLE_QUEUE];
	c->head = (c->head + (unsigned)n) % CONSOLE_QUEUE;
	c->count -= (unsigned)n;
	*half = was_above && c->count <= CONSOLE_QUEUE / 2;
	pthread_mutex_unlock(&c->lock);
	return n;
}
