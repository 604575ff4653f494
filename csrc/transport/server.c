/* server.c - Listener: accepting for one listening socket of an asyncio.Server.
 *
 * Owned by the watch of its descriptor (loop/fds.c), so it lives as long as it serves.
 * Plain connections are accepted, given their protocol and started here. Under TLS, and
 * where somebody has replaced _make_socket_transport, a connection becomes a Python socket
 * and goes through asyncio's own coroutine (Loop._accept_in_task).
 */
#include "transport/stream.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"
#include "loop/methods.h"
#include "loop/sockaddr.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ARG_FACTORY,
    ARG_SOCK,
    ARG_SSL,
    ARG_SERVER,
    ARG_BACKLOG,
    ARG_CONTEXT = 7,
    ARG_COUNT
};

typedef struct {
    PyObject_HEAD
    LoopObject *loop; /* strong until dealloc */
    /* strong or NULL: the arguments of _start_serving, for the calls that pass them on */
    PyObject *args[ARG_COUNT];
    PyObject *context; /* strong: a connection's context is a copy of it */
    PyObject *dict;    /* strong or NULL: where it was made (loop_note_origin) */
    int fd;
    SocketKind kind;
    long backlog;
    long expected; /* connections that wait when one does: how many are taken at once */
    uint64_t born_ticks; /* clock_ticks() as it was made */
    bool serving; /* false once _stop_serving was called: an accept loop ends then */
} ListenerObject;

static int on_acceptable(LoopObject *loop, PyObject *owner);

static bool
listener_has(ListenerObject *self, int index)
{
    return self->args[index] != NULL && self->args[index] != Py_None;
}

/* Reports the raised exception for a connection that could not be made. */
static int
listener_report(ListenerObject *self, PyObject *protocol)
{
    return loop_report(self->loop,
                       "Error on transport creation for incoming connection",
                       self->loop->state->str_protocol, protocol, NULL);
}

/* In debug mode, as asyncio. address and sock: borrowed, or NULL with an exception. */
static void
listener_log(ListenerObject *self, PyObject *address, PyObject *sock)
{
    PyObject *server =
        listener_has(self, ARG_SERVER) ? self->args[ARG_SERVER] : Py_None;
    PyObject *done = NULL;
    if (address != NULL && sock != NULL) {
        done = PyObject_CallMethod(self->loop->state->logger, "debug", "sOOO",
                                   "%r got a new connection from %r: %r", server,
                                   address, sock);
    }
    if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
}

/* The same of a connection whose transport is made. */
static void
listener_log_stream(ListenerObject *self, StreamObject *stream)
{
    PyObject *sock = stream_socket(stream);
    PyObject *address =
        sock != NULL ? stream_extra_get(stream, self->loop->state->str_peername) : NULL;
    listener_log(self, address, sock);
    Py_XDECREF(address);
}

/* ---- one connection ------------------------------------------------------------ */

/* In the connection's context. Takes over fd. 0, or -1 with what must leave run. */
static int
listener_start_plain(ListenerObject *self, int fd, const struct sockaddr_storage *peer,
                     PyObject *context)
{
    PyObject *protocol = call_no_args(self->args[ARG_FACTORY]);
    if (protocol == NULL) {
        (void)close(fd);
        return listener_report(self, NULL);
    }
    if (!self->serving) { /* the factory closed the server: nobody owns the connection */
        Py_DECREF(protocol);
        (void)close(fd);
        return 0;
    }
    StreamObject *stream = NULL;
    if (stream_check_protocol(self->loop->state, protocol) == 0) {
        stream = socket_new(self->loop, fd, NULL, &self->kind, protocol, NULL,
                            self->args[ARG_SERVER]);
    }
    int rc;
    if (stream == NULL) {
        (void)close(fd);
        rc = listener_report(self, protocol);
    }
    else {
        if (self->kind.family == AF_INET || self->kind.family == AF_INET6) {
            memcpy(&stream->peer, peer, sizeof(stream->peer));
        }
        if (listener_has(self, ARG_CONTEXT)) {
            Py_SETREF(stream->context, Py_NewRef(context)); /* 3.15: one for all */
        }
        if (self->loop->debug) {
            listener_log_stream(self, stream);
        }
        rc = stream_start(stream);
        Py_DECREF(stream);
    }
    Py_DECREF(protocol);
    return rc;
}

