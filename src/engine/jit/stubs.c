/* The way into generated code, out of it, and to C functions and back. Made once per vCPU. */
#include "engine/jit/jit.h"

static const u8 callee_saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

static void emit_guest_out(struct jit *j)
{
	for (unsigned g = 0; g < ARRAY_SIZE(j->cpu->gpr); g++)
		if (!jit_in_memory(g))
			emit_store_abs(&j->e, jit_host_of(g), &j->cpu->gpr[g]);
	jit_emit_vec_save(j);
}

static void emit_guest_in(struct jit *j)
{
	for (unsigned g = 0; g < ARRAY_SIZE(j->cpu->gpr); g++)
		if (!jit_in_memory(g))
			emit_load_abs(&j->e, jit_host_of(g), &j->cpu->gpr[g]);
}

static void emit_call_c(struct jit *j, u64 fn)
{
	emit_mov_imm(&j->e, H_RAX, fn);
	emit8(&j->e, 0xff); /* call rax */
	emit8(&j->e, 0xd0);
}

/* Where generated code has called, so that the stack is to be aligned for C again. */
static void emit_call_c_again(struct jit *j, u64 fn)
{
	emit_bytes(&j->e, "\x48\x83\xec\x08", 4); /* sub rsp, 8 */
	emit_call_c(j, fn);
	emit_bytes(&j->e, "\x48\x83\xc4\x08", 4); /* add rsp, 8 */
}

static void emit_push(struct emit *e, unsigned reg)
{
	emit_rex(e, 0, 0, reg);
	emit8(e, 0x50 | (reg & 7));
}

static void emit_pop(struct emit *e, unsigned reg)
{
	emit_rex(e, 0, 0, reg);
	emit8(e, 0x58 | (reg & 7));
}

/* void enter(u64 code): the C stack is left 16-aligned, as a C function's caller has it. */
static void make_enter(struct jit *j)
{
	struct emit *e = &j->e;

	j->enter = (void (*)(u64))emit_here(e);
	for (unsigned n = 0; n < ARRAY_SIZE(callee_saved); n++)
		emit_push(e, callee_saved[n]);
	emit8(e, 0x48); /* sub rsp, 8 */
	emit8(e, 0x83);
	emit8(e, 0xec);
	emit8(e, 8);
	/* No call: its return address is a number that no guest knows. */
	emit_load_abs(e, S0, &j->hash_key);
	emit_push(e, S0);
	emit_mov_imm(e, S0, j->stub_no_call);
	emit_push(e, S0);
	emit_store_abs(e, H_RSP, &j->c_stack);
	emit_rm_disp(e, 1, 0x8d, S0, H_RSP, -JIT_CALLS * JIT_CALL_SIZE);
	emit_store_abs(e, S0, &j->c_limit);
	emit_mov_rr(e, S0, H_RDI);
	emit_guest_in(j);
	emit8(e, 0x41); /* jmp r14 */
	emit8(e, 0xff);
	emit8(e, 0xe6);
}

/* LAHF and SETO: 1 ns, where PUSHF and POPF take 9. */
void jit_emit_save_flags(struct jit *j)
{
	struct emit *e = &j->e;

	emit_mov_rr(e, S0, H_RAX);
	emit8(e, 0x9f);
	emit_bytes(e, "\x0f\x90\xc0", 3); /* seto al */
	emit8(e, 0x66);
	emit_ra(e, 0, 0x89, H_RAX, &j->flags);
	emit_mov_rr(e, H_RAX, S0);
}

/* Jumped to with the reason in S1, and with the flags in their slot or not. */
static void make_exit(struct jit *j)
{
	struct emit *e = &j->e;

	j->stub_link_flags = emit_here(e);
	jit_emit_save_flags(j);
	j->stub_link = emit_here(e);
	emit_store_abs(e, S1, &j->exit_code);
	emit_guest_out(j);
	emit_load_abs(e, H_RSP, &j->c_stack);
	emit8(e, 0x48); /* add rsp */
	emit8(e, 0x83);
	emit8(e, 0xc4);
	emit8(e, 8 + JIT_CALL_SIZE);
	for (unsigned n = ARRAY_SIZE(callee_saved); n-- > 0;)
		emit_pop(e, callee_saved[n]);
	emit8(e, 0xc3);

	/* cpu->rip is set: look the rest up. */
	j->stub_exit = emit_here(e);
	emit_mov_imm(e, S1, JIT_EXIT_LOOKUP);
	emit_jmp(e, j->stub_link);

	/* Returned to all the same: it is as good as any address. */
	j->stub_no_call = emit_here(e);
	emit_load_abs(e, S0, &j->hash_key);
	emit_store_abs(e, S0, &j->cpu->rip);
	emit_jmp(e, j->stub_exit);
}

