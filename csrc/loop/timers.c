/* timers.c - call_later, call_at and moving due timers to the ready queue.
 *
 * Owns: LoopObject.timers; each queued node owns a reference to its TimerHandle.
 * A deadline is a double in the loop's time, compared with loop.time() itself, so a timer
 * is never early by the clock that the user sees, overridden or not.
 */
#include "loop/handle.h"

#include "base/args.h"
#include "base/call.h"

#include <math.h>

/* Seconds as a double. 0, or -1 with TypeError or ValueError that names the argument. */
static int
timers_seconds(PyObject *number, const char *function, const char *argument,
               double *seconds)
{
    if (PyFloat_CheckExact(number)) {
        *seconds = PyFloat_AS_DOUBLE(number);
    }
    else {
        *seconds = PyFloat_AsDouble(number);
        if (*seconds == -1.0 && PyErr_Occurred()) {
            if (PyErr_ExceptionMatches(PyExc_TypeError)) {
                PyErr_Format(PyExc_TypeError,
                             "%s() argument '%s' must be a number of seconds, not %s",
                             function, argument, Py_TYPE(number)->tp_name);
            }
            return -1;
        }
    }
    if (isnan(*seconds)) {
        PyErr_Format(PyExc_ValueError, "%s() argument '%s' is NaN", function, argument);
        return -1;
    }
    return 0;
}

static PyObject *
timers_schedule(LoopObject *loop, PyObject *when, double deadline, const ArgsCall *call)
{
    TimerHandleObject *handle = timerhandle_new(loop, when, deadline, call->leading[1],
                                                call->rest, call->nrest, call->context);
    if (handle == NULL) {
        return NULL;
    }
    if (loop_check_closed(loop) < 0) { /* as in loop_ready_push_steal */
        Py_DECREF(handle);
        return NULL;
    }
    if (!heap_push(&loop->timers, &handle->node)) {
        Py_DECREF(handle);
        return PyErr_NoMemory();
    }
    handle->scheduled = true;
    return Py_NewRef((PyObject *)handle); /* the first reference is the heap's: N2 */
}

PyObject *
timers_call_at(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"when", "callback"};
    static const ArgsCallSpec spec = {"call_at", names, 2};
    LoopObject *loop = (LoopObject *)op;
    ArgsCall call;
    double deadline;
    if (args_parse_call(&spec, args, nargs, kwnames, &call) < 0) {
        return NULL;
    }
    if (call.leading[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    if (timers_seconds(call.leading[0], "call_at", "when", &deadline) < 0 ||
        loop_check_call(loop, call.leading[1], "call_at", false) < 0) {
        return NULL;
    }
    return timers_schedule(loop, call.leading[0], deadline, &call);
}

/* As asyncio: an overridden time() or call_at() is used; time() + delay is the user's
 * arithmetic then. */
static PyObject *
timers_call_later_overridden(LoopObject *loop, const ArgsCall *call)
{
    PyObject *now = call_method0((PyObject *)loop, loop->state->str_time);
    PyObject *when = now != NULL ? PyNumber_Add(now, call->leading[0]) : NULL;
    PyObject *kwnames = PyTuple_Pack(1, loop->state->str_context);
    PyObject **values = PyMem_New(PyObject *, (size_t)call->nrest + 4);
    PyObject *handle = NULL;
    Py_XDECREF(now);
    if (values == NULL) {
        PyErr_NoMemory();
    }
    else if (when != NULL && kwnames != NULL) {
        values[0] = (PyObject *)loop;
        values[1] = when;
        values[2] = call->leading[1];
        for (Py_ssize_t i = 0; i < call->nrest; i++) {
            values[3 + i] = call->rest[i];
        }
        values[3 + call->nrest] = call->context != NULL ? call->context : Py_None;
        handle = PyObject_VectorcallMethod(loop->state->str_call_at, values,
                                           (size_t)call->nrest + 3, kwnames);
    }
    PyMem_Free(values);
    Py_XDECREF(kwnames);
    Py_XDECREF(when);
    return handle;
}

PyObject *
timers_call_later(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const char *const names[] = {"delay", "callback"};
    static const ArgsCallSpec spec = {"call_later", names, 2};
    LoopObject *loop = (LoopObject *)op;
    ArgsCall call;
    double delay;
    if (args_parse_call(&spec, args, nargs, kwnames, &call) < 0) {
        return NULL;
    }
    if (call.leading[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    if (timers_seconds(call.leading[0], "call_later", "delay", &delay) < 0) {
        return NULL;
    }
    if (loop_overrides(loop) & (OVERRIDE_TIME | OVERRIDE_CALL_AT)) {
        return timers_call_later_overridden(loop, &call);
    }
    if (loop_check_call(loop, call.leading[1], "call_at", false) < 0) {
        return NULL;
    }
    double deadline = loop_clock() + delay;
    PyObject *when = PyFloat_FromDouble(deadline);
    if (when == NULL) {
        return NULL;
    }
    PyObject *handle = timers_schedule(loop, when, deadline, &call);
    Py_DECREF(when);
    return handle;
}

/* Moves every timer that is due to the ready queue. 0, or -1 with an exception. */
int
timers_move_due(LoopObject *loop)
{
    HeapNode *node = heap_first(&loop->timers);
    double now;
    if (node == NULL) {
        return 0;
    }
    if (loop_now(loop, &now) < 0) {
        return -1;
    }
    for (; node != NULL && node->deadline <= now; node = heap_first(&loop->timers)) {
        TimerHandleObject *handle = timerhandle_from_node(node);
        if (!ring_push(&loop->ready, ready_word_of_handle(&handle->base))) {
            PyErr_NoMemory();
            return -1;
        }
        heap_remove(&loop->timers, node); /* its reference is the ready word's now */
        handle->scheduled = false;
    }
    return 0;
}

void
timers_drop_all(LoopObject *loop)
{
    HeapNode *node;
    while ((node = heap_first(&loop->timers)) != NULL) {
        /* From the end: no order to keep, so nothing has to move. */
        node = loop->timers.items[loop->timers.count - 1].node;
        heap_remove(&loop->timers, node);
        TimerHandleObject *handle = timerhandle_from_node(node);
        handle->scheduled = false;
        Py_DECREF(handle);
    }
    heap_free(&loop->timers);
}

/* If handle is a timer that waits, it does so no longer; the caller has a reference. */
void
timers_unqueue(LoopObject *loop, PyObject *handle)
{
    if (!Py_IS_TYPE(handle, loop->state->TimerHandleType)) {
        return;
    }
    TimerHandleObject *self = (TimerHandleObject *)handle;
    if (self->base.loop == loop && self->node.index != HEAP_NOT_QUEUED) {
        heap_remove(&loop->timers, &self->node);
        self->scheduled = false;
        Py_DECREF(handle); /* the heap's */
    }
}

/* Loop._scheduled: the timers, earliest first, as a new list. */
PyObject *
timers_snapshot(LoopObject *loop)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < loop->timers.count; i++) {
        PyObject *handle =
            (PyObject *)timerhandle_from_node(loop->timers.items[i].node);
        if (PyList_Append(list, handle) < 0) {
            Py_CLEAR(list);
        }
    }
    if (list != NULL && PyList_Sort(list) < 0) {
        Py_CLEAR(list);
    }
    return list;
}
