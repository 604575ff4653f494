/* coro.c - the protocol of coroutines; see coro.h.
 *
 * The types are coroutines to asyncio.iscoroutine() without being registered:
 * collections.abc.Coroutine takes every type with __await__, send, throw and close.
 * There is no cr_await: code that walks it (asyncio's call graph of 3.14) goes on to read
 * frames, which C code has not. pyloop.tasks reads _awaits.
 */
#include "loop/coro.h"

#include "base/call.h"

#include <string.h>

/* ---- running --------------------------------------------------------------- */

/* For who runs it: all that it did comes before another thread can take it. */
static void
coro_set_phase(CoroObject *self, CoroPhase phase)
{
    LockHold hold;
    lock_enter(&self->loop->lock, &hold);
    RACY_STORE(self->phase, phase);
    lock_exit(&hold);
}

static void
coro_finish(CoroObject *self)
{
    /* What release() drops may run Python, which must not find our exception set. */
    PyObject *exc = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    coro_set_phase(self, CORO_DONE);
    Py_CLEAR(self->delegate);
    LockHold hold; /* the collector's thread may be another */
    lock_enter(&self->loop->lock, &hold);
    self->kind->release(self);
    lock_exit(&hold);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

/* As in `async def`: a StopIteration that a body lets out would look like a return. */
static void
coro_hide_stop_iteration(void)
{
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return;
    }
    PyObject *stop = PyErr_GetRaisedException();
    PyErr_SetString(PyExc_RuntimeError, "coroutine raised StopIteration");
    PyObject *exc = PyErr_GetRaisedException();
    PyException_SetContext(exc, Py_NewRef(stop));
    PyException_SetCause(exc, stop);
    PyErr_SetRaisedException(exc);
}

/* The raised exception ends the coroutine, which may not have begun. */
static PySendResult
coro_fail(CoroObject *self)
{
    if (self->kind->failed != NULL) {
        LockHold hold;
        lock_enter(&self->loop->lock, &hold);
        self->kind->failed(self);
        lock_exit(&hold);
    }
    coro_hide_stop_iteration();
    coro_finish(self);
    return PYGEN_ERROR;
}

/* Steals value (may be NULL). The body's next step, or without a value and with an
 * exception set what it does with that. */
static CoroStatus
coro_step(CoroObject *self, PyObject *value, bool raised, PyObject **result)
{
    LockHold hold;
    lock_enter(&self->loop->lock, &hold);
    CoroStatus status = CORO_ERROR;
    if (!raised) {
        status = self->kind->resume(self, value, result);
    }
    else if (self->kind->caught != NULL) {
        status = self->kind->caught(self, result);
    }
    lock_exit(&hold);
    Py_XDECREF(value);
    return status;
}

/* Sends `sent` to the delegate, or without one gives value, or if `raised` the exception
 * that is set, to the body, until it or its delegate yields or it ends. Steals value (may
 * be NULL); the phase is CORO_RUNNING. */
static PySendResult
coro_run(CoroObject *self, PyObject *sent, PyObject *value, bool raised,
         PyObject **result)
{
    for (;;) {
        if (self->delegate != NULL) {
            PySendResult outcome = PyIter_Send(self->delegate, sent, &value);
            if (outcome == PYGEN_NEXT) {
                coro_set_phase(self, CORO_SUSPENDED);
                *result = value;
                return PYGEN_NEXT;
            }
            Py_CLEAR(self->delegate);
            raised = outcome == PYGEN_ERROR;
        }
        CoroStatus status = coro_step(self, value, raised, result);
        if (status == CORO_ERROR) {
            return coro_fail(self);
        }
        if (status == CORO_RETURN) {
            coro_finish(self);
            return PYGEN_RETURN;
        }
        if (status == CORO_YIELD) {
            coro_set_phase(self, CORO_SUSPENDED);
            return PYGEN_NEXT;
        }
        assert(self->delegate != NULL);
        sent = Py_None;
        value = NULL;
        raised = false;
    }
}

/* CORO_RUNNING from now on if it was new or suspended; else raises what a coroutine does.
 * What it was. One thread at a time gets it. */
static CoroPhase
coro_take(CoroObject *self)
{
    LockHold hold;
    lock_enter(&self->loop->lock, &hold);
    CoroPhase was = self->phase;
    if (was == CORO_NEW || was == CORO_SUSPENDED) {
        RACY_STORE(self->phase, CORO_RUNNING);
    }
    lock_exit(&hold);
    if (was == CORO_RUNNING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    }
    else if (was == CORO_DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    }
    return was;
}

