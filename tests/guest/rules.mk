# Guest programs: every tests/guest/t_*.c is one image; "cpus: N" in its first comment asks for N vCPUs.
# Included by the top Makefile. A run is: $B/tests/guest/run [-c N] $B/tests/guest/t_x.bin, output in TAP.
GUEST_CFLAGS := -std=gnu17 -O1 -g -m64 -ffreestanding -fno-pic -no-pie -mno-red-zone -mgeneral-regs-only \
	-fno-stack-protector -fcf-protection=none -nostdlib -static -Wall -Wextra -Wno-unused-parameter \
	-Wl,-T,tests/guest/guest.ld,--build-id=none,--no-warn-rwx-segments
guest_images := $(patsubst tests/guest/%.c,$B/tests/guest/%.bin,$(wildcard tests/guest/t_*.c))

$B/tests/guest/%.bin: tests/guest/%.c tests/guest/guest.c tests/guest/guest.h tests/guest/start.S tests/guest/guest.ld
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -o $(@:.bin=.elf) tests/guest/start.S tests/guest/guest.c $<
	objcopy -O binary --set-section-flags .bss=alloc,load,contents $(@:.bin=.elf) $@

$B/tests/guest/run: tests/guest/run.c $B/libanykvm.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $^ -pthread
