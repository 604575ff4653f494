/* tls.c - records into asyncio's SSLProtocol; see tls.h, and tls_write.c for the way out.
 *
 * The calls of OpenSSL are those of ssl.SSLObject, without its Python function in between.
 * A read that would only find out that there is nothing more is left out: OpenSSL takes
 * whole records from a MemoryBIO, so when that is empty and the last read was not full,
 * the next one would raise SSLWantReadError.
 */
#include "transport/tls_parts.h"

#include "base/call.h"

enum {
    TLS_READ_MIN = 256, /* bytes asked for at least: a smaller object saves nothing */
    TLS_COPY_MAX = 4096 /* up to here a copy costs less than a view */
};

static const char tls_failed_text[] = "Fatal error on SSL protocol"; /* asyncio's */

void
tls_view_drop(TlsView *view)
{
    Py_CLEAR(view->protocol);
    Py_CLEAR(view->dict);
    Py_CLEAR(view->facts);
    Py_CLEAR(view->phase);
    Py_CLEAR(view->ssl);
    Py_CLEAR(view->incoming);
    Py_CLEAR(view->outgoing);
}

/* The _ssl object behind exactly an ssl.SSLObject: new reference, or NULL. */
static PyObject *
tls_ssl_of(TlsView *view)
{
    PyloopState *state = view->state;
    PyObject *object = NULL, *ssl = NULL, *own = NULL;
    if (tls_get(view, TLS_SSL_OBJECT, &object) > 0 &&
        Py_IS_TYPE(object, state->watched[WATCHED_SSL_OBJECT].type)) {
        own = PyObject_GenericGetDict(object, NULL);
    }
    if (own != NULL && reader_get(own, state->str__sslobj, &ssl) <= 0) {
        ssl = NULL;
    }
    Py_XDECREF(own);
    Py_XDECREF(object);
    return ssl;
}

bool
tls_view(PyloopState *state, PyObject *protocol, TlsItem function, TlsItem function2,
         TlsView *view)
{
    if (!Py_IS_TYPE(protocol, state->watched[WATCHED_SSL_PROTOCOL].type) ||
        !watched_is_unchanged(&state->watched[WATCHED_SSL_PROTOCOL]) ||
        !watched_is_unchanged(&state->watched[WATCHED_SSL_TRANSPORT]) ||
        !watched_is_unchanged(&state->watched[WATCHED_SSL_OBJECT])) {
        return false;
    }
    *view = (TlsView){.state = state, .protocol = Py_NewRef(protocol)};
    PyObject *own = NULL;
    view->dict = PyObject_GenericGetDict(protocol, NULL);
    view->facts = view->dict != NULL ? tls_facts_of(state, view->dict) : NULL;
    bool may = view->dict != NULL && tls_get(view, TLS_STATE, &view->phase) > 0 &&
               tls_get(view, function, &own) == 0 &&
               tls_get(view, function2, &own) == 0 &&
               tls_get(view, TLS_INCOMING, &view->incoming) > 0 &&
               tls_get(view, TLS_OUTGOING, &view->outgoing) > 0 &&
               (view->ssl = tls_ssl_of(view)) != NULL;
    Py_XDECREF(own);
    if (!may) {
        tls_view_drop(view);
        PyErr_Clear(); /* asyncio's function says what is wrong */
    }
    return may;
}

/* ---- small steps ----------------------------------------------------------------- */

int
tls_call(TlsView *view, PyObject *name)
{
    PyObject *done = call_method0(view->protocol, name);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* The bytes in a MemoryBIO; -1 with an exception. */
static Py_ssize_t
tls_pending(PyloopState *state, PyObject *bio)
{
    PyObject *pending = PyObject_GetAttr(bio, state->str_pending);
    Py_ssize_t count = pending != NULL ? PyLong_AsSsize_t(pending) : -1;
    Py_XDECREF(pending);
    return count;
}

bool
tls_wants_more(PyloopState *state)
{
    if (!PyErr_ExceptionMatches(state->SSLWantReadError) &&
        !PyErr_ExceptionMatches(state->SSLSyscallError)) {
        return false;
    }
    PyErr_Clear(); /* there is no more at the moment */
    return true;
}

int
tls_failed(TlsView *view)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *text = PyUnicode_FromString(tls_failed_text);
    PyObject *done =
        text != NULL
            ? call_method2(view->protocol, view->state->str__fatal_error, exc, text)
            : NULL;
    Py_XDECREF(done);
    Py_XDECREF(text);
    Py_DECREF(exc);
    return done != NULL ? 0 : -1;
}

