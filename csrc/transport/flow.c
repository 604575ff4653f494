/* flow.c - see flow.h. */
#include "transport/flow.h"

#include "base/args.h"
#include "base/call.h"

#include <math.h>

enum { LOST_WRITES_WARN = 5 }; /* asyncio's LOG_THRESHOLD_FOR_CONNLOST_WRITES */

/* A mark as a number of bytes, clamped; -1 with TypeError. */
static int
flow_mark(PyObject *given, Py_ssize_t *mark)
{
    *mark = PyNumber_AsSsize_t(given, NULL);
    return *mark == -1 && PyErr_Occurred() ? -1 : 0;
}

static size_t
flow_clamp(double bytes)
{
    return bytes < (double)PY_SSIZE_T_MAX ? (size_t)bytes : (size_t)PY_SSIZE_T_MAX;
}

static int
flow_raise_floats(double upper, double lower)
{
    PyObject *high = PyFloat_FromDouble(upper), *low = PyFloat_FromDouble(lower);
    if (high != NULL && low != NULL) {
        PyErr_Format(PyExc_ValueError, "high (%R) must be >= low (%R) must be >= 0",
                     high, low);
    }
    Py_XDECREF(high);
    Py_XDECREF(low);
    return -1;
}

/* Marks of which one at least is no whole number, as 1e6 or infinity: asyncio compares
 * with them as they are, so the whole bytes below them are what matters. */
static int
flow_parse_floats(PyObject *given_high, PyObject *given_low, size_t *high, size_t *low)
{
    double upper = FLOW_HIGH_WATER, lower = 0;
    if (given_low != NULL) {
        lower = PyFloat_AsDouble(given_low);
        upper = 4 * lower;
    }
    if (given_high != NULL) {
        upper = PyErr_Occurred() ? 0 : PyFloat_AsDouble(given_high);
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    if (given_low == NULL) {
        lower = isinf(upper) ? NAN : upper / 4; /* as Python's // */
    }
    if (!(upper >= lower && lower >= 0)) {
        return flow_raise_floats(upper, lower);
    }
    *high = flow_clamp(upper);
    *low = flow_clamp(lower);
    return 0;
}

static inline bool
flow_is_whole(PyObject *given)
{
    return given == NULL || PyIndex_Check(given);
}

int
flow_parse_limits(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                  size_t *high, size_t *low)
{
    static const char *const names[] = {"high", "low"};
    static const ArgsSpec spec = {"set_write_buffer_limits", names, 2, 0, 2};
    PyObject *given[2];
    Py_ssize_t upper = FLOW_HIGH_WATER, lower = 0;
    if (args_parse(&spec, args, nargs, kwnames, given) < 0) {
        return -1;
    }
    PyObject *given_high = given[0] != Py_None ? given[0] : NULL;
    PyObject *given_low = given[1] != Py_None ? given[1] : NULL;
    if (!flow_is_whole(given_high) || !flow_is_whole(given_low)) {
        return flow_parse_floats(given_high, given_low, high, low);
    }
    if (given_low != NULL) {
        if (flow_mark(given_low, &lower) < 0) {
            return -1;
        }
        upper = lower < PY_SSIZE_T_MAX / 4 ? 4 * lower : PY_SSIZE_T_MAX;
    }
    if (given_high != NULL && flow_mark(given_high, &upper) < 0) {
        return -1;
    }
    if (given_low == NULL) {
        lower = upper / 4 - (upper % 4 < 0 ? 1 : 0); /* as Python's // */
    }
    if (!(upper >= lower && lower >= 0)) {
        PyErr_Format(PyExc_ValueError, "high (%zd) must be >= low (%zd) must be >= 0",
                     upper, lower);
        return -1;
    }
    *high = (size_t)upper;
    *low = (size_t)lower;
    return 0;
}

int
flow_notify(LoopObject *loop, PyObject *transport, PyObject *protocol, PyObject *name,
            const char *failed)
{
    PyloopState *state = loop->state;
    int rc = 0;
    Py_INCREF(protocol);
    PyObject *done = call_method0(protocol, name);
    if (done == NULL) {
        rc = loop_report(loop, failed, state->str_transport, transport,
                         state->str_protocol, protocol, NULL);
    }
    Py_XDECREF(done);
    Py_DECREF(protocol);
    return rc;
}

int
flow_write_lost(LoopObject *loop, const char *warning, unsigned int *lost)
{
    int rc = 0;
    if (*lost >= LOST_WRITES_WARN) {
        PyObject *text = PyUnicode_FromString(warning);
        PyObject *logged = text != NULL ? call_method1(loop->state->logger,
                                                       loop->state->str_warning, text)
                                        : NULL;
        Py_XDECREF(text);
        Py_XDECREF(logged);
        rc = logged != NULL ? 0 : -1;
    }
    (*lost)++;
    return rc;
}

/* ---- attributes of every transport ------------------------------------------------- */

PyObject *
flow_get_size(PyObject *op, void *closure)
{
    return PyLong_FromSize_t(*(size_t *)((char *)op + (size_t)(uintptr_t)closure));
}

int
flow_set_max_size(PyObject *op, PyObject *value, void *closure)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "max_size cannot be deleted");
        return -1;
    }
    Py_ssize_t bytes = PyNumber_AsSsize_t(value, NULL);
    if (bytes == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (bytes < 1) {
        PyErr_Format(PyExc_ValueError, "max_size must be positive, not %zd", bytes);
        return -1;
    }
    *(size_t *)((char *)op + (size_t)(uintptr_t)closure) = (size_t)bytes;
    return 0;
}