static PySendResult
coro_am_send(PyObject *op, PyObject *sent, PyObject **result)
{
    CoroObject *self = (CoroObject *)op;
    *result = NULL;
    CoroPhase was = coro_take(self);
    if (was != CORO_NEW && was != CORO_SUSPENDED) {
        return PYGEN_ERROR;
    }
    if (was == CORO_NEW && sent != Py_None) {
        coro_set_phase(self, CORO_NEW);
        PyErr_SetString(PyExc_TypeError,
                        "can't send non-None value to a just-started coroutine");
        return PYGEN_ERROR;
    }
    return coro_run(self, sent, NULL, false, result);
}

/* The awaited object's own iterator; coroutines are sent to directly. */
static PyObject *
coro_iterator_of(PyObject *awaitable)
{
    if (PyCoro_CheckExact(awaitable)) {
        return Py_NewRef(awaitable);
    }
    PyAsyncMethods *methods = Py_TYPE(awaitable)->tp_as_async;
    if (methods == NULL || methods->am_await == NULL) {
        PyErr_Format(PyExc_TypeError,
                     "object %.100s can't be used in 'await' expression",
                     Py_TYPE(awaitable)->tp_name);
        return NULL;
    }
    PyObject *iterator = methods->am_await(awaitable);
    if (iterator != NULL && !PyIter_Check(iterator)) {
        PyErr_Format(PyExc_TypeError,
                     "__await__() returned non-iterator of type '%.100s'",
                     Py_TYPE(iterator)->tp_name);
        Py_CLEAR(iterator);
    }
    return iterator;
}

CoroStatus
coro_await(CoroObject *self, PyObject *awaitable)
{
    assert(self->phase == CORO_RUNNING && self->delegate == NULL);
    self->delegate = coro_iterator_of(awaitable);
    return self->delegate != NULL ? CORO_WAIT : CORO_ERROR;
}

/* ---- methods --------------------------------------------------------------- */

/* Raises StopIteration(value), by the parts that calling the class comes to: this is done
 * for every await that has a result. */
static void
coro_set_stop_iteration(PyObject *value)
{
    PyTypeObject *type = (PyTypeObject *)PyExc_StopIteration;
    PyObject *args = PyTuple_Pack(1, value);
    PyObject *stop = args != NULL ? type->tp_new(type, args, NULL) : NULL;
    Py_XDECREF(args);
    if (stop != NULL) {
        Py_XSETREF(((PyStopIterationObject *)stop)->value, Py_NewRef(value));
        PyErr_SetRaisedException(stop);
    }
}

/* Steals result, which is what a run came to; what a method returns for it. */
static PyObject *
coro_answer(PySendResult outcome, PyObject *result)
{
    if (outcome == PYGEN_RETURN) {
        coro_set_stop_iteration(result);
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
coro_send(PyObject *op, PyObject *value)
{
    PyObject *result;
    PySendResult outcome = coro_am_send(op, value, &result);
    return coro_answer(outcome, result);
}

/* What `await` calls from 3.12 on. */
static PyObject *
coro_iternext(PyObject *op)
{
    PyObject *result;
    PySendResult outcome = coro_am_send(op, Py_None, &result);
    if (outcome == PYGEN_RETURN && result == Py_None) {
        Py_DECREF(result);
        return NULL; /* for tp_iternext, no exception is StopIteration(None) */
    }
    return coro_answer(outcome, result);
}

/* throw()'s arguments as one exception object; NULL with TypeError. */
static PyObject *
coro_exception_of(PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError, "throw expected 1 to 3 arguments, got %zd",
                     nargs);
        return NULL;
    }
    PyObject *type = args[0];
    PyObject *value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
    PyObject *traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
    if (traceback != NULL && !PyTraceBack_Check(traceback)) {
        PyErr_SetString(PyExc_TypeError,
                        "throw() third argument must be a traceback object");
        return NULL;
    }
    if (PyExceptionInstance_Check(type)) {
        if (value != NULL) {
            PyErr_SetString(PyExc_TypeError,
                            "instance exception may not have a separate value");
            return NULL;
        }
        value = type;
        type = PyExceptionInstance_Class(value);
        if (traceback == NULL) {
            return Py_NewRef(value);
        }
    }
    else if (!PyExceptionClass_Check(type)) {
        PyErr_Format(PyExc_TypeError,
                     "exceptions must be classes or instances deriving from "
                     "BaseException, not %s",
                     Py_TYPE(type)->tp_name);
        return NULL;
    }
    PyErr_Restore(Py_NewRef(type), Py_XNewRef(value), Py_XNewRef(traceback));
    return PyErr_GetRaisedException(); /* made from the class, if it is one */
}

