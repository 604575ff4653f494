/* readops.c - the coroutines of _core.StreamReader; see reader.h.
 *
 * A step looks at the reader's buffer. What can be had is taken; what has to come is
 * waited for, by a future in reader._waiter as asyncio's methods do it; and everything
 * else (errors, EOF, a limit exceeded, arguments of unusual types, two coroutines that
 * read at once) is asyncio's own coroutine's, which finds the reader as it was and is
 * awaited in this one's place.
 */
#include "transport/reader.h"

#include "base/args.h"
#include "base/call.h"
#include "loop/coro.h"

#include <string.h>

typedef enum { READ_LOOKING, READ_WAITING, READ_HANDED_OVER } ReadStage;

typedef enum { READ_FAILED, READ_TAKEN, READ_NEEDS_DATA, READ_HAND_OVER } ReadOutcome;

typedef struct {
    CoroObject coro;
    PyObject *reader;  /* strong, NULL once done */
    PyObject *arg;     /* strong or NULL: n, separator */
    Py_ssize_t size;   /* n; of the separator */
    Py_ssize_t offset; /* no separator begins before it */
    ReadStage stage;
} ReadOpObject;

/* What a step sees; all borrowed from who holds dict. */
typedef struct {
    PyObject *dict;
    PyObject *buffer; /* exactly a bytearray */
    Py_ssize_t filled;
    bool eof;
    Py_ssize_t limit;
} ReadView;

typedef struct {
    CoroKind coro; /* first: a CoroKind of a ReadOpObject is a ReadKind */
    ArgsSpec args;
    size_t name; /* of asyncio's method: the string in PyloopState */
    /* The argument is a number of bytes; else a separator, or without one a newline. */
    bool takes_size;
    ReadOutcome (*attempt)(ReadOpObject *self, const ReadView *view, PyObject **result);
} ReadKind;

static inline const ReadKind *
readop_kind(const ReadOpObject *self)
{
    return (const ReadKind *)self->coro.kind;
}

static inline PyloopState *
readop_state(const ReadOpObject *self)
{
    return self->coro.loop->state;
}

/* ---- taking --------------------------------------------------------------------- */

