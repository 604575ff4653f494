/* handle.c - Handle, TimerHandle, and call_soon.
 *
 * Owns: the free list of a loop (up to FREE_HANDLES_MAX spent handles).
 * A handle is alive while the ready ring, the timer heap, a watch or the user holds it.
 * Invariant N1: cancelled => callback and arguments are gone, or running > 0.
 * Invariant N2: a TimerHandle's node is queued <=> the heap owns a reference to it.
 */
#include "loop/handle.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"

#include <string.h>
#include <unistd.h>

/* None on free-threaded builds: a spare of one thread cannot become another's object. */
#ifdef Py_GIL_DISABLED
enum { FREE_HANDLES_MAX = 0 };
#else
enum { FREE_HANDLES_MAX = 1024 };
#endif

/* ---- making and freeing ------------------------------------------------- */

/* A tracked-later, otherwise valid Handle without callback: from the spares if possible. */
static HandleObject *
handle_alloc(LoopObject *loop, PyTypeObject *type)
{
    PyloopState *state = loop->state;
    HandleObject *self = loop->free_handles;
    if (self != NULL && type == state->HandleType) {
        loop->free_handles = (HandleObject *)self->loop;
        loop->free_count--;
        Py_SET_REFCNT((PyObject *)self, 1); /* a spare keeps its type */
    }
    else {
        self = PyObject_GC_New(HandleObject, type);
        if (self == NULL) {
            return NULL;
        }
        MEMORY_BEGINS(self);
        memset((char *)self + sizeof(PyObject), 0,
               sizeof(HandleObject) - sizeof(PyObject));
    }
    self->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    RACY_ADD(state->live_handles, 1);
    return self;
}

/* The caller's Python stack, as asyncio.Handle records it in debug mode. */
static PyObject *
handle_extract_stack(LoopObject *loop)
{
    PyObject *frame = (PyObject *)PyEval_GetFrame(); /* borrowed; NULL outside Python */
    return PyObject_CallOneArg(loop->state->extract_stack,
                               frame != NULL ? frame : Py_None);
}

/* Fills in what Handle and TimerHandle share, and tracks it. 0, or -1. */
static int
handle_setup(HandleObject *self, PyObject *callback, PyObject *const *args,
             Py_ssize_t nargs, PyObject *context)
{
    self->cancelled = false;
    self->running = 0;
    self->callback = Py_NewRef(callback);
    if (nargs <= HANDLE_INLINE_ARGS) {
        self->args_in_tuple = false;
        self->nargs = (uint8_t)nargs;
        for (Py_ssize_t i = 0; i < nargs; i++) {
            self->argv[1 + i] = Py_NewRef(args[i]);
        }
    }
    else {
        self->args_in_tuple = true;
        self->nargs = 1;
        self->argv[1] = PyTuple_New(nargs);
        if (self->argv[1] == NULL) {
            self->nargs = 0;
            return -1;
        }
        for (Py_ssize_t i = 0; i < nargs; i++) {
            PyTuple_SET_ITEM(self->argv[1], i, Py_NewRef(args[i]));
        }
    }
    self->context = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
    if (self->context == NULL) {
        return -1;
    }
    if (self->loop->debug) {
        self->traceback = handle_extract_stack(self->loop);
        if (self->traceback == NULL) {
            return -1;
        }
    }
    MADE(self);
    PyObject_GC_Track(self);
    return 0;
}

