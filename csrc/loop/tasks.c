/* tasks.c - create_future and create_task without a Python frame. */
#include "loop/loop.h"

#include "base/call.h"
#include "loop/methods.h"

#include <string.h>

/* {"loop": self}, the keywords of every Future and Task: made once, because a vectorcall
 * would make a dict of them each time (the types take a dict). New reference, or NULL.
 * Whoever gets it only reads it: a Python subclass's **kwargs is a copy. */
static PyObject *
tasks_keywords(LoopObject *self)
{
    LockHold hold;
    lock_enter(&self->lock, &hold);
    if (self->task_keywords == NULL) {
        self->task_keywords = Py_BuildValue("{OO}", self->state->str_loop, self);
    }
    PyObject *keywords = Py_XNewRef(self->task_keywords);
    lock_exit(&hold);
    return keywords;
}

/* asyncio.futures.Future or asyncio.tasks.Task as it is now: as asyncio's methods do, for
 * some replace it (nest_asyncio, with the class in Python). New reference, or NULL. */
static PyObject *
tasks_class(PyObject *module, PyObject *name)
{
    PyObject *found;
    if (PyDict_GetItemRef(PyModule_GetDict(module), name, &found) == 0) {
        PyErr_Format(PyExc_NameError, "name '%U' is not defined", name);
    }
    return found;
}

/* class(*args, loop=self); steals args, which may be NULL with an exception. */
static PyObject *
tasks_make_steal(LoopObject *self, PyObject *module, PyObject *name, PyObject *args)
{
    PyObject *keywords = args != NULL ? tasks_keywords(self) : NULL;
    PyObject *found = keywords != NULL ? tasks_class(module, name) : NULL;
    PyObject *made = NULL;
    if (found != NULL) {
        ternaryfunc call = Py_TYPE(found)->tp_call; /* what PyObject_Call comes to */
        made = call != NULL ? call(found, args, keywords)
                            : PyObject_Call(found, args, keywords);
        Py_DECREF(found);
    }
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return made;
}

static PyObject *
tasks_new_future(LoopObject *self)
{
    PyloopState *state = self->state;
    return tasks_make_steal(self, state->futures_module, state->str_Future,
                            Py_NewRef(state->empty_tuple));
}

static PyObject *
tasks_new_plain_task(LoopObject *self, PyObject *coro)
{
    PyloopState *state = self->state;
    PyObject *args = PyTuple_New(1);
    if (args != NULL) {
        PyTuple_SET_ITEM(args, 0, Py_NewRef(coro));
    }
    return tasks_make_steal(self, state->tasks_module, state->str_Task, args);
}

/* For C code: through the overridden method where there is one. */
PyObject *
loop_create_future(LoopObject *self)
{
    if (loop_overrides(self) & OVERRIDE_CREATE_FUTURE) {
        return call_method0((PyObject *)self, self->state->str_create_future);
    }
    return tasks_new_future(self);
}

/* ---- futures that are used again ------------------------------------------------ */

/* Not on free-threaded builds: what one thread has no more may be another's. */
#ifdef Py_GIL_DISABLED
enum { FUTURES_ARE_KEPT = 0 };
#else
enum { FUTURES_ARE_KEPT = 1 };
#endif

/* A future that somebody has a weak reference to has to go when it would. */
static bool
tasks_is_referred_to(PyObject *future)
{
    Py_ssize_t offset = Py_TYPE(future)->tp_weaklistoffset;
    return offset != 0 && *(PyObject **)((char *)future + offset) != NULL;
}

void
loop_spend_future(LoopObject *self, PyObject *future)
{
    /* Its last step still has it: the one before it is free by now. */
    if (FUTURES_ARE_KEPT && self->phase == LOOP_OPEN &&
        !RACY_LOAD(self->state->future_inits_once) &&
        Py_IS_TYPE(future, (PyTypeObject *)self->state->FutureClass) &&
        !tasks_is_referred_to(future)) {
        PyObject **place = &self->spent_futures[self->spent_turn];
        PyObject *old = *place;
        *place = future;
        self->spent_turn ^= 1;
        future = old;
    }
    Py_XDECREF(future);
}

void
loop_drop_futures(LoopObject *self)
{
    Py_CLEAR(self->spent_futures[0]);
    Py_CLEAR(self->spent_futures[1]);
}

