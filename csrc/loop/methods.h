/* methods.h - see methods.c. */
#ifndef PYLOOP_LOOP_METHODS_H
#define PYLOOP_LOOP_METHODS_H

#include "base/compat.h"

/* Whether two attributes of types are the same method, inherited or a class's own
 * descriptor of it. */
bool methods_same(PyObject *one, PyObject *other);

/* Whether `bound` is the method `own` of a type, bound to `self`. */
bool methods_bound(PyObject *bound, PyObject *own, PyObject *self);

/* own_methods(cls, names): the module's function. */
PyObject *methods_own_all(PyObject *module, PyObject *args);

#endif
