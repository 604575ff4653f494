/* running.h - which loops of an interpreter run just now, for who watches them.
 *
 * A loop enters when a thread begins to run it (its _thread_id is set) and leaves when the
 * run ends, so who looks at the list needs neither the GIL nor a reference: a loop that is
 * in it is alive, and stays so while the mutex is held. Nothing of a callback's path.
 *
 * Thread: any. GIL: not needed. The mutex is held neither across Python nor while another
 * lock is taken.
 */
#ifndef PYLOOP_LOOP_RUNNING_H
#define PYLOOP_LOOP_RUNNING_H

#include "loop/loop.h"

struct RunningLoops {
    uv_mutex_t mutex;
    uv_cond_t changed;  /* somebody waits for a first loop, or is to be woken */
    LoopObject *first;  /* through run_next */
    uint64_t runs;      /* the number of the latest run */
    unsigned int forks; /* forks_count() of the process that mutex and list belong to */
};

/* The interpreter's list, made with its module. 0, or -1 with an exception. */
int running_init(PyloopState *state);
/* When the module is freed: no loop is left. */
void running_free(PyloopState *state);

/* This thread runs the loop. Idempotent. */
void running_enter(LoopObject *loop);
/* No thread runs it any more. Idempotent. */
void running_leave(LoopObject *loop);

/* Also repairs in a forked child what it got: other threads' runs are not in it. */
void running_lock(RunningLoops *running);
void running_unlock(RunningLoops *running);

#endif
