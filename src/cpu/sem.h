/* The semantic function families that the tables name. One list a sem_*.c file. */
#ifndef CPU_SEM_H
#define CPU_SEM_H

#include "cpu/insn.h"

#define SEM(name) extern const struct sem sem_##name;
/* sem_alu.c */
SEM(add_eg) SEM(add_ge) SEM(add_ei) SEM(or_eg) SEM(or_ge) SEM(or_ei) SEM(adc_eg) SEM(adc_ge) SEM(adc_ei)
SEM(sbb_eg) SEM(sbb_ge) SEM(sbb_ei) SEM(and_eg) SEM(and_ge) SEM(and_ei) SEM(sub_eg) SEM(sub_ge) SEM(sub_ei)
SEM(xor_eg) SEM(xor_ge) SEM(xor_ei) SEM(cmp_eg) SEM(cmp_ge) SEM(cmp_ei) SEM(test_eg) SEM(test_ei) SEM(inc)
SEM(dec) SEM(neg) SEM(not) SEM(xadd) SEM(cmpxchg)
/* sem_shift.c */
SEM(rol_1) SEM(rol_cl) SEM(rol_i) SEM(ror_1) SEM(ror_cl) SEM(ror_i) SEM(rcl_1) SEM(rcl_cl) SEM(rcl_i)
SEM(rcr_1) SEM(rcr_cl) SEM(rcr_i) SEM(shl_1) SEM(shl_cl) SEM(shl_i) SEM(shr_1) SEM(shr_cl) SEM(shr_i)
SEM(sar_1) SEM(sar_cl) SEM(sar_i) SEM(shld_i) SEM(shld_cl) SEM(shrd_i) SEM(shrd_cl)
/* sem_muldiv.c */
SEM(mul) SEM(imul_e) SEM(imul_ge) SEM(imul_gei) SEM(div) SEM(idiv) SEM(cbw) SEM(cwd) SEM(daa) SEM(das)
SEM(aaa) SEM(aas) SEM(aam) SEM(aad)
/* sem_mov.c */
SEM(mov_eg) SEM(mov_ge) SEM(mov_ei) SEM(movzx_b) SEM(movzx_w) SEM(movsx_b) SEM(movsx_w) SEM(movsxd) SEM(xchg)
SEM(lea) SEM(cmovo) SEM(cmovno) SEM(cmovb) SEM(cmovnb) SEM(cmovz) SEM(cmovnz) SEM(cmovbe) SEM(cmovnbe)
SEM(cmovs) SEM(cmovns) SEM(cmovp) SEM(cmovnp) SEM(cmovl) SEM(cmovnl) SEM(cmovle) SEM(cmovnle) SEM(seto)
SEM(setno) SEM(setb) SEM(setnb) SEM(setz) SEM(setnz) SEM(setbe) SEM(setnbe) SEM(sets) SEM(setns) SEM(setp)
SEM(setnp) SEM(setl) SEM(setnl) SEM(setle) SEM(setnle) SEM(bswap) SEM(movbe_ge) SEM(movbe_eg) SEM(xlat)
SEM(lahf) SEM(sahf) SEM(salc) SEM(clc) SEM(stc) SEM(cmc) SEM(cld) SEM(std) SEM(nop) SEM(cmpxchg8b)
SEM(cmpxchg16b) SEM(movdir64b)
/* sem_bit.c */
SEM(bt_eg) SEM(bt_ei) SEM(bts_eg) SEM(bts_ei) SEM(btr_eg) SEM(btr_ei) SEM(btc_eg) SEM(btc_ei) SEM(bsf)
SEM(bsr) SEM(tzcnt) SEM(lzcnt)
/* sem_branch.c */
SEM(jo) SEM(jno) SEM(jb) SEM(jnb) SEM(jz) SEM(jnz) SEM(jbe) SEM(jnbe) SEM(js) SEM(jns) SEM(jp) SEM(jnp)
SEM(jl) SEM(jnl) SEM(jle) SEM(jnle) SEM(jrcxz) SEM(loop) SEM(loope) SEM(loopne) SEM(jmp_j) SEM(jmp_e)
SEM(call_j) SEM(call_e) SEM(ret) SEM(jmp_far_a) SEM(call_far_a) SEM(jmp_far_m) SEM(call_far_m) SEM(ret_far)
SEM(iret) SEM(les) SEM(lds) SEM(lss) SEM(lfs) SEM(lgs) SEM(int_n) SEM(int3) SEM(into) SEM(icebp) SEM(bound)
SEM(ud)
/* sem_stack.c */
SEM(push_e) SEM(push_i) SEM(pop_r) SEM(pop_m) SEM(push_es) SEM(pop_es) SEM(push_ss) SEM(pop_ss) SEM(push_ds)
SEM(pop_ds) SEM(push_fs) SEM(pop_fs) SEM(push_gs) SEM(pop_gs) SEM(push_cs) SEM(pushf) SEM(popf) SEM(pusha)
SEM(popa) SEM(enter) SEM(leave)
/* sem_string.c */
SEM(movs) SEM(stos) SEM(lods) SEM(cmps) SEM(scas) SEM(ins) SEM(outs)
/* sem_io.c */
SEM(in_imm) SEM(in_dx) SEM(out_imm) SEM(out_dx)
/* sem_system.c */
SEM(mov_from_cr) SEM(mov_to_cr) SEM(mov_from_dr) SEM(mov_to_dr) SEM(clts) SEM(lmsw) SEM(smsw) SEM(sgdt)
SEM(sidt) SEM(lgdt) SEM(lidt) SEM(sldt) SEM(str) SEM(lldt) SEM(ltr) SEM(mov_to_seg) SEM(mov_from_seg)
SEM(verr) SEM(verw) SEM(lar) SEM(lsl) SEM(arpl) SEM(invlpg) SEM(invpcid) SEM(clflush) SEM(clzero) SEM(fence)
SEM(cli) SEM(sti) SEM(hlt) SEM(pause) SEM(monitor) SEM(mwait) SEM(hypercall)
/* sem_msr.c */
SEM(cpuid) SEM(rdtsc) SEM(rdtscp) SEM(rdpid) SEM(rdpmc) SEM(rdmsr) SEM(wrmsr) SEM(swapgs) SEM(rdfsbase)
SEM(rdgsbase) SEM(wrfsbase) SEM(wrgsbase) SEM(syscall) SEM(sysret) SEM(sysenter) SEM(sysexit) SEM(stac)
SEM(clac) SEM(xgetbv) SEM(xsetbv) SEM(rdpkru) SEM(wrpkru) SEM(rdrand) SEM(rdseed)
/* sem_fpu.c */
SEM(fnstcw) SEM(fnstsw) SEM(fldcw) SEM(fninit) SEM(fnclex) SEM(fwait) SEM(fnstenv) SEM(fldenv) SEM(fnsave)
SEM(frstor) SEM(emms) SEM(ldmxcsr) SEM(stmxcsr) SEM(vzeroupper) SEM(vzeroall)
/* sem_xsave.c */
SEM(fxsave) SEM(fxrstor) SEM(xsave) SEM(xsaveopt) SEM(xsavec) SEM(xrstor) SEM(xrstors)
/* sem_gather.c */
SEM(maskmovdqu) SEM(maskmovq) SEM(vmaskmov_load) SEM(vmaskmov_store) SEM(gather_vex) SEM(gather_evex) SEM(scatter)
#undef SEM

#endif