void jit_emit_forget_calls(struct jit *j)
{
	emit_load_abs(&j->e, H_RSP, &j->c_stack);
}

void jit_emit_tlb_index(struct jit *j, bool wide)
{
	struct emit *e = &j->e;

	_Static_assert(TLB_WIDE_BITS == 32 - PAGE_SHIFT, "as many as there are in 32 bits of an address");
	if (wide || !j->bmi2) {
		emit_rr(e, 0, 0x8b, S1, S0);
		emit_bytes(e, "\x41\xc1\xef\x0c", 4); /* shr r15d, PAGE_SHIFT */
	} else {
		emit_bytes(e, "\xc4\x43\xfb\xf0\xfe\x0c", 6); /* rorx r15, r14, PAGE_SHIFT */
	}
	if (wide)
		return;
	emit_bytes(e, "\x41\x81\xe7", 3); /* and r15d, TLB_SIZE - 1 */
	emit32(e, TLB_SIZE - 1);
}

enum { TO_CALL = 2, TO_JUMP = 4 }; /* ModRM.reg of opcode FF */

/* To the code of entry S1 of the jump cache. */
static void emit_to_entry(struct jit *j, bool user, unsigned how)
{
	emit_rm_disp(&j->e, 0, 0xff, how, S1, (s32)(u64)&j->jump[user][0].code);
}

/* What jit_jump_index() or jit_shared_index() says of S0 into S1, times 16. */
static void emit_jump_index(struct emit *e, unsigned bits)
{
	emit_bytes(e, "\x45\x69\xfe", 3); /* imul r15d, r14d, JUMP_HASH */
	emit32(e, JUMP_HASH);
	emit_bytes(e, "\x41\xc1\xef", 3); /* shr r15d */
	emit8(e, 32 - bits - 4);
	emit_bytes(e, "\x41\x81\xe7", 3); /* and r15d */
	emit32(e, ((1u << bits) - 1) << 4);
}

/* The jump cache's entry for the RIP in S0, which becomes a key, into S1. Returns the rel32 of a jump on a miss. */
static u8 *emit_find(struct jit *j, bool user)
{
	struct emit *e = &j->e;

	if (user) {
		emit_mov_rr(e, S1, S0);
		emit_bytes(e, "\x49\x81\xe7", 3); /* and r15, PAGE_MASK */
		emit32(e, PAGE_MASK);
		emit_store_abs(e, S1, &j->page_rip);
	}
	emit_ra(e, 1, 0x33, S0, &j->epoch);    /* xor */
	emit_jump_index(e, JUMP_BITS);
	emit_rm_disp(e, 1, 0x3b, S0, S1, (s32)(u64)&j->jump[user][0].key); /* cmp */
	return emit_jcc(e, CC_NE);
}

void jit_emit_jump(struct jit *j, bool user)
{
	emit_patch(emit_find(j, user), emit_place(&j->e, j->stub_miss[user]));
	emit_to_entry(j, user, TO_JUMP);
}

u8 *jit_emit_call(struct jit *j, bool user)
{
	u8 *miss = emit_find(j, user);

	emit_to_entry(j, user, TO_CALL);
	return miss;
}

/* Jumped to with the block in S1, which is not begun: somebody wants the vCPU to look. */
static void make_poll(struct jit *j)
{
	struct emit *e = &j->e;

	for (unsigned fixed = 0; fixed < 2; fixed++) {
		j->stub_poll[fixed] = emit_here(e);
		emit_rm_disp(e, 1, 0x8b, S0, S1, offsetof(struct jit_block, rip));
		if (!fixed) {
			emit_bytes(e, "\x41\x81\xe6", 3); /* and r14d, PAGE_SIZE - 1 */
			emit32(e, PAGE_SIZE - 1);
			emit_ra(e, 1, 0x03, S0, &j->page_rip);
		}
		emit_store_abs(e, S0, &j->cpu->rip);
		emit_jmp(e, j->stub_exit);
	}
}

