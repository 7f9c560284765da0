/* anykvm run --stats: what a run cost, for people. */
#ifndef MONITOR_STATS_H
#define MONITOR_STATS_H

#include <stdio.h>

#include "monitor/machine.h"

/* Prints to @out. The vCPUs' threads have ended, their descriptors are still open. */
void stats_print(struct machine *m, FILE *out);

#endif
