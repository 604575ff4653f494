/* state.c - filling, visiting and clearing the module's state. */
#include "base/state.h"

#include <string.h>

/* module.a.b: an attribute path below an imported module; "" is the module itself. */
static PyObject *
state_import(const char *module_name, const char *path)
{
    PyObject *object = PyImport_ImportModule(module_name);
    while (object != NULL && *path != '\0') {
        const char *dot = strchr(path, '.');
        size_t length = dot != NULL ? (size_t)(dot - path) : strlen(path);
        PyObject *name = PyUnicode_FromStringAndSize(path, (Py_ssize_t)length);
        PyObject *next = name != NULL ? PyObject_GetAttr(object, name) : NULL;
        Py_XDECREF(name);
        Py_DECREF(object);
        object = next;
        path += length + (dot != NULL ? 1 : 0);
    }
    return object;
}

int
state_init(PyloopState *state)
{
#define X(n)                                                                           \
    state->str_##n = PyUnicode_InternFromString(#n);                                   \
    if (state->str_##n == NULL) {                                                      \
        goto error;                                                                    \
    }
    PYLOOP_STRINGS(X)
#undef X
#define X(f, module, attribute)                                                        \
    state->f = state_import(module, attribute);                                        \
    if (state->f == NULL) {                                                            \
        goto error;                                                                    \
    }
    PYLOOP_IMPORTS(X)
#undef X
    state->empty_tuple = PyTuple_New(0);
    state->context_keyword = PyTuple_Pack(1, state->str_context);
    if (state->empty_tuple == NULL || state->context_keyword == NULL) {
        goto error;
    }
    state->original_getaddrinfo =
        PyObject_GetAttr(state->socket_module, state->str_getaddrinfo);
    state->original_getnameinfo =
        PyObject_GetAttr(state->socket_module, state->str_getnameinfo);
    if (state->original_getaddrinfo == NULL || state->original_getnameinfo == NULL) {
        goto error;
    }
    return watched_init(state->watched);
error:
    return -1; /* module_clear drops what was made */
}

int
state_traverse(PyloopState *state, visitproc visit, void *arg)
{
#define X(N, f) Py_VISIT(state->N##Type);
    PYLOOP_TYPES(X)
#undef X
#define X(f, module, attribute) Py_VISIT(state->f);
    PYLOOP_IMPORTS(X)
#undef X
    Py_VISIT(state->empty_tuple);
    Py_VISIT(state->context_keyword);
    Py_VISIT(state->original_getaddrinfo);
    Py_VISIT(state->original_getnameinfo);
    return watched_traverse(state->watched, visit, arg);
}

void
state_clear(PyloopState *state)
{
#define X(N, f) Py_CLEAR(state->N##Type);
    PYLOOP_TYPES(X)
#undef X
#define X(n) Py_CLEAR(state->str_##n);
    PYLOOP_STRINGS(X)
#undef X
#define X(f, module, attribute) Py_CLEAR(state->f);
    PYLOOP_IMPORTS(X)
#undef X
    Py_CLEAR(state->empty_tuple);
    Py_CLEAR(state->context_keyword);
    Py_CLEAR(state->original_getaddrinfo);
    Py_CLEAR(state->original_getnameinfo);
    watched_clear(state->watched);
}
