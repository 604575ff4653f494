/* outside.c - an iteration that Python code puts in the place of run.c's, in steps:
 * Loop._poll, Loop._pop_ready. pyloop/_queues.py makes asyncio's _selector and _ready of
 * them, which is what nest_asyncio's iteration is made of.
 */
#include "loop/handle.h"

#include "loop/outbox.h"

#include <math.h>

/* The oldest word as a handle, taken out: a descriptor becomes one like all others, for
 * whoever runs the iteration knows nothing else. New reference, or NULL with MemoryError,
 * and the word is still there. The queue must not be empty. */
static HandleObject *
outside_take_word(LoopObject *self)
{
    uint64_t word = ring_at(&self->ready, 0);
    if (ready_word_is_fd(word)) {
        PyObject *dispatch =
            PyObject_GetAttr((PyObject *)self, self->state->str__dispatch);
        PyObject *argv[2] = {NULL, PyLong_FromUnsignedLongLong(word)};
        HandleObject *handle = dispatch != NULL && argv[1] != NULL
                                   ? handle_new(self, dispatch, argv + 1, 1, NULL)
                                   : NULL;
        Py_XDECREF(dispatch);
        Py_XDECREF(argv[1]);
        if (handle == NULL) {
            return NULL;
        }
        word = ready_word_of_handle(handle);
    }
    (void)ring_pop(&self->ready);
    return (HandleObject *)(uintptr_t)word;
}

/* Loop._poll(timeout): seconds, or None to wait for whatever comes. */
PyObject *
outside_poll(PyObject *op, PyObject *timeout)
{
    LoopObject *self = (LoopObject *)op;
    double seconds = INFINITY;
    if (timeout != Py_None) {
        seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
    }
    if (loop_check_closed(self) < 0 || loop_poll(self, seconds > 0 ? seconds : 0) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Loop._pop_ready(): the oldest handle; as a deque's popleft(). */
PyObject *
outside_pop_ready(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = (LoopObject *)op;
    if (self->held > 0) {
        outbox_flush(self); /* the callback before this one is over */
    }
    if (self->ready.count == 0) {
        PyErr_SetString(PyExc_IndexError, "pop from an empty queue");
        return NULL;
    }
    RACY_STORE(self->callback_serial, self->callback_serial + 1);
    self->dispatching = false; /* hold no writes: nobody says when the callback ends */
    return (PyObject *)outside_take_word(self);
}

/* Loop._dispatch(word): the callback of a descriptor that is ready. */
PyObject *
outside_dispatch(PyObject *op, PyObject *number)
{
    uint64_t word = PyLong_AsUnsignedLongLong(number);
    ((LoopObject *)op)->metrics.last = clock_ticks();
    if ((word == (uint64_t)-1 && PyErr_Occurred()) ||
        fds_dispatch((LoopObject *)op, word) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
