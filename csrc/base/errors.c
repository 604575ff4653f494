/* errors.c - see errors.h. */
#include "base/errors.h"

#include <errno.h>
#include <string.h>

PyObject *
errors_from_errno(int err)
{
    /* OSError(errno, text) picks ConnectionResetError and its like by itself. */
    return PyObject_CallFunction(PyExc_OSError, "is", err, strerror(err));
}

int
errors_raise_errno(int err)
{
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

int
errors_raise_uv(int err)
{
    /* On Unix a libuv status is a negated errno. */
    return errors_raise_errno(-err);
}

bool
errors_is_fatal(void)
{
    return PyErr_ExceptionMatches(PyExc_SystemExit) ||
           PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}
