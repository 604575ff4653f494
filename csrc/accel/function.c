/* function.c - what is put in the place of a function of asyncio's.
 *
 * To whoever looks at it, it is that function: every attribute but the ones of calling is
 * the original's, so inspect.signature(), inspect.iscoroutinefunction(), help() and pickle
 * say what they said. As a function, it is a method of the class that it is put into.
 */
#include "accel/accel.h"

#include "base/call.h"

#include <string.h>

static const struct {
    const AccelKind *kind;
    int (*takes)(PyObject *helper); /* 0, or -1; NULL: it takes any */
} kinds[] = {
    {&accel_sleep, NULL},
    {&accel_gather, NULL},
    {&accel_wait_for, NULL},
    {&accel_timeout, accel_timeout_takes},
    {&accel_timeout_at, accel_timeout_takes},
    {&accel_timeout_enter, accel_timeout_takes},
    {&accel_timeout_exit, accel_timeout_takes},
    {&accel_queue_get, NULL},
    {&accel_queue_put, NULL},
    {&accel_lock_acquire, NULL},
    {&accel_event_wait, NULL},
    {&accel_semaphore_acquire, NULL},
    {&accel_locks_enter, NULL},
    {&accel_locks_exit, NULL},
};

static PyObject *
function_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf,
                    PyObject *kwnames)
{
    AccelFunction *self = (AccelFunction *)op;
    PyObject *result =
        self->kind->call(self, args, PyVectorcall_NARGS(nargsf), kwnames);
    if (result != NULL || PyErr_Occurred()) {
        return result;
    }
    return PyObject_Vectorcall(self->original, args, nargsf, kwnames);
}

PyObject *
accel_function(PyObject *module, PyObject *args)
{
    PyloopState *state = state_of_module(module);
    const char *name;
    PyObject *original, *helper;
    if (!PyArg_ParseTuple(args, "sOO:accelerated", &name, &original, &helper)) {
        return NULL;
    }
    size_t index = 0;
    while (index < Py_ARRAY_LENGTH(kinds) &&
           strcmp(kinds[index].kind->name, name) != 0) {
        index++;
    }
    if (index == Py_ARRAY_LENGTH(kinds)) {
        PyErr_Format(PyExc_ValueError, "name: there is no '%s' in C", name);
        return NULL;
    }
    const AccelKind *kind = kinds[index].kind;
    if (!PyFunction_Check(original)) {
        PyErr_Format(PyExc_TypeError, "original: a function is needed, not %s",
                     Py_TYPE(original)->tp_name);
        return NULL;
    }
    if (kinds[index].takes != NULL && kinds[index].takes(helper) < 0) {
        return NULL;
    }
    PyObject *callback = NULL;
    if (kind->callback != NULL) {
        callback = PyCFunction_New(kind->callback, module);
        if (callback == NULL) {
            return NULL;
        }
    }
    AccelFunction *self = PyObject_GC_New(AccelFunction, state->AccelFunctionType);
    if (self == NULL) {
        Py_XDECREF(callback);
        return NULL;
    }
    self->vectorcall = function_vectorcall;
    self->module = Py_NewRef(module);
    self->state = state;
    self->weakrefs = NULL;
    self->kind = kind;
    self->original = Py_NewRef(original);
    self->helper = Py_NewRef(helper);
    self->callback = callback;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* Whether an attribute is looked up in this type: what calls, binds and names it. */
static bool
function_owns(PyObject *name)
{
    static const char *const own[] = {"__class__",  "__call__",      "__get__",
                                      "__reduce__", "__reduce_ex__", "__repr__",
                                      "__wrapped__"};
    for (size_t i = 0; PyUnicode_Check(name) && i < Py_ARRAY_LENGTH(own); i++) {
        if (PyUnicode_CompareWithASCIIString(name, own[i]) == 0) {
            return true;
        }
    }
    return false;
}

static PyObject *
function_getattro(PyObject *op, PyObject *name)
{
    AccelFunction *self = (AccelFunction *)op;
    return function_owns(name) ? PyObject_GenericGetAttr(op, name)
                               : PyObject_GetAttr(self->original, name);
}

static int
function_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    AccelFunction *self = (AccelFunction *)op;
    return function_owns(name) ? PyObject_GenericSetAttr(op, name, value)
                               : PyObject_SetAttr(self->original, name, value);
}

static PyObject *
function_descr_get(PyObject *op, PyObject *object, PyObject *Py_UNUSED(type))
{
    return object == NULL || object == Py_None ? Py_NewRef(op)
                                               : PyMethod_New(op, object);
}

static PyObject *
function_repr(PyObject *op)
{
    AccelFunction *self = (AccelFunction *)op;
    return PyUnicode_FromFormat("<pyloop's %s at %p>", self->kind->name, (void *)op);
}

/* By name, as functions are pickled and copied. */
static PyObject *
function_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyObject_GetAttrString(op, "__qualname__");
}

static int
function_traverse(PyObject *op, visitproc visit, void *arg)
{
    AccelFunction *self = (AccelFunction *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->module);
    Py_VISIT(self->original);
    Py_VISIT(self->helper);
    Py_VISIT(self->callback);
    return 0;
}

static int
function_clear(PyObject *Py_UNUSED(op))
{
    return 0; /* asyncio's namespaces break the cycles that it is in */
}

static void
function_dealloc(PyObject *op)
{
    AccelFunction *self = (AccelFunction *)op;
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    Py_DECREF(self->original);
    Py_DECREF(self->helper);
    Py_XDECREF(self->callback);
    Py_DECREF(self->module);
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyMethodDef function_methods[] = {
    {"__reduce__", function_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef function_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(AccelFunction, vectorcall),
     Py_READONLY, NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(AccelFunction, weakrefs),
     Py_READONLY, NULL},
    {"__wrapped__", T_OBJECT, offsetof(AccelFunction, original), Py_READONLY,
     "asyncio's function."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot function_slots[] = {
    {Py_tp_methods, function_methods},
    {Py_tp_members, function_members},
    {Py_tp_call, (void *)PyVectorcall_Call},
    {Py_tp_getattro, (void *)function_getattro},
    {Py_tp_setattro, (void *)function_setattro},
    {Py_tp_descr_get, (void *)function_descr_get},
    {Py_tp_repr, (void *)function_repr},
    {Py_tp_traverse, (void *)function_traverse},
    {Py_tp_clear, (void *)function_clear},
    {Py_tp_dealloc, (void *)function_dealloc},
    {0, NULL},
};

static PyType_Spec function_spec = {
    .name = "pyloop._core.AccelFunction",
    .basicsize = sizeof(AccelFunction),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = function_slots,
};

PyTypeObject *
accelfunction_type_create(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &function_spec, NULL);
}