/* delegate.close(), without which it has nothing to close. 0, or -1. */
static int
coro_close_delegate(CoroObject *self)
{
    PyObject *close;
    int found =
        PyObject_GetOptionalAttr(self->delegate, self->loop->state->str_close, &close);
    if (found <= 0) {
        return found;
    }
    PyObject *closed = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    Py_XDECREF(closed);
    return closed != NULL ? 0 : -1;
}

/* The value of the StopIteration that is set; NULL when it is another exception. */
static PyObject *
coro_take_returned(void)
{
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return NULL;
    }
    PyObject *stop = PyErr_GetRaisedException();
    if (!PyErr_GivenExceptionMatches(stop, PyExc_StopIteration)) {
        PyErr_SetRaisedException(stop); /* before 3.12 it is made only now: no memory */
        return NULL;
    }
    PyObject *value = ((PyStopIterationObject *)stop)->value;
    value = Py_NewRef(value != NULL ? value : Py_None);
    Py_DECREF(stop);
    return value;
}

/* Throws exc (borrowed) into the delegate; the result of the run that follows. */
static PyObject *
coro_throw_to_delegate(CoroObject *self, PyObject *exc)
{
    PyObject *throw;
    int found =
        PyObject_GetOptionalAttr(self->delegate, self->loop->state->str_throw, &throw);
    if (found == 0) {
        PyErr_SetRaisedException(Py_NewRef(exc)); /* it is raised where it waits */
    }
    PyObject *result = found > 0 ? PyObject_CallOneArg(throw, exc) : NULL;
    if (found > 0) {
        Py_DECREF(throw);
    }
    if (result != NULL) {
        coro_set_phase(self, CORO_SUSPENDED);
        return result;
    }
    Py_CLEAR(self->delegate);
    PyObject *value = found > 0 ? coro_take_returned() : NULL;
    PySendResult outcome = coro_run(self, Py_None, value, value == NULL, &result);
    return outcome != PYGEN_ERROR ? coro_answer(outcome, result) : NULL;
}

/* Raises exc (borrowed) where the body waits, after an end of what it waits for. */
static PySendResult
coro_raise(CoroObject *self, PyObject *exc, PyObject **result)
{
    bool closed = self->delegate == NULL || coro_close_delegate(self) == 0;
    Py_CLEAR(self->delegate);
    if (closed) {
        PyErr_SetRaisedException(Py_NewRef(exc));
    }
    return coro_run(self, Py_None, NULL, true, result);
}

static PyObject *
coro_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    CoroObject *self = (CoroObject *)op;
    PyObject *exc = coro_exception_of(args, nargs);
    if (exc == NULL) {
        return NULL;
    }
    PyObject *result = NULL;
    CoroPhase was = coro_take(self);
    if (was == CORO_NEW) {
        PyErr_SetRaisedException(Py_NewRef(exc));
        (void)coro_fail(self); /* for its effect: it is an error anyway */
    }
    else if (was != CORO_SUSPENDED) {
        /* coro_take() has said why not. */
    }
    else if (self->delegate != NULL &&
             !PyErr_GivenExceptionMatches(exc, PyExc_GeneratorExit)) {
        result = coro_throw_to_delegate(self, exc);
    }
    else {
        PySendResult outcome = coro_raise(self, exc, &result);
        result = outcome != PYGEN_ERROR ? coro_answer(outcome, result) : NULL;
    }
    Py_DECREF(exc);
    return result;
}

/* close() of a coroutine that waits. 0, or -1. */
static int
coro_close_suspended(CoroObject *self)
{
    if (self->kind->caught == NULL) {
        int rc = self->delegate != NULL ? coro_close_delegate(self) : 0;
        coro_finish(self);
        return rc;
    }
    PyObject *result = NULL;
    PyObject *exc = PyObject_CallNoArgs(PyExc_GeneratorExit);
    if (exc == NULL) {
        (void)coro_fail(self); /* as above */
        return -1;
    }
    PySendResult outcome = coro_raise(self, exc, &result);
    Py_DECREF(exc);
    if (outcome == PYGEN_NEXT) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_RuntimeError, "coroutine ignored GeneratorExit");
        return -1;
    }
    if (outcome == PYGEN_RETURN) {
        Py_DECREF(result);
        return 0;
    }
    if (PyErr_ExceptionMatches(PyExc_GeneratorExit)) {
        PyErr_Clear(); /* it ended as it was asked to */
        return 0;
    }
    return -1;
}

