/* flow.c - see flow.h. */
#include "transport/flow.h"

#include "base/args.h"
#include "base/call.h"

enum { LOST_WRITES_WARN = 5 }; /* asyncio's LOG_THRESHOLD_FOR_CONNLOST_WRITES */

/* A mark as a number of bytes, clamped; -1 with TypeError. */
static int
flow_mark(PyObject *given, Py_ssize_t *mark)
{
    *mark = PyNumber_AsSsize_t(given, NULL);
    return *mark == -1 && PyErr_Occurred() ? -1 : 0;
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
    bool has_high = given[0] != NULL && given[0] != Py_None;
    bool has_low = given[1] != NULL && given[1] != Py_None;
    if (has_low) {
        if (flow_mark(given[1], &lower) < 0) {
            return -1;
        }
        upper = lower < PY_SSIZE_T_MAX / 4 ? 4 * lower : PY_SSIZE_T_MAX;
    }
    if (has_high && flow_mark(given[0], &upper) < 0) {
        return -1;
    }
    if (!has_low) {
        lower = upper / 4;
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
