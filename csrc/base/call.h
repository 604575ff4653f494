/* call.h - calling into Python. */
#ifndef PYLOOP_BASE_CALL_H
#define PYLOOP_BASE_CALL_H

#include "base/compat.h"

#include "base/lock.h"

#include <string.h>

/* call_vector without giving up locks. */
static inline PyObject *
call_vector_locked(PyObject *callable, PyObject *const *args, size_t nargs)
{
    PyTypeObject *tp = Py_TYPE(callable);
    if (PyType_HasFeature(tp, Py_TPFLAGS_HAVE_VECTORCALL)) {
        vectorcallfunc call;
        memcpy(&call, (char *)callable + tp->tp_vectorcall_offset, sizeof(call));
        if (call != NULL) {
            return call(callable, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        }
    }
    else if (nargs == 0 && tp->tp_call != NULL) {
        PyObject *empty = PyTuple_New(0); /* the only one there is */
        PyObject *result = empty != NULL ? tp->tp_call(callable, empty, NULL) : NULL;
        Py_XDECREF(empty);
        return result;
    }
    return PyObject_Vectorcall(callable, args, nargs | PY_VECTORCALL_ARGUMENTS_OFFSET,
                               NULL);
}

/* PyObject_Vectorcall without its looks at the thread's state, also for what has tp_call
 * alone (a task's step). args[-1] must be writable scratch
 * (PY_VECTORCALL_ARGUMENTS_OFFSET). As all functions here, it gives up the locks that
 * the thread holds (base/lock.h) during the call. */
static inline PyObject *
call_vector(PyObject *callable, PyObject *const *args, size_t nargs)
{
    LOCK_KEEP(callable);
    LockHold *held = lock_give_up();
    PyObject *result = call_vector_locked(callable, args, nargs);
    lock_take_back(held);
    LOCK_DROP(callable);
    return result;
}

/* callable() and callable(*args). */
static inline PyObject *
call_no_args(PyObject *callable)
{
    LOCK_KEEP(callable);
    LockHold *held = lock_give_up();
    PyObject *result = PyObject_CallNoArgs(callable);
    lock_take_back(held);
    LOCK_DROP(callable);
    return result;
}

static inline PyObject *
call_tuple(PyObject *callable, PyObject *args)
{
    LOCK_KEEP(callable);
    LockHold *held = lock_give_up();
    PyObject *result = PyObject_Call(callable, args, NULL);
    lock_take_back(held);
    LOCK_DROP(callable);
    return result;
}

/* callable(arg) and callable(arg, arg2). */
static inline PyObject *
call_one_arg(PyObject *callable, PyObject *arg)
{
    PyObject *args[2] = {NULL, arg};
    return call_vector(callable, args + 1, 1);
}

static inline PyObject *
call_two_args(PyObject *callable, PyObject *arg, PyObject *arg2)
{
    PyObject *args[3] = {NULL, arg, arg2};
    return call_vector(callable, args + 1, 2);
}

/* Calls callable(*args) inside context; as Context.run. args[-1] as above. New reference,
 * or NULL with an exception. */
static inline PyObject *
call_in_context(PyObject *context, PyObject *callable, PyObject *const *args,
                size_t nargs)
{
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    PyObject *result = call_vector(callable, args, nargs);
    if (PyContext_Exit(context) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

/* Enters context; a copy of it where it is entered already, in a run nested in one of its
 * callbacks. New reference to what was entered, for context_exit, or NULL. */
static inline PyObject *
context_enter(PyObject *context)
{
    Py_INCREF(context);
    if (PyContext_Enter(context) == 0) {
        return context;
    }
    PyErr_Clear(); /* entered already */
    Py_SETREF(context, PyContext_Copy(context));
    if (context != NULL && PyContext_Enter(context) < 0) {
        Py_CLEAR(context);
    }
    return context;
}

/* Steals what context_enter returned; an exception that is raised stays raised. */
static inline void
context_exit(PyObject *context)
{
    PyObject *raised = PyErr_GetRaisedException();
    int rc = PyContext_Exit(context);
    assert(rc == 0); /* they are left in the order in which they were entered */
    (void)rc;
    Py_DECREF(context);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* With keywords, whose values are args[nargs...], unless kwnames is NULL. */
static inline PyObject *
call_method_named(PyObject *name, PyObject *const *args, size_t nargs,
                  PyObject *kwnames)
{
    LOCK_KEEP(args[0]);
    LockHold *held = lock_give_up();
    PyObject *result = PyObject_VectorcallMethod(name, args, nargs, kwnames);
    lock_take_back(held);
    LOCK_DROP(args[0]);
    return result;
}

static inline PyObject *
call_method(PyObject *name, PyObject *const *args, size_t nargs)
{
    return call_method_named(name, args, nargs, NULL);
}

/* object.name(), object.name(arg), object.name(arg, arg2). */
static inline PyObject *
call_method0(PyObject *object, PyObject *name)
{
    PyObject *args[1] = {object};
    return call_method(name, args, 1);
}

static inline PyObject *
call_method1(PyObject *object, PyObject *name, PyObject *arg)
{
    PyObject *args[2] = {object, arg};
    return call_method(name, args, 2);
}

static inline PyObject *
call_method2(PyObject *object, PyObject *name, PyObject *arg, PyObject *arg2)
{
    PyObject *args[3] = {object, arg, arg2};
    return call_method(name, args, 3);
}

/* args[0].name(...) as in an except clause of exc: that is in sys.exc_info() meanwhile,
 * and the context of what the method raises. */
static inline PyObject *
call_method_handling(PyObject *exc, PyObject *name, PyObject *const *args, size_t nargs)
{
    PyObject *outer = PyErr_GetHandledException();
    PyErr_SetHandledException(exc);
    PyObject *result = call_method(name, args, nargs);
    PyErr_SetHandledException(outer);
    Py_XDECREF(outer);
    return result;
}

#endif
