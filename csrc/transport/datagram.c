/* datagram.c - the DatagramTransport type: making, closing, attributes.
 *
 * Owns: the Python socket, and through it the descriptor. An open transport that reads is
 * kept alive by loop->fds, as by asyncio's selector; one that is dropped unclosed closes
 * itself with a ResourceWarning (datagram_finalize).
 */
#include "transport/datagram.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"
#include "loop/handle.h"
#include "transport/flow.h"

#include <errno.h>

/* ---- making ------------------------------------------------------------------ */

/* What a method of the socket says of an end, None where the kernel has no name for it. */
static PyObject *
ask_socket(PyObject *sock, PyObject *method)
{
    PyObject *address = call_method0(sock, method);
    if (address == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear(); /* as asyncio */
        address = Py_NewRef(Py_None);
    }
    return address;
}

static int
extra_set_steal(PyObject *extra, PyObject *name, PyObject *value)
{
    int rc = value != NULL ? PyDict_SetItem(extra, name, value) : -1;
    Py_XDECREF(value);
    return rc;
}

/* At once, as asyncio: what is sent later gives the socket a name. 0, or -1. */
static int
datagram_fill_extra(DatagramObject *self, PyObject *sock)
{
    PyloopState *state = self->loop->state;
    if (extra_set_steal(self->extra, state->str_socket,
                        PyObject_CallOneArg(state->TransportSocket, sock)) < 0 ||
        extra_set_steal(self->extra, state->str_sockname,
                        ask_socket(sock, state->str_getsockname)) < 0) {
        return -1;
    }
    PyObject *peer = PyDict_GetItemWithError(self->extra, state->str_peername);
    if (peer == NULL) {
        if (PyErr_Occurred() ||
            extra_set_steal(self->extra, state->str_peername,
                            ask_socket(sock, state->str_getpeername)) < 0) {
            return -1;
        }
        peer = PyDict_GetItemWithError(self->extra, state->str_peername);
    }
    int named = peer != NULL ? PyObject_IsTrue(peer) : -1;
    self->connected = named > 0;
    self->connected_peer = peer != NULL && peer != Py_None;
    return named < 0 ? -1 : 0;
}

/* asyncio's _address counts when it is true. 0, or -1. */
static int
datagram_set_address(DatagramObject *self, PyObject *address)
{
    int given = address != NULL ? PyObject_IsTrue(address) : 0;
    self->address = given > 0 ? Py_NewRef(address) : NULL;
    return given < 0 ? -1 : 0;
}

/* Takes over sock only when it succeeds. */
static DatagramObject *
datagram_new(LoopObject *loop, int fd, PyObject *sock, PyObject *protocol,
             PyObject *address, PyObject *extra)
{
    PyTypeObject *tp = loop->state->DatagramTransportType;
    DatagramObject *self = (DatagramObject *)tp->tp_alloc(tp, 0);
    if (self == NULL) {
        return NULL;
    }
    MEMORY_BEGINS(self);
    self->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    RACY_ADD(loop->state->live_datagrams, 1);
    self->fd = -1; /* until nothing can fail any more */
    self->born_ticks = clock_ticks();
    self->protocol = Py_NewRef(protocol);
    self->high_water = FLOW_HIGH_WATER;
    self->low_water = FLOW_LOW_WATER;
    self->max_size = DATAGRAM_MAX_SIZE;
    bool has_extra = extra != NULL && extra != Py_None;
    if (has_extra && !PyDict_Check(extra)) {
        PyErr_Format(PyExc_TypeError, "extra must be a dict or None, not %s",
                     Py_TYPE(extra)->tp_name);
        goto error;
    }
    self->extra = has_extra ? Py_NewRef(extra) : PyDict_New();
    if (self->extra == NULL || sockets_kind(loop->state, sock, &self->kind) < 0 ||
        datagram_set_address(self, address) < 0 ||
        datagram_fill_extra(self, sock) < 0 ||
        loop_note_origin(loop, &self->dict) < 0 ||
        fds_set_transport(loop, fd, (PyObject *)self) < 0) {
        goto error;
    }
    self->fd = fd;
    loop->metrics.transports++;
    self->sock = Py_NewRef(sock);
    MADE(self);
    return self;
error:
    Py_DECREF(self);
    return NULL;
}

