/* From real mode at 0x8000 to 32-bit protected mode without paging: guest_main() with flat segments. */
	.section .start, "ax"
	.globl _start
	.code16
_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl gdt_ptr
	movl %cr0, %eax
	orl $0x21, %eax /* PE NE */
	movl %eax, %cr0
	ljmpl $0x08, $prot32
	.code32
prot32:
	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $stack_end, %esp
	lidtl idt_ptr
	call guest_init
	call guest_main
	pushl $0
	call guest_exit

/* void real_call(void (*code)(void), u32 regs[3]) */
	.globl real_call
real_call:
	pushal
	movl 36(%esp), %eax
	movl 40(%esp), %ebp
	movw %ax, real_code
	movl (%ebp), %ebx
	movl 4(%ebp), %esi
	movl 8(%ebp), %edi
	movl %esp, real_esp
	lidtl real_idt
	ljmp $0x18, $1f
	.code16
1:	movw $0x20, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl %cr0, %eax
	andb $~1, %al
	movl %eax, %cr0
	ljmp $0, $2f
2:	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %fs
	movw %ax, %gs
	movw %ax, %ss
	movl $0x7000, %esp
	call *real_code
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $0x08, $3f
	.code32
3:	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	lidtl idt_ptr
	movl real_esp, %esp
	movl 40(%esp), %ebp
	movl %ebx, (%ebp)
	movl %esi, 4(%ebp)
	movl %edi, 8(%ebp)
	popal
	ret
real_code: .word 0
real_esp: .long 0
real_idt: .word 0x3ff
	.long 0

	.text
	.globl trap_common
trap_common:
	pushal
	pushl %ds
	pushl %es
	pushl %fs
	pushl %gs
	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	cld
	pushl %esp
	call trap_handler
	addl $4, %esp
	popl %gs
	popl %fs
	popl %es
	popl %ds
	popal
	addl $8, %esp
	iretl

	.data
	.balign 16
	.globl gdt, gdt_ptr, idt_ptr
gdt:	.quad 0
	.quad 0x00cf9b000000ffff /* 08 code32 */
	.quad 0x00cf93000000ffff /* 10 data32 */
	.quad 0x00009b000000ffff /* 18 code16 */
	.quad 0x000093000000ffff /* 20 data16 */
	.quad 0x00cffb000000ffff /* 28 user code32 */
	.quad 0x00cff3000000ffff /* 30 user data32 */
	.fill 57, 8, 0           /* 38 TSS, 40 and up: the test's own */
gdt_end:
gdt_ptr:
	.word gdt_end - gdt - 1
	.long gdt
idt_ptr:
	.word 256 * 8 - 1
	.long idt

	.bss
	.balign 16
	.globl idt
idt:	.skip 2048
	.skip 0x4000
stack_end:
	.section .note.GNU-stack, "", @progbits
