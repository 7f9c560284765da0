/*
 * From real mode at 0x8000 to 64-bit C. Every CPU comes this way: the first calls guest_main(), those started by
 * SIPI call ap_main(index). Identity map of the first 4 GiB with 2 MiB pages, user-accessible.
 */
	.section .start, "ax"
	.globl _start
	.code16
_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $1, %ebx
	lock xaddl %ebx, cpus_started
	lgdtl gdt_ptr
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $0x18, $prot32

	.code32
prot32:
	movw $0x20, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	/* 16 KiB of stack a CPU */
	movl %ebx, %esp
	shll $14, %esp
	addl $stacks + 0x4000, %esp
	testl %ebx, %ebx
	jnz 2f
	/* PML4 -> PDPT -> four page directories */
	movl $boot_pdpt + 7, boot_pml4
	movl $boot_pd + 7, boot_pdpt
	movl $boot_pd + 0x1007, boot_pdpt + 8
	movl $boot_pd + 0x2007, boot_pdpt + 16
	movl $boot_pd + 0x3007, boot_pdpt + 24
	xorl %ecx, %ecx
	movl $0x87, %eax
1:	movl %eax, boot_pd(, %ecx, 8)
	movl $0, boot_pd + 4(, %ecx, 8)
	addl $0x200000, %eax
	incl %ecx
	cmpl $2048, %ecx
	jb 1b
2:	movl $0x20, %eax /* PAE */
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x901, %eax /* SCE LME NXE */
	wrmsr
	movl %cr0, %eax
	orl $0x80010022, %eax /* PG WP NE MP */
	movl %eax, %cr0
	ljmpl $0x08, $long64

	.code64
long64:
	xorl %eax, %eax
	movw %ax, %ds
	movw %ax, %es
	movl $0x10, %eax
	movw %ax, %ss
	lidt idt_ptr(%rip)
	testl %ebx, %ebx
	jnz 3f
	call guest_init
	call guest_main
	xorl %edi, %edi
	call guest_exit
3:	movl %ebx, %edi
	call ap_main
4:	cli
	hlt
	jmp 4b

	.globl trap_common
trap_common:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	cld
	movq %rsp, %rdi
	call trap_handler
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq

	.weak ap_main
ap_main:
	ret

	.data
	.balign 16
	.globl gdt
gdt:	.quad 0
	.quad 0x00af9b000000ffff /* 08 code64 */
	.quad 0x00cf93000000ffff /* 10 data */
	.quad 0x00cf9b000000ffff /* 18 code32 */
	.quad 0x00cf93000000ffff /* 20 data32 */
	.quad 0x00cffb000000ffff /* 28 user code32 */
	.quad 0x00cff3000000ffff /* 30 user data */
	.quad 0x00affb000000ffff /* 38 user code64 */
	.quad 0x000f9b000000ffff /* 40 code16 */
	.quad 0x000f93000000ffff /* 48 data16 */
	.quad 0, 0               /* 50 TSS64 */
	.fill 20, 8, 0           /* 60 and up: the test's own */
gdt_end:
gdt_ptr:
	.word gdt_end - gdt - 1
	.quad gdt
	.globl idt_ptr
idt_ptr:
	.word 256 * 16 - 1
	.quad idt
	.globl cpus_started
cpus_started:
	.long 0

	.bss
	.balign 4096
	.globl boot_pml4, boot_pdpt, boot_pd, idt
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4096 * 4
idt:       .skip 4096
stacks:    .skip 0x4000 * 8
	.section .note.GNU-stack, "", @progbits