static int
call_soon_steal(LoopObject *loop, PyObject *callback, PyObject *const *args,
                Py_ssize_t nargs)
{
    int rc = callback != NULL ? loop_call_soon(loop, callback, args, nargs, NULL) : -1;
    Py_XDECREF(callback);
    return rc;
}

/* asyncio's order: connection_made, then reading, then whoever waits. 0, or -1. */
static int
datagram_schedule_start(DatagramObject *self, PyObject *waiter)
{
    LoopObject *loop = self->loop;
    PyloopState *state = loop->state;
    PyObject *made[1] = {(PyObject *)self};
    if (call_soon_steal(loop,
                        PyObject_GetAttr(self->protocol, state->str_connection_made),
                        made, 1) < 0 ||
        call_soon_steal(loop,
                        PyObject_GetAttr((PyObject *)self, state->str__start_reading),
                        NULL, 0) < 0) {
        return -1;
    }
    if (waiter == NULL || waiter == Py_None) {
        return 0;
    }
    PyObject *args[2] = {waiter, Py_None};
    return call_soon_steal(loop, Py_NewRef(state->set_result_unless_cancelled), args,
                           2);
}

/* Loop._make_datagram_transport(sock, protocol, address=None, waiter=None, extra=None) */
PyObject *
datagram_make_transport(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    static const char *const names[] = {"sock", "protocol", "address", "waiter",
                                        "extra"};
    static const ArgsSpec spec = {"_make_datagram_transport", names, 5, 2, 5};
    LoopObject *loop = (LoopObject *)op;
    PyObject *given[5];
    if (args_parse(&spec, args, nargs, kwnames, given) < 0 ||
        loop_check_closed(loop) < 0) {
        return NULL;
    }
    PyObject *made = sockets_leave(loop->state, op, given[0],
                                   loop->state->str__make_selector_datagram, given,
                                   Py_ARRAY_LENGTH(given));
    if (made != Py_None) {
        return made;
    }
    Py_DECREF(made);
    int fd = args_descriptor(loop->state->str_fileno, given[0]);
    if (fd < 0 || fd_check_no_transport(loop, fd, given[0]) < 0) {
        return NULL;
    }
    DatagramObject *self =
        datagram_new(loop, fd, given[0], given[1], given[2], given[4]);
    if (self != NULL && datagram_schedule_start(self, given[3]) < 0) {
        Py_CLEAR(self); /* as asyncio's: it closes the socket, and warns */
    }
    return (PyObject *)self;
}

static PyObject *
datagram_start_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DatagramObject *self = (DatagramObject *)op;
    if (self->phase == DATAGRAM_OPEN && !self->paused &&
        datagram_watch_reading(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- what goes wrong ------------------------------------------------------------ */

int
datagram_error_received(DatagramObject *self)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *protocol = Py_XNewRef(self->protocol);
    int rc = 0;
    if (protocol != NULL) { /* else nobody is there any more */
        PyObject *done =
            call_method1(protocol, self->loop->state->str_error_received, exc);
        rc = done != NULL ? 0 : -1;
        Py_XDECREF(done);
        Py_DECREF(protocol);
    }
    Py_DECREF(exc);
    return rc;
}

int
datagram_report(DatagramObject *self, const char *callback)
{
    PyloopState *state = self->loop->state;
    char message[80];
    (void)PyOS_snprintf(message, sizeof(message),
                        "Exception in callback DatagramTransport.%s()", callback);
    return loop_report(self->loop, message, state->str_transport, (PyObject *)self,
                       state->str_protocol, self->protocol, NULL);
}

int
datagram_fatal_error(DatagramObject *self, const char *message)
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
        rc = datagram_force_close(self, exc);
        if (rc < 0 && self->lost == 0) { /* no memory to do it soon: now, then */
            PyErr_Clear();
            self->lost++;
            rc = datagram_lost(self, exc);
        }
    }
    Py_DECREF(self);
    Py_DECREF(exc);
    return rc;
}

/* ---- closing ---------------------------------------------------------------------- */

void
datagram_unwatch(DatagramObject *self, unsigned int direction)
{
    FdEntry *entry = fds_entry(self->loop, self->fd);
    if (entry != NULL &&
        entry->slots[direction == FD_READ ? 0 : 1].owner == (PyObject *)self) {
        Py_XDECREF(fds_unwatch(self->loop, self->fd, direction, true));
    }
}

