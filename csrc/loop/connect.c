/* connect.c - connecting: the steps of sock_connect; and _connect_sock, the coroutine by
 * which asyncio's create_connection() makes and connects one socket.
 *
 * _connect_sock is done here where it can be known that nothing else is meant: to an
 * address without a name, from no local address, and with nothing of what asyncio's calls
 * replaced. The rest, and debug mode, is asyncio's. What it gives create_connection() is a
 * box (sockets.h): that hands it on to _create_connection_transport() (transport/make.c)
 * without a look at it, and nobody has to make a Python object of the socket.
 */
#include "loop/sockops.h"

#include "base/call.h"
#include "base/errors.h"
#include "loop/methods.h"
#include "loop/sockaddr.h"
#include "loop/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef enum {
    CONNECT_NEW,
    CONNECT_RESOLVING, /* delegate: _ensure_resolved() */
    CONNECT_WAITING    /* until it is writable */
} ConnectStage;

/* ---- sock_connect ---------------------------------------------------------------- */

/* Of which asyncio's _ensure_resolved() takes a literal. */
static bool
connect_knows_proto(int proto)
{
    return proto == 0 || proto == IPPROTO_TCP || proto == IPPROTO_UDP;
}

/* Whether an address for a native socket has no name: asyncio's _ensure_resolved() would give
 * back the same. */
