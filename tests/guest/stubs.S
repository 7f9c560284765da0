/*
 * One 16-byte stub a vector: an error code where the CPU gives none, the vector, then the common part in start32.S or
 * start64.S. PUSH is of the mode's width.
 */
	.text
	.globl trap_stubs
	.balign 16
trap_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push $0
	.endif
	push $vector
	jmp trap_common
	.set vector, vector + 1
	.endr
	.section .note.GNU-stack, "", @progbits
