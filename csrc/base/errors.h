/* errors.h - from errno and libuv statuses to Python exceptions, and back. */
#ifndef PYLOOP_BASE_ERRORS_H
#define PYLOOP_BASE_ERRORS_H

#include "base/compat.h"

/* A new OSError (the subclass that err calls for) for a positive errno, or NULL. */
PyObject *errors_from_errno(int err);

/* Raises OSError for a positive errno. Returns -1, for `return errors_raise_errno(e)`. */
int errors_raise_errno(int err);

/* Raises OSError for a libuv status (< 0). Returns -1. */
int errors_raise_uv(int err);

/* True when the raised exception is SystemExit or KeyboardInterrupt, which asyncio never
 * swallows. */
bool errors_is_fatal(void);

#endif
