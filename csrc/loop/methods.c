/* methods.c - a subclass's own descriptors of the methods that are called most.
 *
 * A method descriptor checks that it is called on an instance of the type that it belongs
 * to. When that is the very type of the object, the check is one comparison, and from 3.11
 * the interpreter's specialised calls apply; for a subclass's instance neither holds. So
 * pyloop.Loop, whose instances loops usually are, gets descriptors of its own: measured,
 * 5% of call_soon.
 */
#include "loop/methods.h"

#include "base/state.h"

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
