/* sockops.c - the sock_* methods of the loop: objects, waiting.
 *
 * Does not own: the watch of the descriptor (loop/fds.c), which holds the operation
 * strongly while it is a slot's owner. Whoever is asked to watch the same direction of the
 * same descriptor later takes the slot, as in asyncio; the former operation then waits for
 * ever or until it is cancelled, and must not touch the slot.
 * Thread: loop thread.  GIL: held, over the system calls too: they never block.
 */
#include "loop/sockops.h"

#include "base/call.h"
#include "base/errors.h"
#include "loop/handle.h"
#include "loop/sockets.h"

#include <string.h>

static inline const SockKind *
sockop_kind(const SockOpObject *self)
{
    return (const SockKind *)self->coro.kind;
}

/* ---- waiting --------------------------------------------------------------- */

static void
sockop_unwatch(SockOpObject *self)
{
    LoopObject *loop = self->coro.loop;
    unsigned int direction = sockop_kind(self)->direction;
    int fd = self->watched;
    self->watched = -1;
    FdEntry *entry = fds_entry(loop, fd);
    if (entry == NULL ||
        entry->slots[direction == FD_READ ? 0 : 1].owner != (PyObject *)self) {
        return; /* removed, or another's by now */
    }
    PyObject *owner = fds_unwatch(loop, fd, direction, sockop_kind(self)->lazy);
    Py_XDECREF(owner);
}

/* FdCallback. The slot is kept until the task has run, because it mostly asks for more. */
static int
on_sockop_ready(LoopObject *loop, PyObject *owner)
{
    SockOpObject *self = (SockOpObject *)owner;
    PyObject *future = self->future;
    if (future == NULL) {
        sockop_unwatch(self); /* whoever drives us is slow: do not spin until then */
        return 0;
    }
    self->future = NULL;
    PyObject *result = call_method0(future, loop->state->str_done);
    if (result == Py_False) { /* else it was cancelled, and the task hears of it */
        Py_SETREF(result, call_method1(future, loop->state->str_set_result, Py_None));
    }
    Py_DECREF(future);
    if (result == NULL) {
        return loop_report(loop, "Exception while waking a socket operation",
                           loop->state->str_socket, self->sock, NULL);
    }
    Py_DECREF(result);
    return 0;
}

/* As asyncio's _ensure_fd_no_transport(fd). 0, or -1. */
static int
sockop_check_no_transport(SockOpObject *self)
{
    FdEntry *entry = fds_entry(self->coro.loop, self->fd);
    if (entry == NULL || entry->lent ||
        (entry->transport == NULL && !entry->asyncios)) {
        return 0;
    }
    PyObject *number = PyLong_FromLong(self->fd);
    if (number == NULL) {
        return -1;
    }
    int rc = fd_check_no_transport(self->coro.loop, self->fd, number);
    Py_DECREF(number);
    return rc;
}

/* Takes the slot of the descriptor's direction. 0, or -1. */
static int
sockop_watch(SockOpObject *self)
{
    LoopObject *loop = self->coro.loop;
    PyObject *identity = NULL, *replaced;
    if (self->native) {
        /* The open socket.socket keeps its number: a registration of it stays good. */
        identity = PyWeakref_NewRef(self->sock, NULL);
        if (identity == NULL) {
            return -1;
        }
    }
    int rc = fds_watch(loop, self->fd, sockop_kind(self)->direction, on_sockop_ready,
                       (PyObject *)self, identity, &replaced);
    Py_XDECREF(identity);
    if (rc < 0) {
        return -1;
    }
    self->watched = self->fd;
    if (replaced != NULL && handle_check(loop->state, replaced)) {
        handle_cancel((HandleObject *)replaced);
    }
    Py_XDECREF(replaced);
    return 0;
}

CoroStatus
sockop_wait(SockOpObject *self)
{
    LoopObject *loop = self->coro.loop;
    if (self->fd < 0) {
        self->fd = args_descriptor(loop->state->str_fileno, self->sock);
    }
    if (self->fd < 0) {
        return CORO_ERROR;
    }
    if (self->watched >= 0 && self->watched != self->fd) {
        sockop_unwatch(self); /* the socket was given another descriptor */
    }
    PyObject *future = loop_create_future(loop);
    if (future == NULL) {
        return CORO_ERROR;
    }
    if (sockop_check_no_transport(self) < 0 || sockop_watch(self) < 0) {
        Py_DECREF(future);
        return CORO_ERROR;
    }
    CoroStatus status = coro_await(&self->coro, future);
    Py_XSETREF(self->future, future);
    return status;
}