/* The block at cpu->rip, which is in S0 too, may be in jit.shared: enters it in the jump cache and goes there. */
static void emit_shared(struct jit *j)
{
	struct emit *e = &j->e;
	const struct tlb_array *array = &j->cpu->tlbs->array[MMU_USER];
	u8 *none[4];

	/* Blocks of mode MMU_USER, which is 0, and not where jit_fixed() says so. */
	_Static_assert(MMU_USER == 0, "the mode in the epoch");
	emit8(e, 0xf6); /* test byte [mode in epoch], all of it */
	emit_modrm_abs(e, 0, (const u8 *)&j->epoch + JIT_EPOCH_SHIFT / 8);
	emit8(e, 15);
	none[0] = emit_jcc(e, CC_NE);
	emit_mov_rr(e, S1, S0);
	emit_bytes(e, "\x49\xc1\xef\x20", 4); /* shr r15, 32 */
	emit_bytes(e, "\x41\x81\xff", 3);     /* cmp r15d */
	emit32(e, JIT_FIXED_FROM >> 32);
	none[1] = emit_jcc(e, CC_AE);

	/* The host address, as in tr_emit_tlb(). */
	jit_emit_tlb_index(j, false);
	emit_r_of8(e, 0x33, S0, S1, array->tag[ACC_EXEC]);
	emit_bytes(e, "\x49\x81\xfe", 3); /* cmp r14, PAGE_SIZE */
	emit32(e, PAGE_SIZE);
	none[2] = emit_jcc(e, CC_AE);
	emit_r_of8(e, 0x03, S0, S1, array->host);

	emit_jump_index(e, SHARED_BITS);
	emit_rm_disp(e, 1, 0x3b, S0, S1, (s32)(u64)&j->shared[0].key);
	none[3] = emit_jcc(e, CC_NE);
	emit_push(e, H_RAX);
	emit_rm_disp(e, 1, 0x8b, H_RAX, S1, (s32)(u64)&j->shared[0].code);
	emit_load_abs(e, S0, &j->cpu->rip);
	emit_ra(e, 1, 0x33, S0, &j->epoch);
	emit_jump_index(e, JUMP_BITS);
	emit_rm_disp(e, 1, 0x89, S0, S1, (s32)(u64)&j->jump[1][0].key);
	emit_rm_disp(e, 1, 0x89, H_RAX, S1, (s32)(u64)&j->jump[1][0].code);
	emit_pop(e, H_RAX);
	emit_to_entry(j, true, TO_JUMP);
	for (unsigned n = 0; n < ARRAY_SIZE(none); n++)
		emit_patch(none[n], e->p);
}