/* Likewise, of a connection that asyncio's coroutine gives its transport. */
static int
listener_start_task(ListenerObject *self, int fd, const struct sockaddr_storage *peer,
                    socklen_t length, PyObject *context)
{
    PyObject *sock = sockets_wrap(self->loop->state, &self->kind, fd);
    PyObject *address = NULL, *done = NULL;
    if (sock != NULL) {
        address = sockaddr_knows(self->kind.family)
                      ? sockaddr_to_python(peer, length)
                      : call_method0(sock, self->loop->state->str_getpeername);
    }
    if (address != NULL && self->loop->debug) {
        listener_log(self, address, sock);
    }
    if (address != NULL) {
        PyObject *values[9] = {(PyObject *)self->loop, sock, address};
        size_t count = 3;
        for (int i = 0; i < ARG_COUNT; i++) {
            if (i != ARG_SOCK && i != ARG_BACKLOG) {
                values[count++] = self->args[i] != NULL ? self->args[i] : Py_None;
            }
        }
        if (listener_has(self, ARG_CONTEXT)) {
            values[count - 1] = context;
        }
        done = PyObject_VectorcallMethod(self->loop->state->str__accept_in_task, values,
                                         count, NULL);
    }
    Py_XDECREF(address);
    Py_XDECREF(sock);
    Py_XDECREF(done);
    return done != NULL ? 0 : listener_report(self, NULL);
}

static int
listener_start(ListenerObject *self, int fd, const struct sockaddr_storage *peer,
               socklen_t length)
{
    PyObject *context = PyContext_Copy(self->context);
    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        (void)close(fd);
        return listener_report(self, NULL);
    }
    bool plain =
        !listener_has(self, ARG_SSL) &&
        methods_is_core(self->loop, self->loop->state->str__make_socket_transport);
    int rc = plain ? listener_start_plain(self, fd, peer, context)
                   : listener_start_task(self, fd, peer, length, context);
    context_exit(context);
    return rc;
}

/* ---- accepting ------------------------------------------------------------------ */

/* Out of descriptors or memory: the kernel would report the socket ready for ever, so
 * stop for a second (asyncio's ACCEPT_RETRY_DELAY), then serve again. */
static int
listener_back_off(ListenerObject *self, int err)
{
    const char *message = "socket.accept() out of system resource";
    PyloopState *state = self->loop->state;
    self->loop->metrics.accept_pauses++;
    PyObject *sock = PyObject_CallOneArg(state->TransportSocket, self->args[ARG_SOCK]);
    if (sock == NULL) {
        PyErr_Clear(); /* it is told without */
    }
    (void)errors_raise_errno(err);
    int rc = loop_report(self->loop, message, state->str_socket, sock, NULL);
    Py_XDECREF(sock);
    if (rc < 0 || !self->serving) {
        return rc;
    }
    PyObject *resume = PyObject_GetAttr((PyObject *)self, state->str__resume);
    PyObject *handle =
        resume != NULL
            ? PyObject_CallMethod((PyObject *)self->loop, "call_later", "iO", 1, resume)
            : NULL;
    Py_XDECREF(resume);
    if (handle == NULL) { /* still watched: it is tried again at once */
        return loop_report(self->loop, message, state->str_socket, self->args[ARG_SOCK],
                           NULL);
    }
    Py_DECREF(handle);
    if (self->serving) {
        Py_XDECREF(fds_unwatch(self->loop, self->fd, FD_READ, false));
    }
    return 0;
}

/* Where connections come one by one, the accept that finds none is spared: as many are
 * tried as came last time, twice as many once that was too few. What is left is reported
 * by the next poll. */
