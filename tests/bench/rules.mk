# Benchmarks. Included by the top Makefile. A file of tests/bench is a program for the host, on the library; guest/*.c
# are one static program that runs in guests and on the host alike, for any x86-64 processor; first.S is a kernel.
bench_programs := $(patsubst %.c,$B/%,$(wildcard tests/bench/*.c)) $B/tests/bench/guestbench $B/tests/bench/first.elf
bench_guest_obj := $(patsubst %.c,$B/%.o,$(wildcard tests/bench/guest/*.c))

$(patsubst %.c,$B/%,$(wildcard tests/bench/*.c)): $B/%: $B/%.o $B/src/monitor/kvm_if_sys.o $B/libanykvm.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ -pthread

$(bench_guest_obj): $B/%.o: %.c tests/bench/guest/bench.h
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -D_GNU_SOURCE= -O2 -g -march=x86-64 $(WARN) -c -o $@ $<

$B/tests/bench/guestbench: $(bench_guest_obj)
	$(CC) -static -o $@ $^ -lm

$B/tests/bench/first.elf: tests/bench/first.S
	@mkdir -p $(@D)
	$(CC) -m32 -nostdlib -static -no-pie -Wl,-Ttext-segment=0x100000,--build-id=none -o $@ $<