/* Jumped to with the key in S0: it is not in the jump cache, or its block is dead. */
static void make_miss(struct jit *j)
{
	struct emit *e = &j->e;

	/* The supervisor's may be beside the place in S1: see jump_enter(). */
	j->stub_miss[0] = emit_here(e);
	emit_bytes(e, "\x49\x83\xf7\x10", 4); /* xor r15, sizeof(struct jump_entry) */
	emit_rm_disp(e, 1, 0x3b, S0, S1, (s32)(u64)&j->jump[0][0].key);
	u8 *not_here = emit_jcc(e, CC_NE);
	emit_to_entry(j, false, TO_JUMP);
	emit_patch(not_here, e->p);
	j->stub_miss[1] = emit_here(e);
	emit_ra(e, 1, 0x33, S0, &j->epoch);
	emit_store_abs(e, S0, &j->cpu->rip);
	emit_shared(j);
	emit_rr(e, 0, 0x33, S1, S1);
	u8 *in_c = e->p;
	emit_guest_out(j);
	emit_mov_imm(e, H_RDI, (u64)j);
	emit_mov_rr(e, H_RSI, S1);
	emit_call_c(j, (u64)jit_lookup);
	emit_mov_rr(e, S0, H_RAX);
	emit_guest_in(j);
	emit_rr(e, 1, 0x85, S0, S0);
	u8 *none = emit_jcc(e, CC_E);
	emit_bytes(e, "\x41\xff\xe6", 3); /* jmp r14 */
	emit_patch(none, e->p);
	emit_jmp(e, j->stub_exit);

	/* With the link in S1. */
	j->stub_keyed = emit_here(e);
	emit_rm_disp(e, 1, 0x8b, S0, S1, offsetof(struct jit_link, place));
	emit_ra(e, 1, 0x03, S0, &j->page_rip);
	emit_bytes(e, "\x83", 1); /* sub dword [until_link], 1 */
	emit_modrm_abs(e, 5, &j->until_link);
	emit8(e, 1);
	u8 *link = emit_jcc(e, CC_B);
	jit_emit_jump(j, true);
	emit_patch(link, e->p);
	emit_bytes(e, "\xc7", 1); /* mov dword [until_link], JIT_LINK_EACH */
	emit_modrm_abs(e, 0, &j->until_link);
	emit32(e, JIT_LINK_EACH);
	emit_store_abs(e, S0, &j->cpu->rip);
	emit_patch(emit_jmp_later(e), in_c);

	/* Jumped to with the guest's next RIP in S0, after whatever may have changed the mode; flags in jit->flags. */
	for (unsigned user = 0; user < 2; user++) {
		j->stub_jump[user] = emit_here(e);
		jit_emit_jump(j, user);
	}
	j->stub_indirect = emit_here(e);
	emit8(e, 0x80); /* cmp byte [cpl], 3 */
	emit_modrm_abs(e, 7, &j->cpu->cpl);
	emit8(e, 3);
	emit_patch(emit_jcc(e, CC_NE), emit_place(e, j->stub_jump[0]));
	emit_jmp(e, j->stub_jump[1]);
}

/* Called with the site in S1: runs the instruction in C. Returns, or leaves the block when C says so. */
static void make_helper(struct jit *j, u64 *stub, bool ends)
{
	struct emit *e = &j->e;

	*stub = emit_here(e);
	emit_guest_out(j);
	emit_mov_imm(e, H_RDI, (u64)j);
	emit_mov_rr(e, H_RSI, S1);
	if (ends) {
		emit_call_c(j, (u64)jit_helper);
		jit_emit_forget_calls(j); /* the epoch may be another */
		emit_guest_in(j);
		emit_load_abs(e, S0, &j->cpu->rip);
		/* Not kicked, nothing to attend to: straight on. */
		emit_ra(e, 0, 0x8b, S1, &j->exit_code);
		emit_rr(e, 0, 0x85, S1, S1);
		u8 *leave = emit_jcc(e, CC_NE);
		emit_jmp(e, j->stub_indirect);
		emit_patch(leave, e->p);
		emit_jmp(e, j->stub_exit);
		return;
	}
	emit_call_c_again(j, (u64)jit_helper);
	emit_mov_rr(e, S1, H_RAX);
	emit_guest_in(j);
	emit_rr(e, 0, 0x85, S1, S1);
	u8 *leave = emit_jcc(e, CC_NE);
	emit8(e, 0xc3);
	emit_patch(leave, e->p);
	emit_jmp(e, j->stub_exit); /* which takes RSP from c_stack */
}

/*
 * Called with the site in S1, whose instruction is not ready to run: FPU registers are away, or it may not at all.
 * Returns to try again, with S0 as it was, or leaves to have it executed in C.
 */
static void make_fpu_ready(struct jit *j)
{
	struct emit *e = &j->e;

	j->stub_fpu_ready = emit_here(e);
	emit_guest_out(j);
	emit_mov_imm(e, H_RDI, (u64)j);
	emit_mov_rr(e, H_RSI, S1);
	emit_push(e, S1); /* aligned for C again */
	emit_call_c(j, (u64)jit_fpu_ready);
	emit_pop(e, S1);
	emit_rr(e, 0, 0x85, H_RAX, H_RAX);
	u8 *never = emit_jcc(e, CC_E);
	jit_emit_vec_load(j);
	emit_guest_in(j);
	emit8(e, 0xc3);
	emit_patch(never, e->p);
	emit_guest_in(j);
	jit_emit_forget_calls(j);
	emit_jmp(e, j->stub_end_helper);
}

/*
 * Called after a check of the TLB, with S0 and S1 as that has left them; the site's address, 4 bytes, and a jump follow
 * the call. Returns to the jump with the host's address in S0 and 0 in S1, or behind it: done in C.
 */
