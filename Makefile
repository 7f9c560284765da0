# anykvm: make, make test, make boot, make bench, make check, make install. See README.md.
ifeq ($(origin CC),default)
CC := gcc
endif
PREFIX  ?= /usr/local
DESTDIR ?=
B       ?= build
SAN     ?=
OPT     ?= -O2
JOBS    ?= $(shell nproc)
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wvla
CFLAGS  ?= $(OPT) -g
ALL_CFLAGS := -std=gnu17 -D_GNU_SOURCE= $(CFLAGS) $(WARN) $(SAN) -fPIC -fno-strict-aliasing -pthread -Isrc -Iinclude \
	-MMD -MP
LIBS    := -lzstd -lz -llzma -llz4 -pthread

KERNEL_HALF := base cpu engine irqchip kvm front
MONITOR_HALF := host device virtio monitor cli
lib_src := $(foreach d,$(KERNEL_HALF),$(shell find src/$d -name '*.c' 2>/dev/null))
mon_src := $(foreach d,$(MONITOR_HALF),$(shell find src/$d -name '*.c' 2>/dev/null))
lib_obj := $(lib_src:%.c=$B/%.o)
mon_obj := $(mon_src:%.c=$B/%.o)

all: $B/anykvm $B/libanykvm.so $B/libanykvm.a

$B/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

# Only what the public header declares is visible outside: a client may have names like ours.
EXPORTED := anykvm_*

$B/libanykvm.a: $(lib_obj)
	@rm -f $@
	ld -r -o $B/libanykvm.o $^
	objcopy --wildcard --keep-global-symbol='$(EXPORTED)' $B/libanykvm.o
	ar rcs $@ $B/libanykvm.o

$B/libanykvm.so: $(lib_obj)
	@echo '{ global: $(EXPORTED); local: *; };' >$B/libanykvm.map
	$(CC) $(ALL_CFLAGS) -shared -Wl,--version-script=$B/libanykvm.map -o $@ $^

# src/base serves both halves; each has its own copy.
$B/anykvm: $(mon_obj) $(filter $B/src/base/%,$(lib_obj)) $B/libanykvm.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS)

# Tests. In each of these folders every file with a main() is a program; the other files are linked into all of them.
TEST_DIRS := unit abi isa boot
TEST_LIBS := -lcmocka -lZydis $(LIBS)

# All objects, for tests: a program takes those that it refers to. (q: different folders have files of the same name.)
$B/libtest.a: $(lib_obj) $(mon_obj)
	@rm -f $@
	ar qcs $@ $^

# Those whose subject is threads. (ThreadSanitizer cannot follow a fork, nor faults that are meant.)
tsan_tests = $(filter %/test_smp %/test_stress %/test_eventfd,$(abi_tests))

# cmocka's expectations longjmp out of test functions, for good.
$B/tests/%.o: WARN += -Wno-clobbered

define test_dir
$1_main := $(shell grep -ls '^int main\b' tests/$1/*.c)
$1_helpers := $$(patsubst %.c,$B/%.o,$$(filter-out $$($1_main),$(wildcard tests/$1/*.c)))
$1_tests := $$($1_main:%.c=$B/%)
$$($1_tests): $B/%: $B/%.o $$($1_helpers) $B/libtest.a
	$$(CC) $$(ALL_CFLAGS) -o $$@ $$^ $$(TEST_LIBS)
endef
$(foreach d,$(TEST_DIRS),$(eval $(call test_dir,$d)))
-include tests/guest/rules.mk

unit-tests: $(unit_tests)
guest-tests: $B/tests/guest/run $(guest_images)
tests: unit-tests guest-tests $(abi_tests) $(isa_tests) $(boot_tests)

# Fuzz targets are linked by clang with libFuzzer, over objects built with its coverage and ASan (B and SAN are set so).
fuzzers := $(patsubst %.c,$B/%,$(wildcard tests/fuzz/fuzz_*.c))
$(fuzzers): $B/%: $B/%.o $B/libtest.a
	$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)
fuzzers: $(fuzzers)

-include tests/bench/rules.mk

asan-build:
	+@$(MAKE) --no-print-directory B=$B/asan OPT=-O1 \
		SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined" \
		unit-tests $(abi_tests:$B/%=$B/asan/%)
tsan-build:
	+@$(MAKE) --no-print-directory B=$B/tsan SAN=-fsanitize=thread guest-tests $(tsan_tests:$B/%=$B/tsan/%)
fuzz-build:
	+@$(MAKE) --no-print-directory B=$B/fuzz CC=clang OPT=-O1 \
		SAN="-fsanitize=fuzzer-no-link,address -Wno-unknown-warning-option -Wno-gnu" fuzzers

check:
	@tools/check-includes

# For the runner: what it should find after a build.
list-tests:
	@echo $(unit_tests) $(abi_tests) $(isa_tests) $(guest_images) $(boot_tests) | tr ' ' '\n'
list-asan:
	@echo $(unit_tests:$B/%=$B/asan/%) $(abi_tests:$B/%=$B/asan/%) | tr ' ' '\n'
list-tsan:
	@echo $(tsan_tests:$B/%=$B/tsan/%) | tr ' ' '\n'
list-fuzzers:
	@echo $(fuzzers:$B/%=$B/fuzz/%) | tr ' ' '\n'

test:
	@tools/setup test
	@tools/run-tests $B $(JOBS) '$(or $(ONLY),.)'

boot:
	@tools/setup boot
	@$(MAKE) -q --no-print-directory all >/dev/null 2>/dev/null || echo "building anykvm"
	@$(MAKE) --no-print-directory -s -j$(JOBS) all
	@tools/boot $B

bench:
	@tools/setup bench
	@$(MAKE) --no-print-directory -s -j$(JOBS) all $(bench_programs)
	@tools/bench $B $(BENCH_ARGS)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib $(DESTDIR)$(PREFIX)/include \
		$(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $B/anykvm $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $B/libanykvm.so $(DESTDIR)$(PREFIX)/lib/
	install -m 644 $B/libanykvm.a $(DESTDIR)$(PREFIX)/lib/
	install -m 644 include/anykvm.h include/kvm_if.h $(DESTDIR)$(PREFIX)/include/
	install -m 644 docs/anykvm.1 $(DESTDIR)$(PREFIX)/share/man/man1/

clean:
	rm -rf $B

-include $(shell find $B -name '*.d' 2>/dev/null)
.PHONY: all list-tests list-asan list-tsan list-fuzzers unit-tests guest-tests tests fuzzers \
	asan-build tsan-build fuzz-build check test boot bench install clean
.SECONDARY:
