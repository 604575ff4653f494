/* args.h - fast argument parsing for METH_FASTCALL methods. */
#ifndef PYLOOP_BASE_ARGS_H
#define PYLOOP_BASE_ARGS_H

#include "base/compat.h"

#include <string.h>

/* The parameters of one function: names[0..count), the first `required` must be given;
 * the first `positional` may be given by position. */
typedef struct {
    const char *function;
    const char *const *names;
    Py_ssize_t count;
    Py_ssize_t required;
    Py_ssize_t positional;
} ArgsSpec;

/* Sorts args and keywords into out[0..spec->count) (borrowed; NULL where not given).
 * 0, or -1 with TypeError as Python words it. */
int args_parse(const ArgsSpec *spec, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames, PyObject **out);

PyObject *args_one_general(const char *function, const char *name,
                           PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* The argument of a function that has one. Borrowed, or NULL with TypeError. */
static inline PyObject *
args_one(const char *function, const char *name, PyObject *const *args,
         Py_ssize_t nargs, PyObject *kwnames)
{
    return nargs == 1 && kwnames == NULL
               ? args[0]
               : args_one_general(function, name, args, nargs, kwnames);
}

/* A call of a scheduling method: its leading arguments, then the callback's own. */
typedef struct {
    const char *function;
    const char *const *names; /* of the leading arguments; the last is the callback */
    Py_ssize_t leading;       /* 1 or 2 */
} ArgsCallSpec;

typedef struct {
    PyObject *leading[2];  /* borrowed, all given */
    PyObject *const *rest; /* the callback's arguments */
    Py_ssize_t nrest;
    PyObject *context; /* borrowed; NULL when absent or None */
} ArgsCall;

/* Any form of call. 0, or -1 with TypeError. */
int args_parse_call_general(const ArgsCallSpec *spec, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames, ArgsCall *call);

/* By content: the name that asyncio's own C code passes is not interned. */
static inline bool
args_is_context(PyObject *name)
{
    return PyUnicode_IS_COMPACT_ASCII(name) && PyUnicode_GET_LENGTH(name) == 7 &&
           memcmp(PyUnicode_1BYTE_DATA(name), "context", 7) == 0;
}

/* The usual forms, all positional or with context= alone, without a function call. */
static inline int
args_parse_call(const ArgsCallSpec *spec, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames, ArgsCall *call)
{
    bool plain = kwnames == NULL;
    bool with_context = !plain && PyTuple_GET_SIZE(kwnames) == 1 &&
                        args_is_context(PyTuple_GET_ITEM(kwnames, 0)) &&
                        PyContext_CheckExact(args[nargs]);
    if (nargs < spec->leading || !(plain || with_context)) {
        return args_parse_call_general(spec, args, nargs, kwnames, call);
    }
    call->leading[0] = args[0];
    call->leading[1] = spec->leading > 1 ? args[1] : NULL;
    call->rest = args + spec->leading;
    call->nrest = nargs - spec->leading;
    call->context = with_context ? args[nargs] : NULL;
    return 0;
}

/* An int or an object with fileno(); -1 with asyncio's ValueError or OverflowError, or the
 * object's own error. */
int args_descriptor(PyObject *str_fileno, PyObject *fileobj);

#endif