static int
on_acceptable(LoopObject *Py_UNUSED(loop), PyObject *owner)
{
    ListenerObject *self = (ListenerObject *)owner;
    struct sockaddr_storage peer;
    socklen_t length;
    long most = self->expected;
    self->expected = Py_MIN(2 * most, self->backlog);
    for (long i = 0; i < most && self->serving; i++) {
        int fd = sockets_accept(self->fd, &peer, &length);
        if (fd >= 0) {
            if (listener_start(self, fd, &peer, length) < 0) {
                return -1;
            }
            continue;
        }
        switch (errno) {
        case EAGAIN:
#if EWOULDBLOCK != EAGAIN
        case EWOULDBLOCK:
#endif
        case EINTR:
        case ECONNABORTED:
            self->expected = Py_MAX(i, 1);
            return 0;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            return listener_back_off(self, errno);
        default:
            (void)errors_raise_errno(errno);
            return loop_report(self->loop, "Exception in accept()",
                               self->loop->state->str_socket, self->args[ARG_SOCK],
                               NULL);
        }
    }
    return 0;
}

static int
listener_watch(ListenerObject *self)
{
    PyObject *replaced;
    if (fds_watch(self->loop, self->fd, FD_READ, on_acceptable, (PyObject *)self, NULL,
                  &replaced) < 0) {
        return -1;
    }
    Py_XDECREF(replaced);
    return 0;
}

/* After a back-off, during which _stop_serving would not have found us in the table: it
 * closes the socket. */
