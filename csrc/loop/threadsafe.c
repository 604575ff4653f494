/* threadsafe.c - call_soon_threadsafe: work from other threads, and waking the loop.
 *
 * Owns: LoopObject.inbox, under inbox_lock; the lock is never held across Python.
 * A batch of calls wakes the loop once: only who finds the inbox empty sends. Calls from
 * the loop's own thread, and calls before it runs, go straight to the ready queue, so
 * that they keep their order with call_soon, as in asyncio.
 */
#include "loop/handle.h"

#include "base/args.h"
#include "base/errors.h"

/* GIL: detached or held. Runs inside uv_run; being woken is all that it is for. */
static void
on_wake_nogil(uv_async_t *Py_UNUSED(waker))
{
}

/* The waker of an open loop. 0, or -1 with OSError. */
int
threadsafe_init(LoopObject *self)
{
    int err = uv_mutex_init(&self->inbox_lock);
    if (err < 0) {
        return errors_raise_uv(err);
    }
    err = uv_async_init(&self->uv, &self->waker, on_wake_nogil);
    if (err < 0) {
        uv_mutex_destroy(&self->inbox_lock);
        return errors_raise_uv(err);
    }
    return 0;
}

/* Any thread, while the loop is open. */
void
threadsafe_wake(LoopObject *self)
{
    (void)uv_async_send(&self->waker); /* fails only for a handle that is no async */
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
        handle_check_call(self, call.leading[0], "call_soon_threadsafe", true) < 0) {
        return NULL;
    }
    HandleObject *handle = handle_new_threadsafe(self, call.leading[0], call.rest,
                                                 call.nrest, call.context);
    if (handle == NULL) {
        return NULL;
    }
    /* Nobody waits in a poll while the loop does not run or this thread runs it. */
    if (self->thread_ident == 0 || self->thread_ident == PyThread_get_thread_ident()) {
        if (loop_ready_push_steal(self, (HandleObject *)Py_NewRef((PyObject *)handle)) <
            0) {
            Py_CLEAR(handle);
        }
        return (PyObject *)handle;
    }
    if (loop_check_closed(self) < 0) { /* as in loop_ready_push_steal */
        Py_DECREF(handle);
        return NULL;
    }
    uv_mutex_lock(&self->inbox_lock);
    bool first = self->inbox.count == 0;
    bool pushed = ring_push(&self->inbox, ready_word_of_handle(handle));
    self->inbox_waiting = true;
    uv_mutex_unlock(&self->inbox_lock);
    if (!pushed) {
        Py_DECREF(handle);
        return PyErr_NoMemory();
    }
    Py_INCREF(handle); /* the inbox's */
    if (first) {
        threadsafe_wake(self);
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
        self->inbox_waiting = false;
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
    self->inbox_waiting = false;
    uv_mutex_unlock(&self->inbox_lock);
    loop_drop_words(&rest);
    ring_free(&rest);
}