/* ---- reading ----------------------------------------------------------------------- */

/* One call of the ssl object's read(). New reference; NULL with an exception. */
static PyObject *
tls_read_record(TlsView *view, Py_ssize_t size)
{
    PyObject *number = PyLong_FromSsize_t(size);
    PyObject *chunk =
        number != NULL ? call_method1(view->ssl, view->state->str_read, number) : NULL;
    Py_XDECREF(number);
    if (chunk != NULL && !PyBytes_CheckExact(chunk)) {
        PyErr_SetString(PyExc_TypeError, "read() of the SSL object returned no bytes");
        Py_CLEAR(chunk);
    }
    return chunk;
}

/* Adds chunk (stolen) to *data, which is NULL or bytes. 0, or -1. */
static int
tls_append(PyObject **data, PyObject *chunk)
{
    if (*data == NULL) {
        *data = chunk;
        return 0;
    }
    PyBytes_ConcatAndDel(data, chunk);
    return *data != NULL ? 0 : -1;
}

/* All data that can be decrypted, as one bytes object or NULL, when `there` bytes have
 * come; *eof is whether the peer ended them (close_notify). 0, or -1. */
static int
tls_decrypt(TlsView *view, Py_ssize_t there, PyObject **data, bool *eof)
{
    *data = NULL;
    *eof = false;
    for (;;) {
        /* What is decrypted is shorter than its record. */
        Py_ssize_t asked = Py_MIN(Py_MAX(there, TLS_READ_MIN), TLS_RECORD);
        PyObject *chunk = tls_read_record(view, asked);
        if (chunk == NULL) {
            if (tls_wants_more(view->state)) {
                return 0;
            }
            break;
        }
        Py_ssize_t size = PyBytes_GET_SIZE(chunk);
        if (size == 0) {
            Py_DECREF(chunk);
            *eof = true;
            return 0;
        }
        if (tls_append(data, chunk) < 0) {
            break;
        }
        if (size == asked) {
            there = TLS_RECORD; /* there may be more of this record */
            continue;
        }
        there = tls_pending(view->state, view->incoming);
        if (there <= 0) {
            if (there == 0) {
                return 0;
            }
            break;
        }
    }
    Py_CLEAR(*data);
    return -1;
}

/* app.data_received(data). 0, or -1. */
static int
tls_deliver(LoopObject *loop, TlsView *view, PyObject *data)
{
    PyObject *app;
    PyloopState *state = view->state;
    int rc = tls_get(view, TLS_APP_PROTOCOL, &app);
    if (rc <= 0) {
        return rc; /* deleted: nobody to deliver to */
    }
    rc = 0;
    if (Py_IS_TYPE(app, state->watched[WATCHED_STREAM_PROTOCOL].type)) {
        rc = reader_feed(loop, app, PyBytes_AS_STRING(data),
                         (size_t)PyBytes_GET_SIZE(data));
    }
    if (rc == 0) {
        PyObject *done = call_method1(app, state->str_data_received, data);
        Py_XDECREF(done);
        rc = done != NULL ? 0 : -1;
    }
    Py_DECREF(app);
    return rc < 0 ? -1 : 0;
}

/* What follows on reading: what is to be sent, and limits. 0, or -1. */
static int
tls_after_reading(StreamObject *self, TlsView *view)
{
    PyloopState *state = view->state;
    PyObject *backlog;
    int rc = tls_get(view, TLS_BACKLOG, &backlog);
    if (rc < 0) {
        return -1;
    }
    Py_ssize_t queued = backlog != NULL ? PyObject_Size(backlog) : 0;
    Py_XDECREF(backlog);
    rc = queued < 0        ? -1
         : self->plain > 0 ? 0 /* this callback may write more */
         : queued > 0      ? tls_call(view, state->str__do_write)
                           : tls_process_outgoing(view, NULL, HOLD_NOT);
    if (rc < 0) {
        return -1;
    }
    Py_ssize_t size = tls_pending(state, view->incoming);
    if (size < 0) {
        return -1;
    }
    if (size >= tls_number(view, TLS_INCOMING_HIGH) ||
        tls_flag(view, TLS_SSL_READING_PAUSED)) {
        return tls_call(view, state->str__control_ssl_reading);
    }
    return 0;
}