/* Gives up the descriptor and all that hangs on it: the edge to DATAGRAM_CLOSED. What
 * goes wrong on the way cannot be anybody's to handle. */
static void
datagram_dispose(DatagramObject *self)
{
    if (self->phase == DATAGRAM_CLOSED) {
        return;
    }
    LockHold hold; /* the collector's thread may be another */
    lock_enter(&self->loop->lock, &hold);
    PyObject *raised = PyErr_GetRaisedException();
    self->phase = DATAGRAM_CLOSED;
    self->loop->metrics.transports--;
    if (self->lost == 0) { /* D1, whoever has ended us without a close() */
        self->lost = 1;
    }
    FdEntry *entry = fds_entry(self->loop, self->fd);
    if (entry != NULL && entry->transport == (PyObject *)self &&
        datagram_owns_fd(self)) {
        fds_forget(self->loop, self->fd);
    }
    else { /* closed behind our back: another may have the number by now */
        fds_leave(self->loop, self->fd, (PyObject *)self);
    }
    datagram_drop_queue(self);
    datagram_queue_clear(&self->inbox);
    PyObject *sock = self->sock;
    self->sock = NULL;
    /* No name any more: the interpreter is shutting down. The socket closes itself. */
    if (sock != NULL && self->loop->state->str_close != NULL) {
        PyObject *closed = call_method0(sock, self->loop->state->str_close);
        if (closed == NULL) {
            PyErr_WriteUnraisable(sock);
        }
        Py_XDECREF(closed);
    }
    Py_XDECREF(sock);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->read_context);
    Py_CLEAR(self->write_context);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    lock_exit(&hold);
}

int
datagram_lost(DatagramObject *self, PyObject *exc)
{
    if (self->phase == DATAGRAM_CLOSED) {
        return 0;
    }
    Py_INCREF(self);
    PyObject *protocol = Py_NewRef(self->protocol);
    PyObject *done = call_method1(protocol, self->loop->state->str_connection_lost,
                                  exc != NULL ? exc : Py_None);
    Py_DECREF(protocol);
    datagram_dispose(self);
    Py_XDECREF(done);
    Py_DECREF(self);
    return done != NULL ? 0 : -1;
}

