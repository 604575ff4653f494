/* threadsafe.c - call_soon_threadsafe: work from other threads, and waking the loop.
 *
 * Owns: LoopObject.inbox and inbox_open, under inbox_lock; that is never held across
 * Python or any other lock, and never waited for long, so a call from another
 * thread needs nothing of what the running thread has.
 * A batch of calls wakes the loop once: only who finds the inbox empty sends. Calls from
 * the loop's own thread, and calls before it runs, go straight to the ready queue, so
 * that they keep their order with call_soon, as in asyncio.
 */
#include "loop/handle.h"

#include "base/args.h"
#include "base/errors.h"

/* Any thread, at any time; without effect on a closed loop. */
void
threadsafe_wake(LoopObject *self)
{
    uv_mutex_lock(&self->inbox_lock);
    if (self->inbox_open) {
        self->metrics.wakeups++;
        self->fds.poller->wake_nogil(self);
    }
    uv_mutex_unlock(&self->inbox_lock);
}

/* Nobody waits in a poll while the loop does not run or this thread runs it: then the
 * handle, stolen, goes straight to the ready queue. 1 done, 0 not so, -1 exception. */
static int
threadsafe_push_ready_steal(LoopObject *self, HandleObject *handle)
{
    unsigned long me = PyThread_get_thread_ident();
    unsigned long running = RACY_LOAD(self->thread_ident);
    if (running != 0 && running != me) {
        return 0;
    }
    LockHold hold;
    lock_enter(&self->lock, &hold);
    running =
        self->thread_ident; /* free-threaded: it may have begun to run meanwhile */
    int rc = 0;
    if (running == 0 || running == me) {
        rc = loop_ready_push_steal(self, handle) < 0 ? -1 : 1;
    }
    lock_exit(&hold);
    return rc;
}

/* Into the inbox; steals the handle. 0, or -1 with an exception. */
static int
threadsafe_push_inbox_steal(LoopObject *self, HandleObject *handle)
{
    uv_mutex_lock(&self->inbox_lock);
    bool open = self->inbox_open;
    bool first = self->inbox.count == 0;
    bool pushed = open && ring_push(&self->inbox, ready_word_of_handle(handle));
    if (pushed) {
        RACY_STORE(self->inbox_waiting, true);
        self->metrics.threadsafe_calls++;
        if (first) {
            self->metrics.wakeups++;
            self->fds.poller->wake_nogil(self);
        }
    }
    uv_mutex_unlock(&self->inbox_lock);
    if (!pushed) {
        Py_DECREF(handle);
        if (!open) {
            return loop_check_closed(self);
        }
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

PyObject *
threadsafe_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    static const char *const names[] = {"callback"};
    static const ArgsCallSpec spec = {"call_soon_threadsafe", names, 1};
    LoopObject *self = (LoopObject *)op;
    ArgsCall call;
    if (args_parse_call(&spec, args, nargs, kwnames, &call) < 0 ||
        loop_check_call(self, call.leading[0], "call_soon_threadsafe", true) < 0) {
        return NULL;
    }
    HandleObject *handle = handle_new_threadsafe(self, call.leading[0], call.rest,
                                                 call.nrest, call.context);
    if (handle == NULL) {
        return NULL;
    }
    /* The queue's reference first: the loop may run and drop it before we go on. */
    Py_INCREF(handle);
    int rc = threadsafe_push_ready_steal(self, handle);
    if (rc == 0) {
        rc = threadsafe_push_inbox_steal(self, handle);
    }
    if (rc < 0) {
        Py_CLEAR(handle);
    }
    return (PyObject *)handle;
}

/* Moves the inbox to the ready queue. 0, or -1 with MemoryError (nothing is lost). */
int
threadsafe_take_inbox(LoopObject *self)
{
    uv_mutex_lock(&self->inbox_lock);
    bool room = ring_reserve(&self->ready, self->inbox.count);
    if (room) {
        while (self->inbox.count > 0) {
            ring_push_reserved(&self->ready, ring_pop(&self->inbox));
        }
        RACY_STORE(self->inbox_waiting, false);
    }
    uv_mutex_unlock(&self->inbox_lock);
    if (!room) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* The loop is closing: nobody will take these. */
void
threadsafe_drop_inbox(LoopObject *self)
{
    uv_mutex_lock(&self->inbox_lock);
    Ring rest = self->inbox; /* moved: dropping a handle may run Python */
    self->inbox = (Ring){0};
    self->inbox_open = false;
    RACY_STORE(self->inbox_waiting, false);
    uv_mutex_unlock(&self->inbox_lock);
    loop_drop_words(&rest);
    ring_free(&rest);
}