static PyObject *
listener_resume(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ListenerObject *self = (ListenerObject *)op;
    PyObject *fd = call_method0(self->args[ARG_SOCK], self->loop->state->str_fileno);
    if (fd == NULL) {
        return NULL;
    }
    bool open = PyLong_AsLong(fd) == self->fd;
    Py_DECREF(fd);
    if (PyErr_Occurred() || (open && listener_watch(self) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- starting and stopping --------------------------------------------------------- */

/* In debug mode, where the server was made: of it, and of its connections. 0, or -1. */
static int
listener_note_origin(ListenerObject *self)
{
    PyObject *name = self->loop->state->str__source_traceback;
    if (loop_note_origin(self->loop, &self->dict) < 0) {
        return -1;
    }
    PyObject *traceback =
        self->dict != NULL ? PyDict_GetItemWithError(self->dict, name) : NULL;
    if (traceback != NULL && listener_has(self, ARG_SERVER) &&
        PyObject_SetAttr(self->args[ARG_SERVER], name, traceback) < 0) {
        PyErr_Clear(); /* somebody's own class: its connections say less */
    }
    return 0;
}

static int
listener_setup(ListenerObject *self, PyObject **given)
{
    PyloopState *state = self->loop->state;
    PyObject *sock = given[ARG_SOCK];
    for (int i = 0; i < ARG_COUNT; i++) {
        self->args[i] = Py_XNewRef(given[i]);
    }
    self->backlog = 100;
    if (given[ARG_BACKLOG] != NULL) {
        self->backlog = PyLong_AsLong(given[ARG_BACKLOG]);
        if (self->backlog == -1 && PyErr_Occurred()) {
            return -1;
        }
    }
    if (self->backlog < 1) {
        self->backlog = 1; /* listen(0) still lets one connection wait */
    }
    self->expected = 1;
    self->fd = args_descriptor(state->str_fileno, sock);
    if (self->fd < 0 || sockets_kind(state, sock, &self->kind) < 0) {
        return -1;
    }
    self->context = listener_has(self, ARG_CONTEXT) ? Py_NewRef(given[ARG_CONTEXT])
                                                    : PyContext_CopyCurrent();
    return self->context != NULL ? listener_note_origin(self) : -1;
}

PyObject *
listener_start_serving(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    static const char *const names[ARG_COUNT] = {"protocol_factory",
                                                 "sock",
                                                 "sslcontext",
                                                 "server",
                                                 "backlog",
                                                 "ssl_handshake_timeout",
                                                 "ssl_shutdown_timeout",
                                                 "context"};
    static const ArgsSpec spec = {"_start_serving", names, ARG_COUNT, 2, ARG_COUNT};
    LoopObject *loop = (LoopObject *)op;
    PyObject *given[ARG_COUNT];
    if (args_parse(&spec, args, nargs, kwnames, given) < 0 ||
        loop_check_closed(loop) < 0) {
        return NULL;
    }
    PyObject *served =
        sockets_leave(loop->state, op, given[ARG_SOCK],
                      loop->state->str__start_selector_serving, given, ARG_COUNT);
    if (served != Py_None) {
        Py_XDECREF(served);
        return served != NULL ? Py_NewRef(Py_None) : NULL;
    }
    Py_DECREF(served);
    PyTypeObject *tp = loop->state->ListenerType;
    ListenerObject *self = (ListenerObject *)tp->tp_alloc(tp, 0);
    if (self == NULL) {
        return NULL;
    }
    MEMORY_BEGINS(self);
    self->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    RACY_ADD(loop->state->live_servers, 1);
    self->serving = true;
    self->born_ticks = clock_ticks();
    int rc = listener_setup(self, given);
    if (rc == 0) {
        rc = listener_watch(self);
    }
    Py_DECREF(self); /* the watch's now */
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
listener_stop_serving(PyObject *op, PyObject *sock)
{
    LoopObject *loop = (LoopObject *)op;
    int fd = args_descriptor(loop->state->str_fileno, sock);
    if (fd < 0) {
        PyErr_Clear(); /* closed already: its watch ended with it */
    }
    else {
        PyObject *owner = fds_unwatch(loop, fd, FD_READ, false);
        if (owner != NULL && Py_IS_TYPE(owner, loop->state->ListenerType)) {
            ((ListenerObject *)owner)->serving = false;
        }
        Py_XDECREF(owner);
    }
    return call_method0(sock, loop->state->str_close);
}

/* ---- life ---------------------------------------------------------------------------- */

static int
listener_traverse(PyObject *op, visitproc visit, void *arg)
{
    ListenerObject *self = (ListenerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->loop);
    for (int i = 0; i < ARG_COUNT; i++) {
        Py_VISIT(self->args[i]);
    }
    Py_VISIT(self->context);
    Py_VISIT(self->dict);
    return 0;
}

static int
listener_clear(PyObject *op)
{
    ListenerObject *self = (ListenerObject *)op;
    LAST_USE(op, &self->loop->lock);
    self->serving = false;
    for (int i = 0; i < ARG_COUNT; i++) {
        Py_CLEAR(self->args[i]);
    }
    Py_CLEAR(self->context);
    Py_CLEAR(self->dict);
    return 0;
}

static void
listener_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    LoopObject *loop = ((ListenerObject *)op)->loop;
    PyObject_GC_UnTrack(op);
    (void)listener_clear(op);
    RACY_ADD(loop->state->live_servers, -1);
    MEMORY_ENDS(op);
    tp->tp_free(op);
    Py_DECREF(tp);
    Py_DECREF(loop);
}

#define LOCK_OF(op) (&((ListenerObject *)(op))->loop->lock)

LOCKED_NOARGS(listener_resume)

static PyMethodDef listener_methods[] = {
    {"_resume", LOCKED(listener_resume), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define MEMBER(name, field)                                                            \
    {name, Py_T_OBJECT_EX, offsetof(ListenerObject, field), Py_READONLY, NULL}

static PyMemberDef listener_members[] = {
    MEMBER("_sock", args[ARG_SOCK]),
    MEMBER("_server", args[ARG_SERVER]),
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(ListenerObject, dict), Py_READONLY,
     NULL},
    {"_born_ticks", Py_T_ULONGLONG, offsetof(ListenerObject, born_ticks), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_doc, "What accepts connections for one listening socket."},
    {Py_tp_methods, listener_methods},
    {Py_tp_members, listener_members},
    {Py_tp_traverse, listener_traverse},
    {Py_tp_clear, listener_clear},
    {Py_tp_dealloc, listener_dealloc},
    {0, NULL},
};

static PyType_Spec listener_spec = {
    .name = "pyloop._core.Listener",
    .basicsize = sizeof(ListenerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = listener_slots,
};

PyTypeObject *
listener_type_create(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &listener_spec, NULL);
}