static PyObject *
datagram_lost_method(PyObject *op, PyObject *exc)
{
    if (datagram_lost((DatagramObject *)op, exc == Py_None ? NULL : exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
datagram_schedule_lost(DatagramObject *self, PyObject *exc)
{
    PyObject *args[1] = {exc != NULL ? exc : Py_None};
    return call_soon_steal(
        self->loop,
        PyObject_GetAttr((PyObject *)self,
                         self->loop->state->str__call_connection_lost),
        args, 1);
}

/* Stops reading, and schedules the end. Without memory for that the transport stays open,
 * so that the call can be repeated: else nothing would ever end it. 0, or -1. */
static int
datagram_end_soon(DatagramObject *self, PyObject *exc)
{
    int rc = datagram_schedule_lost(self, exc);
    if (rc < 0 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    if (self->phase == DATAGRAM_CLOSED) { /* scheduling may collect garbage */
        return rc;
    }
    self->lost++;
    self->phase = DATAGRAM_CLOSING;
    datagram_unwatch(self, FD_READ);
    datagram_unwatch(self, FD_WRITE);
    datagram_queue_clear(&self->inbox);
    return rc;
}

/* asyncio's close(). 0, or -1 (the loop is closed, or no memory). */
static int
datagram_close(DatagramObject *self)
{
    if (self->phase >= DATAGRAM_CLOSING) {
        return 0;
    }
    if (self->queue.count == 0 || !datagram_owns_fd(self)) {
        return datagram_end_soon(self, NULL);
    }
    self->phase = DATAGRAM_CLOSING; /* datagram_drained goes on */
    datagram_unwatch(self, FD_READ);
    datagram_queue_clear(&self->inbox);
    return 0;
}

int
datagram_force_close(DatagramObject *self, PyObject *exc)
{
    if (self->lost > 0) {
        return 0;
    }
    datagram_unwatch(self, FD_WRITE);
    datagram_drop_queue(self);
    /* Dropping what was queued may have run an address's code, which closed us. */
    return self->lost > 0 ? 0 : datagram_end_soon(self, exc);
}

/* ---- methods ------------------------------------------------------------------------ */

static PyObject *
datagram_close_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (datagram_close((DatagramObject *)op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
datagram_abort(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (datagram_force_close((DatagramObject *)op, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
datagram_force_close_method(PyObject *op, PyObject *exc)
{
    if (datagram_force_close((DatagramObject *)op, exc == Py_None ? NULL : exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
datagram_is_closing(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((DatagramObject *)op)->phase >= DATAGRAM_CLOSING);
}

static PyObject *
datagram_is_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DatagramObject *self = (DatagramObject *)op;
    return PyBool_FromLong(self->phase == DATAGRAM_OPEN && !self->paused);
}

static PyObject *
datagram_pause_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DatagramObject *self = (DatagramObject *)op;
    if (self->phase == DATAGRAM_OPEN && !self->paused) {
        self->paused = true;
        datagram_unwatch(self, FD_READ);
    }
    Py_RETURN_NONE;
}

static PyObject *
datagram_resume_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DatagramObject *self = (DatagramObject *)op;
    if (self->phase != DATAGRAM_OPEN || !self->paused) {
        Py_RETURN_NONE;
    }
    self->paused = false;
    if (!datagram_owns_fd(self)) {
        (void)errors_raise_errno(EBADF); /* as asyncio's selector */
        return NULL;
    }
    if (datagram_watch_reading(self) < 0 || datagram_schedule_inbox(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
datagram_set_protocol(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    PyObject *protocol = args_one("set_protocol", "protocol", args, nargs, kwnames);
    if (protocol == NULL) {
        return NULL;
    }
    DatagramObject *self = (DatagramObject *)op;
    if (self->phase != DATAGRAM_CLOSED) {
        Py_XSETREF(self->protocol, Py_NewRef(protocol));
    }
    Py_RETURN_NONE;
}

static PyObject *
datagram_get_protocol(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *protocol = ((DatagramObject *)op)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

static PyObject *
datagram_get_write_buffer_size(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(((DatagramObject *)op)->queue_bytes);
}

static PyObject *
datagram_get_write_buffer_limits(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DatagramObject *self = (DatagramObject *)op;
    return Py_BuildValue("(nn)", (Py_ssize_t)self->low_water,
                         (Py_ssize_t)self->high_water);
}

static PyObject *
datagram_set_write_buffer_limits(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames)
{
    DatagramObject *self = (DatagramObject *)op;
    if (flow_parse_limits(args, nargs, kwnames, &self->high_water, &self->low_water) <
            0 ||
        datagram_maybe_pause_protocol(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
datagram_get_extra_info(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    static const char *const names[] = {"name", "default"};
    static const ArgsSpec spec = {"get_extra_info", names, 2, 1, 2};
    PyloopState *state = ((DatagramObject *)op)->loop->state;
    /* asyncio's is a Transport as well. */
    if (!watched_is_unchanged(&state->watched[WATCHED_TRANSPORT]) ||
        !watched_is_unchanged(&state->watched[WATCHED_DATAGRAM])) {
        return watched_call_replaced(state->DatagramTransportType, op, "get_extra_info",
                                     args, nargs, kwnames);
    }
    PyObject *given[2];
    if (args_parse(&spec, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    PyObject *value;
    if (PyDict_GetItemRef(((DatagramObject *)op)->extra, given[0], &value) == 0) {
        value = Py_NewRef(given[1] != NULL ? given[1] : Py_None);
    }
    return value;
}

static PyObject *
datagram_describe(PyObject *op)
{
    DatagramObject *self = (DatagramObject *)op;
    const char *phase = self->phase == DATAGRAM_CLOSED    ? " closed"
                        : self->phase == DATAGRAM_CLOSING ? " closing"
                                                          : "";
    if (self->phase == DATAGRAM_CLOSED || self->loop->phase != LOOP_OPEN) {
        return PyUnicode_FromFormat("<DatagramTransport%s fd=%d>", phase, self->fd);
    }
    FdEntry *entry = fds_entry(self->loop, self->fd);
    return PyUnicode_FromFormat(
        "<DatagramTransport%s fd=%d read=%s write=<%s, bufsize=%zu>>", phase, self->fd,
        entry != NULL && entry->slots[0].owner == op ? "polling" : "idle",
        entry != NULL && entry->slots[1].owner == op ? "polling" : "idle",
        self->queue_bytes);
}

static PyObject *
datagram_repr(PyObject *op)
{
    DatagramObject *self = (DatagramObject *)op;
    return loop_repr_of_steal(self->loop, op, self->dict, datagram_describe(op));
}

/* ---- attributes that asyncio's helpers and libraries read ------------------------- */

static PyObject *
datagram_get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    DatagramObject *self = (DatagramObject *)op;
    return Py_NewRef(self->phase != DATAGRAM_CLOSED ? (PyObject *)self->loop : Py_None);
}

/* A strong member, None when it is NULL. */
static PyObject *
datagram_get_member(PyObject *op, void *closure)
{
    PyObject *value = *(PyObject **)((char *)op + (size_t)(uintptr_t)closure);
    return Py_NewRef(value != NULL ? value : Py_None);
}

static PyObject *
datagram_get_fd(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((DatagramObject *)op)->fd);
}

static PyObject *
datagram_get_conn_lost(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((DatagramObject *)op)->lost);
}

static PyObject *
datagram_get_closing(PyObject *op, void *Py_UNUSED(closure))
{
    return datagram_is_closing(op, NULL);
}

static PyObject *
datagram_get_buffer_size(PyObject *op, void *Py_UNUSED(closure))
{
    return datagram_get_write_buffer_size(op, NULL);
}

static PyObject *
datagram_get_flag(PyObject *op, void *closure)
{
    return PyBool_FromLong(*(bool *)((char *)op + (size_t)(uintptr_t)closure));
}

#define LOCK_OF(op) (&((DatagramObject *)(op))->loop->lock)

LOCKED_KEYWORDS(datagram_sendto)
LOCKED_NOARGS(datagram_close_method)
LOCKED_NOARGS(datagram_abort)
LOCKED_NOARGS(datagram_is_closing)
LOCKED_NOARGS(datagram_is_reading)
LOCKED_NOARGS(datagram_pause_reading)
LOCKED_NOARGS(datagram_resume_reading)
LOCKED_KEYWORDS(datagram_set_protocol)
LOCKED_NOARGS(datagram_get_protocol)
LOCKED_NOARGS(datagram_get_write_buffer_size)
LOCKED_NOARGS(datagram_get_write_buffer_limits)
LOCKED_KEYWORDS(datagram_set_write_buffer_limits)
LOCKED_KEYWORDS(datagram_get_extra_info)
LOCKED_NOARGS(datagram_start_reading)
LOCKED_NOARGS(datagram_read_inbox)
LOCKED_O(datagram_lost_method)
LOCKED_O(datagram_force_close_method)
LOCKED_GETTER(datagram_get_loop)
LOCKED_GETTER(datagram_get_member)
LOCKED_GETTER(datagram_get_fd)
LOCKED_GETTER(datagram_get_conn_lost)
LOCKED_GETTER(datagram_get_closing)
LOCKED_GETTER(datagram_get_buffer_size)
LOCKED_GETTER(datagram_get_flag)
LOCKED_GETTER(flow_get_size)
LOCKED_SETTER(flow_set_max_size)
LOCKED_REPR(datagram_repr)

#define AT(field) ((void *)offsetof(DatagramObject, field))

static PyGetSetDef datagram_getsets[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_loop", LOCKED(datagram_get_loop), NULL, NULL, NULL},
    {"_sock", LOCKED(datagram_get_member), NULL, NULL, AT(sock)},
    {"_sock_fd", LOCKED(datagram_get_fd), NULL, NULL, NULL},
    {"_extra", LOCKED(datagram_get_member), NULL, NULL, AT(extra)},
    {"_protocol", LOCKED(datagram_get_member), NULL, NULL, AT(protocol)},
    {"_address", LOCKED(datagram_get_member), NULL, NULL, AT(address)},
    {"_conn_lost", LOCKED(datagram_get_conn_lost), NULL, NULL, NULL},
    {"_closing", LOCKED(datagram_get_closing), NULL, NULL, NULL},
    {"_paused", LOCKED(datagram_get_flag), NULL, NULL, AT(paused)},
    {"_buffer_size", LOCKED(datagram_get_buffer_size), NULL, NULL, NULL},
    {"_protocol_paused", LOCKED(datagram_get_flag), NULL, NULL, AT(protocol_paused)},
    {"_high_water", LOCKED(flow_get_size), NULL, NULL, AT(high_water)},
    {"_low_water", LOCKED(flow_get_size), NULL, NULL, AT(low_water)},
    {"max_size", LOCKED(flow_get_size), LOCKED(flow_set_max_size), NULL, AT(max_size)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef datagram_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(DatagramObject, dict), Py_READONLY,
     NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(DatagramObject, weakrefs),
     Py_READONLY, NULL},
    {"_born_ticks", Py_T_ULONGLONG, offsetof(DatagramObject, born_ticks), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef datagram_methods[] = {
    {"sendto", FASTCALL(LOCKED(datagram_sendto)), METH_FASTCALL | METH_KEYWORDS,
     "sendto($self, data, addr=None)\n--\n\n"
     "Send a datagram, at once when nothing is queued and the kernel takes it.\n\n"
     "addr is the socket module's form of an address; None, or the address that the\n"
     "endpoint was made for, when there is one. Raises TypeError for data that is not\n"
     "bytes-like and ValueError for another address than the endpoint's. What the\n"
     "system refuses with an OSError goes to the protocol's error_received().\n"
     "No data: a datagram of no bytes from Python 3.13 on, nothing before."},
    {"close", LOCKED(datagram_close_method), METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Stop receiving, send what is queued, then call connection_lost(None)."},
    {"abort", LOCKED(datagram_abort), METH_NOARGS,
     "abort($self, /)\n--\n\n"
     "Close at once; what is queued is lost. connection_lost(None) is called."},
    {"is_closing", LOCKED(datagram_is_closing), METH_NOARGS,
     "is_closing($self, /)\n--\n\nReturn True if the transport is closing or closed."},
    {"is_reading", LOCKED(datagram_is_reading), METH_NOARGS,
     "is_reading($self, /)\n--\n\nReturn True if the transport receives datagrams."},
    {"pause_reading", LOCKED(datagram_pause_reading), METH_NOARGS,
     "pause_reading($self, /)\n--\n\n"
     "Call no datagram_received() until resume_reading()."},
    {"resume_reading", LOCKED(datagram_resume_reading), METH_NOARGS,
     "resume_reading($self, /)\n--\n\nGo on receiving after pause_reading()."},
    {"set_protocol", FASTCALL(LOCKED(datagram_set_protocol)),
     METH_FASTCALL | METH_KEYWORDS,
     "set_protocol($self, protocol)\n--\n\nUse another protocol from now on."},
    {"get_protocol", LOCKED(datagram_get_protocol), METH_NOARGS,
     "get_protocol($self, /)\n--\n\nReturn the protocol, None when closed."},
    {"get_write_buffer_size", LOCKED(datagram_get_write_buffer_size), METH_NOARGS,
     "get_write_buffer_size($self, /)\n--\n\n"
     "Return how many bytes are queued; from Python 3.13 on, 8 more for each "
     "datagram."},
    {"get_write_buffer_limits", LOCKED(datagram_get_write_buffer_limits), METH_NOARGS,
     "get_write_buffer_limits($self, /)\n--\n\nReturn the water marks (low, high), "
     "bytes."},
    {"set_write_buffer_limits", FASTCALL(LOCKED(datagram_set_write_buffer_limits)),
     METH_FASTCALL | METH_KEYWORDS,
     "set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
     "Set the water marks, in bytes, at which the protocol's pause_writing() and\n"
     "resume_writing() are called. Raises ValueError unless high >= low >= 0."},
    {"get_extra_info", FASTCALL(LOCKED(datagram_get_extra_info)),
     METH_FASTCALL | METH_KEYWORDS,
     "get_extra_info($self, name, default=None)\n--\n\n"
     "Return 'socket', 'sockname' or 'peername', or default for an unknown name."},
    {"_start_reading", LOCKED(datagram_start_reading), METH_NOARGS, NULL},
    {"_read_inbox", LOCKED(datagram_read_inbox), METH_NOARGS, NULL},
    {"_call_connection_lost", LOCKED(datagram_lost_method), METH_O, NULL},
    {"_force_close", LOCKED(datagram_force_close_method), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* ---- life ---------------------------------------------------------------------------- */

static int
datagram_traverse(PyObject *op, visitproc visit, void *arg)
{
    DatagramObject *self = (DatagramObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->loop);
    Py_VISIT(self->dict);
    Py_VISIT(self->protocol);
    Py_VISIT(self->sock);
    Py_VISIT(self->extra);
    Py_VISIT(self->address);
    Py_VISIT(self->read_context);
    Py_VISIT(self->write_context);
    for (size_t i = 0; i < DATAGRAM_INHERITED; i++) {
        Py_VISIT(self->inherited[i]);
    }
    int rc = datagram_queue_visit(&self->queue, visit, arg);
    return rc != 0 ? rc : datagram_queue_visit(&self->inbox, visit, arg);
}

static int
datagram_clear(PyObject *op)
{
    DatagramObject *self = (DatagramObject *)op;
    LAST_USE(op, &self->loop->lock);
    datagram_dispose(self);
    datagram_drop_queue(self); /* what code run by the last use of it has left there */
    datagram_queue_clear(&self->inbox);
    Py_CLEAR(self->dict);
    Py_CLEAR(self->extra);
    Py_CLEAR(self->address);
    for (size_t i = 0; i < DATAGRAM_INHERITED; i++) {
        Py_CLEAR(self->inherited[i]);
    }
    return 0; /* loop stays until dealloc: the state is its module's */
}

static void
datagram_finalize(PyObject *op)
{
    DatagramObject *self = (DatagramObject *)op;
    LAST_USE(op, &self->loop->lock);
    if (self->phase == DATAGRAM_CLOSED || self->fd < 0) {
        return;
    }
    PyObject *raised = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning(op, 1, "unclosed transport %R", op) < 0) {
        PyErr_WriteUnraisable(op);
    }
    datagram_dispose(self);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

static void
datagram_dealloc(PyObject *op)
{
    DatagramObject *self = (DatagramObject *)op;
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* the warning's filter made it live on */
    }
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    LoopObject *loop = self->loop;
    if (loop != NULL) {
        (void)datagram_clear(op);
        RACY_ADD(loop->state->live_datagrams, -1);
    }
    MEMORY_ENDS(op);
    tp->tp_free(op);
    Py_DECREF(tp);
    Py_XDECREF(loop);
}

static PyType_Slot datagram_slots[] = {
    {Py_tp_doc, "The transport of a datagram socket; an asyncio.DatagramTransport made "
                "by the loop."},
    {Py_tp_methods, datagram_methods},
    {Py_tp_getset, datagram_getsets},
    {Py_tp_members, datagram_members},
    {Py_tp_repr, LOCKED(datagram_repr)},
    {Py_tp_traverse, datagram_traverse},
    {Py_tp_clear, datagram_clear},
    {Py_tp_finalize, datagram_finalize},
    {Py_tp_dealloc, datagram_dealloc},
    {0, NULL},
};

static PyType_Spec datagram_spec = {
    .name = "pyloop._core.DatagramTransport",
    .basicsize = sizeof(DatagramObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = datagram_slots,
};

PyTypeObject *
datagram_type_create(PyObject *module)
{
    PyloopState *state = state_of_module(module);
    PyTypeObject *base = (PyTypeObject *)state->FlowControlMixin;
    Py_ssize_t room = (Py_ssize_t)offsetof(DatagramObject, dict);
    if (base->tp_basicsize > room) {
        PyErr_Format(PyExc_ImportError,
                     "pyloop does not know this version of %s (its instances take %zd "
                     "bytes, at most %zd were expected)",
                     base->tp_name, base->tp_basicsize, room);
        return NULL;
    }
    PyObject *bases = PyTuple_Pack(2, (PyObject *)base, state->DatagramTransportBase);
    if (bases == NULL) {
        return NULL;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &datagram_spec, bases);
    Py_DECREF(bases);
    if (type != NULL &&
        PyObject_SetAttrString(type, "_protocol_connected", Py_True) < 0) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}