/* A new reference to a spent future that nobody else has, or NULL: there is none. */
static PyObject *
tasks_take_spent(LoopObject *self)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(self->spent_futures); i++) {
        PyObject *future = self->spent_futures[i];
        if (future != NULL && Py_REFCNT(future) == 1 && !tasks_is_referred_to(future)) {
            self->spent_futures[i] = NULL;
            return future;
        }
    }
    return NULL;
}

/* Future() or, for one that was used, future.__init__(): without arguments, the class in
 * C takes the running loop. */
static PyObject *
tasks_future_of_class(LoopObject *self, PyObject *class)
{
    PyObject *empty = self->state->empty_tuple;
    PyObject *future = tasks_take_spent(self);
    if (future != NULL) {
        if (Py_TYPE(future)->tp_init(future, empty, NULL) == 0) {
            return future;
        }
        Py_DECREF(future);
        if (!PyErr_ExceptionMatches(PyExc_RuntimeError)) {
            return NULL;
        }
        PyErr_Clear(); /* "is already initialized", and will always be */
        RACY_STORE(self->state->future_inits_once, true);
    }
    return Py_TYPE(class)->tp_call(class, empty, NULL);
}

PyObject *
loop_create_future_running(LoopObject *self)
{
    PyloopState *state = self->state;
    PyObject *class = NULL;
    if (!(loop_overrides(self) & OVERRIDE_CREATE_FUTURE) &&
        Py_IS_TYPE(state->future_blocking, &PyGetSetDescr_Type) &&
        (PyObject *)PyDescr_TYPE(state->future_blocking) == state->FutureClass) {
        class = tasks_class(state->futures_module, state->str_Future);
        if (class == NULL) {
            return NULL;
        }
    }
    PyObject *future = class == state->FutureClass ? tasks_future_of_class(self, class)
                                                   : loop_create_future(self);
    Py_XDECREF(class);
    return future;
}

PyObject *
tasks_create_future(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return tasks_new_future((LoopObject *)op);
}

enum { CREATE_TASK_KEYWORDS = 8 };

static PyObject *
tasks_create(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    LoopObject *self = (LoopObject *)op;
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (self->task_factory != NULL || self->debug || nargs != 1 ||
        nkw >= CREATE_TASK_KEYWORDS) {
        /* This Python version's own. */
        return methods_call_asyncios(op, self->state, self->state->str_create_task,
                                     args, nargs, kwnames);
    }
    if (loop_check_closed(self) < 0) {
        return NULL;
    }
    if (nkw == 0) {
        return tasks_new_plain_task(self, args[0]);
    }
    /* Task(coro, loop=self, **kwargs) */
    PyObject *values[2 + CREATE_TASK_KEYWORDS];
    values[0] = args[0];
    values[1] = (PyObject *)self;
    PyObject *class = tasks_class(self->state->tasks_module, self->state->str_Task);
    PyObject *names = class != NULL ? PyTuple_New(nkw + 1) : NULL;
    if (names == NULL) {
        Py_XDECREF(class);
        return NULL;
    }
    PyTuple_SET_ITEM(names, 0, Py_NewRef(self->state->str_loop));
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyTuple_SET_ITEM(names, i + 1, Py_NewRef(PyTuple_GET_ITEM(kwnames, i)));
        values[2 + i] = args[1 + i];
    }
    PyObject *task = PyObject_Vectorcall(class, values, 1, names);
    Py_DECREF(class);
    Py_DECREF(names);
    return task;
}

PyObject *
tasks_create_task(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    PyloopState *state = ((LoopObject *)op)->state;
    PyObject *task = tasks_create(op, args, nargs, kwnames);
    if (task != NULL && RACY_LOAD(state->trace_creation)) {
        PyObject *noted = call_method1(op, state->str__task_created, task);
        if (noted == NULL) {
            Py_CLEAR(task);
        }
        Py_XDECREF(noted);
    }
    return task;
}

PyObject *
tasks_trace(PyObject *module, PyObject *args)
{
    PyloopState *state = state_of_module(module);
    int waits, creation;
    if (!PyArg_ParseTuple(args, "pp:trace", &waits, &creation)) {
        return NULL;
    }
    RACY_STORE(state->trace_waits, waits != 0);
    RACY_STORE(state->trace_creation, creation != 0);
    Py_RETURN_NONE;
}
