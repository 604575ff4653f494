/* make.c - _create_connection_transport, the coroutine by which asyncio's methods make the
 * protocol and the transport of a connected socket.
 *
 * It is done here for a box of _connect_sock (loop/connect.c), without TLS and where nobody
 * has replaced _make_socket_transport. The rest is asyncio's.
 */
#include "transport/stream.h"

#include "base/args.h"
#include "base/call.h"
#include "loop/coro.h"
#include "loop/methods.h"

#include <unistd.h>

typedef struct {
    CoroObject coro;
    /* strong or NULL: not there yet, or done */
    PyObject *box;
    PyObject *factory;
    PyObject *protocol;
    StreamObject *transport;
} TransportOpObject;

/* The context that the transport's callbacks share. 0 (NULL: none), or -1. */
static int
make_context(PyObject **context)
{
    *context = NULL;
#if PY_VERSION_HEX >= 0x030F0000
    *context = PyContext_CopyCurrent();
    return *context != NULL ? 0 : -1;
#else
    return 0;
#endif
}

/* Gives the box's socket to a transport, which is started soon. 0, or -1. */
static int
make_transport(TransportOpObject *self, PyObject *waiter)
{
    LoopObject *loop = self->coro.loop;
    SocketKind kind;
    PyObject *context;
    if (loop_check_closed(loop) < 0 || make_context(&context) < 0) {
        return -1;
    }
    int fd = sockets_unbox(self->box, &kind);
    self->transport = socket_new(loop, fd, NULL, &kind, self->protocol, NULL, NULL);
    if (self->transport == NULL) {
        (void)close(fd);
        Py_XDECREF(context);
        return -1;
    }
    int rc = socket_start_soon(self->transport, waiter, context);
    Py_XDECREF(context);
    return rc;
}

static CoroStatus
make_begin(TransportOpObject *self)
{
    self->protocol = call_no_args(self->factory);
    PyObject *waiter =
        self->protocol != NULL ? loop_create_future(self->coro.loop) : NULL;
    if (waiter == NULL || make_transport(self, waiter) < 0) {
        Py_CLEAR(self->transport);
        Py_XDECREF(waiter);
        return CORO_ERROR;
    }
    CoroStatus status = coro_await(&self->coro, waiter);
    Py_DECREF(waiter);
    return status;
}

static CoroStatus
make_resume(CoroObject *coro, PyObject *value, PyObject **result)
{
    TransportOpObject *self = (TransportOpObject *)coro;
    if (value == NULL) {
        return make_begin(self);
    }
    *result = PyTuple_Pack(2, (PyObject *)self->transport, self->protocol);
    if (*result == NULL) {
        return CORO_ERROR;
    }
    Py_CLEAR(self->transport);
    return CORO_RETURN;
}

/* A transport that nobody got is closed. */
static void
make_release(CoroObject *coro)
{
    TransportOpObject *self = (TransportOpObject *)coro;
    StreamObject *transport = self->transport;
    self->transport = NULL;
    Py_CLEAR(self->box);
    Py_CLEAR(self->factory);
    Py_CLEAR(self->protocol);
    if (transport != NULL && stream_close(transport) < 0) {
        PyErr_WriteUnraisable((PyObject *)transport);
    }
    Py_XDECREF((PyObject *)transport);
}

static int
make_traverse(CoroObject *coro, visitproc visit, void *arg)
{
    TransportOpObject *self = (TransportOpObject *)coro;
    Py_VISIT(self->box);
    Py_VISIT(self->factory);
    Py_VISIT(self->protocol);
    Py_VISIT((PyObject *)self->transport);
    return 0;
}

static const CoroKind kind_make = {"Loop._create_connection_transport",
                                   make_resume,
                                   NULL,
                                   make_release,
                                   make_traverse,
                                   NULL};

/* asyncio's own coroutine, for a Python socket in the place of the box. */
static PyObject *
make_unboxed(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyloopState *state = ((LoopObject *)op)->state;
    enum { MOST = 16 };
    PyObject *values[MOST];
    SocketKind kind;
    Py_ssize_t total = nargs + (kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
    if (total > MOST) {
        PyErr_SetString(PyExc_TypeError, "too many arguments");
        return NULL;
    }
    int fd = sockets_unbox(args[0], &kind);
    values[0] = sockets_lend(state, &kind, fd);
    if (values[0] == NULL) {
        (void)close(fd);
        return NULL;
    }
    memcpy(values + 1, args + 1, (size_t)(total - 1) * sizeof(*values));
    PyObject *made = methods_call_asyncios(
        op, state, state->str__create_connection_transport, values, nargs, kwnames);
    Py_DECREF(values[0]);
    return made;
}

/* Loop._create_connection_transport(sock, protocol_factory, ssl, server_hostname, ...) */
PyObject *
transportop_new(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)op;
    PyloopState *state = loop->state;
    if (nargs < 1 || !sockets_is_box(args[0])) {
        return methods_call_asyncios(op, state, state->str__create_connection_transport,
                                     args, nargs, kwnames);
    }
    int is_ssl = nargs == 4 ? PyObject_IsTrue(args[2]) : 1;
    if (is_ssl < 0) {
        return NULL;
    }
    if (is_ssl || !methods_is_core(loop, state->str__make_socket_transport) ||
        !methods_finds(state->BaseEventLoop, state->str__create_connection_transport,
                       state->create_connection_transport)) {
        return make_unboxed(op, args, nargs, kwnames);
    }
    TransportOpObject *self =
        (TransportOpObject *)coro_new(state->TransportOpType, &kind_make, loop);
    if (self != NULL) {
        self->box = Py_NewRef(args[0]);
        self->factory = Py_NewRef(args[1]);
    }
    return (PyObject *)self;
}

PyTypeObject *
transportop_type_create(PyObject *module)
{
    return coro_type_create(
        module, "pyloop._core.TransportOp", sizeof(TransportOpObject),
        "The coroutine of the loop's _create_connection_transport.");
}
