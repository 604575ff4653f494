/* handle.c - the life of Handle and TimerHandle, and call_soon.
 *
 * Owns: the spares of a loop (up to FREE_HANDLES_MAX spent handles of either type).
 * A handle is alive while the ready ring, the timer heap, a watch or the user holds it.
 * Invariant N1: cancelled => callback and arguments are gone, or running > 0.
 * Invariant N2: a TimerHandle's node is queued <=> the heap owns a reference to it.
 */
#include "loop/handle.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"

#include <string.h>

/* None on free-threaded builds: a spare of one thread cannot become another's object. */
#ifdef Py_GIL_DISABLED
enum { FREE_HANDLES_MAX = 0 };
#else
enum { FREE_HANDLES_MAX = 1024 };
#endif

/* ---- making and freeing ------------------------------------------------- */

/* Where spent handles of this type are kept; NULL: nowhere. */
static inline HandleSpares *
handle_spares(LoopObject *loop, PyTypeObject *type)
{
    return type == loop->state->HandleType        ? &loop->spare_handles
           : type == loop->state->TimerHandleType ? &loop->spare_timers
                                                  : NULL;
}

/* A tracked-later, otherwise valid handle of `size` bytes without callback: a spare if
 * there is one. */
static inline HandleObject *
handle_alloc(LoopObject *loop, PyTypeObject *type, size_t size)
{
    HandleSpares *spares = handle_spares(loop, type);
    HandleObject *self = spares != NULL ? spares->first : NULL;
    if (self != NULL) {
        spares->first = (HandleObject *)self->loop;
        spares->count--;
        Py_SET_REFCNT((PyObject *)self, 1); /* a spare keeps its type */
    }
    else {
        self = (HandleObject *)_PyObject_GC_New(type);
        if (self == NULL) {
            return NULL;
        }
        MEMORY_BEGINS(self);
        memset((char *)self + sizeof(PyObject), 0, size - sizeof(PyObject));
    }
    self->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    RACY_ADD(loop->state->live_handles, 1);
    return self;
}

/* The end of a handle that is untracked and has dropped what it held. */
static inline void
handle_end(HandleObject *self, PyTypeObject *type)
{
    LoopObject *loop = self->loop;
    HandleSpares *spares = handle_spares(loop, type);
    RACY_ADD(loop->state->live_handles, -1);
    /* Without a GIL there are none: the loop may be another thread's by now. */
    if (FREE_HANDLES_MAX > 0 && spares != NULL && loop->phase == LOOP_OPEN &&
        (int)spares->count < FREE_HANDLES_MAX) {
        self->loop = (LoopObject *)spares->first;
        spares->first = self;
        spares->count++;
    }
    else {
        MEMORY_ENDS(self);
        PyObject_GC_Del(self);
        Py_DECREF(type);
    }
    Py_DECREF(loop); /* last: it may free the spares, this one included */
}

PyObject *
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
    HandleObject *self = handle_alloc(loop, type, sizeof(HandleObject));
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
    TimerHandleObject *self = (TimerHandleObject *)handle_alloc(
        loop, loop->state->TimerHandleType, sizeof(TimerHandleObject));
    if (self == NULL) {
        return NULL;
    }
    self->scheduled = false;
    self->when = Py_NewRef(when);
    self->node.deadline = deadline;
    self->node.index = HEAP_NOT_QUEUED;
    if (handle_setup(&self->base, callback, args, nargs, context) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

void
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
static inline bool
handle_has_inherited(const HandleObject *self)
{
    uintptr_t any = 0;
    for (size_t i = 0; i < HANDLE_INHERITED; i++) {
        any |= (uintptr_t)self->inherited[i];
    }
    return any != 0;
}

static void
handle_clear_inherited(HandleObject *self)
{
    for (size_t i = 0; i < HANDLE_INHERITED; i++) {
        if (&self->inherited[i] != handle_weakrefs(self)) {
            Py_CLEAR(self->inherited[i]);
        }
    }
}

int
handle_clear(PyObject *op)
{
    HandleObject *self = (HandleObject *)op;
    LAST_USE(op, &self->loop->lock);
    handle_drop_call(self);
    Py_CLEAR(self->context);
    Py_CLEAR(self->traceback);
    Py_CLEAR(self->repr);
    if (handle_has_inherited(self)) {
        handle_clear_inherited(self);
    }
    return 0; /* loop stays until dealloc: the spares are its */
}

int
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
    for (size_t i = 0; handle_has_inherited(self) && i < HANDLE_INHERITED; i++) {
        if (&self->inherited[i] != handle_weakrefs(self)) {
            Py_VISIT(self->inherited[i]);
        }
    }
    return 0;
}

void
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
    handle_end(self, tp);
    Py_TRASHCAN_END
}

int
timerhandle_clear(PyObject *op)
{
    LAST_USE(op, &((HandleObject *)op)->loop->lock);
    Py_CLEAR(((TimerHandleObject *)op)->when);
    return handle_clear(op);
}

int
timerhandle_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(((TimerHandleObject *)op)->when);
    return handle_traverse(op, visit, arg);
}

void
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
    handle_end(&self->base, tp);
    Py_TRASHCAN_END
}

static void
handle_free_these(HandleSpares *spares)
{
    while (spares->first != NULL) {
        HandleObject *spare = spares->first;
        spares->first = (HandleObject *)spare->loop;
        PyTypeObject *tp = Py_TYPE((PyObject *)spare);
        PyObject_GC_Del(spare);
        Py_DECREF(tp);
    }
    spares->count = 0;
}

void
handle_free_spares(LoopObject *loop)
{
    handle_free_these(&loop->spare_handles);
    handle_free_these(&loop->spare_timers);
}

/* ---- running ------------------------------------------------------------ */

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

void
handle_cancel(HandleObject *self)
{
    self->cancelled = true;
    if (self->running == 0) {
        handle_drop_call(self);
    }
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
