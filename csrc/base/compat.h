/* compat.h - Python.h first, and every #if on PY_VERSION_HEX of the project.
 *
 * Included by every other file before any other header. CPython 3.10 to 3.15.
 */
#ifndef PYLOOP_BASE_COMPAT_H
#define PYLOOP_BASE_COMPAT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* accept4, epoll_pwait2, recvmmsg */
#endif

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#error "pyloop does not support Windows; use asyncio's ProactorEventLoop there"
#endif

#if PY_VERSION_HEX < 0x030A0000
#error "pyloop needs CPython 3.10 or later"
#endif

/* Member definitions were renamed in 3.12; T_* stay, with another header. */
#if PY_VERSION_HEX < 0x030C0000
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_T_OBJECT_EX T_OBJECT_EX
#define Py_T_ULONGLONG T_ULONGLONG
#define Py_READONLY READONLY
#endif

/* One guard per slot, never a slot defined as 0. */
#if PY_VERSION_HEX >= 0x030C0000
#define PYLOOP_SLOT_INTERPRETERS                                                       \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define PYLOOP_SLOT_INTERPRETERS
#endif
#if PY_VERSION_HEX >= 0x030D0000
#define PYLOOP_SLOT_GIL(value) {Py_mod_gil, value},
#else
#define PYLOOP_SLOT_GIL(value)
#endif

/* What asyncio calls the handle of call_soon_threadsafe(), and how its transports word a
 * TypeError, changed in 3.14. */
#if PY_VERSION_HEX >= 0x030E0000
#define PYLOOP_THREADSAFE_HANDLE "_ThreadSafeHandle"
#define PYLOOP_BYTES_LIKE "bytes, bytearray, or memoryview object"
#else
#define PYLOOP_THREADSAFE_HANDLE "Handle"
#define PYLOOP_BYTES_LIKE "bytes-like object"
#endif

/* Who awaits a future is known from 3.14 on; None before. */
#if PY_VERSION_HEX >= 0x030E0000
#define PYLOOP_AWAITED_MODULE "asyncio.futures"
#define PYLOOP_AWAITED_ADD "future_add_to_awaited_by"
#define PYLOOP_AWAITED_DISCARD "future_discard_from_awaited_by"
#else
#define PYLOOP_AWAITED_MODULE "builtins"
#define PYLOOP_AWAITED_ADD "None"
#define PYLOOP_AWAITED_DISCARD "None"
#endif

/* asyncio.timeouts came with 3.11; None before. */
#if PY_VERSION_HEX >= 0x030B0000
#define PYLOOP_TIMEOUTS "asyncio.timeouts"
#define PYLOOP_IN_TIMEOUTS(name) name
#else
#define PYLOOP_TIMEOUTS "builtins"
#define PYLOOP_IN_TIMEOUTS(name) "None"
#endif

/* asyncio.sslproto was written anew for 3.11. */
#if PY_VERSION_HEX >= 0x030B0000
#define PYLOOP_TLS_HANDSHAKE "SSLProtocolState.DO_HANDSHAKE"
#define PYLOOP_TLS_WRAPPED "SSLProtocolState.WRAPPED"
#define PYLOOP_TLS_FLUSHING "SSLProtocolState.FLUSHING"
#define PYLOOP_TLS_SHUTDOWN "SSLProtocolState.SHUTDOWN"
#else
#define PYLOOP_TLS_HANDSHAKE "_DO_HANDSHAKE"
#define PYLOOP_TLS_WRAPPED "_WRAPPED"
#define PYLOOP_TLS_FLUSHING "_SHUTDOWN"
#define PYLOOP_TLS_SHUTDOWN "_SHUTDOWN"
#endif

/* Objects have locks of their own on free-threaded builds alone, which begin with 3.13. */
#if PY_VERSION_HEX < 0x030D0000
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* The exception being handled, as one owned object (3.12 has this itself). */
#if PY_VERSION_HEX < 0x030C0000
static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
}

static inline void
PyErr_SetRaisedException(PyObject *exc) /* steals exc */
{
    PyObject *type = (PyObject *)Py_TYPE(exc);
    Py_INCREF(type);
    PyErr_Restore(type, exc, PyException_GetTraceback(exc));
}
#endif

/* What an except clause is about: sys.exc_info() (3.11 has this itself). */
#if PY_VERSION_HEX < 0x030B0000
static inline PyObject *
PyErr_GetHandledException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_GetExcInfo(&type, &value, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    if (value == Py_None) {
        Py_CLEAR(value);
    }
    return value;
}

static inline void
PyErr_SetHandledException(PyObject *exc)
{
    if (exc == NULL) {
        PyErr_SetExcInfo(NULL, NULL, NULL);
    }
    else {
        PyErr_SetExcInfo(Py_NewRef((PyObject *)Py_TYPE(exc)), Py_NewRef(exc),
                         PyException_GetTraceback(exc));
    }
}
#endif

