/* handle_type.c - the methods, attributes and types of Handle and TimerHandle. */
#include "loop/handle.h"

#include "base/call.h"

#include <unistd.h>

/* ---- methods ------------------------------------------------------------ */

/* Marks it cancelled; debug mode keeps what the handle looked like (asyncio's repr of a
 * cancelled handle), for "Executing <Handle ...> took ...". 0, or -1 and not cancelled. */
static int
handle_mark_cancelled(HandleObject *self)
{
    self->cancelled = true;
    if (self->loop->debug && self->repr == NULL) {
        self->repr = PyObject_Repr((PyObject *)self);
        if (self->repr == NULL) {
            self->cancelled = false;
            return -1;
        }
    }
    return 0;
}

static void
handle_drop_cancelled(HandleObject *self)
{
    if (self->running == 0) {
        handle_drop_call(self);
    }
}

/* From 3.14 on, asyncio's handle of call_soon_threadsafe() has a lock: another thread's
 * cancel() and cancelled() wait until a callback that runs just now has returned. That
 * is rare, so here it is looked at again and again, and no handle pays for a lock.
 * 0, or -1 with what a signal handler raised. */
static int
handle_wait_for_run(HandleObject *self)
{
    PyloopState *state = self->loop->state;
    if (self->running == 0 || state->ThreadSafeHandleType == state->HandleType ||
        !Py_IS_TYPE((PyObject *)self, state->ThreadSafeHandleType) ||
        self->loop->thread_ident == PyThread_get_thread_ident()) {
        return 0;
    }
    while (self->running > 0 && self->loop->thread_ident != 0) {
        LockHold *held = lock_give_up();
        PyThreadState *thread = PyEval_SaveThread();
        (void)usleep(200); /* cut short by a signal: looked at below */
        PyEval_RestoreThread(thread);
        lock_take_back(held);
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
handle_cancel_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    HandleObject *self = (HandleObject *)op;
    if (handle_wait_for_run(self) < 0) {
        return NULL;
    }
    if (!self->cancelled) {
        if (handle_mark_cancelled(self) < 0) {
            return NULL;
        }
        handle_drop_cancelled(self);
    }
    Py_RETURN_NONE;
}

static PyObject *
timerhandle_cancel_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TimerHandleObject *self = (TimerHandleObject *)op;
    if (self->base.cancelled) {
        Py_RETURN_NONE;
    }
    if (handle_mark_cancelled(&self->base) < 0) {
        return NULL;
    }
    bool queued = self->node.index != HEAP_NOT_QUEUED;
    if (queued) {
        heap_remove(&self->base.loop->timers, &self->node);
        self->scheduled = false;
    }
    handle_drop_cancelled(&self->base);
    if (queued) {
        Py_DECREF(self); /* the heap's; the caller holds one */
    }
    Py_RETURN_NONE;
}

static PyObject *
handle_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (handle_wait_for_run((HandleObject *)op) < 0) {
        return NULL;
    }
    return PyBool_FromLong(((HandleObject *)op)->cancelled);
}

static PyObject *
handle_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *context = ((HandleObject *)op)->context;
    return Py_NewRef(context != NULL ? context : Py_None);
}

static PyObject *
handle_run_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (handle_run((HandleObject *)op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
timerhandle_when(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(((TimerHandleObject *)op)->when);
}

static PyObject *
handle_get_callback(PyObject *op, void *Py_UNUSED(closure))
{
    HandleObject *self = (HandleObject *)op;
    return Py_NewRef(self->callback != NULL ? self->callback : Py_None);
}

static PyObject *
handle_args_tuple(HandleObject *self)
{
    if (self->args_in_tuple && self->nargs > 0) {
        return Py_NewRef(self->argv[1]);
    }
    PyObject *tuple = PyTuple_New(self->nargs);
    for (uint8_t i = 0; tuple != NULL && i < self->nargs; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(self->argv[1 + i]));
    }
    return tuple;
}

static PyObject *
handle_get_args(PyObject *op, void *Py_UNUSED(closure))
{
    HandleObject *self = (HandleObject *)op;
    return self->callback == NULL ? Py_NewRef(Py_None) : handle_args_tuple(self);
}

static PyObject *
handle_get_cancelled(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((HandleObject *)op)->cancelled);
}

static PyObject *
handle_get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)((HandleObject *)op)->loop);
}

static PyObject *
handle_get_context_attr(PyObject *op, void *Py_UNUSED(closure))
{
    return handle_get_context(op, NULL);
}

