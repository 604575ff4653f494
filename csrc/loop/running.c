/* running.c - see running.h. */
#include "loop/running.h"

#include "base/errors.h"
#include "base/forks.h"

static int
running_make_locks(RunningLoops *running)
{
    running->forks = forks_count();
    int err = uv_mutex_init(&running->mutex);
    if (err == 0) {
        err = uv_cond_init(&running->changed);
        if (err < 0) {
            uv_mutex_destroy(&running->mutex);
        }
    }
    return err;
}

int
running_init(PyloopState *state)
{
    RunningLoops *running = PyMem_RawCalloc(1, sizeof(RunningLoops));
    if (running == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int err = running_make_locks(running);
    if (err < 0) {
        PyMem_RawFree(running);
        return errors_raise_uv(err);
    }
    state->running = running;
    return 0;
}

void
running_free(PyloopState *state)
{
    RunningLoops *running = state->running;
    if (running != NULL) {
        assert(running->first == NULL);
        running_lock(running); /* in a child: what is destroyed are its own */
        running_unlock(running);
        uv_cond_destroy(&running->changed);
        uv_mutex_destroy(&running->mutex);
        PyMem_RawFree(running);
        state->running = NULL;
    }
}

static void
running_unlink(LoopObject *loop)
{
    *loop->run_place = loop->run_next;
    if (loop->run_next != NULL) {
        loop->run_next->run_place = loop->run_place;
    }
    loop->run_next = NULL;
    loop->run_place = NULL;
    RACY_STORE(loop->run_number, 0);
}

/* The child began with one thread, and has of the list what that one runs. The mutex may
 * have been another thread's. */
static void
running_after_fork(RunningLoops *running)
{
    (void)running_make_locks(
        running); /* cannot fail on Linux: no memory, no descriptor */
    LoopObject *next;
    for (LoopObject *loop = running->first; loop != NULL; loop = next) {
        next = loop->run_next;
        if (loop->run_thread != forks_thread()) {
            running_unlink(loop);
        }
    }
}

void
running_lock(RunningLoops *running)
{
    if (running->forks != forks_count()) {
        running_after_fork(running);
    }
    uv_mutex_lock(&running->mutex);
}

void
running_unlock(RunningLoops *running)
{
    uv_mutex_unlock(&running->mutex);
}

void
running_enter(LoopObject *loop)
{
    RunningLoops *running = loop->state->running;
    running_lock(running);
    if (loop->run_place == NULL) {
        if (running->first == NULL) {
            uv_cond_broadcast(&running->changed);
        }
        else {
            running->first->run_place = &loop->run_next;
        }
        loop->run_next = running->first;
        loop->run_place = &running->first;
        running->first = loop;
        loop->run_thread = PyThread_get_thread_ident();
        RACY_STORE(loop->run_number, ++running->runs);
    }
    running_unlock(running);
}

void
running_leave(LoopObject *loop)
{
    RunningLoops *running = loop->state->running;
    running_lock(running);
    if (loop->run_place != NULL) {
        running_unlink(loop);
    }
    running_unlock(running);
}
