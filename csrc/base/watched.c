/* watched.c - see watched.h. */
#include "base/watched.h"

enum { WATCHED_NAMES = 16 };

#define WATCHED_QUEUE_METHODS                                                          \
    {"empty", "full", "qsize",        "get_nowait", "put_nowait",                      \
     "_get",  "_put", "_wakeup_next", "_get_loop"}

/* Of each class, the module, the name, and what C code does in its place. */
static const struct {
    const char *module, *name;
    const char *attributes[WATCHED_NAMES]; /* ended by NULL */
} classes[WATCHED_COUNT] = {
    [WATCHED_STREAM_READER] =
        {
            "asyncio.streams",
            "StreamReader",
            {"feed_data", "read", "readexactly", "readline", "readuntil", "__anext__",
             "_wait_for_data", "_wakeup_waiter", "_maybe_resume_transport"},
        },
    [WATCHED_STREAM_PROTOCOL] = {"asyncio.streams",
                                 "StreamReaderProtocol",
                                 {"data_received"}},
    [WATCHED_SSL_PROTOCOL] =
        {
            "asyncio.sslproto",
            "SSLProtocol",
            {"buffer_updated", "get_buffer", "max_size", "_do_read", "_do_read__copied",
             "_do_write", "_process_outgoing", "_write_appdata", "_control_app_writing",
             "_control_ssl_reading", "_get_read_buffer_size", "_get_write_buffer_size"},
        },
    [WATCHED_SSL_TRANSPORT] = {"asyncio.sslproto",
                               "_SSLProtocolTransport",
                               {"write", "is_closing"}},
    [WATCHED_SSL_OBJECT] = {"ssl", "SSLObject", {"read", "write"}},
    [WATCHED_QUEUE] = {"asyncio.queues", "Queue", WATCHED_QUEUE_METHODS},
    [WATCHED_PRIORITY_QUEUE] = {"asyncio.queues", "PriorityQueue",
                                WATCHED_QUEUE_METHODS},
    [WATCHED_LIFO_QUEUE] = {"asyncio.queues", "LifoQueue", WATCHED_QUEUE_METHODS},
    [WATCHED_EVENT] = {"asyncio.locks", "Event", {"_get_loop"}},
    [WATCHED_LOCK] = {"asyncio.locks",
                      "Lock",
                      {"release", "_wake_up_first", "_get_loop"}},
    [WATCHED_SEMAPHORE] = {"asyncio.locks",
                           "Semaphore",
                           {"locked", "release", "_wake_up_next", "_get_loop"}},
    [WATCHED_BOUNDED_SEMAPHORE] = {"asyncio.locks",
                                   "BoundedSemaphore",
                                   {"locked", "_get_loop"}},
    [WATCHED_TIMEOUT] = {PYLOOP_TIMEOUTS,
                         "Timeout",
                         {"__init__", "__new__", "reschedule", "_on_timeout"}},
    [WATCHED_TRANSPORT] = {"asyncio.transports", "Transport", {"get_extra_info"}},
    [WATCHED_DATAGRAM] = {"asyncio.transports",
                          "DatagramTransport",
                          {"get_extra_info"}},
};

/* 1, 0 without such a class or attribute, -1. */
static int
watched_fill(Watched *watched, WatchedClass which)
{
    PyObject *module = PyImport_ImportModule(classes[which].module);
    PyObject *type =
        module != NULL ? PyObject_GetAttrString(module, classes[which].name) : NULL;
    Py_XDECREF(module);
    PyObject *attributes = type != NULL ? PyDict_New() : NULL;
    watched->type = (PyTypeObject *)type;
    const char *const *names = classes[which].attributes;
    for (size_t i = 0; attributes != NULL && names[i] != NULL; i++) {
        PyObject *value = PyObject_GetAttrString(type, names[i]);
        if (value == NULL || PyDict_SetItemString(attributes, names[i], value) < 0) {
            Py_CLEAR(attributes);
        }
        Py_XDECREF(value);
    }
    watched->attributes = attributes;
    if (attributes != NULL) {
        return 1;
    }
    return PyErr_ExceptionMatches(PyExc_AttributeError) ? 0 : -1;
}

int
watched_init(Watched *table)
{
    for (int i = 0; i < WATCHED_COUNT; i++) {
        if (watched_fill(&table[i], (WatchedClass)i) < 0) {
            return -1;
        }
        PyErr_Clear(); /* another version of Python: asyncio's functions do it all */
    }
    return 0;
}

int
watched_traverse(Watched *table, visitproc visit, void *arg)
{
    for (int i = 0; i < WATCHED_COUNT; i++) {
        Py_VISIT(table[i].type);
        Py_VISIT(table[i].attributes);
    }
    return 0;
}

void
watched_clear(Watched *table)
{
    for (int i = 0; i < WATCHED_COUNT; i++) {
        Py_CLEAR(table[i].attributes);
        Py_CLEAR(table[i].type);
    }
}

bool
watched_look(Watched *watched)
{
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(watched->attributes, &at, &name, &value);) {
        PyObject *found = PyObject_GetAttr((PyObject *)watched->type, name);
        bool same = found == value;
        Py_XDECREF(found);
        if (!same) {
            PyErr_Clear(); /* deleted: not Python's any more either */
            return false;
        }
    }
    /* Looking gave the type a version, if it had none. */
    RACY_STORE(watched->version, RACY_LOAD(watched->type->tp_version_tag));
    return true;
}

PyObject *
watched_call_replaced(PyTypeObject *type, PyObject *object, const char *name,
                      PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *bases =
        PyObject_CallFunctionObjArgs((PyObject *)&PySuper_Type, type, object, NULL);
    PyObject *method = bases != NULL ? PyObject_GetAttrString(bases, name) : NULL;
    Py_XDECREF(bases);
    PyObject *result = NULL;
    if (method != NULL) {
        result = PyObject_Vectorcall(method, args, (size_t)nargs, kwnames);
        Py_DECREF(method);
    }
    return result;
}
