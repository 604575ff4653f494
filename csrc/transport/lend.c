/* lend.c - a transport lends its descriptor to loop.sendfile().
 *
 * loop._sendfile_native (pyloop/_sendfile.py) asks for the descriptor, waits until what
 * was written before is sent, runs a sock_* operation on it, and gives it back. Meanwhile
 * the transport refuses to write.
 *
 * Invariant L1: empty_waiter != NULL => FdEntry.lent, until the descriptor closes.
 * Invariant L2: empty_waiter is resolved when the queue is empty or the connection lost.
 */
#include "transport/stream.h"

#include "base/call.h"

/* Calls empty_waiter.name(value) unless it is done or cancelled. 0, or -1. */
static int
stream_resolve_waiter(StreamObject *self, PyObject *name, PyObject *value)
{
    PyObject *waiter = Py_NewRef(self->empty_waiter);
    PyObject *result = call_method0(waiter, self->loop->state->str_done);
    if (result == Py_False) {
        Py_SETREF(result, call_method1(waiter, name, value));
    }
    Py_DECREF(waiter);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

int
stream_lend(StreamObject *self)
{
    return self->empty_waiter == NULL
               ? 0
               : stream_resolve_waiter(self, self->loop->state->str_set_result,
                                       Py_None);
}

/* Wakes the operation that has the descriptor, so that it finds it closed. */
static int
stream_wake_borrower(StreamObject *self)
{
    FdEntry *entry = fds_entry(self->loop, self->fd);
    PyObject *owner = stream_has_claim(self) ? entry->slots[1].owner : NULL;
    if (owner == NULL || owner == (PyObject *)self) {
        return 0;
    }
    FdCallback ready = entry->slots[1].ready;
    Py_INCREF(owner);
    int rc = ready(self->loop, owner);
    Py_DECREF(owner);
    return rc < 0 ? -1 : 0;
}

void
stream_lend_no_more(StreamObject *self, PyObject *exc)
{
    if (self->empty_waiter == NULL) {
        return;
    }
    PyObject *reason = exc != NULL
                           ? Py_NewRef(exc)
                           : PyObject_CallFunction(PyExc_ConnectionError, "s",
                                                   "Connection is closed by peer");
    if (reason == NULL) {
        reason =
            PyErr_GetRaisedException(); /* no memory: whoever waits hears of that */
    }
    /* What is raised here gives way to connection_lost(), which comes next. */
    if (stream_resolve_waiter(self, self->loop->state->str_set_exception, reason) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (stream_wake_borrower(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_DECREF(reason);
}

PyObject *
stream_make_empty_waiter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    if (self->empty_waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Empty waiter is already set");
        return NULL;
    }
    if (loop_check_closed(self->loop) < 0) {
        return NULL;
    }
    if (self->lost) {
        PyErr_SetString(PyExc_ConnectionError, "Connection is closed by peer");
        return NULL;
    }
    PyObject *waiter = loop_create_future(self->loop);
    if (waiter == NULL) {
        return NULL;
    }
    self->empty_waiter = Py_NewRef(waiter);
    if (stream_has_claim(self)) { /* else sendfile() finds the socket closed */
        fds_entry(self->loop, self->fd)->lent = true;
    }
    if (self->queue_count == 0 && stream_lend(self) < 0) {
        Py_CLEAR(waiter);
    }
    return waiter;
}

PyObject *
stream_reset_empty_waiter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    Py_CLEAR(self->empty_waiter);
    if (stream_has_claim(self)) {
        fds_entry(self->loop, self->fd)->lent = false;
    }
    Py_RETURN_NONE;
}
