/* tls_write.c - records out of asyncio's SSLProtocol; see tls.h.
 *
 * The k - 1 first of k writes of a callback, which the transport below would hold (write.c),
 * are held before they are encrypted, so that all k make one record. They wait in
 * protocol._write_backlog, where asyncio's functions find what OpenSSL did not take at once:
 * each of them that sends something sends that first, unless reading is paused.
 *
 * Invariant T1: while a transport's plain > 0, its protocol's backlog has just these bytes,
 *               reading is not paused, and less is to be written than its limit.
 *
 * tls_release() sends them with what else the transport below holds: when the callback ends,
 * and before the transport is asked for anything that could tell. What an application's
 * transport answers by itself is in the methods of its class here.
 */
#include "transport/tls_parts.h"

#include "base/args.h"
#include "base/call.h"

/* The transport below if it is one of ours, as they are made: the same object, or NULL. */
static StreamObject *
tls_stream(const TlsView *view, PyObject *transport)
{
    if (transport == NULL ||
        !Py_IS_TYPE(transport, (PyTypeObject *)view->state->SocketTransportType)) {
        return NULL;
    }
    StreamObject *self = (StreamObject *)transport;
    bool usual = self->protocol == view->protocol &&
                 (self->dict == NULL || PyDict_GET_SIZE(self->dict) == 0);
    return usual ? self : NULL;
}

/* ---- small steps ------------------------------------------------------------------- */

/* Writes data, records, to the transport below, unless it is empty. stream: that, when what
 * is to become of it is known. 0, or -1. */
static int
tls_send(TlsView *view, StreamObject *stream, PyObject *data, StreamHold how)
{
    if (stream != NULL && PyBytes_CheckExact(data)) {
        return stream_write_planned(stream, data, how);
    }
    if (PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) == 0) {
        return 0;
    }
    PyloopState *state = view->state;
    PyObject *transport = NULL, *done = NULL;
    int rc = tls_get(view, TLS_TRANSPORT, &transport);
    if (rc == 0) { /* says so, as asyncio's function does */
        transport = PyObject_GetAttr(view->protocol, state->str__transport);
    }
    if (transport != NULL) {
        done = call_method1(transport, state->str_write, data);
    }
    Py_XDECREF(transport);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

int
tls_process_outgoing(TlsView *view, StreamObject *stream, StreamHold how)
{
    PyloopState *state = view->state;
    if (tls_flag(view, TLS_SSL_WRITING_PAUSED)) {
        return tls_call(view, state->str__process_outgoing);
    }
    PyObject *data = call_method0(view->outgoing, state->str_read);
    int rc = data == NULL ? -1 : tls_send(view, stream, data, how);
    Py_XDECREF(data);
    if (rc < 0) {
        return -1;
    }
    Py_ssize_t size = tls_size(view);
    Py_ssize_t high = tls_number(view, TLS_OUTGOING_HIGH);
    if (size < 0 || size >= high || tls_flag(view, TLS_APP_WRITING_PAUSED)) {
        return tls_call(view, state->str__control_app_writing);
    }
    return 0;
}

/* Encrypts data, from *done on, and counts. 0, or -1 with what the ssl object raised. */
static int
tls_encrypt(TlsView *view, PyObject *data, Py_ssize_t *done)
{
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    PyObject *whole = NULL;
    while (*done < size) {
        PyObject *rest = Py_NewRef(data);
        if (*done > 0) { /* one call takes one record */
            whole = whole != NULL ? whole : PyMemoryView_FromObject(data);
            Py_SETREF(rest,
                      whole != NULL ? PySequence_GetSlice(whole, *done, size) : NULL);
        }
        PyObject *taken =
            rest != NULL ? call_method1(view->ssl, view->state->str_write, rest) : NULL;
        Py_XDECREF(rest);
        Py_ssize_t count = taken != NULL ? PyLong_AsSsize_t(taken) : -1;
        Py_XDECREF(taken);
        if (count < 0) {
            break;
        }
        *done += count;
    }
    Py_XDECREF(whole);
    return *done < size ? -1 : 0;
}

/* data waits in protocol._write_backlog, from its byte done on. 0, or -1. */
static int
tls_queue(TlsView *view, PyObject *backlog, PyObject *data, Py_ssize_t done)
{
    PyloopState *state = view->state;
    Py_ssize_t length = PyBytes_GET_SIZE(data) - done;
    Py_ssize_t before = tls_size(view);
    PyObject *size = PyLong_FromSsize_t(Py_MAX(before, 0) + length);
    PyObject *rest = done == 0
                         ? Py_NewRef(data)
                         : PySequence_GetSlice(data, done, PyBytes_GET_SIZE(data));
    PyObject *added = size != NULL && rest != NULL
                          ? call_method1(backlog, state->str_append, rest)
                          : NULL;
    bool failed = added == NULL || tls_set_size(view, size) < 0;
    Py_XDECREF(size);
    Py_XDECREF(rest);
    Py_XDECREF(added);
    return failed ? -1 : 0;
}

