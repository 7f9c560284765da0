/* A kernel with a PVH entry whose first instructions say on the first serial port that it is there. */
	.section .note, "a", @note
	.long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long _start

	.text
	.globl _start
_start:
	cld
	mov $text, %esi
	mov $(end - text), %ecx
	mov $0x3f8, %edx
	rep outsb
1:	hlt
	jmp 1b
text:	.ascii "bench: ready\n"
end:
	.section .note.GNU-stack, "", @progbits
