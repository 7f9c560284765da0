/*
 * The machine's fixed addresses, ports and interrupt lines: what the devices
 * decode and what the firmware tables tell the guest, stated once for both.
 */
#ifndef MONITOR_PLATFORM_H
#define MONITOR_PLATFORM_H

/* Guest-physical memory map. RAM is split at 3 GiB: [0, LOW_MAX) and [HIGH_BASE, ...). */
#define PLATFORM_RAM_LOW_MAX 0xc0000000ull
#define PLATFORM_RAM_HIGH_BASE 0x100000000ull
#define PLATFORM_IOAPIC_BASE 0xfec00000u
#define PLATFORM_LAPIC_BASE 0xfee00000u
#define PLATFORM_IDENTITY_MAP_ADDR 0xfffbc000u /* KVM_SET_IDENTITY_MAP_ADDR: one page */
#define PLATFORM_TSS_ADDR 0xfffbd000u          /* KVM_SET_TSS_ADDR: three pages */

/* RAM below 1 MiB that the guest may not use: the firmware's data and tables. */
#define PLATFORM_EBDA_BASE 0x9fc00u
#define PLATFORM_ACPI_BASE 0xe0000u /* RSDP first, the other tables behind it */
#define PLATFORM_ACPI_SIZE 0x20000u

/* Serial ports: eight registers each. Only COM1 is described to the guest. */
#define PLATFORM_COM1_PORT 0x3f8
#define PLATFORM_COM2_PORT 0x2f8
#define PLATFORM_COM3_PORT 0x3e8
#define PLATFORM_COM4_PORT 0x2e8
#define PLATFORM_COM1_IRQ 4
#define PLATFORM_COM2_IRQ 3

/*
 * Keyboard controller: its reset pulse and A20 gate work, but no keyboard and
 * no mouse hang on it, so the guest is told not to look for them.
 */
#define PLATFORM_HAS_KEYBOARD 0
#define PLATFORM_I8042_DATA_PORT 0x60
#define PLATFORM_I8042_COMMAND_PORT 0x64
#define PLATFORM_KBD_IRQ 1
#define PLATFORM_AUX_IRQ 12

/* CMOS RAM and clock: index and data. The century is register 0x32. */
#define PLATFORM_RTC_PORT 0x70
#define PLATFORM_RTC_IRQ 8
#define PLATFORM_RTC_CENTURY 0x32

/* Small ports. */
#define PLATFORM_POST_PORT 0x80
#define PLATFORM_PORT92 0x92
#define PLATFORM_DEBUGCON_PORT 0xe9   /* bytes written here go to the console */
#define PLATFORM_DEBUG_EXIT_PORT 0xf4 /* a byte written here ends the run with that status */

/* Reset control register, as PIIX/ICH have it; writing RESET_VALUE is a hard reset. */
#define PLATFORM_RESET_PORT 0xcf9
#define PLATFORM_RESET_VALUE 0x06

/*
 * ACPI fixed hardware (ACPI 4.8): the PM1a event block (status word, enable
 * word), the PM1a control word and the 32-bit PM timer. SCI_EN reads as one
 * from the start: there is no SMI command port and no legacy mode to leave.
 */
#define PLATFORM_PM1A_EVT_PORT 0x600
#define PLATFORM_PM1A_EVT_LEN 4
#define PLATFORM_PM1A_CNT_PORT 0x604
#define PLATFORM_PM1A_CNT_LEN 2
#define PLATFORM_PM_TMR_PORT 0x608
#define PLATFORM_PM_TMR_LEN 4
#define PLATFORM_SCI_IRQ 9 /* level, active high */

/* The IOAPIC's identification and first GSI; the PIT (IRQ 0) is wired to pin 2. */
#define PLATFORM_IOAPIC_ID 0
#define PLATFORM_PIT_GSI 2

#endif
