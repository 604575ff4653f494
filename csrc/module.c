/* module.c - pyloop._core: slots and exec, nothing else. */
#include "base/compat.h"

#include "accel/accel.h"
#include "base/build.h"
#include "base/errors.h"
#include "base/forks.h"
#include "base/lock.h"
#include "base/referrers.h"
#include "base/state.h"
#include "loop/handle.h"
#include "loop/loop.h"
#include "loop/methods.h"
#include "loop/running.h"
#include "loop/sockets.h"
#include "loop/watchdog.h"
#include "transport/datagram.h"
#include "transport/reader.h"
#include "transport/stream.h"
#include "transport/tls.h"

#include <uv.h>

static const struct {
    size_t offset;
    PyTypeObject *(*create)(PyObject *module);
} type_table[] = {
#define X(N, f) {offsetof(PyloopState, N##Type), f##_type_create},
    PYLOOP_TYPES(X)
#undef X
};

static int
module_exec(PyObject *module)
{
    PyloopState *state = state_of_module(module);
    int err = forks_init();
    if (err != 0) {
        return errors_raise_errno(err);
    }
    if (state_init(state) < 0 || sockets_init(state) < 0 || running_init(state) < 0) {
        return -1;
    }
    tls_init(state);
    metrics_load(state);
    for (size_t i = 0; i < Py_ARRAY_LENGTH(type_table); i++) {
        PyTypeObject *type = type_table[i].create(module);
        /* state owns it */
        *(PyTypeObject **)((char *)state + type_table[i].offset) = type;
        if (type == NULL || PyModule_AddType(module, type) < 0) {
            return -1; /* module_clear drops what was made */
        }
    }
    return PyModule_AddStringConstant(module, "libuv_version", uv_version_string());
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    return state_traverse(state_of_module(module), visit, arg);
}

static int
module_clear(PyObject *module)
{
    tls_clear(state_of_module(module));
    state_clear(state_of_module(module));
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear((PyObject *)module);
    running_free(state_of_module((PyObject *)module));
}

static PyObject *
module_debug_stats(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    PyloopState *state = state_of_module(module);
    PyObject *stats = PyDict_New();
    const struct {
        const char *name;
        Py_ssize_t count;
    } counters[] = {
#define X(n) {#n, RACY_LOAD(state->live_##n)},
        PYLOOP_COUNTERS(X)
#undef X
    };
    for (size_t i = 0; stats != NULL && i < Py_ARRAY_LENGTH(counters); i++) {
        PyObject *count = PyLong_FromSsize_t(counters[i].count);
        if (count == NULL || PyDict_SetItemString(stats, counters[i].name, count) < 0) {
            Py_CLEAR(stats);
        }
        Py_XDECREF(count);
    }
    return stats;
}

static PyMethodDef module_methods[] = {
    {"debug_stats", module_debug_stats, METH_NOARGS,
     "debug_stats()\n--\n\n"
     "Return how many objects of each kind are alive, as a dict; for leak tests."},
    {"build_facts", build_facts, METH_NOARGS,
     "build_facts()\n--\n\n"
     "Return what the extension was built with, as a dict: compiler, libuv and "
     "sanitizers (str), asserts (bool)."},
    {"own_methods", methods_own_all, METH_VARARGS,
     "own_methods(cls, names, /)\n--\n\n"
     "Give cls, a subclass of Loop, its own descriptors of the named methods of "
     "Loop.\n\n"
     "names is a tuple of str. Calls on exact instances are faster then."},
    {"accelerated", accel_function, METH_VARARGS,
     "accelerated(name, original, helper, /)\n--\n\n"
     "Return what stands in for asyncio's function of that name; see "
     "pyloop._accelerate.\n\n"
     "original is that function; ValueError if there is nothing for the name."},
    {"referrers", referrers_of, METH_O,
     "referrers(objects, /)\n--\n\n"
     "Return what the garbage collector knows to refer to an object of the list, the\n"
     "list itself included. It passes over all objects once."},
    {"trace", tasks_trace, METH_VARARGS,
     "trace(waits, creation, /)\n--\n\n"
     "Set whether loops call _about_to_block() before a wait without an end, and\n"
     "_task_created() for each new task; for pyloop.tasks."},
    {"ticks", metrics_ticks, METH_NOARGS,
     "ticks()\n--\n\n"
     "Return the count that _born_ticks of a transport was taken from, as an int."},
    {"seconds_since", metrics_seconds_since, METH_O,
     "seconds_since(ticks, /)\n--\n\n"
     "Return how many seconds ago ticks() returned that. Raises TypeError for what is "
     "no\n"
     "int, OverflowError for one that is out of range."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    PYLOOP_SLOT_INTERPRETERS PYLOOP_SLOT_GIL(Py_MOD_GIL_NOT_USED){0, NULL},
};

PyModuleDef pyloop_module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "pyloop._core",
    .m_doc = "The C core of pyloop; use the package's public names.",
    .m_size = sizeof(PyloopState),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void); /* the interpreter finds it by name */

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&pyloop_module_def);
}