/* Encrypts data, when nothing waits; what OpenSSL does not take, does. 0, or -1. */
static int
tls_encrypt_or_queue(TlsView *view, PyObject *backlog, PyObject *data)
{
    Py_ssize_t done = 0;
    if (tls_encrypt(view, data, &done) == 0) {
        return 0;
    }
    PyObject *raised = PyErr_GetRaisedException();
    if (tls_queue(view, backlog, data, done) < 0) {
        Py_DECREF(raised); /* out of memory says more */
        return -1;
    }
    PyErr_SetRaisedException(raised);
    return tls_wants_more(view->state) ? 0 : -1;
}

/* protocol._write_appdata((data,)) where nothing waits. 0, or -1. */
static int
tls_write_now(TlsView *view, PyObject *backlog, StreamObject *stream, PyObject *data,
              StreamHold how)
{
    int rc = tls_encrypt_or_queue(view, backlog, data);
    if (rc == 0) {
        rc = tls_process_outgoing(view, stream, how);
    }
    return rc < 0 ? tls_failed(view) : 0;
}

/* ---- holding ----------------------------------------------------------------------- */

/* How many bytes may wait to be encrypted together: not what would tell the application to
 * pause (T1). */
static size_t
tls_most(TlsView *view)
{
    Py_ssize_t high = tls_number(view, TLS_OUTGOING_HIGH);
    if (high <= 0 || tls_flag(view, TLS_APP_READING_PAUSED) ||
        tls_flag(view, TLS_APP_WRITING_PAUSED) ||
        tls_flag(view, TLS_SSL_WRITING_PAUSED)) {
        return 0;
    }
    return (size_t)Py_MIN(high - 1, TLS_RECORD);
}

/* All that waits in protocol._write_backlog, as one bytes object: new reference, and it is
 * empty; or NULL. */
static PyObject *
tls_take_backlog(TlsView *view, PyObject *backlog)
{
    PyloopState *state = view->state;
    PyObject *zero = PyLong_FromLong(0);
    int rc = zero != NULL ? tls_set_size(view, zero) : -1;
    Py_XDECREF(zero);
    PyObject *whole = rc < 0 ? NULL : PyBytes_FromStringAndSize(NULL, 0);
    Py_ssize_t left = whole != NULL ? PyObject_Size(backlog) : 0;
    if (left < 0) {
        Py_CLEAR(whole);
    }
    while (left-- > 0 && whole != NULL) {
        PyObject *next = call_method0(backlog, state->str_popleft);
        if (next != NULL && PyBytes_CheckExact(next) && PyBytes_GET_SIZE(whole) == 0) {
            Py_SETREF(whole, next);
        }
        else if (next != NULL) {
            PyBytes_ConcatAndDel(&whole, next);
        }
        else {
            Py_CLEAR(whole);
        }
    }
    return whole;
}

/* protocol._do_write() when plain data waits, but as few records as can be; after that,
 * data, unless it is NULL. stream's plain is 0 already. 0, or -1. */
static int
tls_seal(TlsView *view, PyObject *backlog, StreamObject *stream, PyObject *data,
         StreamHold how)
{
    PyObject *whole = tls_take_backlog(view, backlog);
    if (whole != NULL && data != NULL &&
        PyBytes_GET_SIZE(whole) + PyBytes_GET_SIZE(data) <= TLS_RECORD) {
        PyBytes_Concat(&whole, data);
        data = NULL;
    }
    int rc = whole != NULL ? tls_encrypt_or_queue(view, backlog, whole) : -1;
    Py_XDECREF(whole);
    if (rc == 0 && data != NULL) {
        rc = PyObject_Size(backlog) == 0 ? tls_encrypt_or_queue(view, backlog, data)
                                         : tls_queue(view, backlog, data, 0);
    }
    if (rc == 0) {
        rc = tls_process_outgoing(view, stream, how);
    }
    return rc < 0 ? tls_failed(view) : 0;
}

