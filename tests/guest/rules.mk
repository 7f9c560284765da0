# Guest programs: every tests/guest/t_*.c is one image; "cpus: N" in its first comment asks for N vCPUs, "bits: 32" for
# a start in 32-bit protected mode without paging instead of 64-bit mode.
# Included by the top Makefile. A run is: $B/tests/guest/run [-c N] $B/tests/guest/t_x.bin, output in TAP.
GUEST_CFLAGS := -std=gnu17 -O1 -g -ffreestanding -fno-pic -no-pie -mgeneral-regs-only -fno-stack-protector \
	-fcf-protection=none -fno-strict-aliasing -nostdlib -static -Wall -Wextra -Wno-unused-parameter \
	-Wl,-T,tests/guest/guest.ld,--build-id=none,--no-warn-rwx-segments
guest_32 := $(shell grep -ls 'bits: 32' tests/guest/t_*.c)
guest_bits = $(if $(filter $1,$(guest_32)),32,64)
guest_images := $(patsubst tests/guest/%.c,$B/tests/guest/%.bin,$(wildcard tests/guest/t_*.c))
guest_common := $(filter-out tests/guest/run.c tests/guest/t_%,$(wildcard tests/guest/*.[chS])) tests/guest/guest.ld

$B/tests/guest/%.bin: tests/guest/%.c $(guest_common)
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) $(if $(filter 32,$(call guest_bits,$<)),-m32,-m64 -mno-red-zone) -o $(@:.bin=.elf) \
		tests/guest/start$(call guest_bits,$<).S tests/guest/stubs.S \
		$(filter %$(call guest_bits,$<).c,$(guest_common)) tests/guest/console.c $<
	objcopy -O binary --set-section-flags .bss=alloc,load,contents $(@:.bin=.elf) $@

$B/tests/guest/run: tests/guest/run.c $B/src/monitor/kvm_if_sys.o $B/libanykvm.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $^ -pthread
