/* build.h - what the extension was built with. */
#ifndef PYLOOP_BASE_BUILD_H
#define PYLOOP_BASE_BUILD_H

#include "base/compat.h"

/* A dict: "compiler" and "libuv" (str), "sanitizers" (str, comma-separated, "" without)
 * and "asserts" (bool). */
PyObject *build_facts(PyObject *module, PyObject *ignored);

#endif
