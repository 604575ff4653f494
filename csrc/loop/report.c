/* report.c - the one place that tells the loop's exception handler of an error. */
#include "loop/loop.h"

#include "base/call.h"
#include "base/errors.h"

#include <stdarg.h>

/* GIL: held. The context dict is asyncio's: message, exception and what the caller adds. */
int
loop_report(LoopObject *self, PyObject *message, ...)
{
    if (errors_is_fatal()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *context = PyDict_New();
    int rc = -1;
    va_list pairs;
    va_start(pairs, message);
    if (context == NULL ||
        PyDict_SetItem(context, self->state->str_message, message) < 0 ||
        (exc != NULL && PyDict_SetItem(context, self->state->str_exception, exc) < 0)) {
        goto done;
    }
    for (PyObject *key = va_arg(pairs, PyObject *); key != NULL;
         key = va_arg(pairs, PyObject *)) {
        PyObject *value = va_arg(pairs, PyObject *);
        if (value != NULL && PyDict_SetItem(context, key, value) < 0) {
            goto done;
        }
    }
    PyObject *handled = call_method1((PyObject *)self,
                                     self->state->str_call_exception_handler, context);
    rc = handled != NULL ? 0 : -1;
    Py_XDECREF(handled);
done:
    va_end(pairs);
    Py_XDECREF(context);
    Py_XDECREF(exc);
    return rc;
}

int
loop_report_text(LoopObject *self, const char *message, PyObject *name,
                 PyObject *object)
{
    if (errors_is_fatal()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *text = PyUnicode_FromString(message);
    if (text == NULL) {
        Py_XDECREF(exc);
        return -1;
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    int rc = loop_report(self, text, name, object, NULL);
    Py_DECREF(text);
    return rc;
}
