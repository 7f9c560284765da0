/* The semantic function families that the tables name. One list a sem_*.c file. */
#ifndef CPU_SEM_H
#define CPU_SEM_H

#include "cpu/insn.h"

#endif
