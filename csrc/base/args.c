/* args.c - see args.h. */
#include "base/args.h"

#include <limits.h>
#include <string.h>

static Py_ssize_t
args_index_of(const ArgsSpec *spec, PyObject *name)
{
    bool ascii = PyUnicode_IS_COMPACT_ASCII(name);
    char first = ascii ? *(const char *)PyUnicode_1BYTE_DATA(name) : '\0';
    for (Py_ssize_t i = 0; i < spec->count; i++) {
        /* Most differ in the first letter. */
        if ((!ascii || *spec->names[i] == first) &&
            PyUnicode_CompareWithASCIIString(name, spec->names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

int
args_parse(const ArgsSpec *spec, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames, PyObject **out)
{
    if (nargs > spec->positional) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes at most %zd positional arguments (%zd given)",
                     spec->function, spec->positional, nargs);
        return -1;
    }
    memset(out, 0, (size_t)spec->count * sizeof(*out));
    for (Py_ssize_t i = 0; i < nargs; i++) {
        out[i] = args[i];
    }
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        Py_ssize_t index = args_index_of(spec, name);
        if (index < 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'", spec->function,
                         name);
            return -1;
        }
        if (out[index] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
                         spec->function, name);
            return -1;
        }
        out[index] = args[nargs + i];
    }
    for (Py_ssize_t i = 0; i < spec->required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'",
                         spec->function, spec->names[i]);
            return -1;
        }
    }
    return 0;
}

PyObject *
args_one_general(const char *function, const char *name, PyObject *const *args,
                 Py_ssize_t nargs, PyObject *kwnames)
{
    const char *const names[] = {name};
    const ArgsSpec spec = {function, names, 1, 1, 1};
    PyObject *given[1];
    return args_parse(&spec, args, nargs, kwnames, given) == 0 ? given[0] : NULL;
}

/* The keywords of a scheduling call: context, and leading arguments not yet given. */
static int
args_parse_call_keywords(const ArgsCallSpec *spec, PyObject *const *values,
                         PyObject *kwnames, ArgsCall *call)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        PyObject *value = values[i];
        if (args_is_context(name)) {
            if (value != Py_None && !PyContext_CheckExact(value)) {
                PyErr_Format(PyExc_TypeError,
                             "%s() argument 'context' must be a contextvars.Context, "
                             "not %s",
                             spec->function, Py_TYPE(value)->tp_name);
                return -1;
            }
            call->context = value != Py_None ? value : NULL;
            continue;
        }
        Py_ssize_t index = 0;
        while (index < spec->leading &&
               PyUnicode_CompareWithASCIIString(name, spec->names[index]) != 0) {
            index++;
        }
        if (index == spec->leading || call->leading[index] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         index == spec->leading
                             ? "%s() got an unexpected keyword argument '%U'"
                             : "%s() got multiple values for argument '%U'",
                         spec->function, name);
            return -1;
        }
        call->leading[index] = value;
    }
    return 0;
}

int
args_parse_call_general(const ArgsCallSpec *spec, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *kwnames, ArgsCall *call)
{
    Py_ssize_t given = nargs < spec->leading ? nargs : spec->leading;
    call->leading[0] = given > 0 ? args[0] : NULL;
    call->leading[1] = given > 1 ? args[1] : NULL;
    call->rest = args + given;
    call->nrest = nargs - given;
    call->context = NULL;
    if (kwnames != NULL &&
        args_parse_call_keywords(spec, args + nargs, kwnames, call) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < spec->leading; i++) {
        if (call->leading[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'",
                         spec->function, spec->names[i]);
            return -1;
        }
    }
    return 0;
}

static int
args_descriptor_from_int(PyObject *number)
{
    int overflow;
    long fd = PyLong_AsLongAndOverflow(number, &overflow);
    if (fd == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow > 0 || fd > INT_MAX) { /* as asyncio's selector */
        PyErr_SetString(PyExc_OverflowError,
                        "Python int too large to convert to C int");
        return -1;
    }
    if (fd < 0) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %S", number);
        return -1;
    }
    return (int)fd;
}

int
args_descriptor(PyObject *str_fileno, PyObject *fileobj)
{
    if (PyLong_Check(fileobj)) {
        return args_descriptor_from_int(fileobj);
    }
    PyObject *number = PyObject_CallMethodNoArgs(fileobj, str_fileno);
    if (number != NULL && !PyLong_Check(number)) {
        Py_SETREF(number, PyNumber_Long(number));
    }
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) ||
            PyErr_ExceptionMatches(PyExc_TypeError) ||
            PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear(); /* asyncio's ValueError takes its place */
            PyErr_Format(PyExc_ValueError, "Invalid file object: %R", fileobj);
        }
        return -1;
    }
    int fd = args_descriptor_from_int(number);
    Py_DECREF(number);
    return fd;
}
