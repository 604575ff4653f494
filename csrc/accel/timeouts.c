/* timeouts.c - asyncio.timeout() and timeout_at(), from Python 3.11 on.
 *
 * What they return is of a class derived from asyncio's Timeout that only has slots for
 * that one's attributes (pyloop._accelerate makes it: the helper of the functions here).
 * C code makes such an object, enters it, and leaves it in time. Whatever else there is,
 * reschedule() and the end of one that has expired for instance, is done by asyncio's
 * methods, on the same object.
 */
#include "accel/accel.h"

#include "base/args.h"
#include "base/call.h"

#include <math.h>
#include <string.h>

enum { TIMEOUT_SELF }; /* AccelCoro.args */

/* The slots, in the order in which Python lays them out. */
enum {
    TIMEOUT_CANCELLING,
    TIMEOUT_STATE,
    TIMEOUT_TASK,
    TIMEOUT_HANDLER,
    TIMEOUT_WHEN,
    TIMEOUT_SLOTS,
};

static const char *const timeout_names[TIMEOUT_SLOTS] = {
    "_cancelling", "_state", "_task", "_timeout_handler", "_when"};

/* They are a class's last fields. */
static inline PyObject **
timeout_slot(PyObject *timeout, int slot)
{
    char *end = (char *)timeout + Py_TYPE(timeout)->tp_basicsize;
    return (PyObject **)end - TIMEOUT_SLOTS + slot;
}

/* New reference; NULL without an exception: it was deleted. */
static inline PyObject *
timeout_get(PyObject *timeout, int slot)
{
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(timeout);
    value = Py_XNewRef(*timeout_slot(timeout, slot));
    Py_END_CRITICAL_SECTION();
    return value;
}

static inline void
timeout_set(PyObject *timeout, int slot, PyObject *value)
{
    PyObject *old;
    Py_BEGIN_CRITICAL_SECTION(timeout);
    old = *timeout_slot(timeout, slot);
    RACY_STORE(*timeout_slot(timeout, slot), Py_NewRef(value));
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
}

/* Whether it is in that state, of what no other class than ours has the slots. */
static inline bool
timeout_is(AccelFunction *function, PyObject *timeout, PyObject *timeout_state)
{
    return Py_IS_TYPE(timeout, (PyTypeObject *)function->helper) &&
           RACY_LOAD(*timeout_slot(timeout, TIMEOUT_STATE)) == timeout_state;
}

int
accel_timeout_takes(PyObject *helper)
{
    PyTypeObject *type = (PyTypeObject *)helper;
    int known = PyType_Check(helper);
    for (int i = 0; known > 0 && i < TIMEOUT_SLOTS; i++) {
        PyObject *found = PyObject_GetAttrString(helper, timeout_names[i]);
        if (found == NULL) {
            PyErr_Clear(); /* it is worded below */
        }
        known = found != NULL && Py_IS_TYPE(found, &PyMemberDescr_Type) &&
                ((PyMemberDescrObject *)found)->d_member->offset ==
                    type->tp_basicsize -
                        (TIMEOUT_SLOTS - i) * (Py_ssize_t)sizeof(PyObject *);
        Py_XDECREF(found);
    }
    if (!known) {
        PyErr_Format(PyExc_TypeError,
                     "helper: a class with the slots of a Timeout is needed, not %R",
                     helper);
        return -1;
    }
    return 0;
}

/* ---- the functions --------------------------------------------------------------- */

/* Whether Timeout(when) would do what timeout_new() does. 1, 0, -1. */
static int
timeout_is_asyncios(PyloopState *state)
{
    Watched *watched = &state->watched[WATCHED_TIMEOUT];
    PyObject *class;
    int found = PyDict_GetItemRef(PyModule_GetDict(state->timeouts_module),
                                  state->str_Timeout, &class);
    Py_XDECREF(class);
    return found < 0
               ? -1
               : class == (PyObject *)watched->type && watched_is_unchanged(watched);
}