static PyObject *
handle_get_traceback(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *traceback = ((HandleObject *)op)->traceback;
    return Py_NewRef(traceback != NULL ? traceback : Py_None);
}

/* asyncio's helpers shorten and replace it. */
static int
handle_set_traceback(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(((HandleObject *)op)->traceback,
               value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

/* Test tools store into handles, as asyncio's class allows; what asyncio's code would trip
 * over when the handle runs, handle_run and PyContext_Enter refuse then. */
static int
handle_refuse_running(HandleObject *self, const char *name)
{
    if (self->running == 0) {
        return 0;
    }
    PyErr_Format(PyExc_RuntimeError, "%s of a handle that runs cannot be set", name);
    return -1; /* the call has borrowed it */
}

static int
handle_set_callback(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    HandleObject *self = (HandleObject *)op;
    if (handle_refuse_running(self, "_callback") < 0) {
        return -1;
    }
    Py_XSETREF(self->callback, Py_XNewRef(value));
    return 0;
}

static int
handle_set_args(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    HandleObject *self = (HandleObject *)op;
    if (handle_refuse_running(self, "_args") < 0) {
        return -1;
    }
    PyObject *callback = Py_XNewRef(self->callback);
    handle_drop_call(self);
    self->callback = callback;
    self->args_in_tuple = value != NULL;
    self->argv[1] = Py_XNewRef(value);
    self->nargs = value != NULL;
    return 0;
}

static int
handle_set_context(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(((HandleObject *)op)->context,
               Py_NewRef(value != NULL ? value : Py_None));
    return 0;
}

static int
handle_set_repr(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(((HandleObject *)op)->repr,
               value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static PyObject *
handle_get_repr(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *repr = ((HandleObject *)op)->repr;
    return Py_NewRef(repr != NULL ? repr : Py_None);
}

static PyObject *
timerhandle_get_when(PyObject *op, void *Py_UNUSED(closure))
{
    return timerhandle_when(op, NULL);
}

static PyObject *
timerhandle_get_scheduled(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((TimerHandleObject *)op)->scheduled);
}

/* ---- types -------------------------------------------------------------- */

#define LOCK_OF(op) (&((HandleObject *)(op))->loop->lock)

LOCKED_NOARGS(handle_cancel_method)
LOCKED_NOARGS(timerhandle_cancel_method)
LOCKED_NOARGS(handle_cancelled)
LOCKED_NOARGS(handle_get_context)
LOCKED_NOARGS(handle_run_method)
LOCKED_GETTER(handle_get_callback)
LOCKED_SETTER(handle_set_callback)
LOCKED_GETTER(handle_get_args)
LOCKED_SETTER(handle_set_args)
LOCKED_GETTER(handle_get_cancelled)
LOCKED_GETTER(handle_get_context_attr)
LOCKED_SETTER(handle_set_context)
LOCKED_GETTER(handle_get_traceback)
LOCKED_SETTER(handle_set_traceback)
LOCKED_GETTER(handle_get_repr)
LOCKED_SETTER(handle_set_repr)
LOCKED_GETTER(timerhandle_get_scheduled)

static PyMethodDef handle_methods[] = {
    {"cancel", LOCKED(handle_cancel_method), METH_NOARGS,
     "cancel($self, /)\n--\n\n"
     "Cancel the callback; without effect when it ran or was cancelled already."},
    {"cancelled", LOCKED(handle_cancelled), METH_NOARGS,
     "cancelled($self, /)\n--\n\nReturn True if the callback was cancelled."},
    {"get_context", LOCKED(handle_get_context), METH_NOARGS,
     "get_context($self, /)\n--\n\nReturn the contextvars.Context of the callback."},
    {"_run", LOCKED(handle_run_method), METH_NOARGS,
     "_run($self, /)\n--\n\nCall the callback now, in its context."},
    {NULL, NULL, 0, NULL},
};

#define HANDLE_GETSETS                                                                 \
    {"_callback", LOCKED(handle_get_callback), LOCKED(handle_set_callback), NULL,      \
     NULL},                                                                            \
        {"_args", LOCKED(handle_get_args), LOCKED(handle_set_args), NULL, NULL},       \
        {"_cancelled", LOCKED(handle_get_cancelled), NULL, NULL, NULL},                \
        {"_loop", handle_get_loop, NULL, NULL, NULL},                                  \
        {"_context", LOCKED(handle_get_context_attr), LOCKED(handle_set_context),      \
         NULL, NULL},                                                                  \
        {"_source_traceback", LOCKED(handle_get_traceback),                            \
         LOCKED(handle_set_traceback), NULL, NULL},                                    \
        {"_repr", LOCKED(handle_get_repr), LOCKED(handle_set_repr), NULL, NULL},

static PyGetSetDef handle_getsets[] = {
    HANDLE_GETSETS{NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, "A callback to be called soon; a subclass of asyncio.Handle made by\n"
                "Loop.call_soon() and Loop.call_soon_threadsafe()."},
    {Py_tp_methods, handle_methods},
    {Py_tp_getset, handle_getsets},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_dealloc, handle_dealloc},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "pyloop._core.Handle",
    .basicsize = sizeof(HandleObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handle_slots,
};

/* asyncio's class has a lock; ours waits without one (handle_wait_for_run). */
static PyType_Spec threadsafehandle_spec = {
    .name = "pyloop._core." PYLOOP_THREADSAFE_HANDLE,
    .basicsize = sizeof(HandleObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handle_slots,
};

static PyMethodDef timerhandle_methods[] = {
    {"cancel", LOCKED(timerhandle_cancel_method), METH_NOARGS,
     "cancel($self, /)\n--\n\n"
     "Cancel the callback and take it out of the loop's timers."},
    {"cancelled", LOCKED(handle_cancelled), METH_NOARGS,
     "cancelled($self, /)\n--\n\nReturn True if the callback was cancelled."},
    {"get_context", LOCKED(handle_get_context), METH_NOARGS,
     "get_context($self, /)\n--\n\nReturn the contextvars.Context of the callback."},
    {"when", timerhandle_when, METH_NOARGS,
     "when($self, /)\n--\n\n"
     "Return the deadline in seconds, in the loop's time (see Loop.time)."},
    {"_run", LOCKED(handle_run_method), METH_NOARGS,
     "_run($self, /)\n--\n\nCall the callback now, in its context."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef timerhandle_getsets[] = {
    HANDLE_GETSETS{"_when", timerhandle_get_when, NULL, NULL, NULL},
    {"_scheduled", LOCKED(timerhandle_get_scheduled), NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot timerhandle_slots[] = {
    {Py_tp_doc, "A callback to be called at a time; a subclass of asyncio.TimerHandle\n"
                "made by Loop.call_later() and Loop.call_at()."},
    {Py_tp_methods, timerhandle_methods},
    {Py_tp_getset, timerhandle_getsets},
    {Py_tp_traverse, timerhandle_traverse},
    {Py_tp_clear, timerhandle_clear},
    {Py_tp_dealloc, timerhandle_dealloc},
    {0, NULL},
};

static PyType_Spec timerhandle_spec = {
    .name = "pyloop._core.TimerHandle",
    .basicsize = sizeof(TimerHandleObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = timerhandle_slots,
};

/* Our fields begin behind the base's slots: a CPython that gave asyncio's class more of
 * them than we left room for would overlap, so refuse it at import. */
static PyTypeObject *
handle_create(PyObject *module, PyType_Spec *spec, PyObject *base)
{
    Py_ssize_t room = (Py_ssize_t)offsetof(HandleObject, loop);
    if (((PyTypeObject *)base)->tp_basicsize > room) {
        PyErr_Format(PyExc_ImportError,
                     "pyloop does not know this version of %s (its instances take %zd "
                     "bytes, at most %zd were expected)",
                     ((PyTypeObject *)base)->tp_name,
                     ((PyTypeObject *)base)->tp_basicsize, room);
        return NULL;
    }
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, base);
}

PyTypeObject *
handle_type_create(PyObject *module)
{
    return handle_create(module, &handle_spec, state_of_module(module)->AsyncioHandle);
}

PyTypeObject *
threadsafehandle_type_create(PyObject *module)
{
    PyloopState *state = state_of_module(module);
    if (state->AsyncioThreadSafeHandle == state->AsyncioHandle) {
        return (PyTypeObject *)Py_NewRef((PyObject *)state->HandleType);
    }
    return handle_create(module, &threadsafehandle_spec,
                         state->AsyncioThreadSafeHandle);
}

PyTypeObject *
timerhandle_type_create(PyObject *module)
{
    return handle_create(module, &timerhandle_spec,
                         state_of_module(module)->AsyncioTimerHandle);
}