/* reader._paused = False; reader._transport.resume_reading(). 0, or -1. */
static int
readop_resume_transport(PyloopState *state, PyObject *dict)
{
    PyObject *transport;
    if (PyDict_SetItem(dict, state->str__paused, Py_False) < 0 ||
        reader_get(dict, state->str__transport, &transport) < 0) {
        return -1;
    }
    PyObject *done = call_method0(transport != NULL ? transport : Py_None,
                                  state->str_resume_reading);
    Py_XDECREF(transport);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* The first count bytes leave the buffer and are the result. */
static ReadOutcome
readop_take(ReadOpObject *self, const ReadView *view, Py_ssize_t count,
            PyObject **result)
{
    PyloopState *state = readop_state(self);
    PyObject *data =
        PyBytes_FromStringAndSize(PyByteArray_AS_STRING(view->buffer), count);
    int rc = data == NULL            ? -1
             : count == view->filled ? PyByteArray_Resize(view->buffer, 0)
                                     : PySequence_DelSlice(view->buffer, 0, count);
    if (rc == 0 && view->filled - count <= view->limit &&
        reader_flag(view->dict, state->str__paused)) {
        rc = readop_resume_transport(state, view->dict);
    }
    if (rc < 0) {
        Py_XDECREF(data);
        return READ_FAILED;
    }
    *result = data;
    return READ_TAKEN;
}

static ReadOutcome
readop_attempt_read(ReadOpObject *self, const ReadView *view, PyObject **result)
{
    if (view->filled == 0 && !view->eof && self->stage == READ_LOOKING) {
        return READ_NEEDS_DATA;
    }
    return readop_take(self, view, Py_MIN(self->size, view->filled), result);
}

static ReadOutcome
readop_attempt_exactly(ReadOpObject *self, const ReadView *view, PyObject **result)
{
    if (view->filled < self->size) {
        return view->eof ? READ_HAND_OVER : READ_NEEDS_DATA;
    }
    return readop_take(self, view, self->size, result);
}

static ReadOutcome
readop_attempt_until(ReadOpObject *self, const ReadView *view, PyObject **result)
{
    const char *start = PyByteArray_AS_STRING(view->buffer);
    const char *separator = self->arg != NULL ? PyBytes_AS_STRING(self->arg) : "\n";
    Py_ssize_t size = self->size;
    if (view->filled - self->offset >= size) {
        const char *found =
            memmem(start + self->offset, (size_t)(view->filled - self->offset),
                   separator, (size_t)size);
        if (found != NULL) {
            return found - start > view->limit
                       ? READ_HAND_OVER
                       : readop_take(self, view, found - start + size, result);
        }
        self->offset = view->filled + 1 - size; /* the rest may be part of one */
        if (self->offset > view->limit) {
            return READ_HAND_OVER;
        }
    }
    return view->eof ? READ_HAND_OVER : READ_NEEDS_DATA;
}

/* ---- steps ---------------------------------------------------------------------- */

/* Sees the reader if it is as it should be. 1; 0 when not; -1 with an exception. Fills
 * view, whose buffer is a new reference when 1 is returned. */
static int
readop_look(ReadOpObject *self, ReadView *view)
{
    PyloopState *state = readop_state(self);
    if (!reader_functions_unchanged(state)) {
        return 0;
    }
    if (self->stage == READ_LOOKING) {
        PyObject *exception;
        int found = reader_get(view->dict, state->str__exception, &exception);
        Py_XDECREF(exception);
        if (found <= 0 || exception != Py_None) {
            return found < 0 ? -1 : 0;
        }
    }
    view->limit = reader_limit(state, view->dict);
    int found = reader_get(view->dict, state->str__buffer, &view->buffer);
    if (found <= 0) {
        return found;
    }
    if (view->limit < 0 || !PyByteArray_CheckExact(view->buffer)) {
        Py_DECREF(view->buffer);
        return 0;
    }
    view->filled = PyByteArray_GET_SIZE(view->buffer);
    view->eof = reader_flag(view->dict, state->str__eof);
    return 1;
}

/* reader._wait_for_data(). CORO_WAIT; CORO_RETURN when it is asyncio's to do; CORO_ERROR. */
static CoroStatus
readop_wait(ReadOpObject *self, PyObject *dict)
{
    PyloopState *state = readop_state(self);
    PyObject *other;
    int found = reader_get(dict, state->str__waiter, &other);
    Py_XDECREF(other);
    if (found <= 0 || other != Py_None) {
        return found < 0 ? CORO_ERROR : CORO_RETURN;
    }
    if (reader_flag(dict, state->str__paused) &&
        readop_resume_transport(state, dict) < 0) {
        return CORO_ERROR;
    }
    PyObject *future = loop_create_future(self->coro.loop);
    if (future == NULL) {
        return CORO_ERROR;
    }
    CoroStatus status = CORO_ERROR;
    if (PyDict_SetItem(dict, state->str__waiter, future) == 0) {
        self->stage = READ_WAITING;
        status = coro_await(&self->coro, future);
    }
    Py_DECREF(future);
    return status;
}

/* What asyncio's method, or what it was replaced by, returns. */
static PyObject *
readop_call_asyncio(PyloopState *state, const ReadKind *kind, PyObject *reader,
                    PyObject *arg)
{
    PyObject *name = *(PyObject **)((char *)state + kind->name);
    PyObject *function =
        PyObject_GetAttr((PyObject *)state->watched[WATCHED_STREAM_READER].type, name);
    if (function == NULL) {
        return NULL;
    }
    PyObject *values[3] = {NULL, reader, arg};
    PyObject *result = call_vector(function, values + 1, arg != NULL ? 2 : 1);
    Py_DECREF(function);
    return result;
}

/* Awaits asyncio's own coroutine from here on. */
static CoroStatus
readop_hand_over(ReadOpObject *self)
{
    PyObject *coroutine = readop_call_asyncio(readop_state(self), readop_kind(self),
                                              self->reader, self->arg);
    if (coroutine == NULL) {
        return CORO_ERROR;
    }
    self->stage = READ_HANDED_OVER;
    CoroStatus status = coro_await(&self->coro, coroutine);
    Py_DECREF(coroutine);
    return status;
}

/* One step on the reader's dict. */
static CoroStatus
readop_step(ReadOpObject *self, PyObject *dict, PyObject **result)
{
    ReadView view = {.dict = dict};
    ReadOutcome outcome = READ_HAND_OVER;
    int usual = readop_look(self, &view);
    if (usual < 0) {
        return CORO_ERROR;
    }
    if (usual > 0) {
        outcome = readop_kind(self)->attempt(self, &view, result);
        Py_DECREF(view.buffer);
    }
    if (outcome == READ_NEEDS_DATA) {
        CoroStatus status = readop_wait(self, dict);
        if (status != CORO_RETURN) {
            return status;
        }
        outcome = READ_HAND_OVER;
    }
    if (outcome == READ_HAND_OVER) {
        return readop_hand_over(self);
    }
    return outcome == READ_TAKEN ? CORO_RETURN : CORO_ERROR;
}

static CoroStatus
readop_resume(CoroObject *coro, PyObject *value, PyObject **result)
{
    ReadOpObject *self = (ReadOpObject *)coro;
    if (self->stage == READ_HANDED_OVER) {
        *result = Py_NewRef(value);
        return CORO_RETURN;
    }
    PyObject *dict = PyObject_GenericGetDict(self->reader, NULL);
    if (dict == NULL) {
        return CORO_ERROR;
    }
    CoroStatus status = CORO_ERROR;
    if (value == NULL || /* else woken; the finally of asyncio's _wait_for_data */
        PyDict_SetItem(dict, readop_state(self)->str__waiter, Py_None) == 0) {
        status = readop_step(self, dict, result);
    }
    Py_DECREF(dict);
    return status;
}

/* ---- the object and the methods ---------------------------------------------- */

static void
readop_release(CoroObject *coro)
{
    ReadOpObject *self = (ReadOpObject *)coro;
    PyObject *reader = self->reader;
    self->reader = NULL;
    if (self->stage == READ_WAITING && reader != NULL) {
        PyObject *dict = PyObject_GenericGetDict(reader, NULL);
        if (dict == NULL ||
            PyDict_SetItem(dict, readop_state(self)->str__waiter, Py_None) < 0) {
            PyErr_WriteUnraisable(reader);
        }
        Py_XDECREF(dict);
    }
    Py_XDECREF(reader);
    Py_CLEAR(self->arg);
}

static int
readop_traverse(CoroObject *coro, visitproc visit, void *arg)
{
    ReadOpObject *self = (ReadOpObject *)coro;
    Py_VISIT(self->reader);
    Py_VISIT(self->arg);
    return 0;
}

PyTypeObject *
readop_type_create(PyObject *module)
{
    return coro_type_create(module, "pyloop._core.ReadOp", sizeof(ReadOpObject),
                            "The coroutine of a method of StreamReader that reads.");
}

static const char *const size_names[] = {"n"};
static const char *const separator_names[] = {"separator"};

#define READ_KIND(method, names, nnames, required, by_size, attempt_function)          \
    {                                                                                  \
        .coro = {"StreamReader." #method, readop_resume, NULL, readop_release,         \
                 readop_traverse, NULL},                                               \
        .args = {"StreamReader." #method, names, nnames, required, nnames},            \
        .name = offsetof(PyloopState, str_##method),                                   \
        .takes_size = by_size,                                                         \
        .attempt = attempt_function,                                                   \
    }

static const ReadKind kind_read =
    READ_KIND(read, size_names, 1, 0, true, readop_attempt_read);
static const ReadKind kind_readexactly =
    READ_KIND(readexactly, size_names, 1, 1, true, readop_attempt_exactly);
static const ReadKind kind_readuntil =
    READ_KIND(readuntil, separator_names, 1, 0, false, readop_attempt_until);
static const ReadKind kind_readline =
    READ_KIND(readline, separator_names, 0, 0, false, readop_attempt_until);
/* asyncio's raises StopAsyncIteration at EOF, which only it is asked about. */
static const ReadKind kind_anext = {
    .coro = {"StreamReader.__anext__", readop_resume, NULL, readop_release,
             readop_traverse, NULL},
    .args = {"StreamReader.__anext__", separator_names, 0, 0, 0},
    .name = offsetof(PyloopState, str___anext__),
    .attempt = readop_attempt_until,
};

/* Whether C code can serve this argument; sets size. */
static bool
readop_can(const ReadKind *kind, PyObject *arg, Py_ssize_t *size)
{
    *size = 1; /* the newline's */
    if (kind->takes_size) {
        if (arg == NULL || !PyLong_CheckExact(arg)) {
            return false;
        }
        *size = PyLong_AsSsize_t(arg);
        PyErr_Clear(); /* too large for one: asyncio's to say what it says */
    }
    else if (arg != NULL) {
        *size = PyBytes_CheckExact(arg) ? PyBytes_GET_SIZE(arg) : 0;
    }
    return *size > 0;
}

/* The pyloop loop that the reader is of, if C code may read: a new reference, or NULL. */
static LoopObject *
readop_loop_for(PyloopState *state, const ReadKind *kind, PyObject *reader)
{
    PyObject *loop = NULL, *own = NULL;
    PyObject *dict = PyObject_GenericGetDict(reader, NULL);
    bool may = dict != NULL && reader_functions_unchanged(state) &&
               reader_get(dict, state->str__loop, &loop) > 0 &&
               PyObject_TypeCheck(loop, state->LoopType);
    if (may && kind->args.count == 0) { /* asyncio's call methods that may be its own */
        may = reader_get(dict, state->str_readuntil, &own) == 0 &&
              (kind != &kind_anext || reader_get(dict, state->str_readline, &own) == 0);
    }
    Py_XDECREF(own);
    Py_XDECREF(dict);
    if (!may) {
        Py_CLEAR(loop);
        PyErr_Clear(); /* asyncio's function says what is wrong */
    }
    return (LoopObject *)loop;
}

static PyObject *
readop_new(PyObject *reader, PyloopState *state, const ReadKind *kind,
           PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *arg = NULL;
    Py_ssize_t size;
    if (args_parse(&kind->args, args, nargs, kwnames, &arg) < 0) {
        return NULL;
    }
    LoopObject *loop =
        readop_can(kind, arg, &size) ? readop_loop_for(state, kind, reader) : NULL;
    if (loop == NULL) {
        return readop_call_asyncio(state, kind, reader, arg);
    }
    ReadOpObject *self = (ReadOpObject *)coro_new(state->ReadOpType, &kind->coro, loop);
    Py_DECREF(loop);
    if (self == NULL) {
        return NULL;
    }
    self->reader = Py_NewRef(reader);
    self->arg = Py_XNewRef(arg);
    self->size = size;
    self->stage = READ_LOOKING;
    return (PyObject *)self;
}

PyObject *
readop_read(PyObject *op, PyTypeObject *defining, PyObject *const *args,
            Py_ssize_t nargs, PyObject *kwnames)
{
    return readop_new(op, (PyloopState *)PyType_GetModuleState(defining), &kind_read,
                      args, nargs, kwnames);
}

PyObject *
readop_readline(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                Py_ssize_t nargs, PyObject *kwnames)
{
    return readop_new(op, (PyloopState *)PyType_GetModuleState(defining),
                      &kind_readline, args, nargs, kwnames);
}

PyObject *
readop_readexactly(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                   Py_ssize_t nargs, PyObject *kwnames)
{
    return readop_new(op, (PyloopState *)PyType_GetModuleState(defining),
                      &kind_readexactly, args, nargs, kwnames);
}

PyObject *
readop_readuntil(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                 Py_ssize_t nargs, PyObject *kwnames)
{
    return readop_new(op, (PyloopState *)PyType_GetModuleState(defining),
                      &kind_readuntil, args, nargs, kwnames);
}

PyObject *
readop_anext(PyObject *op)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(op), &pyloop_module_def);
    return module != NULL
               ? readop_new(op, state_of_module(module), &kind_anext, NULL, 0, NULL)
               : NULL;
}