/* 1 found, 0 absent (no exception), -1 error. */
#if PY_VERSION_HEX < 0x030D0000
static inline int
PyObject_GetOptionalAttr(PyObject *obj, PyObject *name, PyObject **result)
{
    *result = PyObject_GetAttr(obj, name);
    if (*result != NULL) {
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear(); /* absent is an answer here */
    return 0;
}
#endif

/* 1 alive (new reference in *object), 0 dead, -1 error. */
#if PY_VERSION_HEX < 0x030D0000
static inline int
PyWeakref_GetRef(PyObject *ref, PyObject **object)
{
    PyObject *target = PyWeakref_GetObject(ref);
    if (target == NULL) {
        *object = NULL;
        return -1;
    }
    if (target == Py_None) {
        *object = NULL;
        return 0;
    }
    *object = Py_NewRef(target);
    return 1;
}
#endif

/* The defining module of a type or of one of its bases; borrowed. */
#if PY_VERSION_HEX < 0x030B0000
static inline PyObject *
PyType_GetModuleByDef(PyTypeObject *type, PyModuleDef *def)
{
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        if (!PyType_HasFeature(base, Py_TPFLAGS_HEAPTYPE)) {
            continue;
        }
        PyObject *module = ((PyHeapTypeObject *)base)->ht_module;
        if (module != NULL && PyModule_Check(module) &&
            PyModule_GetDef(module) == def) {
            return module;
        }
    }
    PyErr_Format(PyExc_TypeError, "%s is not a type of pyloop", type->tp_name);
    return NULL;
}
#endif

/* DatagramTransport.sendto(): 3.13 sends datagrams of no bytes, and counts the header of
 * a queued one. */
#if PY_VERSION_HEX >= 0x030D0000
enum { PYLOOP_DATAGRAM_EMPTY = 1, PYLOOP_DATAGRAM_HEADER = 8 };
#else
enum { PYLOOP_DATAGRAM_EMPTY = 0, PYLOOP_DATAGRAM_HEADER = 0 };
#endif

/* What an asyncio.Queue has in its dict, without _loop: _maxsize, _getters, _putters,
 * _unfinished_tasks, _finished, _queue and, since there is shutdown(), _is_shutdown. */
#if PY_VERSION_HEX >= 0x030D0000
enum { PYLOOP_QUEUE_ATTRIBUTES = 7, PYLOOP_QUEUE_SHUTS_DOWN = 1 };
#else
enum { PYLOOP_QUEUE_ATTRIBUTES = 6, PYLOOP_QUEUE_SHUTS_DOWN = 0 };
#endif

/* Borrowed-reference access to what other threads may change is for builds with a GIL:
 * the items of a list or tuple, for PySequence_Fast_GET_ITEM. */
#ifdef Py_GIL_DISABLED
static inline PyObject *
PYLOOP_SEQUENCE_ITEMS(PyObject *object, const char *Py_UNUSED(message))
{
    return PySequence_Tuple(object);
}
#else
#define PYLOOP_SEQUENCE_ITEMS(object, message) PySequence_Fast(object, message)
#endif

/* 1 found (new reference), 0 absent, -1 error. */
#if PY_VERSION_HEX < 0x030D0000
static inline int
PyDict_GetItemRef(PyObject *dict, PyObject *key, PyObject **result)
{
    *result = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    return *result != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}
#endif

/* How a change of a dict is noticed: by its version before 3.12, by a watcher from then on,
 * and not at all where another thread may be changing it. */
#ifdef Py_GIL_DISABLED
enum { PYLOOP_DICTS_TELL = 0 };
#else
enum { PYLOOP_DICTS_TELL = 1 };
#endif
#if PY_VERSION_HEX < 0x030C0000
typedef int PyDict_WatchEvent;
typedef int (*PyDict_WatchCallback)(PyDict_WatchEvent event, PyObject *dict,
                                    PyObject *key, PyObject *value);

static inline int
PyDict_AddWatcher(PyDict_WatchCallback Py_UNUSED(callback))
{
    return 0;
}

static inline int
PyDict_ClearWatcher(int Py_UNUSED(watcher))
{
    return 0;
}

static inline int
PyDict_Watch(int Py_UNUSED(watcher), PyObject *Py_UNUSED(dict))
{
    return 0;
}

static inline uint64_t
PYLOOP_DICT_VERSION(PyObject *dict)
{
    return ((PyDictObject *)dict)->ma_version_tag;
}
#else
static inline uint64_t
PYLOOP_DICT_VERSION(PyObject *Py_UNUSED(dict))
{
    return 0;
}
#endif

#endif