/* ---- steps ----------------------------------------------------------------- */

CoroStatus
sockop_call(SockOpObject *self, PyObject *name, PyObject *const *args, size_t nargs,
            PyObject **result)
{
    PyObject *values[1 + SOCKOP_ARGS] = {self->sock};
    assert(nargs <= SOCKOP_ARGS);
    memcpy(values + 1, args, nargs * sizeof(*args));
    self->fd = -1; /* the method may change it */
    *result = PyObject_VectorcallMethod(name, values, 1 + nargs, NULL);
    if (*result != NULL) {
        return CORO_RETURN;
    }
    if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) &&
        !PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        return CORO_ERROR;
    }
    PyErr_Clear(); /* that it would block is an answer here */
    return CORO_WAIT;
}

/* Debug mode's check. 0, or -1. */
static int
sockop_check_nonblocking(SockOpObject *self)
{
    PyObject *timeout =
        call_method0(self->sock, self->coro.loop->state->str_gettimeout);
    PyObject *zero = PyLong_FromLong(0);
    int differs = -1;
    if (timeout != NULL && zero != NULL) {
        differs = PyObject_RichCompareBool(timeout, zero, Py_NE);
    }
    Py_XDECREF(timeout);
    Py_XDECREF(zero);
    if (differs > 0) {
        PyErr_SetString(PyExc_ValueError, "the socket must be non-blocking");
    }
    return differs == 0 ? 0 : -1;
}

int
sockop_begin(SockOpObject *self)
{
    LoopObject *loop = self->coro.loop;
    self->native = Py_IS_TYPE(self->sock, (PyTypeObject *)loop->state->SocketType);
    if (!self->native) {
        int is_ssl = PyObject_IsInstance(self->sock, loop->state->SSLSocket);
        if (is_ssl > 0) {
            PyErr_SetString(PyExc_TypeError, "Socket cannot be of type SSLSocket");
        }
        if (is_ssl != 0) {
            return -1;
        }
    }
    return loop->debug ? sockop_check_nonblocking(self) : 0;
}

static CoroStatus
sockop_resume(CoroObject *coro, PyObject *value, PyObject **result)
{
    SockOpObject *self = (SockOpObject *)coro;
    if (loop_check_closed(coro->loop) < 0 ||
        (value == NULL && sockop_begin(self) < 0)) {
        return CORO_ERROR;
    }
    CoroStatus status = sockop_kind(self)->attempt(self, result);
    return status == CORO_WAIT ? sockop_wait(self) : status;
}

/* ---- the object and the methods --------------------------------------------- */

int
sockop_traverse(CoroObject *coro, visitproc visit, void *arg)
{
    SockOpObject *self = (SockOpObject *)coro;
    Py_VISIT(self->sock);
    for (size_t i = 0; i < SOCKOP_ARGS; i++) {
        Py_VISIT(self->args[i]);
    }
    Py_VISIT(self->future);
    return 0;
}

void
sockop_release(CoroObject *coro)
{
    SockOpObject *self = (SockOpObject *)coro;
    if (self->watched >= 0) {
        sockop_unwatch(self);
    }
    Py_CLEAR(self->future);
    Py_CLEAR(self->sock);
    for (size_t i = 0; i < SOCKOP_ARGS; i++) {
        Py_CLEAR(self->args[i]);
    }
}

PyTypeObject *
sockop_type_create(PyObject *module)
{
    return coro_type_create(module, "pyloop._core.SockOp", sizeof(SockOpObject),
                            "The coroutine of a sock_* method of the loop.");
}

PyObject *
sockop_alloc(LoopObject *loop, PyTypeObject *type, const SockKind *kind, PyObject *sock,
             PyObject *const *args, Py_ssize_t nargs)
{
    SockOpObject *self = (SockOpObject *)coro_new(type, &kind->coro, loop);
    if (self == NULL) {
        return NULL;
    }
    self->fd = -1;
    self->watched = -1;
    self->sock = Py_XNewRef(sock);
    for (Py_ssize_t i = 0; i < nargs; i++) {
        self->args[i] = Py_XNewRef(args[i]);
    }
    return (PyObject *)self;
}