static PyObject *
timeout_new(AccelFunction *function, PyObject *when)
{
    PyloopState *state = function->state;
    PyTypeObject *type = (PyTypeObject *)function->helper;
    PyObject *timeout = type->tp_alloc(type, 0);
    if (timeout != NULL) {
        *timeout_slot(timeout, TIMEOUT_STATE) = Py_NewRef(state->timeout_created);
        *timeout_slot(timeout, TIMEOUT_TASK) = Py_NewRef(Py_None);
        *timeout_slot(timeout, TIMEOUT_HANDLER) = Py_NewRef(Py_None);
        *timeout_slot(timeout, TIMEOUT_WHEN) = Py_NewRef(when);
    }
    return timeout;
}

/* The only argument; NULL without an exception: asyncio's function is to be called. */
static PyObject *
timeout_argument(const char *function, const char *name, PyObject *const *args,
                 Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *value = args_one(function, name, args, nargs, kwnames);
    if (value == NULL) {
        PyErr_Clear(); /* asyncio's function words it */
    }
    return value;
}

static PyObject *
timeout_call(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    PyObject *delay = timeout_argument("timeout", "delay", args, nargs, kwnames);
    LoopObject *loop = delay != NULL ? accel_running_loop(self->state) : NULL;
    if (loop == NULL || timeout_is_asyncios(self->state) <= 0) {
        return NULL;
    }
    if (delay == Py_None) {
        return timeout_new(self, Py_None);
    }
    double seconds = accel_seconds(delay);
    if (isnan(seconds) || (loop_overrides(loop) & OVERRIDE_TIME)) {
        return NULL;
    }
    PyObject *when = PyFloat_FromDouble(loop_clock() + seconds);
    PyObject *timeout = when != NULL ? timeout_new(self, when) : NULL;
    Py_XDECREF(when);
    return timeout;
}

static PyObject *
timeout_at_call(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    PyObject *when = timeout_argument("timeout_at", "when", args, nargs, kwnames);
    if (when == NULL || accel_running_loop(self->state) == NULL ||
        timeout_is_asyncios(self->state) <= 0) {
        return NULL;
    }
    return timeout_new(self, when);
}

/* ---- entering -------------------------------------------------------------------- */

/* Whether its methods are those of asyncio's class: 1, 0, -1. */
static int
timeout_has_asyncios(PyloopState *state, PyObject *timeout)
{
    if (!watched_is_unchanged(&state->watched[WATCHED_TIMEOUT])) {
        return 0;
    }
    PyObject *dict;
#if PY_VERSION_HEX >= 0x030D0000
    /* Of a class with slots, it makes no dict where there is none. */
    PyObject **place = _PyObject_GetDictPtr(timeout);
    dict = place != NULL ? Py_XNewRef(RACY_LOAD(*place)) : NULL;
    if (dict == NULL) {
        return 1;
    }
#else
    dict = PyObject_GenericGetDict(timeout, NULL);
    if (dict == NULL) {
        return -1;
    }
#endif
    int bare = PyDict_GET_SIZE(dict) == 0;
    Py_DECREF(dict);
    return bare;
}

/* Whether its time is still to come, or never will: the rest is asyncio's. */
static bool
timeout_is_ahead(LoopObject *loop, PyObject *when)
{
    return when == Py_None ||
           (when != NULL && PyFloat_CheckExact(when) &&
            !(loop_overrides(loop) & (OVERRIDE_TIME | OVERRIDE_CALL_AT)) &&
            PyFloat_AS_DOUBLE(when) > loop_clock());
}

/* self._timeout_handler = loop.call_at(when, self._on_timeout) */
static int
timeout_start(LoopObject *loop, PyObject *timeout, PyObject *when)
{
    PyObject *args[] = {when, PyMethod_New(loop->state->timeout_on_timeout, timeout)};
    PyObject *handler =
        args[1] != NULL ? timers_call_at((PyObject *)loop, args, 2, NULL) : NULL;
    Py_XDECREF(args[1]);
    if (handler == NULL) {
        return -1;
    }
    timeout_set(timeout, TIMEOUT_HANDLER, handler);
    Py_DECREF(handler);
    return 0;
}

static int
timeout_enter(LoopObject *loop, PyObject *timeout, PyObject *task, PyObject *when)
{
    PyloopState *state = loop->state;
    timeout_set(timeout, TIMEOUT_STATE, state->timeout_entered);
    timeout_set(timeout, TIMEOUT_TASK, task);
    PyObject *cancelling =
        accel_call0((PyTypeObject *)state->TaskClass, state->task_cancelling, task,
                    state->str_cancelling);
    if (cancelling == NULL) {
        return -1;
    }
    timeout_set(timeout, TIMEOUT_CANCELLING, cancelling);
    Py_DECREF(cancelling);
    return when == Py_None ? 0 : timeout_start(loop, timeout, when);
}