static PyObject *
coro_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    CoroObject *self = (CoroObject *)op;
    if (RACY_LOAD(self->phase) == CORO_DONE) {
        Py_RETURN_NONE;
    }
    CoroPhase was = coro_take(self);
    if (was == CORO_SUSPENDED) {
        if (coro_close_suspended(self) < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    if (was != CORO_NEW) {
        return NULL;
    }
    coro_finish(self);
    Py_RETURN_NONE;
}

/* Its own iterator, which spares an object for each await; so it can also be iterated. */
static PyObject *
coro_am_await(PyObject *op)
{
    CoroPhase phase = RACY_LOAD(((CoroObject *)op)->phase);
    if (phase == CORO_RUNNING || phase == CORO_SUSPENDED) {
        PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
        return NULL;
    }
    return Py_NewRef(op);
}

static PyObject *
coro_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<coroutine object %s at %p>",
                                ((CoroObject *)op)->kind->qualname, (void *)op);
}

/* ---- attributes ------------------------------------------------------------ */

static PyObject *
coro_get_qualname(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(((CoroObject *)op)->kind->qualname);
}

static PyObject *
coro_get_name(PyObject *op, void *Py_UNUSED(closure))
{
    const char *qualname = ((CoroObject *)op)->kind->qualname;
    const char *dot = strrchr(qualname, '.');
    return PyUnicode_FromString(dot != NULL ? dot + 1 : qualname);
}

static PyObject *
coro_get_running(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(RACY_LOAD(((CoroObject *)op)->phase) == CORO_RUNNING);
}

static PyObject *
coro_get_suspended(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(RACY_LOAD(((CoroObject *)op)->phase) == CORO_SUSPENDED);
}

static PyObject *
coro_get_none(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
    Py_RETURN_NONE;
}

/* For who looks at a task that is suspended. Another thread than the loop's could drop it
 * meanwhile where there is no GIL. */
static PyObject *
coro_get_awaits(PyObject *op, void *Py_UNUSED(closure))
{
    CoroObject *self = (CoroObject *)op;
    PyObject *delegate = self->delegate;
#ifdef Py_GIL_DISABLED
    unsigned long runs = RACY_LOAD(self->loop->thread_ident);
    if (RACY_LOAD(self->phase) != CORO_SUSPENDED ||
        (runs != 0 && runs != PyThread_get_thread_ident())) {
        delegate = NULL;
    }
#endif
    return Py_NewRef(delegate != NULL ? delegate : Py_None);
}

/* ---- lifetime -------------------------------------------------------------- */

/* Spares of the type that is made most: they save a third of a short one's cost. Where
 * there is no GIL, memory that another thread could still look at is not used again. */
#ifdef Py_GIL_DISABLED
enum { FREE_COROS_MAX = 0 };
#else
enum { FREE_COROS_MAX = 256 };
#endif

static CoroObject *
coro_take_spare(PyTypeObject *type, LoopObject *loop)
{
    CoroObject *self = loop->free_coros;
    if (self == NULL || type != loop->state->AccelCoroType) {
        return NULL;
    }
    loop->free_coros = (CoroObject *)self->loop;
    loop->free_coro_count--;
    memset((char *)self + sizeof(PyObject), 0,
           (size_t)type->tp_basicsize - sizeof(PyObject));
    Py_SET_REFCNT((PyObject *)self, 1); /* a spare keeps its type */
    return self;
}

/* Whether an object that ends has become a spare. */
static bool
coro_keep_spare(CoroObject *self)
{
    LoopObject *loop = self->loop;
    if ((int)loop->free_coro_count >= FREE_COROS_MAX || loop->phase != LOOP_OPEN ||
        !Py_IS_TYPE((PyObject *)self, loop->state->AccelCoroType) ||
        PyObject_GC_IsFinalized((PyObject *)self)) {
        return false;
    }
    self->loop = (LoopObject *)loop->free_coros;
    loop->free_coros = self;
    loop->free_coro_count++;
    return true;
}

void
coro_free_spares(LoopObject *loop)
{
    while (loop->free_coros != NULL) {
        CoroObject *spare = loop->free_coros;
        loop->free_coros = (CoroObject *)spare->loop;
        PyTypeObject *tp = Py_TYPE((PyObject *)spare);
        tp->tp_free(spare);
        Py_DECREF(tp);
    }
    loop->free_coro_count = 0;
}

CoroObject *
coro_new(PyTypeObject *type, const CoroKind *kind, LoopObject *loop)
{
    CoroObject *self = coro_take_spare(type, loop);
    bool used = self != NULL;
    if (!used) {
        self = (CoroObject *)type->tp_alloc(type, 0);
        if (self == NULL) {
            return NULL;
        }
    }
    MEMORY_BEGINS(self);
    self->kind = kind;
    self->loop = (LoopObject *)Py_NewRef(loop);
    self->phase = CORO_NEW;
    RACY_ADD(loop->state->live_sock_ops, 1);
    MADE(self);
    if (used) {
        PyObject_GC_Track((PyObject *)self);
    }
    return self;
}

