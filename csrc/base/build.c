/* build.c - what the extension was built with, for bug reports. */
#include "base/build.h"

#include <uv.h>

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown compiler"
#endif

#ifndef PYLOOP_SANITIZERS /* setup.py knows them; compilers tell of some only */
#define PYLOOP_SANITIZERS ""
#endif

#define TEXT_OF(value) #value
#define VERSION(major, minor, patch)                                                   \
    TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

PyObject *
build_facts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
#ifdef NDEBUG
    PyObject *asserts = Py_False;
#else
    PyObject *asserts = Py_True;
#endif
    return Py_BuildValue("{s:s,s:s,s:s,s:O}", "compiler", COMPILER, "libuv",
                         VERSION(UV_VERSION_MAJOR, UV_VERSION_MINOR, UV_VERSION_PATCH),
                         "sanitizers", PYLOOP_SANITIZERS, "asserts", asserts);
}