/* Has the view, since it was made, become none of a protocol that may write? */
static bool
tls_may_write(TlsView *view, StreamObject *stream, PyObject *backlog)
{
    PyObject *phase = NULL;
    bool wrapped =
        tls_get(view, TLS_STATE, &phase) > 0 && phase == view->state->tls_wrapped;
    Py_XDECREF(phase);
    return wrapped && (stream->plain > 0 || PyObject_Size(backlog) == 0);
}

/* 1: data is written, or held. 0: that is for asyncio's function. -1. */
static int
tls_write_stream(TlsView *view, PyObject *backlog, StreamObject *stream, PyObject *data)
{
    size_t length = (size_t)PyBytes_GET_SIZE(data);
    StreamHold how = stream_plan_write(stream, length, tls_most(view));
    if (!tls_may_write(view, stream, backlog)) { /* others' data went out, see above */
        return 0;
    }
    int rc;
    if (how == HOLD_CALLBACK) {
        rc = tls_queue(view, backlog, data, 0);
        if (rc == 0) {
            stream_hold_plain(stream, length);
        }
    }
    else if (stream->plain > 0) {
        stream_take_plain(stream);
        rc = tls_seal(view, backlog, stream, data, how);
    }
    else {
        rc = tls_write_now(view, backlog, stream, data, how);
    }
    return rc < 0 ? -1 : 1;
}

/* The rest of tls_release(), where C code may do it. 0, or -1. */
static int
tls_release_view(TlsView *view, StreamObject *stream, bool drop)
{
    PyObject *backlog;
    int rc = tls_get(view, TLS_BACKLOG, &backlog);
    if (rc <= 0) {
        return rc; /* deleted: there is nothing */
    }
    if (drop) {
        PyObject *whole = tls_take_backlog(view, backlog);
        rc = whole != NULL ? 0 : -1;
        Py_XDECREF(whole);
    }
    else {
        rc = tls_seal(view, backlog, stream, NULL, HOLD_QUEUE);
    }
    Py_DECREF(backlog);
    return rc;
}

int
tls_release(StreamObject *self, bool drop)
{
    PyloopState *state = self->loop->state;
    PyObject *protocol = Py_XNewRef(self->protocol);
    if (protocol == NULL) {
        return 0; /* connection_lost() dropped what it had */
    }
    TlsView view;
    int rc;
    if (tls_view(state, protocol, TLS_WRITE_APPDATA, TLS_DO_WRITE, &view)) {
        rc = tls_release_view(&view, self, drop);
        tls_view_drop(&view);
    }
    else { /* a function was replaced meanwhile */
        TlsView theirs = {.state = state, .protocol = protocol};
        rc = tls_call(&theirs, state->str__do_write);
        rc = rc < 0 ? tls_failed(&theirs) : 0;
    }
    Py_DECREF(protocol);
    return rc;
}

/* ---- the class ---------------------------------------------------------------------- */

/* asyncio's own method, or what it was replaced by. */
static PyObject *
tls_by_asyncio(PyloopState *state, PyObject *name, PyObject *op, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *type = (PyObject *)state->watched[WATCHED_SSL_TRANSPORT].type;
    PyObject *function = PyObject_GetAttr(type, name);
    PyObject *method = function != NULL ? PyMethod_New(function, op) : NULL;
    Py_XDECREF(function);
    if (method == NULL) {
        return NULL;
    }
    LockHold *held = lock_give_up();
    PyObject *result = PyObject_Vectorcall(method, args, (size_t)nargs, kwnames);
    lock_take_back(held);
    Py_DECREF(method);
    return result;
}

/* The protocol of the transport op: 1 and view is filled, for tls_view_drop(), or 0. */
static bool
tls_view_of(PyloopState *state, PyObject *op, TlsView *view)
{
    PyObject *dict = PyObject_GenericGetDict(op, NULL);
    PyObject *protocol = NULL;
    bool may = dict != NULL &&
               reader_get(dict, state->str__ssl_protocol, &protocol) > 0 &&
               tls_view(state, protocol, TLS_WRITE_APPDATA, TLS_DO_WRITE, view);
    Py_XDECREF(dict);
    Py_XDECREF(protocol);
    PyErr_Clear(); /* asyncio's function says what is wrong */
    return may;
}