static CoroStatus
enter_start(AccelCoro *self, PyObject **result)
{
    LoopObject *loop = self->coro.loop;
    PyObject *timeout = self->args[TIMEOUT_SELF];
    if (!timeout_is(self->function, timeout, loop->state->timeout_created)) {
        return accel_delegate(self);
    }
    PyObject *task = NULL;
    PyObject *when = timeout_get(timeout, TIMEOUT_WHEN);
    int known = timeout_is_ahead(loop, when);
    if (known > 0) {
        known = timeout_has_asyncios(loop->state, timeout);
    }
    if (known > 0) {
        task = accel_current_task(loop);
        known = task == NULL ? -1 : task != Py_None;
    }
    CoroStatus status;
    if (known == 0) {
        status = accel_delegate(self);
    }
    else if (known < 0 || timeout_enter(loop, timeout, task, when) < 0) {
        status = CORO_ERROR;
    }
    else {
        *result = Py_NewRef(timeout);
        status = CORO_RETURN;
    }
    Py_XDECREF(task);
    Py_XDECREF(when);
    return status;
}

/* ---- leaving --------------------------------------------------------------------- */

/* self._timeout_handler.cancel(); self._timeout_handler = None */
static int
timeout_stop(PyloopState *state, PyObject *timeout, PyObject *handler)
{
    PyObject *cancelled = call_method0(handler, state->str_cancel);
    if (cancelled == NULL) {
        return -1;
    }
    Py_DECREF(cancelled);
    timeout_set(timeout, TIMEOUT_HANDLER, Py_None);
    return 0;
}

static CoroStatus
exit_start(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *timeout = self->args[TIMEOUT_SELF];
    if (!timeout_is(self->function, timeout, state->timeout_entered)) {
        return accel_delegate(self);
    }
    PyObject *handler = timeout_get(timeout, TIMEOUT_HANDLER);
    int rc = 0;
    if (handler != NULL && handler != Py_None) {
        rc = timeout_stop(state, timeout, handler);
    }
    Py_XDECREF(handler);
    if (rc < 0) {
        return CORO_ERROR;
    }
    /* Another state, for what an overridden cancel() did? asyncio's goes on from here. */
    if (handler == NULL ||
        !timeout_is(self->function, timeout, state->timeout_entered)) {
        return accel_delegate(self);
    }
    timeout_set(timeout, TIMEOUT_STATE, state->timeout_exited);
    *result = Py_NewRef(Py_None);
    return CORO_RETURN;
}

/* ---- the coroutines -------------------------------------------------------------- */

/* They wait for nothing. */
static CoroStatus
timeout_go_on(AccelCoro *Py_UNUSED(self), PyObject *Py_UNUSED(value),
              PyObject **Py_UNUSED(result))
{
    Py_UNREACHABLE();
}

static CoroStatus
timeout_caught(AccelCoro *Py_UNUSED(self), PyObject **Py_UNUSED(result))
{
    return CORO_ERROR;
}

static const AccelBody enter_body = {ACCEL_CORO("Timeout.__aenter__"), enter_start,
                                     timeout_go_on, timeout_caught};
static const AccelBody exit_body = {ACCEL_CORO("Timeout.__aexit__"), exit_start,
                                    timeout_go_on, timeout_caught};

static PyObject *
timeout_aenter(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    return kwnames == NULL && nargs == 1 ? accel_coro_new(self, &enter_body, args, 1)
                                         : NULL;
}

static PyObject *
timeout_aexit(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    return kwnames == NULL && nargs == 4 ? accel_coro_new(self, &exit_body, args, 4)
                                         : NULL;
}

const AccelKind accel_timeout = {"timeout", timeout_call, NULL};
const AccelKind accel_timeout_at = {"timeout_at", timeout_at_call, NULL};
const AccelKind accel_timeout_enter = {"Timeout.__aenter__", timeout_aenter, NULL};
const AccelKind accel_timeout_exit = {"Timeout.__aexit__", timeout_aexit, NULL};
