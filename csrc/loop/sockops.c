/* sockops.c - the sock_* methods of the loop: objects, waiting, connecting.
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

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

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
    if (entry == NULL || entry->transport == NULL || entry->lent) {
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

/* ---- connecting ------------------------------------------------------------ */

typedef enum { CONNECT_NEW, CONNECT_RESOLVING, CONNECT_WAITING } ConnectStage;

/* Whether a native socket's address has no name: asyncio's _ensure_resolved() would give
 * back the same. */
static bool
connect_is_literal(SockOpObject *self, const SocketKind *kind)
{
    PyObject *address = self->args[0];
    struct in6_addr bytes; /* the larger of the two */
    if ((kind->type != SOCK_STREAM && kind->type != SOCK_DGRAM) ||
        (kind->proto != 0 && kind->proto != IPPROTO_TCP &&
         kind->proto != IPPROTO_UDP) ||
        !PyTuple_CheckExact(address) ||
        PyTuple_GET_SIZE(address) != (kind->family == AF_INET ? 2 : 4) ||
        !PyUnicode_CheckExact(PyTuple_GET_ITEM(address, 0)) ||
        !PyLong_CheckExact(PyTuple_GET_ITEM(address, 1))) {
        return false;
    }
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(address, 0), &size);
    if (text == NULL) {
        PyErr_Clear(); /* no literal, whatever it is */
        return false;
    }
    return strlen(text) == (size_t)size && inet_pton(kind->family, text, &bytes) == 1;
}

/* Whether nobody has replaced the loop's _ensure_resolved(). */
static bool
connect_resolves_as_asyncio(LoopObject *loop)
{
    PyObject *method =
        PyObject_GetAttr((PyObject *)loop, loop->state->str__ensure_resolved);
    bool same = method != NULL && PyMethod_Check(method) &&
                PyMethod_GET_FUNCTION(method) == loop->state->ensure_resolved;
    Py_XDECREF(method);
    PyErr_Clear(); /* it is raised when the method is called */
    return same;
}

/* 1 when the address may have a name to resolve, 0 when not, -1 with an exception. */
static int
connect_has_name(SockOpObject *self)
{
    PyloopState *state = self->coro.loop->state;
    if (self->native) {
        SocketKind kind;
        if (sockets_kind(state, self->sock, &kind) < 0) {
            return -1;
        }
        return (kind.family == AF_INET || kind.family == AF_INET6) &&
               !(connect_is_literal(self, &kind) &&
                 connect_resolves_as_asyncio(self->coro.loop));
    }
    PyObject *family = PyObject_GetAttr(self->sock, state->str_family);
    if (family == NULL) {
        return -1;
    }
    long number = PyLong_Check(family) ? PyLong_AsLong(family) : AF_UNSPEC;
    Py_DECREF(family);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    return number == AF_INET || number == AF_INET6;
}

/* Waits for self._ensure_resolved(address, family=..., type=..., proto=..., loop=self). */
static CoroStatus
connect_resolve(SockOpObject *self)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *loop = (PyObject *)self->coro.loop;
    PyObject *names = PyTuple_Pack(4, state->str_family, state->str_type,
                                   state->str_proto, state->str_loop);
    PyObject *family = PyObject_GetAttr(self->sock, state->str_family);
    PyObject *type = PyObject_GetAttr(self->sock, state->str_type);
    PyObject *proto = PyObject_GetAttr(self->sock, state->str_proto);
    PyObject *values[6] = {loop, self->args[0], family, type, proto, loop};
    PyObject *awaitable = NULL;
    CoroStatus status = CORO_ERROR;
    if (names != NULL && family != NULL && type != NULL && proto != NULL) {
        awaitable =
            PyObject_VectorcallMethod(state->str__ensure_resolved, values, 2, names);
    }
    if (awaitable != NULL) {
        self->stage = CONNECT_RESOLVING;
        status = coro_await(&self->coro, awaitable);
    }
    Py_XDECREF(awaitable);
    Py_XDECREF(names);
    Py_XDECREF(family);
    Py_XDECREF(type);
    Py_XDECREF(proto);
    return status;
}

