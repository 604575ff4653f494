/* methods.h - see methods.c. */
#ifndef PYLOOP_LOOP_METHODS_H
#define PYLOOP_LOOP_METHODS_H

#include "base/compat.h"

#include "base/state.h"

/* Whether two attributes of types are the same method, inherited or a class's own
 * descriptor of it. */
bool methods_same(PyObject *one, PyObject *other);

/* Whether `bound` is the method `own` of a type, bound to `self`. */
bool methods_bound(PyObject *bound, PyObject *own, PyObject *self);

typedef struct LoopObject LoopObject;

/* Whether loop.name is what this core put there; the name is one of loop_hook_names(). A
 * false raises nothing. */
bool methods_is_core(LoopObject *loop, PyObject *name);

/* Whether type.name is `known`, and whether module.name is; likewise. */
bool methods_finds(PyObject *type, PyObject *name, PyObject *known);
bool methods_module_has(PyObject *module, PyObject *name, PyObject *known);

/* BaseEventLoop.name(loop, *args): asyncio's own method, for what C code leaves to it. */
PyObject *methods_call_asyncios(PyObject *loop, PyloopState *state, PyObject *name,
                                PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);

/* own_methods(cls, names): the module's function. */
PyObject *methods_own_all(PyObject *module, PyObject *args);

#endif
