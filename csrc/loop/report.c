/* report.c - the one place that tells the loop's exception handler of an error, and what
 * debug mode notes for such reports. */
#include "loop/loop.h"

#include "base/call.h"
#include "base/errors.h"
#include "loop/handle.h"

#include <stdarg.h>

/* asyncio's context: message, exception, and the pairs. New reference, or NULL. */
static PyObject *
report_context(PyloopState *state, const char *message, PyObject *exc, va_list pairs)
{
    PyObject *context = PyDict_New();
    PyObject *text = PyUnicode_FromString(message);
    if (context == NULL || text == NULL ||
        PyDict_SetItem(context, state->str_message, text) < 0 ||
        PyDict_SetItem(context, state->str_exception, exc) < 0) {
        Py_CLEAR(context);
    }
    Py_XDECREF(text);
    while (context != NULL) {
        PyObject *key = va_arg(pairs, PyObject *);
        if (key == NULL) {
            break;
        }
        PyObject *value = va_arg(pairs, PyObject *);
        if (value != NULL && PyDict_SetItem(context, key, value) < 0) {
            Py_CLEAR(context);
        }
    }
    return context;
}

int
loop_report(LoopObject *self, const char *message, ...)
{
    if (errors_is_fatal()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    assert(exc != NULL);
    va_list pairs;
    va_start(pairs, message);
    PyObject *context = report_context(self->state, message, exc, pairs);
    va_end(pairs);
    PyObject *args[2] = {(PyObject *)self, context};
    PyObject *handled = context != NULL
                            ? call_method_handling(
                                  exc, self->state->str_call_exception_handler, args, 2)
                            : NULL;
    Py_DECREF(exc);
    Py_XDECREF(context);
    Py_XDECREF(handled);
    return handled != NULL ? 0 : -1;
}

int
loop_note_origin(LoopObject *self, PyObject **dict)
{
    if (!self->debug) {
        return 0;
    }
    PyObject *traceback = handle_extract_stack(self);
    if (traceback != NULL && *dict == NULL) {
        *dict = PyDict_New();
    }
    int rc = traceback != NULL && *dict != NULL
                 ? PyDict_SetItem(*dict, self->state->str__source_traceback, traceback)
                 : -1;
    Py_XDECREF(traceback);
    return rc;
}

PyObject *
loop_repr_of_steal(LoopObject *self, PyObject *transport, PyObject *dict,
                   PyObject *repr)
{
    if (repr == NULL || dict == NULL ||
        PyDict_GetItemWithError(dict, self->state->str__source_traceback) == NULL) {
        return repr;
    }
    PyObject *place =
        call_method1((PyObject *)self, self->state->str__created_at, transport);
    PyObject *most = PyUnicode_Substring(repr, 0, PyUnicode_GET_LENGTH(repr) - 1);
    PyObject *whole = place != NULL && most != NULL
                          ? PyUnicode_FromFormat("%U%S>", most, place)
                          : NULL;
    Py_XDECREF(place);
    Py_XDECREF(most);
    Py_DECREF(repr);
    return whole;
}