/* protocol._do_read() when `there` bytes have come. 0, or -1. */
static int
tls_do_read(StreamObject *self, TlsView *view, Py_ssize_t there)
{
    PyloopState *state = view->state;
    PyObject *data;
    bool eof;
    if (tls_flag(view, TLS_APP_READING_PAUSED) || tls_flag(view, TLS_APP_IS_BUFFER)) {
        return tls_call(view, state->str__do_read);
    }
    int rc = tls_decrypt(view, there, &data, &eof);
    if (rc == 0 && data != NULL) {
        rc = tls_deliver(self->loop, view, data);
        Py_DECREF(data);
    }
    if (rc == 0 && eof) {
        rc = tls_call(view, state->str__call_eof_received);
        if (rc == 0) {
            rc = tls_call(view, state->str__start_shutdown);
        }
    }
    if (rc == 0) {
        rc = tls_after_reading(self, view);
    }
    return rc < 0 ? tls_failed(view) : 0;
}

/* The application's transport gets the class that writes in C. */
static void
tls_adopt(TlsView *view)
{
    PyloopState *state = view->state;
    PyObject *transport;
    if (tls_get(view, TLS_APP_TRANSPORT, &transport) > 0 &&
        Py_IS_TYPE(transport, state->watched[WATCHED_SSL_TRANSPORT].type)) {
        tls_facts_begin(view);
        (void)PyObject_SetAttr(transport, state->str___class__,
                               (PyObject *)state->TLSTransportType);
    }
    Py_XDECREF(transport);
    PyErr_Clear(); /* then asyncio's writes */
}

/* What asyncio's buffer_updated() calls in a state other than WRAPPED; NULL: nothing that
 * is known here. Borrowed. */
static PyObject *
tls_step_name(const TlsView *view)
{
    PyloopState *state = view->state;
    return view->phase == state->tls_handshake  ? state->str__do_handshake
           : view->phase == state->tls_flushing ? state->str__do_flush
           : view->phase == state->tls_shutdown ? state->str__do_shutdown
                                                : NULL;
}

/* Puts n bytes at data into protocol._incoming. 0, or -1. */
static int
tls_put(TlsView *view, char *data, Py_ssize_t n)
{
    PyObject *bytes = n <= TLS_COPY_MAX ? PyBytes_FromStringAndSize(data, n)
                                        : PyMemoryView_FromMemory(data, n, PyBUF_READ);
    PyObject *taken = bytes != NULL
                          ? call_method1(view->incoming, view->state->str_write, bytes)
                          : NULL;
    Py_XDECREF(bytes);
    Py_XDECREF(taken);
    return taken != NULL ? 0 : -1;
}

/* The rest of buffer_updated() when n bytes at data have come. 0, or -1. */
static int
tls_take(StreamObject *self, TlsView *view, char *data, Py_ssize_t n)
{
    if (tls_put(view, data, n) < 0) {
        return -1;
    }
    PyObject *step = tls_step_name(view);
    return step != NULL ? tls_call(view, step) : tls_do_read(self, view, n);
}

int
tls_read(StreamObject *self)
{
    PyloopState *state = self->loop->state;
    TlsView view;
    if (!tls_view(state, self->protocol, TLS_BUFFER_UPDATED, TLS_DO_READ, &view)) {
        return 0;
    }
    if (view.phase == state->tls_wrapped) {
        tls_adopt(&view);
    }
    else if (tls_step_name(&view) == NULL) {
        tls_view_drop(&view);
        return 0;
    }
    ssize_t n;
    char *data;
    int rc = stream_receive(self, &data, &n);
    if (rc > 0 && tls_take(self, &view, data, (Py_ssize_t)n) < 0) {
        rc = stream_fatal_error(self,
                                "Fatal error: protocol.buffer_updated() call failed.");
    }
    tls_view_drop(&view);
    return rc < 0 ? -1 : 1;
}
