/*
 * The interpreter: runs decoded blocks. The whole ISA, every mode; the oracle for faster engines.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/guard.h"
#include "engine/loop.h"
#include "engine/x86_ops.h"

static int interp_hardware_setup(void)
{
	decode_init();
	return guard_install();
}

static int interp_vcpu_create(struct cpu *c)
{
	struct block_cache *bc = malloc(sizeof(*bc));
	int r = bc ? block_cache_init(bc) : -ENOMEM;

	if (r) {
		free(bc);
		return r;
	}
	c->engine = bc;
	return 0;
}

static void interp_vcpu_free(struct cpu *c)
{
	if (!c->engine)
		return;
	block_cache_fini(c->engine);
	free(c->engine);
	c->engine = NULL;
}

static enum exit_reason interp_blocks(struct cpu *c)
{
	enum exit_reason reason;

	for (;;) {
		if (unlikely(loop_attention(c))) {
			if (loop_attend(c, &reason))
				return reason;
			continue;
		}
		const struct block *b = block_get(c->engine, c);
		loop_exec(c, b, b->nr);
	}
}

static enum exit_reason interp_run(struct cpu *c)
{
	return loop_run(c, interp_blocks);
}

const struct x86_ops interp_x86_ops = {
	.name = "interp",
	.hardware_setup = interp_hardware_setup,
	.vcpu_create = interp_vcpu_create,
	.vcpu_free = interp_vcpu_free,
	.vcpu_load = loop_vcpu_load,
	.run = interp_run,
	.tlb_flush_all = tlb_flush_all,
	LOOP_OPS,
};
