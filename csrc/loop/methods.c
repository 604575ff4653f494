/* methods.c - whose method is it: a subclass's own descriptors of those that are called
 * most; what was replaced; and calls of asyncio's.
 *
 * A method descriptor checks that it is called on an instance of the type that it belongs
 * to. When that is the very type of the object, the check is one comparison, and from 3.11
 * the interpreter's specialised calls apply; for a subclass's instance neither holds. So
 * pyloop.Loop, whose instances loops usually are, gets descriptors of its own: measured,
 * 5% of call_soon.
 */
#include "loop/methods.h"

#include "loop/loop.h"

#include <string.h>

static PyMethodDef *
methods_def(PyObject *attribute)
{
    return Py_IS_TYPE(attribute, &PyMethodDescr_Type)
               ? ((PyMethodDescrObject *)attribute)->d_method
               : NULL;
}

bool
methods_same(PyObject *one, PyObject *other)
{
    if (one == other) {
        return true;
    }
    PyMethodDef *def = methods_def(one);
    return def != NULL && def == methods_def(other);
}

bool
methods_bound(PyObject *bound, PyObject *own, PyObject *self)
{
    return PyCFunction_Check(bound) && PyCFunction_GET_SELF(bound) == self &&
           ((PyCFunctionObject *)bound)->m_ml == methods_def(own);
}

/* The same of an instance that may have an attribute of that name. */
static bool
methods_is_bound_core(LoopObject *loop, PyObject *name)
{
    PyObject *bound = PyObject_GetAttr((PyObject *)loop, name);
    PyObject *own = bound != NULL
                        ? PyObject_GetAttr((PyObject *)loop->state->LoopType, name)
                        : NULL;
    bool same = own != NULL && methods_bound(bound, own, (PyObject *)loop);
    Py_XDECREF(own);
    Py_XDECREF(bound);
    PyErr_Clear(); /* whoever calls it hears of it */
    return same;
}

bool
methods_is_core(LoopObject *loop, PyObject *name)
{
    if (loop->instance_overrides & OVERRIDE_HOOK) {
        return methods_is_bound_core(loop, name);
    }
    PyObject *found = PyObject_GetAttr((PyObject *)Py_TYPE(loop), name);
    bool same = found != NULL && Py_IS_TYPE(found, &PyMethodDescr_Type) &&
                PyDescr_TYPE(found) == loop->state->LoopType;
    Py_XDECREF(found);
    PyErr_Clear(); /* whoever calls it hears of it */
    return same;
}

bool
methods_finds(PyObject *type, PyObject *name, PyObject *known)
{
    PyObject *found = PyObject_GetAttr(type, name);
    bool same = found == known && found != NULL;
    Py_XDECREF(found);
    PyErr_Clear(); /* whoever calls it hears of it */
    return same;
}

bool
methods_module_has(PyObject *module, PyObject *name, PyObject *known)
{
    PyObject *found;
    if (PyDict_GetItemRef(PyModule_GetDict(module), name, &found) < 0) {
        PyErr_Clear(); /* as above */
    }
    bool same = found == known && found != NULL;
    Py_XDECREF(found);
    return same;
}

PyObject *
methods_call_asyncios(PyObject *loop, PyloopState *state, PyObject *name,
                      PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *method = PyObject_GetAttr(state->BaseEventLoop, name);
    if (method == NULL) {
        return NULL;
    }
    Py_ssize_t total = nargs + (kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
    PyObject *result = NULL;
    PyObject **values = PyMem_New(PyObject *, (size_t)total + 1);
    if (values == NULL) {
        PyErr_NoMemory();
    }
    else {
        values[0] = loop;
        memcpy(values + 1, args, (size_t)total * sizeof(*values));
        result = PyObject_Vectorcall(method, values, (size_t)nargs + 1, kwnames);
        PyMem_Free(values);
    }
    Py_DECREF(method);
    return result;
}

static int
methods_own(PyObject *cls, PyObject *base, PyObject *name)
{
    PyObject *inherited = PyObject_GetAttr(base, name);
    if (inherited == NULL) {
        return -1;
    }
    PyMethodDef *def = methods_def(inherited);
    Py_DECREF(inherited); /* the definition is static */
    if (def == NULL) {
        PyErr_Format(PyExc_TypeError, "names: %R is not a method of %R", name, base);
        return -1;
    }
    PyObject *own = PyDescr_NewMethod((PyTypeObject *)cls, def);
    if (own == NULL) {
        return -1;
    }
    int rc = PyObject_SetAttr(cls, name, own);
    Py_DECREF(own);
    return rc;
}

PyObject *
methods_own_all(PyObject *module, PyObject *args)
{
    PyTypeObject *base = state_of_module(module)->LoopType;
    PyTypeObject *cls;
    PyObject *names;
    if (!PyArg_ParseTuple(args, "O!O!:own_methods", &PyType_Type, &cls, &PyTuple_Type,
                          &names)) {
        return NULL;
    }
    if (!PyType_IsSubtype(cls, base)) {
        PyErr_Format(PyExc_TypeError, "cls: %R is not a subclass of %R", cls, base);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        if (methods_own((PyObject *)cls, (PyObject *)base, PyTuple_GET_ITEM(names, i)) <
            0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}
