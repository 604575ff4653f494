/* socket.c - SocketTransport: making one, and what a stream socket does in its own way.
 *
 * The object, reading, writing and closing are those of stream.h. The kernel's end of the
 * connection is the Python socket's when there is one: an accepted descriptor gets one when
 * somebody asks for it (extra.c).
 */
#include "transport/stream.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"
#include "transport/flow.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: Python ignores SIGPIPE */
#endif

/* ---- what a socket does in its own way ------------------------------------------ */

static ssize_t
socket_receive(int fd, void *into, size_t size)
{
    return recv(fd, into, size, MSG_DONTWAIT);
}

static ssize_t
socket_send(int fd, const void *data, size_t length)
{
    return send(fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t
socket_send_vector(int fd, struct iovec *vector, size_t count)
{
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = count};
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int
socket_on_eof(StreamObject *self)
{
    stream_log(self, "debug", "received EOF", NULL);
    if (self->lost) {
        return 0; /* the log's handler closed it */
    }
    PyObject *protocol = Py_NewRef(self->protocol); /* which may set another */
    PyObject *keep = call_method0(protocol, self->loop->state->str_eof_received);
    Py_DECREF(protocol);
    int truth = keep != NULL ? PyObject_IsTrue(keep) : -1;
    Py_XDECREF(keep);
    if (truth < 0) {
        return stream_fatal_error(self,
                                  "Fatal error: protocol.eof_received() call failed.");
    }
    if (self->phase >= STREAM_CLOSING) {
        return 0; /* the protocol closed it */
    }
    if (truth == 0) {
        return stream_close(self) == 0
                   ? 0
                   : stream_fatal_error(self, self->ops->read_failed);
    }
    self->read_eof = true; /* the protocol can write more, but no data can come */
    stream_unwatch_reading(self);
    return 0;
}

static int
socket_on_data_failed(StreamObject *self)
{
    return stream_fatal_error(self,
                              "Fatal error: protocol.data_received() call failed.");
}

static bool
socket_is_expected(PyObject *exc)
{
    return PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_OSError);
}

static const StreamOps socket_ops = {
    .is_socket = true,
    .receive = socket_receive,
    .send = socket_send,
    .send_vector = socket_send_vector,
    .on_readable = stream_on_readable,
    .on_eof = socket_on_eof,
    .on_data_failed = socket_on_data_failed,
    .is_expected = socket_is_expected,
    .read_failed = "Fatal read error on socket transport",
    .write_failed = "Fatal write error on socket transport",
    .write_lost = "socket.send() raised exception.",
};
/* ---- making ------------------------------------------------------------------ */

/* As asyncio's _set_nodelay: small writes do not wait for the peer's acknowledgement. */
static void
socket_set_nodelay(StreamObject *self)
{
    if ((self->kind.family == AF_INET || self->kind.family == AF_INET6) &&
        self->kind.type == SOCK_STREAM && self->kind.proto == IPPROTO_TCP) {
        int one = 1;
        /* A connection that is gone already is seen by the first read. */
        (void)setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
}

StreamObject *
socket_new(LoopObject *loop, int fd, PyObject *sock, const SocketKind *kind,
           PyObject *protocol, PyObject *extra, PyObject *server)
{
    StreamObject *self = stream_alloc(loop, loop->state->SocketTransportType,
                                      &socket_ops, protocol, extra);
    if (self == NULL) {
        return NULL;
    }
    self->kind = *kind;
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
    loop->metrics.transports++;
    self->sock = Py_XNewRef(sock);
    stream_look_at_protocol(self);
    socket_set_nodelay(self);
    return self;
error:
    Py_DECREF(self);
    return NULL;
}

/* The peer's address, now: a reset connection does not know it any more. */
static void
socket_keep_peer(StreamObject *self)
{
    socklen_t length = sizeof(self->peer);
    if ((self->kind.family == AF_INET || self->kind.family == AF_INET6) &&
        getpeername(self->fd, (struct sockaddr *)&self->peer, &length) < 0) {
        self->peer.sin6_family = 0;
    }
}

int
socket_start_soon(StreamObject *self, PyObject *waiter, PyObject *context)
{
    socket_keep_peer(self);
    if (context != NULL) {
        Py_SETREF(self->context, Py_NewRef(context));
    }
    return stream_schedule_start(self, waiter, context);
}

/* What is sent through the descriptor of an SSLSocket would not be encrypted. 0, or -1. */
static int
socket_check_plain(PyloopState *state, PyObject *sock)
{
    if (Py_IS_TYPE(sock, (PyTypeObject *)state->SocketType)) {
        return 0;
    }
    int is_ssl = PyObject_IsInstance(sock, state->SSLSocket);
    if (is_ssl > 0) { /* as asyncio where it looks: not in create_unix_connection() */
        PyErr_SetString(PyExc_TypeError, "Socket cannot be of type SSLSocket");
    }
    return is_ssl == 0 ? 0 : -1;
}

/* Loop._make_socket_transport(sock, protocol, waiter=None, *, extra=None, server=None) */
PyObject *
socket_make_transport(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
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
    if (socket_check_plain(state, given[0]) < 0) {
        return NULL;
    }
    PyObject *made =
        sockets_leave(state, op, given[0], state->str__make_selector_socket, given,
                      Py_ARRAY_LENGTH(given));
    if (made != Py_None) {
        return made;
    }
    Py_DECREF(made);
    int fd = args_descriptor(state->str_fileno, given[0]);
    if (fd < 0 || fd_check_no_transport(loop, fd, given[0]) < 0 ||
        sockets_kind(state, given[0], &kind) < 0) {
        return NULL;
    }
    StreamObject *self =
        socket_new(loop, fd, given[0], &kind, given[1], given[3], given[4]);
    PyObject *context = given[5] != Py_None ? given[5] : NULL; /* 3.15 */
    if (self != NULL && socket_start_soon(self, given[2], context) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* ---- methods and attributes ----------------------------------------------------- */

static PyObject *
socket_write_eof(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    if (self->phase >= STREAM_CLOSING || self->write_eof) {
        Py_RETURN_NONE;
    }
    self->write_eof = true;
    bool owned = stream_owns_fd(self);
    if (self->queue_count == 0 && (!owned || stream_shut(self) < 0)) {
        (void)errors_raise_errno(owned ? errno : EBADF);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
socket_get_extra_info(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    PyloopState *state = ((StreamObject *)op)->loop->state;
    if (!watched_is_unchanged(&state->watched[WATCHED_TRANSPORT])) {
        return watched_call_replaced(state->SocketTransportType, op, "get_extra_info",
                                     args, nargs, kwnames);
    }
    return stream_get_extra_info(op, args, nargs, kwnames);
}

static PyObject *
socket_force_close(PyObject *op, PyObject *exc)
{
    if (stream_force_close((StreamObject *)op, exc == Py_None ? NULL : exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
socket_describe(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    if (self->phase == STREAM_CLOSED || self->loop->phase != LOOP_OPEN) {
        return PyUnicode_FromFormat("<SocketTransport%s fd=%d>",
                                    self->phase == STREAM_CLOSED    ? " closed"
                                    : self->phase == STREAM_CLOSING ? " closing"
                                                                    : "",
                                    self->fd);
    }
    return PyUnicode_FromFormat(
        "<SocketTransport%s fd=%d read=%s write=<%s, bufsize=%zu>>",
        self->phase == STREAM_CLOSING ? " closing" : "", self->fd,
        stream_waits_for(self, FD_READ) ? "polling" : "idle",
        stream_waits_for(self, FD_WRITE) ? "polling" : "idle", self->queue_bytes);
}

static PyObject *
socket_repr(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    return loop_repr_of_steal(self->loop, op, self->dict, socket_describe(op));
}

static PyObject *
socket_get_server(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *server = ((StreamObject *)op)->server;
    return Py_NewRef(server != NULL ? server : Py_None);
}

static PyObject *
socket_get_empty_waiter(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *waiter = ((StreamObject *)op)->empty_waiter;
    return Py_NewRef(waiter != NULL ? waiter : Py_None);
}

#define LOCK_OF(op) (&((StreamObject *)(op))->loop->lock)

LOCKED_KEYWORDS(stream_write)
LOCKED_KEYWORDS(stream_writelines)
LOCKED_NOARGS(socket_write_eof)
LOCKED_NOARGS(stream_close_method)
LOCKED_NOARGS(stream_abort)
LOCKED_NOARGS(stream_is_closing)
LOCKED_NOARGS(stream_is_reading)
LOCKED_NOARGS(stream_pause_reading)
LOCKED_NOARGS(stream_resume_reading)
LOCKED_KEYWORDS(stream_set_protocol)
LOCKED_NOARGS(stream_get_protocol)
LOCKED_NOARGS(stream_get_write_buffer_size)
LOCKED_NOARGS(stream_get_write_buffer_limits)
LOCKED_KEYWORDS(stream_set_write_buffer_limits)
LOCKED_KEYWORDS(socket_get_extra_info)
LOCKED_NOARGS(stream_make_empty_waiter)
LOCKED_NOARGS(stream_reset_empty_waiter)
LOCKED_O(stream_start_method)
LOCKED_O(stream_lost_method)
LOCKED_O(socket_force_close)
LOCKED_GETTER(stream_get_loop)
LOCKED_GETTER(stream_get_sock)
LOCKED_GETTER(stream_get_extra)
LOCKED_GETTER(stream_get_protocol_attr)
LOCKED_GETTER(socket_get_server)
LOCKED_GETTER(socket_get_empty_waiter)
LOCKED_GETTER(stream_get_closing)
LOCKED_GETTER(stream_get_fd)
LOCKED_GETTER(stream_get_conn_lost)
LOCKED_GETTER(stream_get_flag)
LOCKED_GETTER(flow_get_size)
LOCKED_SETTER(flow_set_max_size)
LOCKED_REPR(socket_repr)

static PyGetSetDef socket_getsets[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_loop", LOCKED(stream_get_loop), NULL, NULL, NULL},
    {"_sock", LOCKED(stream_get_sock), NULL, NULL, NULL},
    {"_empty_waiter", LOCKED(socket_get_empty_waiter), NULL, NULL, NULL},
    {"_sock_fd", LOCKED(stream_get_fd), NULL, NULL, NULL},
    {"_extra", LOCKED(stream_get_extra), NULL, NULL, NULL},
    {"_protocol", LOCKED(stream_get_protocol_attr), NULL, NULL, NULL},
    {"_server", LOCKED(socket_get_server), NULL, NULL, NULL},
    {"_conn_lost", LOCKED(stream_get_conn_lost), NULL, NULL, NULL},
    {"_closing", LOCKED(stream_get_closing), NULL, NULL, NULL},
    {"_paused", LOCKED(stream_get_flag), NULL, NULL,
     (void *)offsetof(StreamObject, paused)},
    {"_eof", LOCKED(stream_get_flag), NULL, NULL,
     (void *)offsetof(StreamObject, write_eof)},
    {"_protocol_paused", LOCKED(stream_get_flag), NULL, NULL,
     (void *)offsetof(StreamObject, protocol_paused)},
    {"_high_water", LOCKED(flow_get_size), NULL, NULL,
     (void *)offsetof(StreamObject, high_water)},
    {"_low_water", LOCKED(flow_get_size), NULL, NULL,
     (void *)offsetof(StreamObject, low_water)},
    {"max_size", LOCKED(flow_get_size), LOCKED(flow_set_max_size), NULL,
     (void *)offsetof(StreamObject, max_size)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef socket_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(StreamObject, dict), Py_READONLY, NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(StreamObject, weakrefs), Py_READONLY,
     NULL},
    {"_born_ticks", Py_T_ULONGLONG, offsetof(StreamObject, born_ticks), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef socket_methods[] = {
    {"write", FASTCALL(LOCKED(stream_write)), METH_FASTCALL | METH_KEYWORDS,
     "write($self, data)\n--\n\n"
     "Send bytes, at once as far as the kernel takes them; queue the rest.\n\n"
     "Raises TypeError for data that is not bytes-like, RuntimeError after "
     "write_eof()."},
    {"writelines", FASTCALL(LOCKED(stream_writelines)), METH_FASTCALL | METH_KEYWORDS,
     "writelines($self, list_of_data)\n--\n\n"
     "Send an iterable of bytes-like objects, as one write."},
    {"write_eof", LOCKED(socket_write_eof), METH_NOARGS,
     "write_eof($self, /)\n--\n\n"
     "Close the write end once the queue is sent; reading goes on."},
    {"can_write_eof", stream_can_write_eof, METH_NOARGS,
     "can_write_eof($self, /)\n--\n\nReturn True: sockets can."},
    {"close", LOCKED(stream_close_method), METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Stop reading, send what is queued, then call connection_lost(None)."},
    {"abort", LOCKED(stream_abort), METH_NOARGS,
     "abort($self, /)\n--\n\n"
     "Close at once; what is queued is lost. connection_lost(None) is called."},
    {"is_closing", LOCKED(stream_is_closing), METH_NOARGS,
     "is_closing($self, /)\n--\n\nReturn True if the transport is closing or closed."},
    {"is_reading", LOCKED(stream_is_reading), METH_NOARGS,
     "is_reading($self, /)\n--\n\nReturn True if the transport receives data."},
    {"pause_reading", LOCKED(stream_pause_reading), METH_NOARGS,
     "pause_reading($self, /)\n--\n\nCall no data_received() until resume_reading()."},
    {"resume_reading", LOCKED(stream_resume_reading), METH_NOARGS,
     "resume_reading($self, /)\n--\n\nGo on receiving after pause_reading()."},
    {"set_protocol", FASTCALL(LOCKED(stream_set_protocol)),
     METH_FASTCALL | METH_KEYWORDS,
     "set_protocol($self, protocol)\n--\n\nUse another protocol from now on."},
    {"get_protocol", LOCKED(stream_get_protocol), METH_NOARGS,
     "get_protocol($self, /)\n--\n\nReturn the protocol, None when closed."},
    {"get_write_buffer_size", LOCKED(stream_get_write_buffer_size), METH_NOARGS,
     "get_write_buffer_size($self, /)\n--\n\nReturn how many bytes are queued."},
    {"get_write_buffer_limits", LOCKED(stream_get_write_buffer_limits), METH_NOARGS,
     "get_write_buffer_limits($self, /)\n--\n\nReturn the water marks (low, high), "
     "bytes."},
    {"set_write_buffer_limits", FASTCALL(LOCKED(stream_set_write_buffer_limits)),
     METH_FASTCALL | METH_KEYWORDS,
     "set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
     "Set the water marks, in bytes, at which the protocol's pause_writing() and\n"
     "resume_writing() are called. Raises ValueError unless high >= low >= 0."},
    {"get_extra_info", FASTCALL(LOCKED(socket_get_extra_info)),
     METH_FASTCALL | METH_KEYWORDS,
     "get_extra_info($self, name, default=None)\n--\n\n"
     "Return 'socket', 'sockname' or 'peername', or default for an unknown name."},
    {"_make_empty_waiter", LOCKED(stream_make_empty_waiter), METH_NOARGS, NULL},
    {"_reset_empty_waiter", LOCKED(stream_reset_empty_waiter), METH_NOARGS, NULL},
    {"_start", LOCKED(stream_start_method), METH_O, NULL},
    {"_call_connection_lost", LOCKED(stream_lost_method), METH_O, NULL},
    {"_force_close", LOCKED(socket_force_close), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot socket_slots[] = {
    {Py_tp_doc,
     "The transport of a stream socket; an asyncio.Transport made by the loop."},
    {Py_tp_methods, socket_methods},
    {Py_tp_getset, socket_getsets},
    {Py_tp_members, socket_members},
    {Py_tp_repr, LOCKED(socket_repr)},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_finalize, stream_finalize},
    {Py_tp_dealloc, stream_dealloc},
    {0, NULL},
};

static PyType_Spec socket_spec = {
    .name = "pyloop._core.SocketTransport",
    .basicsize = sizeof(StreamObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = socket_slots,
};

PyTypeObject *
socket_type_create(PyObject *module)
{
    PyloopState *state = state_of_module(module);
    PyObject *type = (PyObject *)stream_type_over(
        module, &socket_spec, (PyTypeObject *)state->FlowControlMixin);
    /* What loop.start_tls(), loop.sendfile() and libraries ask of a transport. */
    if (type != NULL &&
        (PyObject_SetAttrString(type, "_start_tls_compatible", Py_True) < 0 ||
         PyObject_SetAttrString(type, "_protocol_connected", Py_True) < 0 ||
         PyObject_SetAttrString(type, "_sendfile_compatible",
                                state->sendfile_try_native) < 0)) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}