static inline HandleObject *
handle_new_of_type(LoopObject *loop, PyTypeObject *type, PyObject *callback,
                   PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    HandleObject *self = handle_alloc(loop, type);
    if (self == NULL) {
        return NULL;
    }
    if (handle_setup(self, callback, args, nargs, context) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

HandleObject *
handle_new(LoopObject *loop, PyObject *callback, PyObject *const *args,
           Py_ssize_t nargs, PyObject *context)
{
    return handle_new_of_type(loop, loop->state->HandleType, callback, args, nargs,
                              context);
}

HandleObject *
handle_new_threadsafe(LoopObject *loop, PyObject *callback, PyObject *const *args,
                      Py_ssize_t nargs, PyObject *context)
{
    return handle_new_of_type(loop, loop->state->ThreadSafeHandleType, callback, args,
                              nargs, context);
}

TimerHandleObject *
timerhandle_new(LoopObject *loop, PyObject *when, double deadline, PyObject *callback,
                PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    PyloopState *state = loop->state;
    TimerHandleObject *self =
        PyObject_GC_New(TimerHandleObject, state->TimerHandleType);
    if (self == NULL) {
        return NULL;
    }
    MEMORY_BEGINS(self);
    memset((char *)self + sizeof(PyObject), 0,
           sizeof(TimerHandleObject) - sizeof(PyObject));
    self->base.loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    RACY_ADD(state->live_handles, 1);
    self->when = Py_NewRef(when);
    self->node.deadline = deadline;
    self->node.index = HEAP_NOT_QUEUED;
    if (handle_setup(&self->base, callback, args, nargs, context) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static void
handle_drop_call(HandleObject *self)
{
    uint8_t nargs = self->nargs;
    self->nargs = 0; /* first: dropping may run Python, which may look at us */
    Py_CLEAR(self->callback);
    for (uint8_t i = 0; i < nargs; i++) {
        Py_CLEAR(self->argv[1 + i]);
    }
}

/* The list of weak references: in an inherited slot, or from 3.12 before the object. */
static inline PyObject **
handle_weakrefs(HandleObject *self)
{
    return (PyObject **)((char *)self + Py_TYPE((PyObject *)self)->tp_weaklistoffset);
}

/* Only asyncio.Handle.<slot>.__set__ fills them, so look at all before touching any. */
static void
handle_clear_inherited(HandleObject *self)
{
    uintptr_t any = 0;
    for (size_t i = 0; i < HANDLE_INHERITED; i++) {
        any |= (uintptr_t)self->inherited[i];
    }
    for (size_t i = 0; any != 0 && i < HANDLE_INHERITED; i++) {
        if (&self->inherited[i] != handle_weakrefs(self)) {
            Py_CLEAR(self->inherited[i]);
        }
    }
}

static int
handle_clear(PyObject *op)
{
    HandleObject *self = (HandleObject *)op;
    LAST_USE(op, &self->loop->lock);
    handle_drop_call(self);
    Py_CLEAR(self->context);
    Py_CLEAR(self->traceback);
    Py_CLEAR(self->repr);
    handle_clear_inherited(self);
    return 0; /* loop stays until dealloc: the spares are its */
}

static int
handle_traverse(PyObject *op, visitproc visit, void *arg)
{
    HandleObject *self = (HandleObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->loop);
    Py_VISIT(self->context);
    Py_VISIT(self->callback);
    Py_VISIT(self->traceback);
    Py_VISIT(self->repr);
    for (uint8_t i = 0; i < self->nargs; i++) {
        Py_VISIT(self->argv[1 + i]);
    }
    for (size_t i = 0; i < HANDLE_INHERITED; i++) {
        if (&self->inherited[i] != handle_weakrefs(self)) {
            Py_VISIT(self->inherited[i]);
        }
    }
    return 0;
}

static void
handle_dealloc(PyObject *op)
{
    HandleObject *self = (HandleObject *)op;
    PyTypeObject *tp = Py_TYPE(op);
    LAST_USE(op, &self->loop->lock);
    PyObject_GC_UnTrack(op);
    /* A chain of handles that hold each other as arguments is as deep as the user likes. */
    Py_TRASHCAN_BEGIN(op, handle_dealloc) if (*handle_weakrefs(self) != NULL)
    {
        PyObject_ClearWeakRefs(op);
    }
    (void)handle_clear(op);
    LoopObject *loop = self->loop;
    RACY_ADD(loop->state->live_handles, -1);
    if (FREE_HANDLES_MAX > 0 && loop->phase == LOOP_OPEN &&
        tp == loop->state->HandleType && (int)loop->free_count < FREE_HANDLES_MAX) {
        self->loop = (LoopObject *)loop->free_handles;
        loop->free_handles = self;
        loop->free_count++;
    }
    else {
        MEMORY_ENDS(op);
        PyObject_GC_Del(op);
        Py_DECREF(tp);
    }
    Py_DECREF(loop); /* last: it may free the spares, this one included */
    Py_TRASHCAN_END
}

static int
timerhandle_clear(PyObject *op)
{
    LAST_USE(op, &((HandleObject *)op)->loop->lock);
    Py_CLEAR(((TimerHandleObject *)op)->when);
    return handle_clear(op);
}

static int
timerhandle_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(((TimerHandleObject *)op)->when);
    return handle_traverse(op, visit, arg);
}

static void
timerhandle_dealloc(PyObject *op)
{
    TimerHandleObject *self = (TimerHandleObject *)op;
    PyTypeObject *tp = Py_TYPE(op);
    LAST_USE(op, &self->base.loop->lock);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, timerhandle_dealloc)
        assert(self->node.index == HEAP_NOT_QUEUED);
    if (*handle_weakrefs(&self->base) != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)timerhandle_clear(op);
    LoopObject *loop = self->base.loop;
    RACY_ADD(loop->state->live_handles, -1);
    MEMORY_ENDS(op);
    PyObject_GC_Del(op);
    Py_DECREF(tp);
    Py_DECREF(loop);
    Py_TRASHCAN_END
}

void
handle_free_spares(LoopObject *loop)
{
    while (loop->free_handles != NULL) {
        HandleObject *spare = loop->free_handles;
        loop->free_handles = (HandleObject *)spare->loop;
        PyTypeObject *tp = Py_TYPE((PyObject *)spare);
        PyObject_GC_Del(spare);
        Py_DECREF(tp);
    }
    loop->free_count = 0;
}

/* ---- running ------------------------------------------------------------ */

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

/* The raised exception goes to the loop's handler. 0, or -1 if it must leave run. */
static int
handle_report(HandleObject *self)
{
    if (errors_is_fatal()) {
        return -1;
    }
    /* Loop._report_callback_error (pyloop/_loop.py) words it as this asyncio does. */
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *args[3] = {(PyObject *)self->loop, (PyObject *)self, exc};
    PyObject *done = call_method_handling(
        exc, self->loop->state->str__report_callback_error, args, 3);
    Py_DECREF(exc);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* handle_drop_call with an exception that may be set, and is kept. */
static void
handle_drop_kept(HandleObject *self)
{
    PyObject *raised = PyErr_GetRaisedException();
    handle_drop_call(self);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* Calls with a tuple of arguments: more than fit inline, or set through _args. */
static PyObject *
handle_call_tuple(HandleObject *self)
{
    if (!PyTuple_Check(self->argv[1])) {
        return PyErr_Format(PyExc_TypeError,
                            "_args of a handle must be a tuple, not %s",
                            Py_TYPE(self->argv[1])->tp_name);
    }
    if (PyContext_Enter(self->context) < 0) {
        return NULL;
    }
    PyObject *result = call_tuple(self->callback, self->argv[1]);
    if (PyContext_Exit(self->context) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

int
handle_run(HandleObject *self)
{
    if (self->cancelled || self->callback == NULL) {
        return 0;
    }
    PyObject *result;
    self->running++;
    if (!self->args_in_tuple) {
        result =
            call_in_context(self->context, self->callback, self->argv + 1, self->nargs);
    }
    else {
        result = handle_call_tuple(self);
    }
    self->running--;
    if (self->cancelled && self->running == 0) {
        handle_drop_kept(self); /* cancelled by its own callback: N1 */
    }
    if (result == NULL) {
        return handle_report(self);
    }
    Py_DECREF(result);
    return 0;
}

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

void
handle_cancel(HandleObject *self)
{
    self->cancelled = true;
    handle_drop_cancelled(self);
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

/* ---- call_soon ---------------------------------------------------------- */

int
loop_ready_push_steal(LoopObject *loop, HandleObject *handle)
{
    /* Closed since the caller looked: until 3.11 any allocation may run the collector, and
     * with it somebody's finalizer. Who called from another thread before comes first. */
    if (loop_check_closed(loop) < 0 ||
        (RACY_LOAD(loop->inbox_waiting) && threadsafe_take_inbox(loop) < 0)) {
        Py_DECREF(handle);
        return -1;
    }
    if (!ring_push(&loop->ready, ready_word_of_handle(handle))) {
        Py_DECREF(handle);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

PyObject *
handle_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"callback"};
    static const ArgsCallSpec spec = {"call_soon", names, 1};
    LoopObject *loop = (LoopObject *)op;
    ArgsCall call;
    if (args_parse_call(&spec, args, nargs, kwnames, &call) < 0 ||
        loop_check_call(loop, call.leading[0], "call_soon", false) < 0) {
        return NULL;
    }
    HandleObject *handle =
        handle_new(loop, call.leading[0], call.rest, call.nrest, call.context);
    if (handle == NULL) {
        return NULL;
    }
    if (loop_ready_push_steal(loop, (HandleObject *)Py_NewRef((PyObject *)handle)) <
        0) {
        Py_DECREF(handle);
        return NULL;
    }
    return (PyObject *)handle;
}

int
loop_call_soon(LoopObject *loop, PyObject *callback, PyObject *const *args,
               Py_ssize_t nargs, PyObject *context)
{
    if (!(loop_overrides(loop) & OVERRIDE_CALL_SOON)) {
        if (loop_check_closed(loop) < 0) {
            return -1;
        }
        HandleObject *handle = handle_new(loop, callback, args, nargs, context);
        return handle != NULL ? loop_ready_push_steal(loop, handle) : -1;
    }
    assert(nargs <= HANDLE_INLINE_ARGS);
    PyObject *values[3 + HANDLE_INLINE_ARGS];
    values[0] = (PyObject *)loop;
    values[1] = callback;
    for (Py_ssize_t i = 0; i < nargs; i++) {
        values[2 + i] = args[i];
    }
    PyObject *kwnames = NULL;
    if (context != NULL) {
        values[2 + nargs] = context;
        kwnames = PyTuple_Pack(1, loop->state->str_context);
        if (kwnames == NULL) {
            return -1;
        }
    }
    PyObject *handle = PyObject_VectorcallMethod(loop->state->str_call_soon, values,
                                                 (size_t)nargs + 2, kwnames);
    Py_XDECREF(kwnames);
    Py_XDECREF(handle);
    return handle != NULL ? 0 : -1;
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
