/* stream.c - the SocketTransport type: making, starting, closing, attributes.
 *
 * Owns: the descriptor, through the Python socket when there is one.
 * An open transport that reads is kept alive by loop->fds, as by asyncio's selector; one
 * that is dropped unclosed closes itself with a ResourceWarning (stream_finalize).
 */
#include "transport/stream.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"
#include "loop/handle.h"
#include "transport/flow.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the server's count ------------------------------------------------------ */

/* asyncio.Server counts its connections; from 3.13 it is told which. 0, or -1. */
static int
stream_tell_server(StreamObject *self, PyObject *server, PyObject *name)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *done = call_method1(server, name, (PyObject *)self);
#else
    (void)self;
    PyObject *done = call_method0(server, name);
#endif
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* ---- making ------------------------------------------------------------------ */

/* As asyncio's _set_nodelay: small writes do not wait for the peer's acknowledgement. */
static void
stream_set_nodelay(StreamObject *self)
{
    if ((self->kind.family == AF_INET || self->kind.family == AF_INET6) &&
        self->kind.type == SOCK_STREAM && self->kind.proto == IPPROTO_TCP) {
        int one = 1;
        /* A connection that is gone already is seen by the first read. */
        (void)setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
}

StreamObject *
stream_new(LoopObject *loop, int fd, PyObject *sock, const SocketKind *kind,
           PyObject *protocol, PyObject *extra, PyObject *server)
{
    PyTypeObject *tp = loop->state->SocketTransportType;
    StreamObject *self = (StreamObject *)tp->tp_alloc(tp, 0);
    if (self == NULL) {
        return NULL;
    }
    self->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    loop->state->live_transports++;
    self->fd = -1; /* until nothing can fail any more: the caller's */
    self->phase = STREAM_OPENING;
    self->kind = *kind;
    self->protocol = Py_NewRef(protocol);
    self->high_water = FLOW_HIGH_WATER;
    self->low_water = FLOW_LOW_WATER;
    self->context = PyContext_CopyCurrent();
    self->extra = extra != NULL && extra != Py_None ? PyDict_Copy(extra) : NULL;
    if (self->context == NULL || PyErr_Occurred()) {
        goto error;
    }
    if (fds_set_transport(loop, fd, (PyObject *)self) < 0) {
        goto error;
    }
    if (server != NULL && server != Py_None) {
        if (stream_tell_server(self, server, loop->state->str__attach) < 0) {
            fds_forget(loop, fd);
            goto error;
        }
        self->server = Py_NewRef(server);
    }
    self->fd = fd;
    self->sock = Py_XNewRef(sock);
    stream_look_at_protocol(self);
    stream_set_nodelay(self);
    return self;
error:
    Py_DECREF(self);
    return NULL;
}

/* The peer's address, now: a reset connection does not know it any more. */
static void
stream_keep_peer(StreamObject *self)
{
    socklen_t length = sizeof(self->peer);
    if ((self->kind.family == AF_INET || self->kind.family == AF_INET6) &&
        getpeername(self->fd, (struct sockaddr *)&self->peer, &length) < 0) {
        self->peer.sin6_family = 0;
    }
}

/* Loop._make_socket_transport(sock, protocol, waiter=None, *, extra=None, server=None) */
PyObject *
stream_make_transport(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const char *const names[] = {"sock",  "protocol", "waiter",
                                        "extra", "server",   "context"};
    static const ArgsSpec spec = {"_make_socket_transport", names, 6, 2, 3};
    LoopObject *loop = (LoopObject *)op;
    PyloopState *state = loop->state;
    PyObject *given[6];
    SocketKind kind;
    if (args_parse(&spec, args, nargs, kwnames, given) < 0 ||
        loop_check_closed(loop) < 0) {
        return NULL;
    }
    int fd = args_descriptor(state->str_fileno, given[0]);
    if (fd < 0 || fd_check_no_transport(loop, fd, given[0]) < 0 ||
        sockets_kind(state, given[0], &kind) < 0) {
        return NULL;
    }
    StreamObject *self =
        stream_new(loop, fd, given[0], &kind, given[1], given[3], given[4]);
    if (self == NULL) {
        return NULL;
    }
    stream_keep_peer(self);
    if (given[5] != NULL && given[5] != Py_None) {
        Py_SETREF(self->context, Py_NewRef(given[5])); /* 3.15 */
    }
    PyObject *start = PyObject_GetAttr((PyObject *)self, state->str__start);
    PyObject *waiter[1] = {given[2] != NULL ? given[2] : Py_None};
    if (start == NULL || loop_call_soon(loop, start, waiter, 1, NULL) < 0) {
        Py_XDECREF(start);
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(start);
    return (PyObject *)self;
}

int
stream_start(StreamObject *self)
{
    PyloopState *state = self->loop->state;
    if (self->protocol == NULL) {
        return 0;
    }
    if (self->phase == STREAM_OPENING) {
        self->phase = STREAM_OPEN;
    }
    PyObject *made =
        call_method1(self->protocol, state->str_connection_made, (PyObject *)self);
    Py_XDECREF(made);
    if (made == NULL &&
        loop_report(self->loop, "Fatal error: protocol.connection_made() call failed.",
                    state->str_transport, (PyObject *)self, NULL) < 0) {
        return -1;
    }
    if (self->phase != STREAM_OPEN || self->paused) {
        return 0;
    }
    return stream_watch_reading(self);
}

/* The handle that _make_socket_transport schedules: start, then wake who waits. */
static PyObject *
stream_start_method(PyObject *op, PyObject *waiter)
{
    StreamObject *self = (StreamObject *)op;
    if (stream_start(self) < 0) {
        return NULL;
    }
    if (waiter == Py_None) {
        Py_RETURN_NONE;
    }
    PyObject *args[2] = {waiter, Py_None};
    return PyObject_Vectorcall(self->loop->state->set_result_unless_cancelled, args, 2,
                               NULL);
}

/* ---- closing ----------------------------------------------------------------- */

/* Gives up the descriptor and all that hangs on it: the edge to STREAM_CLOSED. What goes
 * wrong on the way cannot be anybody's to handle. */
static void
stream_dispose(StreamObject *self)
{
    PyObject *raised = PyErr_GetRaisedException();
    stream_drop_queue(self);
    if (self->phase == STREAM_CLOSED || self->fd < 0) {
        goto done;
    }
    stream_extra_keep(self);
    self->phase = STREAM_CLOSED;
    fds_forget(self->loop, self->fd);
    if (self->sock != NULL) {
        PyObject *closed = call_method0(self->sock, self->loop->state->str_close);
        if (closed == NULL) {
            PyErr_WriteUnraisable(self->sock);
        }
        Py_XDECREF(closed);
    }
    else {
        (void)close(self->fd); /* nothing to be done about EIO */
    }
    Py_CLEAR(self->protocol);
    if (self->server != NULL) {
        PyObject *server = self->server;
        self->server = NULL;
        if (stream_tell_server(self, server, self->loop->state->str__detach) < 0) {
            PyErr_WriteUnraisable(server);
        }
        Py_DECREF(server);
    }
done:
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

int
stream_lost(StreamObject *self, PyObject *exc)
{
    int rc = 0;
    if (self->phase == STREAM_CLOSED) {
        return 0;
    }
    Py_INCREF(self);
    stream_lend_no_more(self, exc);
    PyObject *protocol = Py_NewRef(self->protocol);
    PyloopState *state = self->loop->state;
    PyObject *done =
        call_method1(protocol, state->str_connection_lost, exc != NULL ? exc : Py_None);
    Py_XDECREF(done);
    if (done == NULL) {
        rc = loop_report(self->loop,
                         "Fatal error: protocol.connection_lost() call failed.",
                         state->str_protocol, protocol, NULL);
    }
    Py_DECREF(protocol);
    stream_dispose(self);
    Py_DECREF(self);
    return rc;
}

static PyObject *
stream_lost_method(PyObject *op, PyObject *exc)
{
    if (stream_lost((StreamObject *)op, exc == Py_None ? NULL : exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
stream_schedule_lost(StreamObject *self, PyObject *exc)
{
    PyObject *callback = PyObject_GetAttr((PyObject *)self,
                                          self->loop->state->str__call_connection_lost);
    if (callback == NULL) {
        return -1;
    }
    PyObject *args[1] = {exc != NULL ? exc : Py_None};
    int rc = loop_call_soon(self->loop, callback, args, 1, NULL);
    Py_DECREF(callback);
    return rc;
}

int
stream_close(StreamObject *self)
{
    stream_release_held(self);
    if (self->phase >= STREAM_CLOSING) {
        return 0;
    }
    self->phase = STREAM_CLOSING;
    stream_unwatch_reading(self);
    if (self->queue_count > 0) {
        return 0; /* stream_drained goes on */
    }
    self->lost++;
    return stream_schedule_lost(self, NULL);
}

int
stream_force_close(StreamObject *self, PyObject *exc)
{
    stream_release_held(self); /* written before the abort, so sent before it */
    if (self->lost > 0) {
        return 0;
    }
    if (self->queue_count > 0) {
        stream_drop_queue(self);
        Py_XDECREF(fds_unwatch(self->loop, self->fd, FD_WRITE, true));
    }
    if (self->phase < STREAM_CLOSING) {
        self->phase = STREAM_CLOSING;
        stream_unwatch_reading(self);
    }
    self->lost++;
    return stream_schedule_lost(self, exc);
}

int
stream_fatal_error(StreamObject *self, const char *message)
{
    if (errors_is_fatal()) {
        return -1;
    }
    int rc = 0;
    PyObject *exc = PyErr_GetRaisedException();
    Py_INCREF(self);
    if (!PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_OSError)) {
        PyloopState *state = self->loop->state;
        PyErr_SetRaisedException(Py_NewRef(exc));
        rc = loop_report(self->loop, message, state->str_transport, (PyObject *)self,
                         state->str_protocol, self->protocol, NULL);
    }
    if (rc == 0) {
        rc = stream_force_close(self, exc);
    }
    Py_DECREF(self);
    Py_DECREF(exc);
    return rc;
}

int
stream_disowned(StreamObject *self, const char *message)
{
    stream_drop_queue(self);
    (void)errors_raise_errno(EBADF);
    return stream_fatal_error(self, message);
}

/* ---- methods ------------------------------------------------------------------ */

static PyObject *
stream_close_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (stream_close((StreamObject *)op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_abort(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (stream_force_close((StreamObject *)op, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_force_close_method(PyObject *op, PyObject *exc)
{
    if (stream_force_close((StreamObject *)op, exc == Py_None ? NULL : exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* StreamWriter.drain() looks here, and may return without giving up its callback: what it
 * promises to have offered to the kernel must not be held. */
static PyObject *
stream_is_closing(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    return PyBool_FromLong(self->phase >= STREAM_CLOSING);
}

static PyObject *
stream_is_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    return PyBool_FromLong(self->phase < STREAM_CLOSING && !self->paused);
}

static PyObject *
stream_pause_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    if (self->phase < STREAM_CLOSING && !self->paused) {
        self->paused = true;
        stream_unwatch_reading(self);
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_resume_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    if (self->phase >= STREAM_CLOSING || !self->paused) {
        Py_RETURN_NONE;
    }
    self->paused = false;
    if (!stream_owns_fd(self)) {
        if (stream_disowned(self, "Fatal read error on socket transport") < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    if (self->phase == STREAM_OPEN && !self->read_eof &&
        stream_watch_reading(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_set_protocol(PyObject *op, PyObject *protocol)
{
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    if (self->phase != STREAM_CLOSED) {
        Py_XSETREF(self->protocol, Py_NewRef(protocol));
        stream_look_at_protocol(self);
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_get_protocol(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *protocol = ((StreamObject *)op)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

static PyObject *
stream_get_write_buffer_size(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    return PyLong_FromSize_t(self->queue_bytes);
}

static PyObject *
stream_get_write_buffer_limits(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    return Py_BuildValue("(nn)", (Py_ssize_t)self->low_water,
                         (Py_ssize_t)self->high_water);
}

static PyObject *
stream_can_write_eof(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

static PyObject *
stream_get_extra_info(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const char *const names[] = {"name", "default"};
    static const ArgsSpec spec = {"get_extra_info", names, 2, 1, 2};
    StreamObject *self = (StreamObject *)op;
    PyObject *given[2];
    if (args_parse(&spec, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    stream_release_held(self);
    PyObject *value = stream_extra_get(self, given[0]);
    if (value == NULL && !PyErr_Occurred()) {
        value = Py_NewRef(given[1] != NULL ? given[1] : Py_None);
    }
    return value;
}

static PyObject *
stream_repr(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    if (self->phase == STREAM_CLOSED || self->loop->phase != LOOP_OPEN) {
        return PyUnicode_FromFormat("<SocketTransport%s fd=%d>",
                                    self->phase == STREAM_CLOSED    ? " closed"
                                    : self->phase == STREAM_CLOSING ? " closing"
                                                                    : "",
                                    self->fd);
    }
    FdEntry *entry = fds_entry(self->loop, self->fd);
    return PyUnicode_FromFormat(
        "<SocketTransport%s fd=%d read=%s write=<%s, bufsize=%zu>>",
        self->phase == STREAM_CLOSING ? " closing" : "", self->fd,
        entry != NULL && entry->slots[0].owner == op ? "polling" : "idle",
        entry != NULL && entry->slots[1].owner == op ? "polling" : "idle",
        self->queue_bytes);
}

/* ---- attributes that asyncio's helpers and libraries read ---------------------- */

static PyObject *
stream_get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    StreamObject *self = (StreamObject *)op;
    return Py_NewRef(self->phase != STREAM_CLOSED ? (PyObject *)self->loop : Py_None);
}

static PyObject *
stream_get_sock(PyObject *op, void *Py_UNUSED(closure))
{
    StreamObject *self = (StreamObject *)op;
    if (self->phase == STREAM_CLOSED) {
        Py_RETURN_NONE;
    }
    return Py_XNewRef(stream_socket(self));
}

static PyObject *
stream_get_extra(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_XNewRef(stream_extra_all((StreamObject *)op));
}

static PyObject *
stream_get_protocol_attr(PyObject *op, void *Py_UNUSED(closure))
{
    return stream_get_protocol(op, NULL);
}

static PyObject *
stream_get_server(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *server = ((StreamObject *)op)->server;
    return Py_NewRef(server != NULL ? server : Py_None);
}

static PyObject *
stream_get_empty_waiter(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *waiter = ((StreamObject *)op)->empty_waiter;
    return Py_NewRef(waiter != NULL ? waiter : Py_None);
}

static PyObject *
stream_get_fd(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((StreamObject *)op)->fd);
}

static PyObject *
stream_get_conn_lost(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((StreamObject *)op)->lost);
}

static PyObject *
stream_get_closing(PyObject *op, void *Py_UNUSED(closure))
{
    return stream_is_closing(op, NULL);
}

static PyObject *
stream_get_flag(PyObject *op, void *closure)
{
    return PyBool_FromLong(*(bool *)((char *)op + (size_t)(uintptr_t)closure));
}

static PyGetSetDef stream_getsets[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_loop", stream_get_loop, NULL, NULL, NULL},
    {"_sock", stream_get_sock, NULL, NULL, NULL},
    {"_empty_waiter", stream_get_empty_waiter, NULL, NULL, NULL},
    {"_sock_fd", stream_get_fd, NULL, NULL, NULL},
    {"_extra", stream_get_extra, NULL, NULL, NULL},
    {"_protocol", stream_get_protocol_attr, NULL, NULL, NULL},
    {"_server", stream_get_server, NULL, NULL, NULL},
    {"_conn_lost", stream_get_conn_lost, NULL, NULL, NULL},
    {"_closing", stream_get_closing, NULL, NULL, NULL},
    {"_paused", stream_get_flag, NULL, NULL, (void *)offsetof(StreamObject, paused)},
    {"_eof", stream_get_flag, NULL, NULL, (void *)offsetof(StreamObject, write_eof)},
    {"_protocol_paused", stream_get_flag, NULL, NULL,
     (void *)offsetof(StreamObject, protocol_paused)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stream_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(StreamObject, dict), Py_READONLY, NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(StreamObject, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef stream_methods[] = {
    {"write", stream_write, METH_O,
     "write($self, data, /)\n--\n\n"
     "Send bytes, at once as far as the kernel takes them; queue the rest.\n\n"
     "Raises TypeError for data that is not bytes-like, RuntimeError after "
     "write_eof()."},
    {"writelines", stream_writelines, METH_O,
     "writelines($self, list_of_data, /)\n--\n\n"
     "Send an iterable of bytes-like objects, as one write."},
    {"write_eof", stream_write_eof, METH_NOARGS,
     "write_eof($self, /)\n--\n\n"
     "Close the write end once the queue is sent; reading goes on."},
    {"can_write_eof", stream_can_write_eof, METH_NOARGS,
     "can_write_eof($self, /)\n--\n\nReturn True: sockets can."},
    {"close", stream_close_method, METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Stop reading, send what is queued, then call connection_lost(None)."},
    {"abort", stream_abort, METH_NOARGS,
     "abort($self, /)\n--\n\n"
     "Close at once; what is queued is lost. connection_lost(None) is called."},
    {"is_closing", stream_is_closing, METH_NOARGS,
     "is_closing($self, /)\n--\n\nReturn True if the transport is closing or closed."},
    {"is_reading", stream_is_reading, METH_NOARGS,
     "is_reading($self, /)\n--\n\nReturn True if the transport receives data."},
    {"pause_reading", stream_pause_reading, METH_NOARGS,
     "pause_reading($self, /)\n--\n\nCall no data_received() until resume_reading()."},
    {"resume_reading", stream_resume_reading, METH_NOARGS,
     "resume_reading($self, /)\n--\n\nGo on receiving after pause_reading()."},
    {"set_protocol", stream_set_protocol, METH_O,
     "set_protocol($self, protocol, /)\n--\n\nUse another protocol from now on."},
    {"get_protocol", stream_get_protocol, METH_NOARGS,
     "get_protocol($self, /)\n--\n\nReturn the protocol, None when closed."},
    {"get_write_buffer_size", stream_get_write_buffer_size, METH_NOARGS,
     "get_write_buffer_size($self, /)\n--\n\nReturn how many bytes are queued."},
    {"get_write_buffer_limits", stream_get_write_buffer_limits, METH_NOARGS,
     "get_write_buffer_limits($self, /)\n--\n\nReturn the water marks (low, high), "
     "bytes."},
    {"set_write_buffer_limits", FASTCALL(stream_set_write_buffer_limits),
     METH_FASTCALL | METH_KEYWORDS,
     "set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
     "Set the water marks, in bytes, at which the protocol's pause_writing() and\n"
     "resume_writing() are called. Raises ValueError unless high >= low >= 0."},
    {"get_extra_info", FASTCALL(stream_get_extra_info), METH_FASTCALL | METH_KEYWORDS,
     "get_extra_info($self, name, default=None)\n--\n\n"
     "Return 'socket', 'sockname' or 'peername', or default for an unknown name."},
    {"_make_empty_waiter", stream_make_empty_waiter, METH_NOARGS, NULL},
    {"_reset_empty_waiter", stream_reset_empty_waiter, METH_NOARGS, NULL},
    {"_start", stream_start_method, METH_O, NULL},
    {"_call_connection_lost", stream_lost_method, METH_O, NULL},
    {"_force_close", stream_force_close_method, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* ---- life ---------------------------------------------------------------------- */

static int
stream_traverse(PyObject *op, visitproc visit, void *arg)
{
    StreamObject *self = (StreamObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->loop);
    Py_VISIT(self->dict);
    Py_VISIT(self->protocol);
    Py_VISIT(self->context);
    Py_VISIT(self->sock);
    Py_VISIT(self->server);
    Py_VISIT(self->extra);
    Py_VISIT(self->empty_waiter);
    for (size_t i = 0; i < STREAM_INHERITED; i++) {
        Py_VISIT(self->inherited[i]);
    }
    return 0; /* the queue holds exact bytes only */
}

static int
stream_clear(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    stream_dispose(self);
    Py_CLEAR(self->dict);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->context);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->server);
    Py_CLEAR(self->extra);
    Py_CLEAR(self->empty_waiter);
    for (size_t i = 0; i < STREAM_INHERITED; i++) {
        Py_CLEAR(self->inherited[i]);
    }
    return 0; /* loop stays until dealloc: the state is its module's */
}

static void
stream_finalize(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    if (self->phase == STREAM_CLOSED || self->fd < 0) {
        return;
    }
    PyObject *raised = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning(op, 1, "unclosed transport %R", op) < 0) {
        PyErr_WriteUnraisable(op);
    }
    stream_dispose(self);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

static void
stream_dealloc(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* the warning's filter made it live on */
    }
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)stream_clear(op);
    LoopObject *loop = self->loop;
    if (loop != NULL) {
        loop->state->live_transports--;
    }
    tp->tp_free(op);
    Py_DECREF(tp);
    Py_XDECREF(loop);
}

static PyType_Slot stream_slots[] = {
    {Py_tp_doc,
     "The transport of a stream socket; an asyncio.Transport made by the loop."},
    {Py_tp_methods, stream_methods},
    {Py_tp_getset, stream_getsets},
    {Py_tp_members, stream_members},
    {Py_tp_repr, stream_repr},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_finalize, stream_finalize},
    {Py_tp_dealloc, stream_dealloc},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "pyloop._core.SocketTransport",
    .basicsize = sizeof(StreamObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stream_slots,
};

PyTypeObject *
stream_type_create(PyObject *module)
{
    PyloopState *state = state_of_module(module);
    PyTypeObject *base = (PyTypeObject *)state->FlowControlMixin;
    Py_ssize_t room = (Py_ssize_t)offsetof(StreamObject, dict);
    if (base->tp_basicsize > room) {
        PyErr_Format(PyExc_ImportError,
                     "pyloop does not know this version of %s (its instances take %zd "
                     "bytes, at most %zd were expected)",
                     base->tp_name, base->tp_basicsize, room);
        return NULL;
    }
    PyObject *bases = PyTuple_Pack(1, (PyObject *)base);
    if (bases == NULL) {
        return NULL;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &stream_spec, bases);
    Py_DECREF(bases);
    /* What loop.start_tls() and loop.sendfile() ask of a transport. */
    if (type != NULL &&
        (PyObject_SetAttrString(type, "_start_tls_compatible", Py_True) < 0 ||
         PyObject_SetAttrString(type, "_sendfile_compatible",
                                state->sendfile_try_native) < 0)) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}
