#include <string.h>

#include "base/types.h"
#include "engine/x86_ops.h"

static const struct x86_ops *const engines[] = {&interp_x86_ops, &jit_x86_ops, &lockstep_x86_ops};

const struct x86_ops *engine_find(const char *name)
{
	for (unsigned n = 0; n < ARRAY_SIZE(engines); n++)
		if (!strcmp(engines[n]->name, name))
			return engines[n];
	return NULL;
}
