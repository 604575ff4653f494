/* referrers.h - what the garbage collector knows to refer to some objects. */
#ifndef PYLOOP_BASE_REFERRERS_H
#define PYLOOP_BASE_REFERRERS_H

#include "base/compat.h"

/* _core.referrers(objects) */
PyObject *referrers_of(PyObject *module, PyObject *objects);

#endif
