/*
 * Interpreter and translator in lock step, to find where they differ. Each block, or a short chain of linked ones, is
 * run by the translator, undone (undo.h), and run by the interpreter, whose result stands. Then everything a guest can
 * see must be equal: registers, flags, system and vector state, the fault or exit it ended with, and every page that
 * either of them wrote.
 *
 * What is not compared: instructions that the translator leaves to the interpreter's functions one by one
 * (loop_attend(), modes without translations, instructions across pages), random numbers, flags that the SDM leaves
 * undefined, arithmetic flags at faults (docs/engine.md), jumps through the table of indirect targets, and what a kick
 * has cut short. The time stamp counter stands still within a block; one that reads it twice is run once.
 */
#ifndef ENGINE_LOCKSTEP_LOCKSTEP_H
#define ENGINE_LOCKSTEP_LOCKSTEP_H

#include "engine/lockstep/undo.h"

#define REPORT_MAX 4096

/* How a run of some instructions ended. */
enum ending { END_NORMAL, END_FAULT = UNWIND_FAULT, END_EXIT = UNWIND_EXIT };

struct report {
	unsigned differences;
	size_t len;
	char text[REPORT_MAX]; /* a line for each; what does not fit is left out */
};

/* Registers. */
struct lockstep_state {
	struct cpu cpu;
	u64 *msr;
};

/*
 * Compares what the translator left, @first and u->page[].first, with what the interpreter has just left. @undefined
 * are flags that may differ.
 */
void lockstep_compare(const struct lockstep_state *first, const struct cpu *c, const struct undo *u, enum ending end,
		      u64 undefined, struct report *r);

#endif
