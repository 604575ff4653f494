/* reader.c - the class _core.StreamReader, and feeding it; see reader.h. */
#include "transport/reader.h"

#include "base/call.h"

#include <string.h>

/* ---- the reader's attributes ------------------------------------------------- */

bool
reader_flag(PyObject *dict, PyObject *name)
{
    PyObject *value;
    bool is_true = reader_get(dict, name, &value) > 0 && value == Py_True;
    Py_XDECREF(value);
    PyErr_Clear(); /* a dict with keys that cannot be compared has no such flag */
    return is_true;
}

Py_ssize_t
reader_limit(PyloopState *state, PyObject *dict)
{
    PyObject *value;
    Py_ssize_t limit = -1;
    if (reader_get(dict, state->str__limit, &value) > 0 && PyLong_CheckExact(value)) {
        limit = PyLong_AsSsize_t(value); /* -1 where it is too large for one */
    }
    Py_XDECREF(value);
    PyErr_Clear(); /* whoever asks leaves it to asyncio then */
    return limit;
}

/* ---- feeding ------------------------------------------------------------------ */

/* The reader becomes a _core.StreamReader, if it is asyncio's and reads on this loop. Its
 * instance dict, a new reference, or NULL: it is fed by asyncio. */
static PyObject *
reader_adopt(LoopObject *loop, PyObject *reader)
{
    PyloopState *state = loop->state;
    bool adopted = Py_IS_TYPE(reader, state->StreamReaderType);
    if (!adopted && !Py_IS_TYPE(reader, state->watched[WATCHED_STREAM_READER].type)) {
        return NULL;
    }
    PyObject *dict = PyObject_GenericGetDict(reader, NULL);
    PyObject *fed_by = NULL, *its_loop = NULL;
    if (dict == NULL || reader_get(dict, state->str_feed_data, &fed_by) != 0 ||
        reader_get(dict, state->str__loop, &its_loop) <= 0 ||
        its_loop != (PyObject *)loop) {
        Py_CLEAR(dict); /* its own feed_data(), or another loop's future to wake */
    }
    Py_XDECREF(fed_by);
    Py_XDECREF(its_loop);
    if (dict != NULL && !adopted &&
        PyObject_SetAttr(reader, state->str___class__,
                         (PyObject *)state->StreamReaderType) < 0) {
        Py_CLEAR(dict);
    }
    PyErr_Clear(); /* asyncio's way, which needs none of this, goes on */
    return dict;
}

/* The live reader behind a StreamReaderProtocol; NULL without one, *known says whether it
 * is known that there is none. */
static PyObject *
reader_behind(PyloopState *state, PyObject *protocol, bool *known)
{
    PyObject *reader = NULL, *own = NULL, *ref = NULL;
    PyObject *dict = PyObject_GenericGetDict(protocol, NULL);
    *known = dict != NULL && reader_get(dict, state->str_data_received, &own) == 0 &&
             reader_get(dict, state->str__stream_reader_wr, &ref) > 0 &&
             (ref == Py_None ||
              (PyWeakref_CheckRefExact(ref) && PyWeakref_GetRef(ref, &reader) >= 0));
    Py_XDECREF(own);
    Py_XDECREF(ref);
    Py_XDECREF(dict);
    PyErr_Clear(); /* as above */
    return reader;
}

/* reader._wakeup_waiter(). 0, or -1. */
static int
reader_wake(PyloopState *state, PyObject *dict)
{
    PyObject *waiter;
    if (reader_get(dict, state->str__waiter, &waiter) < 0) {
        return -1;
    }
    if (waiter == NULL || waiter == Py_None) {
        Py_XDECREF(waiter);
        return 0;
    }
    PyObject *done = NULL;
    if (PyDict_SetItem(dict, state->str__waiter, Py_None) == 0) {
        done = call_method0(waiter, state->str_cancelled);
    }
    if (done == Py_False) {
        Py_SETREF(done, call_method1(waiter, state->str_set_result, Py_None));
    }
    Py_XDECREF(done);
    Py_DECREF(waiter);
    return done != NULL ? 0 : -1;
}