static PyObject *
sockop_new(PyObject *op, const SockKind *kind, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *values[1 + SOCKOP_ARGS];
    assert(kind->args.count <= (Py_ssize_t)Py_ARRAY_LENGTH(values));
    if (args_parse(&kind->args, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    return sockop_alloc(loop, loop->state->SockOpType, kind, values[0], values + 1,
                        kind->args.count - 1);
}

/* sock and what else each method takes; asyncio's names. */
static const char *const recv_names[] = {"sock", "n"};
static const char *const recv_into_names[] = {"sock", "buf"};
static const char *const recvfrom_names[] = {"sock", "bufsize"};
static const char *const recvfrom_into_names[] = {"sock", "buf", "nbytes"};
static const char *const sendall_names[] = {"sock", "data"};
static const char *const sendto_names[] = {"sock", "data", "address"};
static const char *const accept_names[] = {"sock"};
static const char *const connect_names[] = {"sock", "address"};
static const char *const sendfile_names[] = {"sock", "file", "offset", "count"};

#define SOCK_KIND(method, required, dir, attempt_function)                             \
    {                                                                                  \
        .coro = {"Loop.sock_" #method, sockop_resume, NULL, sockop_release,            \
                 sockop_traverse, NULL},                                               \
        .args = {"sock_" #method, method##_names, Py_ARRAY_LENGTH(method##_names),     \
                 required, Py_ARRAY_LENGTH(method##_names)},                           \
        .direction = dir,                                                              \
        .lazy = true,                                                                  \
        .attempt = attempt_function,                                                   \
    }

static const SockKind kind_recv = SOCK_KIND(recv, 2, FD_READ, sockcall_recv);
static const SockKind kind_recv_into =
    SOCK_KIND(recv_into, 2, FD_READ, sockcall_recv_into);
static const SockKind kind_recvfrom =
    SOCK_KIND(recvfrom, 2, FD_READ, sockcall_recvfrom);
static const SockKind kind_recvfrom_into =
    SOCK_KIND(recvfrom_into, 2, FD_READ, sockcall_recvfrom_into);
static const SockKind kind_sendall = SOCK_KIND(sendall, 2, FD_WRITE, sockcall_sendall);
static const SockKind kind_sendto = SOCK_KIND(sendto, 3, FD_WRITE, sockcall_sendto);
static const SockKind kind_accept = SOCK_KIND(accept, 1, FD_READ, sockcall_accept);
/* Not lazy: a fresh connection mostly becomes a transport's. */
static const SockKind kind_connect = {
    .coro = {"Loop.sock_connect", connect_resume, NULL, sockop_release, sockop_traverse,
             NULL},
    .args = {"sock_connect", connect_names, Py_ARRAY_LENGTH(connect_names), 2,
             Py_ARRAY_LENGTH(connect_names)},
    .direction = FD_WRITE,
};
/* Called by Loop._sock_sendfile_native (_sendfile.py), which looks at the file. */
static const SockKind kind_sendfile = {
    .coro = {"Loop._sock_sendfile", sockop_resume, NULL, sendfile_release,
             sockop_traverse, NULL},
    .args = {"_sock_sendfile", sendfile_names, Py_ARRAY_LENGTH(sendfile_names), 4,
             Py_ARRAY_LENGTH(sendfile_names)},
    .direction = FD_WRITE,
    .lazy = true,
    .attempt = sockcall_sendfile,
};

PyObject *
sockop_recv(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return sockop_new(op, &kind_recv, args, nargs, kwnames);
}

PyObject *
sockop_recv_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return sockop_new(op, &kind_recv_into, args, nargs, kwnames);
}

PyObject *
sockop_recvfrom(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    return sockop_new(op, &kind_recvfrom, args, nargs, kwnames);
}

PyObject *
sockop_recvfrom_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    return sockop_new(op, &kind_recvfrom_into, args, nargs, kwnames);
}

PyObject *
sockop_sendall(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return sockop_new(op, &kind_sendall, args, nargs, kwnames);
}

PyObject *
sockop_sendto(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return sockop_new(op, &kind_sendto, args, nargs, kwnames);
}

PyObject *
sockop_accept(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return sockop_new(op, &kind_accept, args, nargs, kwnames);
}

PyObject *
sockop_connect(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return sockop_new(op, &kind_connect, args, nargs, kwnames);
}

PyObject *
sockop_sendfile(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    return sockop_new(op, &kind_sendfile, args, nargs, kwnames);
}