static bool
connect_is_literal(PyObject *address, const SocketKind *kind)
{
    struct in6_addr bytes; /* the larger of the two */
    if ((kind->family != AF_INET && kind->family != AF_INET6) ||
        (kind->type != SOCK_STREAM && kind->type != SOCK_DGRAM) ||
        !connect_knows_proto(kind->proto) || !PyTuple_CheckExact(address) ||
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
               !(connect_is_literal(self->args[0], &kind) &&
                 methods_is_core(self->coro.loop, state->str__ensure_resolved));
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
    CoroStatus status = sockcall_connect(self, result);
    if (status == CORO_WAIT) {
        self->stage = CONNECT_WAITING;
    }
    return status;
}

/* What SO_ERROR said, 0 when the connection was made. */
static CoroStatus
connect_made(int err, PyObject *address)
{
    if (err == 0) {
        return CORO_RETURN;
    }
    PyObject *text = PyUnicode_FromFormat("Connect call failed %S", address);
    PyObject *exc =
        text != NULL ? PyObject_CallFunction(PyExc_OSError, "iO", err, text) : NULL;
    Py_XDECREF(text);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return CORO_ERROR;
}

static CoroStatus
connect_check(SockOpObject *self, PyObject **result)
{
    int err;
    CoroStatus status = sockcall_pending_error(self, &err);
    if (status == CORO_RETURN) {
        status = connect_made(err, self->args[0]);
    }
    *result = status == CORO_RETURN ? Py_NewRef(Py_None) : NULL;
    return status;
}

CoroStatus
connect_resume(CoroObject *coro, PyObject *value, PyObject **result)
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

/* ---- _connect_sock ------------------------------------------------------------- */

/* What the coroutine keeps in its args. */
enum { OPEN_ADDRESS, OPEN_ERRORS };

typedef struct {
    SockOpObject op; /* sock: NULL unless somebody has seen the socket */
    SocketKind kind;
    struct sockaddr_in6 address; /* of either family */
    socklen_t length;
    bool begun;
    bool owns_fd; /* op.fd is this object's to close */
} ConnectObject;

/* The number that object (an int or an enum's member) is; -1 for what is none. */
static int
open_number(PyObject *object)
{
    int overflow = 0;
    long number =
        PyLong_Check(object) ? PyLong_AsLongAndOverflow(object, &overflow) : -1;
    return overflow == 0 && number >= 0 && number <= UINT16_MAX ? (int)number : -1;
}

/* Whether info, of getaddrinfo(), is of a stream socket and a literal address. */
static bool
open_knows_info(PyObject *info, SocketKind *kind, struct sockaddr_storage *storage,
                socklen_t *length)
{
    if (!PyTuple_CheckExact(info) || PyTuple_GET_SIZE(info) != 5) {
        return false;
    }
    kind->family = open_number(PyTuple_GET_ITEM(info, 0));
    kind->type = open_number(PyTuple_GET_ITEM(info, 1));
    kind->proto = open_number(PyTuple_GET_ITEM(info, 2));
    PyObject *address = PyTuple_GET_ITEM(info, 4);
    Py_ssize_t items = kind->family == AF_INET ? 2 : 4;
    return kind->type == SOCK_STREAM && connect_knows_proto(kind->proto) &&
           (kind->family == AF_INET || kind->family == AF_INET6) &&
           PyTuple_CheckExact(address) && PyTuple_GET_SIZE(address) == items &&
           sockaddr_from_python(kind->family, address, storage, length);
}

/* Whether all that asyncio's coroutine and its caller would look up is what it was: then
 * the caller is asyncio's create_connection(), which hands the box on. */
static bool
open_finds_all(LoopObject *loop)
{
    PyloopState *state = loop->state;
    return methods_module_has(state->base_events_module, state->str_socket,
                              state->socket_module) &&
           methods_module_has(state->socket_module, state->str_socket,
                              state->SocketType) &&
           methods_finds(state->BaseEventLoop, state->str__connect_sock,
                         state->connect_sock) &&
           methods_finds((PyObject *)Py_TYPE(loop), state->str_create_connection,
                         state->create_connection) &&
           methods_is_core(loop, state->str__create_connection_transport) &&
           methods_is_core(loop, state->str_sock_connect) &&
           methods_is_core(loop, state->str__ensure_resolved);
}

/* For PySys_Audit(), which asks for it if anybody listens: the socket that the event is
 * about. Its making is an event as well. New reference. */
static PyObject *
open_audited(void *op)
{
    ConnectObject *self = op;
    self->op.sock = sockets_lend(self->op.coro.loop->state, &self->kind, self->op.fd);
    self->owns_fd = self->op.sock == NULL;
    return Py_XNewRef(self->op.sock);
}

/* Whether the connection that connect(2) began has been made meanwhile, as the kernel does
 * between sockets of one machine: then there is nothing to wait for. */
static bool
open_is_made(const ConnectObject *self)
{
    struct sockaddr_in6 peer; /* of either family */
    socklen_t length = sizeof(peer);
    return getpeername(self->op.fd, (struct sockaddr *)&peer, &length) == 0;
}

static CoroStatus
open_begin(ConnectObject *self)
{
    self->begun = true;
    self->op.fd = sockets_open(&self->kind);
    if (self->op.fd < 0) {
        (void)errors_raise_errno(errno);
        return CORO_ERROR;
    }
    self->owns_fd = true;
    if (PySys_Audit("socket.connect", "O&O", open_audited, self,
                    self->op.args[OPEN_ADDRESS]) < 0) {
        return CORO_ERROR;
    }
    CoroStatus status =
        sockcall_connect_to(&self->op, (struct sockaddr *)&self->address, self->length);
    if (status == CORO_WAIT && open_is_made(self)) {
        /* A listener of this very loop accepts before create_connection() returns, as when
         * one poll reports both ends. */
        self->op.coro.loop->poll_due = true;
        return CORO_RETURN;
    }
    return status;
}

/* Writable. */
static CoroStatus
open_check(ConnectObject *self)
{
    int err;
    socklen_t length = sizeof(err);
    if (loop_check_closed(self->op.coro.loop) < 0) {
        return CORO_ERROR;
    }
    if (getsockopt(self->op.fd, SOL_SOCKET, SO_ERROR, &err, &length) < 0) {
        err = errno;
    }
    return connect_made(err, self->op.args[OPEN_ADDRESS]);
}

static CoroStatus
open_resume(CoroObject *coro, PyObject *Py_UNUSED(value), PyObject **result)
{
    ConnectObject *self = (ConnectObject *)coro;
    CoroStatus status = self->begun ? open_check(self) : open_begin(self);
    if (status == CORO_WAIT) {
        return sockop_wait(&self->op);
    }
    if (status == CORO_RETURN) {
        *result = self->op.sock != NULL ? Py_NewRef(self->op.sock)
                                        : sockets_box(&self->kind, self->op.fd);
        if (*result == NULL) {
            return CORO_ERROR;
        }
        self->owns_fd = false;
        Py_CLEAR(self->op.sock);
    }
    return status;
}

/* create_connection() wants all errors, for one that names them. */
static void
open_failed(CoroObject *coro)
{
    ConnectObject *self = (ConnectObject *)coro;
    if (!self->begun || !PyErr_ExceptionMatches(PyExc_OSError)) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    if (PyList_Append(self->op.args[OPEN_ERRORS], exc) == 0) {
        PyErr_SetRaisedException(Py_NewRef(exc));
    } /* else there is no memory, which is raised now */
    Py_DECREF(exc);
}

/* A socket that nobody got is closed. */
static void
open_release(CoroObject *coro)
{
    ConnectObject *self = (ConnectObject *)coro;
    PyObject *sock = self->op.sock;
    self->op.sock = NULL;
    sockop_release(coro); /* its watch, first */
    if (self->owns_fd) {
        self->owns_fd = false;
        (void)close(self->op.fd); /* nothing to be done about EIO */
    }
    if (sock != NULL) {
        /* Not by the state's name: the interpreter may be shutting down. */
        PyObject *closed = PyObject_CallMethod(sock, "close", NULL);
        if (closed == NULL) {
            PyErr_Clear(); /* as asyncio from 3.14 on: what ended it matters more */
        }
        Py_XDECREF(closed);
        Py_DECREF(sock);
    }
}

static const char *const open_names[] = {"exceptions", "addr_info", "local_addr_infos"};

static const SockKind kind_open = {
    .coro = {"Loop._connect_sock", open_resume, open_failed, open_release,
             sockop_traverse, NULL},
    .args = {"_connect_sock", open_names, 3, 2, 3},
    .direction = FD_WRITE,
};

static PyObject *
open_new(LoopObject *loop, PyObject *exceptions, PyObject *address,
         const SocketKind *kind, const struct sockaddr_storage *storage,
         socklen_t length)
{
    PyObject *errors = PyList_New(0);
    if (errors == NULL || PyList_Append(exceptions, errors) < 0) {
        Py_XDECREF(errors);
        return NULL;
    }
    PyObject *kept[] = {[OPEN_ADDRESS] = address, [OPEN_ERRORS] = errors};
    ConnectObject *self =
        (ConnectObject *)sockop_alloc(loop, loop->state->ConnectOpType, &kind_open,
                                      NULL, kept, Py_ARRAY_LENGTH(kept));
    Py_DECREF(errors);
    if (self != NULL) {
        self->kind = *kind;
        memcpy(&self->address, storage, sizeof(self->address));
        self->length = length;
    }
    return (PyObject *)self;
}

PyObject *
connect_open(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *given[3]; /* exceptions, info, local */
    SocketKind kind;
    struct sockaddr_storage storage;
    socklen_t length;
    if (args_parse(&kind_open.args, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    if (loop->debug || loop->closed || (given[2] != NULL && given[2] != Py_None) ||
        !PyList_CheckExact(given[0]) ||
        !open_knows_info(given[1], &kind, &storage, &length) || !open_finds_all(loop)) {
        return methods_call_asyncios(op, loop->state, loop->state->str__connect_sock,
                                     args, nargs, kwnames);
    }
    return open_new(loop, given[0], PyTuple_GET_ITEM(given[1], 4), &kind, &storage,
                    length);
}

PyTypeObject *
connectop_type_create(PyObject *module)
{
    return coro_type_create(module, "pyloop._core.ConnectOp", sizeof(ConnectObject),
                            "The coroutine of the loop's _connect_sock.");
}