/* What feed_data() does last: more than twice the limit is enough for now. 0, or -1. */
static int
reader_pause_if_full(PyloopState *state, PyObject *dict, Py_ssize_t size,
                     Py_ssize_t limit)
{
    if (limit > PY_SSIZE_T_MAX / 2 || size <= 2 * limit ||
        reader_flag(dict, state->str__paused)) {
        return 0;
    }
    PyObject *transport;
    if (reader_get(dict, state->str__transport, &transport) <= 0 ||
        transport == Py_None) {
        Py_XDECREF(transport);
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *done = call_method0(transport, state->str_pause_reading);
    Py_DECREF(transport);
    if (done != NULL) {
        Py_DECREF(done);
        return PyDict_SetItem(dict, state->str__paused, Py_True);
    }
    if (!PyErr_ExceptionMatches(PyExc_NotImplementedError)) {
        return -1;
    }
    PyErr_Clear(); /* it cannot be paused: the reader stops asking, as in asyncio */
    return PyDict_SetItem(dict, state->str__transport, Py_None);
}

/* feed_data() on the reader's dict; as reader_feed(). */
static int
reader_feed_dict(PyloopState *state, PyObject *dict, const char *data, size_t size)
{
    PyObject *buffer;
    Py_ssize_t limit = reader_limit(state, dict);
    if (limit < 0 || reader_flag(dict, state->str__eof) ||
        reader_get(dict, state->str__buffer, &buffer) <= 0) {
        PyErr_Clear(); /* asyncio's function says what is wrong */
        return 0;
    }
    if (!PyByteArray_CheckExact(buffer)) {
        Py_DECREF(buffer);
        return 0;
    }
    Py_ssize_t before = PyByteArray_GET_SIZE(buffer);
    int rc = PyByteArray_Resize(buffer, before + (Py_ssize_t)size);
    if (rc == 0) {
        memcpy(PyByteArray_AS_STRING(buffer) + before, data, size);
        rc = reader_wake(state, dict);
    }
    if (rc == 0) {
        rc = reader_pause_if_full(state, dict, PyByteArray_GET_SIZE(buffer), limit);
    }
    Py_DECREF(buffer);
    return rc == 0 ? 1 : -1;
}

int
reader_feed(LoopObject *loop, PyObject *protocol, const char *data, size_t size)
{
    PyloopState *state = loop->state;
    bool known;
    if (!reader_functions_unchanged(state)) {
        return 0;
    }
    PyObject *reader = reader_behind(state, protocol, &known);
    if (reader == NULL) {
        return known ? 1 : 0; /* nobody reads: the data are dropped */
    }
    PyObject *dict = reader_adopt(loop, reader);
    int rc = dict != NULL ? reader_feed_dict(state, dict, data, size) : 0;
    Py_XDECREF(dict);
    Py_DECREF(reader);
    return rc;
}

/* ---- the class ------------------------------------------------------------------ */

#define READ_METHOD(name, text)                                                        \
    {#name, (PyCFunction)(void (*)(void))readop_##name,                                \
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, text}

static PyMethodDef reader_methods[] = {
    READ_METHOD(read, "read($self, n=-1)\n--\n\n"
                      "Wait for up to n bytes, or for all until EOF with n=-1; as "
                      "asyncio.StreamReader.read."),
    READ_METHOD(readline, "readline($self)\n--\n\n"
                          "Wait for a line; as asyncio.StreamReader.readline."),
    READ_METHOD(readexactly,
                "readexactly($self, n)\n--\n\n"
                "Wait for exactly n bytes; as asyncio.StreamReader.readexactly."),
    READ_METHOD(readuntil, "readuntil($self, separator=b'\\n')\n--\n\n"
                           "Wait for a separator; as asyncio.StreamReader.readuntil."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, "An asyncio.StreamReader that a transport of pyloop feeds: "
                "asyncio's own, with the coroutines that read in C."},
    {Py_tp_methods, reader_methods},
    {Py_am_anext, (void *)readop_anext},
    {0, NULL},
};

/* Instances must have asyncio's layout: no fields, and flags, traverse, clear and dealloc
 * as inherited. */
static PyType_Spec reader_spec = {
    .name = "pyloop._core.StreamReader",
    .basicsize = 0,
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = reader_slots,
};

PyTypeObject *
streamreader_type_create(PyObject *module)
{
    PyTypeObject *base = state_of_module(module)->watched[WATCHED_STREAM_READER].type;
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &reader_spec,
                                                    (PyObject *)base);
}