/* 1: data is written, or held. 0: that is for asyncio's function. -1. */
static int
tls_write_view(TlsView *view, PyObject *data)
{
    PyObject *backlog = NULL, *transport = NULL;
    int rc = 0;
    if (view->phase == view->state->tls_wrapped &&
        tls_get(view, TLS_BACKLOG, &backlog) > 0 &&
        tls_get(view, TLS_TRANSPORT, &transport) >= 0) {
        StreamObject *stream = tls_stream(view, transport);
        if (stream != NULL) {
            LockHold hold;
            lock_enter(&stream->loop->lock, &hold);
            rc = tls_write_stream(view, backlog, stream, data);
            lock_exit(&hold);
        }
        else if (PyObject_Size(backlog) == 0) {
            rc = tls_write_now(view, backlog, NULL, data, HOLD_NOT) < 0 ? -1 : 1;
        }
    }
    Py_XDECREF(backlog);
    Py_XDECREF(transport);
    return rc;
}

static PyObject *
tls_write(PyObject *op, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    PyloopState *state = (PyloopState *)PyType_GetModuleState(defining);
    PyObject *data = args_one("write", "data", args, nargs, kwnames);
    if (data == NULL) {
        return NULL;
    }
    TlsView view;
    int rc = 0;
    if (PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) > 0 &&
        tls_view_of(state, op, &view)) {
        rc = tls_write_view(&view, data);
        tls_view_drop(&view);
    }
    if (rc == 0) {
        PyErr_Clear(); /* asyncio's function says what is wrong */
        return tls_by_asyncio(state, state->str_write, op, &data, 1, NULL);
    }
    return rc > 0 ? Py_NewRef(Py_None) : NULL;
}

/* Sends what the transport below holds for op, so that what op is asked next is answered as
 * if it had been sent at once. */
static void
tls_settle(PyloopState *state, PyObject *op)
{
    TlsView view;
    PyObject *transport = NULL;
    if (RACY_LOAD(state->held_plain) == 0 || !tls_view_of(state, op, &view)) {
        return;
    }
    (void)tls_get(&view, TLS_TRANSPORT, &transport);
    StreamObject *stream = tls_stream(&view, transport);
    if (stream != NULL) {
        LockHold hold;
        lock_enter(&stream->loop->lock, &hold);
        if (stream->plain > 0) {
            stream_release_held(stream);
        }
        lock_exit(&hold);
    }
    Py_XDECREF(transport);
    tls_view_drop(&view);
}

/* A method of asyncio's, after tls_settle(). */
#define TLS_SETTLED(method)                                                            \
    static PyObject *tls_##method(PyObject *op, PyTypeObject *defining,                \
                                  PyObject *const *args, Py_ssize_t nargs,             \
                                  PyObject *kwnames)                                   \
    {                                                                                  \
        PyloopState *state = (PyloopState *)PyType_GetModuleState(defining);           \
        tls_settle(state, op);                                                         \
        return tls_by_asyncio(state, state->str_##method, op, args, nargs, kwnames);   \
    }

TLS_SETTLED(
    is_closing) /* StreamWriter.drain() asks, and may not give up its callback */
TLS_SETTLED(get_write_buffer_size)
TLS_SETTLED(set_write_buffer_limits)
TLS_SETTLED(pause_reading)

#define TLS_METHOD(method, doc)                                                        \
    {#method, (PyCFunction)(void (*)(void))tls_##method,                               \
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, doc}

static PyMethodDef tls_methods[] = {
    TLS_METHOD(write, "write($self, data)\n--\n\n"
                      "Encrypt and send bytes; asyncio.WriteTransport.write."),
    TLS_METHOD(is_closing, "is_closing($self)\n--\n\n"
                           "asyncio.BaseTransport.is_closing."),
    TLS_METHOD(get_write_buffer_size, "get_write_buffer_size($self)\n--\n\n"
                                      "Bytes that wait to be sent; "
                                      "asyncio.WriteTransport.get_write_buffer_size."),
    TLS_METHOD(set_write_buffer_limits,
               "set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
               "In bytes; asyncio.WriteTransport.set_write_buffer_limits."),
    TLS_METHOD(pause_reading, "pause_reading($self)\n--\n\n"
                              "asyncio.ReadTransport.pause_reading."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot tls_slots[] = {
    {Py_tp_doc, "asyncio's transport over TLS, writing in C."},
    {Py_tp_methods, tls_methods},
    {0, NULL},
};

/* Instances must have asyncio's layout, as those of _core.StreamReader; and its name,
 * by which programs tell that a transport is one over TLS. */
static PyType_Spec tls_spec = {
    .name = "pyloop._core._SSLProtocolTransport",
    .basicsize = 0,
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = tls_slots,
};

PyTypeObject *
tlstransport_type_create(PyObject *module)
{
    PyTypeObject *base = state_of_module(module)->watched[WATCHED_SSL_TRANSPORT].type;
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &tls_spec,
                                                    (PyObject *)base);
}