static int
coro_traverse(PyObject *op, visitproc visit, void *arg)
{
    CoroObject *self = (CoroObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->delegate);
    /* NULL while tp_alloc's own collection looks at it. */
    return self->kind != NULL ? self->kind->traverse(self, visit, arg) : 0;
}

static int
coro_clear(PyObject *op)
{
    CoroObject *self = (CoroObject *)op;
    LAST_USE(op, &self->loop->lock);
    if (self->phase != CORO_DONE) {
        coro_finish(self);
    }
    return 0; /* loop stays until dealloc, which counts in its state */
}

/* Whether it is not over and its end does something that others see. */
static inline bool
coro_has_an_end(const CoroObject *self)
{
    return self->phase == CORO_NEW ||
           (self->phase == CORO_SUSPENDED && self->kind->caught != NULL);
}

static void
coro_finalize(PyObject *op)
{
    CoroObject *self = (CoroObject *)op;
    LAST_USE(op, &self->loop->lock);
    if (!coro_has_an_end(self)) {
        return;
    }
    PyObject *exc = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    if (self->phase == CORO_SUSPENDED) {
        PyObject *closed = coro_close(op, NULL);
        Py_XDECREF(closed);
        if (closed == NULL) {
            PyErr_WriteUnraisable(op);
        }
    }
    else if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                              "coroutine '%s' was never awaited",
                              self->kind->qualname) < 0) {
        PyErr_WriteUnraisable(op);
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

static void
coro_dealloc(PyObject *op)
{
    CoroObject *self = (CoroObject *)op;
    PyTypeObject *tp = Py_TYPE(op);
    LAST_USE(op, &self->loop->lock);
    if (coro_has_an_end(self) && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* the warning's handler keeps it, or the body's last words do */
    }
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)coro_clear(op);
    LoopObject *loop = self->loop;
    RACY_ADD(loop->state->live_sock_ops, -1);
    if (!coro_keep_spare(self)) {
        MEMORY_ENDS(op);
        tp->tp_free(op);
        Py_DECREF(tp);
    }
    Py_DECREF(loop); /* last: it may free the spares, this one included */
}

static PyMethodDef coro_methods[] = {
    {"send", coro_send, METH_O,
     "send($self, value, /)\n--\n\n"
     "Run until the coroutine waits, and return what it yields; PEP 492."},
    {"throw", (PyCFunction)(void (*)(void))coro_throw, METH_FASTCALL,
     "throw($self, type, value=None, traceback=None, /)\n--\n\n"
     "Raise an exception where the coroutine waits, and go on as send(); PEP 492."},
    {"close", coro_close, METH_NOARGS,
     "close($self, /)\n--\n\nEnd the coroutine where it waits; PEP 492."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef coro_getsets[] = {
    {"__name__", coro_get_name, NULL, "The method's name.", NULL},
    {"__qualname__", coro_get_qualname, NULL, "The method's qualified name.", NULL},
    {"cr_running", coro_get_running, NULL, "Whether it is being run.", NULL},
    {"cr_suspended", coro_get_suspended, NULL, "Whether it waits.", NULL},
    {"cr_frame", coro_get_none, NULL, "None: it is C code.", NULL},
    {"cr_code", coro_get_none, NULL, "None: it is C code.", NULL},
    {"_awaits", coro_get_awaits, NULL, "What it awaits, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef coro_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(CoroObject, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject *
coro_type_create(PyObject *module, const char *name, size_t size, const char *doc)
{
    PyType_Slot slots[] = {
        {Py_tp_doc, (void *)(uintptr_t)doc},
        {Py_tp_methods, coro_methods},
        {Py_tp_getset, coro_getsets},
        {Py_tp_members, coro_members},
        {Py_tp_iter, (void *)PyObject_SelfIter},
        {Py_tp_iternext, (void *)coro_iternext},
        {Py_am_await, (void *)coro_am_await},
        {Py_am_send, (void *)coro_am_send},
        {Py_tp_repr, (void *)coro_repr},
        {Py_tp_traverse, (void *)coro_traverse},
        {Py_tp_clear, (void *)coro_clear},
        {Py_tp_finalize, (void *)coro_finalize},
        {Py_tp_dealloc, (void *)coro_dealloc},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = name,
        .basicsize = (int)size,
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
                 Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
