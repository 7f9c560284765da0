/* Where the TLB lies, and the views of it that generated code has. */
#include "cpu/tlb.h"

#include "base/low.h"
#include "base/secret.h"

#define WIDE_SIZE (sizeof(u64) << TLB_WIDE_BITS)

struct tlb *tlb_new(void)
{
	struct tlb *tlb = low_alloc(sizeof(*tlb));

	if (!tlb)
		return NULL;
	tlb->no_stack = (secret_new() >> 2 | BIT64(62)) & PAGE_MASK; /* bit 63 is clear */
	tlb_forget_stack(tlb);
	/* Zero tags name page 0, which only entry 0 can hold: the rest of the arrays is empty without being touched. */
	for (unsigned idx = 0; idx < NR_MMU_INDEX; idx++) {
		struct tlb_array *a = &tlb->array[idx];

		tlb_clear(a, 0);
		tlb->view[idx] = (struct tlb_view){{a->tag[ACC_READ], a->tag[ACC_WRITE]}, a->host, false};
	}
	return tlb;
}

void tlb_free(struct tlb *tlb)
{
	for (unsigned idx = 0; tlb && idx < NR_MMU_INDEX; idx++)
		for (unsigned n = 0; tlb->view[idx].wide && n < 3; n++)
			low_free(n == 2 ? tlb->view[idx].host : tlb->view[idx].tag[n], WIDE_SIZE);
	low_free(tlb, sizeof(*tlb));
}

void tlb_widen(struct tlb *tlb, enum mmu_index idx)
{
	struct tlb_array *a = &tlb->array[idx];
	u64 *from[] = {a->tag[ACC_READ], a->tag[ACC_WRITE], a->host}, *to[3];
	unsigned n = 0;

	while (n < 3 && (to[n] = low_repeat(from[n], sizeof(a->host), WIDE_SIZE / sizeof(a->host))))
		n++;
	tlb_clear(a, 0);
	if (n == 3)
		tlb->view[idx] = (struct tlb_view){{to[0], to[1]}, to[2], true};
	else
		while (n-- > 0)
			low_free(to[n], WIDE_SIZE);
}