/* The address of the first of getaddrinfo's entries takes the place of the given one. */
static int
connect_take_resolved(SockOpObject *self, PyObject *entries)
{
    enum { ADDRESS = 4 }; /* (family, type, proto, canonname, address) */
    PyObject *first = PySequence_GetItem(entries, 0);
    PyObject *address = first != NULL ? PySequence_GetItem(first, ADDRESS) : NULL;
    Py_XDECREF(first);
    if (address == NULL) {
        return -1;
    }
    Py_SETREF(self->args[0], address);
    return 0;
}

static CoroStatus
connect_attempt(SockOpObject *self, PyObject **result)
{
    CoroStatus status =
        sockop_call(self, self->coro.loop->state->str_connect, self->args, 1, result);
    if (status == CORO_WAIT) {
        self->stage = CONNECT_WAITING;
    }
    return status;
}

/* Writable: the connection was made, or SO_ERROR says why not. */
static CoroStatus
connect_check(SockOpObject *self, PyObject **result)
{
    PyObject *option[2] = {PyLong_FromLong(SOL_SOCKET), PyLong_FromLong(SO_ERROR)};
    CoroStatus status = CORO_ERROR;
    if (option[0] != NULL && option[1] != NULL) {
        status = sockop_call(self, self->coro.loop->state->str_getsockopt, option, 2,
                             result);
    }
    Py_XDECREF(option[0]);
    Py_XDECREF(option[1]);
    if (status != CORO_RETURN) {
        return status;
    }
    long err = PyLong_AsLong(*result);
    Py_CLEAR(*result);
    if (err == -1 && PyErr_Occurred()) {
        return CORO_ERROR;
    }
    if (err == 0) {
        *result = Py_NewRef(Py_None);
        return CORO_RETURN;
    }
    PyObject *text = PyUnicode_FromFormat("Connect call failed %S", self->args[0]);
    PyObject *exc =
        text != NULL ? PyObject_CallFunction(PyExc_OSError, "lO", err, text) : NULL;
    Py_XDECREF(text);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return CORO_ERROR;
}

static CoroStatus
sockop_connect_resume(CoroObject *coro, PyObject *value, PyObject **result)
{
    SockOpObject *self = (SockOpObject *)coro;
    CoroStatus status;
    if (loop_check_closed(coro->loop) < 0) {
        return CORO_ERROR;
    }
    if (self->stage == CONNECT_WAITING) {
        status = connect_check(self, result);
    }
    else if (self->stage == CONNECT_RESOLVING) {
        status = connect_take_resolved(self, value) == 0 ? connect_attempt(self, result)
                                                         : CORO_ERROR;
    }
    else {
        int has_name = sockop_begin(self) == 0 ? connect_has_name(self) : -1;
        if (has_name != 0) {
            return has_name > 0 ? connect_resolve(self) : CORO_ERROR;
        }
        status = connect_attempt(self, result);
    }
    return status == CORO_WAIT ? sockop_wait(self) : status;
}

/* ---- the object and the methods --------------------------------------------- */

static int
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
    SockOpObject *self =
        (SockOpObject *)coro_new(loop->state->SockOpType, &kind->coro, loop);
    if (self == NULL) {
        return NULL;
    }
    self->fd = -1;
    self->watched = -1;
    self->sock = Py_NewRef(values[0]);
    for (Py_ssize_t i = 1; i < kind->args.count; i++) {
        self->args[i - 1] = Py_XNewRef(values[i]);
    }
    return (PyObject *)self;
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
        .coro = {"Loop.sock_" #method, sockop_resume, sockop_release,                  \
                 sockop_traverse},                                                     \
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
    .coro = {"Loop.sock_connect", sockop_connect_resume, sockop_release,
             sockop_traverse},
    .args = {"sock_connect", connect_names, Py_ARRAY_LENGTH(connect_names), 2,
             Py_ARRAY_LENGTH(connect_names)},
    .direction = FD_WRITE,
};
/* Called by Loop._sock_sendfile_native (_sendfile.py), which looks at the file. */
static const SockKind kind_sendfile = {
    .coro = {"Loop._sock_sendfile", sockop_resume, sendfile_release, sockop_traverse},
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
