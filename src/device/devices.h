/* Every device there is. Each is described at the top of its file. */
#ifndef DEVICE_DEVICES_H
#define DEVICE_DEVICES_H

#include "device/device.h"

extern const struct device_ops uart16550_ops;  /* one region of 8 ports */
extern const struct device_ops mc146818_ops;   /* one region of 2 ports: index, data */
extern const struct device_ops i8042_ops;      /* two regions of 1 port: data, command */
extern const struct device_ops acpi_pm_ops;    /* three regions: event block, control, timer */
extern const struct device_ops post_ops;       /* one port: POST codes */
extern const struct device_ops port92_ops;     /* one port: A20 and fast reset */
extern const struct device_ops reset_ctl_ops;  /* one port: reset control register (0xcf9) */
extern const struct device_ops debug_exit_ops; /* one port: a byte written ends the run with that status */
extern const struct device_ops debugcon_ops;   /* one port: bytes for the console (0xe9) */

/* SLP_TYP that acpi_pm turns the machine off by, which \_S5 must tell the guest. It ignores others. */
#define ACPI_PM_SLP_TYP_S5 5

#endif