static void make_slow(struct jit *j)
{
	struct emit *e = &j->e;

	j->stub_slow = emit_here(e);
	emit_guest_out(j);
	emit_mov_imm(e, H_RDI, (u64)j);
	emit_mov_rr(e, H_RSI, S0);
	emit_rm_disp(e, 1, 0x8b, H_RDX, H_RSP, 0);
	emit_rm_disp(e, 0, 0x8b, H_RDX, H_RDX, 0);
	emit_mov_rr(e, H_RCX, S1);
	emit_call_c_again(j, (u64)jit_slow);
	emit_mov_rr(e, S0, H_RAX);
	emit8(e, 0x49); /* cmp r14, 1 */
	emit8(e, 0x83);
	emit8(e, 0xfe);
	emit8(e, 1);
	u8 *leave = emit_jcc(e, CC_E);
	jit_emit_vec_load(j);
	emit_guest_in(j);
	emit_bytes(e, "\x48\x83\x04\x24\x04", 5); /* add qword [rsp], 4 */
	emit_rr(e, 0, 0x33, S1, S1);
	emit_rr(e, 1, 0x85, S0, S0);
	u8 *here = emit_jcc(e, CC_NE);
	emit_bytes(e, "\x48\x83\x04\x24\x05", 5); /* and over the jump */
	emit_patch(here, e->p);
	emit8(e, 0xc3);
	emit_patch(leave, e->p);
	emit_guest_in(j);
	emit_jmp(e, j->stub_exit);
}

/*
 * Called where a stack access has not found its page in tlb.stack: with the difference of the tag in S0. Returns, with
 * the page there and what S0 would have been; or 5 bytes farther, with S0 and S1 as a check of the TLB leaves them.
 */
static void make_stack(struct jit *j, unsigned idx, enum access acc)
{
	struct emit *e = &j->e;
	const struct tlb_view *view = &j->cpu->tlbs->view[idx];
	const struct tlb_stack *last = &j->cpu->tlbs->stack[idx];

	j->stub_stack[idx][acc] = emit_here(e);
	emit_ra(e, 1, 0x33, S0, &last->tag); /* xor: the address */
	jit_emit_tlb_index(j, view->wide);
	emit_r_of8(e, 0x33, S0, S1, view->tag[ACC_WRITE]);
	emit_bytes(e, "\x49\x81\xfe", 3); /* cmp r14, PAGE_SIZE */
	emit32(e, PAGE_SIZE);
	u8 *none = emit_jcc(e, CC_AE);
	emit_push(e, H_RAX);
	emit_r_of8(e, 0x8b, H_RAX, S1, view->tag[ACC_WRITE]);
	emit_ra(e, 1, 0x3b, H_RAX, &last->tag);
	u8 *same = emit_jcc(e, CC_E);
	emit_store_abs(e, H_RAX, &last->tag);
	emit_r_of8(e, 0x8b, H_RAX, S1, view->host);
	emit_store_abs(e, H_RAX, &last->host);
	emit_pop(e, H_RAX);
	emit8(e, 0xc3);
	emit_patch(same, e->p);
	emit_pop(e, H_RAX);
	emit_patch(none, e->p);
	if (acc == ACC_READ) {
		emit_r_of8(e, 0x33, S0, S1, view->tag[ACC_WRITE]);
		emit_r_of8(e, 0x33, S0, S1, view->tag[ACC_READ]);
	}
	emit_bytes(e, "\x48\x83\x04\x24\x05", 5); /* add qword [rsp], 5 */
	emit8(e, 0xc3);
}

void jit_make_stubs(struct jit *j)
{
	jit_make_fpu_stubs(j);
	make_exit(j);
	make_enter(j);
	make_poll(j);
	make_miss(j);
	make_helper(j, &j->stub_helper, false);
	make_helper(j, &j->stub_end_helper, true);
	make_fpu_ready(j);
	make_slow(j);
	for (unsigned idx = 0; idx < NR_MMU_INDEX; idx++)
		for (enum access acc = ACC_READ; acc <= ACC_WRITE; acc++)
			make_stack(j, idx, acc);
	jit_make_system_stubs(j);
	j->code_start = j->e.p;
}
