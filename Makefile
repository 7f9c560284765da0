# anykvm: make, make test, make boot, make bench, make install. See README.md.
CC      ?= gcc
PREFIX  ?= /usr/local
B       ?= build
SAN     ?=
OPT     ?= -O2
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unused-parameter -Wvla
CFLAGS  ?= $(OPT) -g
ALL_CFLAGS := -std=gnu17 -D_GNU_SOURCE= $(CFLAGS) $(WARN) $(SAN) -fPIC -fno-strict-aliasing -pthread -Isrc -Iinclude -MMD -MP
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

$B/libanykvm.a: $(lib_obj)
	@rm -f $@
	ar rcs $@ $^

$B/libanykvm.so: $(lib_obj)
	$(CC) $(ALL_CFLAGS) -shared -o $@ $^

$B/anykvm: $(mon_obj) $B/libanykvm.a
	$(CC) $(ALL_CFLAGS) -o $@ $(mon_obj) $B/libanykvm.a $(LIBS)

clean:
	rm -rf $B

-include $(lib_obj:.o=.d) $(mon_obj:.o=.d)
.PHONY: all clean
