/* datagram_write.c - the write side of DatagramTransport.
 *
 * sendto() offers a datagram to the kernel at once when nothing is queued. What the kernel
 * does not take is queued with its address, and sent, several with one system call, when
 * the descriptor is writable.
 */
#include "transport/datagram.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"
#include "loop/outbox.h"
#include "transport/datagram_spares.h"
#include "transport/flow.h"

#include <errno.h>
#include <string.h>

/* Datagrams sent in one event, so that other descriptors have their turn. */
enum { FLUSH_MOST = 8 * DATAGRAM_BATCH };

#ifdef MSG_NOSIGNAL
enum { SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL };
#else
enum { SEND_FLAGS = MSG_DONTWAIT }; /* macOS: Python ignores SIGPIPE */
#endif

typedef enum {
    SEND_DONE,
    SEND_BLOCKED, /* try again when the descriptor is writable */
    SEND_FAILED,  /* an exception is set */
} SendOutcome;

static const char WRITE_FAILED[] = "Fatal write error on datagram transport";

static int on_writable(LoopObject *loop, PyObject *owner);

/* ---- sending one --------------------------------------------------------------- */

static inline bool
would_block(int err)
{
    return err == EAGAIN || err == EWOULDBLOCK || err == EINTR;
}

/* Of one datagram of n bytes, or -1 with errno. */
static SendOutcome
outcome_of(DatagramObject *self, ssize_t n)
{
    if (n >= 0) {
        metrics_count_out(&self->loop->metrics, (size_t)n);
        return SEND_DONE;
    }
    if (would_block(errno)) {
        return SEND_BLOCKED;
    }
    (void)errors_raise_errno(errno);
    return SEND_FAILED;
}

/* Without an address: the kernel knows where to. */
static inline bool
datagram_needs_no_address(const DatagramObject *self, PyObject *address)
{
    return self->connected || (self->connected_peer && address == Py_None);
}

/* By the socket's own method: host names, families and kinds of address that only Python
 * knows, and the errors of what is none. */
static SendOutcome
send_by_method(DatagramObject *self, PyObject *data, PyObject *address)
{
    PyObject *sock = Py_NewRef(self->sock); /* making sense of an address runs code */
    PyloopState *state = self->loop->state;
    PyObject *sent = datagram_needs_no_address(self, address)
                         ? call_method1(sock, state->str_send, data)
                         : call_method2(sock, state->str_sendto, data, address);
    Py_DECREF(sock);
    if (sent != NULL) {
        Py_ssize_t n = PyLong_CheckExact(sent) ? PyLong_AsSsize_t(sent) : 0;
        Py_DECREF(sent);
        return outcome_of(self, n > 0 ? n : 0);
    }
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
        PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        PyErr_Clear(); /* not now is no failure */
        return SEND_BLOCKED;
    }
    return SEND_FAILED;
}

static SendOutcome
send_one(DatagramObject *self, PyObject *data, PyObject *address)
{
    struct sockaddr_storage storage;
    const struct sockaddr *name = NULL;
    socklen_t length = 0;
    if (!datagram_owns_fd(self)) {
        (void)errors_raise_errno(EBADF);
        return SEND_FAILED;
    }
    if (!datagram_needs_no_address(self, address) &&
        !addresses_from_python(self->loop, self->kind.family, address, &storage, &name,
                               &length)) {
        return send_by_method(self, data, address);
    }
    if (PyBytes_CheckExact(data)) {
        return outcome_of(self, sendto(self->fd, PyBytes_AS_STRING(data),
                                       (size_t)PyBytes_GET_SIZE(data), SEND_FLAGS, name,
                                       length));
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return SEND_FAILED;
    }
    /* A buffer may be a method's, which may have ended us. */
    SendOutcome outcome = SEND_DONE;
    if (self->phase != DATAGRAM_CLOSED) {
        outcome = outcome_of(self, sendto(self->fd, view.buf, (size_t)view.len,
                                          SEND_FLAGS, name, length));
    }
    PyBuffer_Release(&view);
    return outcome;
}

/* asyncio's handling of the raised exception. 0; -1 with what error_received raised, or
 * with SystemExit or KeyboardInterrupt. */
static int
send_failed(DatagramObject *self)
{
    return PyErr_ExceptionMatches(PyExc_OSError)
               ? datagram_error_received(self)
               : datagram_fatal_error(self, WRITE_FAILED);
}

/* ---- flow control --------------------------------------------------------------- */

int
datagram_maybe_pause_protocol(DatagramObject *self)
{
    if (self->queue_bytes <= self->high_water || self->protocol_paused ||
        self->protocol == NULL) {
        return 0;
    }
    self->protocol_paused = true;
    return flow_notify(self->loop, (PyObject *)self, self->protocol,
                       self->loop->state->str_pause_writing,
                       "protocol.pause_writing() failed");
}

static int
maybe_resume_protocol(DatagramObject *self)
{
    if (!self->protocol_paused || self->queue_bytes > self->low_water ||
        self->protocol == NULL) {
        return 0;
    }
    self->protocol_paused = false;
    return flow_notify(self->loop, (PyObject *)self, self->protocol,
                       self->loop->state->str_resume_writing,
                       "protocol.resume_writing() failed");
}

/* ---- the queue ------------------------------------------------------------------- */

static inline size_t
datagram_weight(Datagram datagram)
{
    return (size_t)PyBytes_GET_SIZE(datagram.data) + PYLOOP_DATAGRAM_HEADER;
}

void
datagram_drop_queue(DatagramObject *self)
{
    self->queue_bytes = 0;
    datagram_queue_clear(&self->queue);
}

static Datagram
pop_queued(DatagramObject *self)
{
    Datagram datagram = datagram_queue_pop(&self->queue);
    self->queue_bytes -= datagram_weight(datagram);
    return datagram;
}

/* Is it in front again, and waited for? 0, or -1 with MemoryError (then it is lost). */
static int
unpop_queued_steal(DatagramObject *self, Datagram datagram)
{
    if (self->lost > 0) { /* making sense of its address ended us */
        datagram_release(datagram);
        return 0;
    }
    if (datagram_queue_reserve(&self->queue, 1) < 0) {
        datagram_release(datagram);
        return -1;
    }
    datagram_queue_unpop_steal(&self->queue, datagram);
    self->queue_bytes += datagram_weight(datagram);
    return 0;
}

/* Queues a copy of what its owner may change. 0, or -1 with an exception. */
static int
queue_datagram(DatagramObject *self, PyObject *data, PyObject *address)
{
    PyObject *bytes =
        PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    if (bytes == NULL || datagram_queue_reserve(&self->queue, 1) < 0) {
        Py_XDECREF(bytes);
        return -1;
    }
    if (self->phase == DATAGRAM_CLOSED) { /* copying ran code that ended us */
        Py_DECREF(bytes);
        return 0;
    }
    Datagram datagram = {bytes, Py_NewRef(address)};
    datagram_queue_push_steal(&self->queue, datagram);
    self->queue_bytes += datagram_weight(datagram);
    return datagram_maybe_pause_protocol(self);
}

static int
wait_writable(DatagramObject *self)
{
    PyObject *replaced;
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL || fds_watch(self->loop, self->fd, FD_WRITE, on_writable,
                                     (PyObject *)self, NULL, &replaced) < 0) {
        Py_XDECREF(context);
        return -1;
    }
    Py_XSETREF(self->write_context, context);
    Py_XDECREF(replaced);
    return 0;
}

/* ---- flushing -------------------------------------------------------------------- */

static SendOutcome
flush_first(DatagramObject *self)
{
    Datagram datagram = pop_queued(self); /* as asyncio: a failed one is gone */
    SendOutcome outcome = send_one(self, datagram.data, datagram.address);
    if (outcome == SEND_BLOCKED) {
        return unpop_queued_steal(self, datagram) < 0 ? SEND_FAILED : SEND_BLOCKED;
    }
    PyObject *raised = PyErr_GetRaisedException();
    datagram_release(datagram);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return outcome;
}

#ifdef __linux__
/* The front of the queue up to the first whose address needs Python: how many. */
static unsigned int
gather(DatagramObject *self, struct mmsghdr *messages, struct iovec *vectors,
       struct sockaddr_storage *storage)
{
    unsigned int n = 0;
    for (; n < DATAGRAM_BATCH && n < self->queue.count; n++) {
        Datagram datagram = datagram_queue_at(&self->queue, n);
        const struct sockaddr *name;
        socklen_t length;
        if (!addresses_from_python(self->loop, self->kind.family, datagram.address,
                                   &storage[n], &name, &length)) {
            break;
        }
        if (name != (struct sockaddr *)&storage[n]) {
            memcpy(&storage[n], name, length); /* the cache may change before we send */
        }
        vectors[n].iov_base = PyBytes_AS_STRING(datagram.data);
        vectors[n].iov_len = (size_t)PyBytes_GET_SIZE(datagram.data);
        messages[n].msg_hdr = (struct msghdr){.msg_name = &storage[n],
                                              .msg_namelen = length,
                                              .msg_iov = &vectors[n],
                                              .msg_iovlen = 1};
    }
    return n;
}

/* One system call for several. sendmmsg() says how many were sent, and loses the error
 * that ended it; sending the next one meets it again, unless it was an error pending on
 * the socket. Those come to connected sockets, which send one by one. */
static SendOutcome
flush_several(DatagramObject *self)
{
    struct mmsghdr messages[DATAGRAM_BATCH];
    struct iovec vectors[DATAGRAM_BATCH];
    struct sockaddr_storage storage[DATAGRAM_BATCH];
    unsigned int count =
        self->queue.count > 1 && !self->connected_peer && datagram_owns_fd(self)
            ? gather(self, messages, vectors, storage)
            : 0;
    if (count < 2) {
        return flush_first(self);
    }
    int sent = sendmmsg(self->fd, messages, count, SEND_FLAGS);
    SendOutcome outcome = SEND_DONE;
    for (int i = 0; i < sent; i++) {
        (void)outcome_of(self, (ssize_t)messages[i].msg_len);
    }
    if (sent < 0) {
        outcome = outcome_of(self, sent);
    }
    if (outcome == SEND_BLOCKED) {
        return SEND_BLOCKED;
    }
    PyObject *raised = PyErr_GetRaisedException();
    for (int i = 0; i < (outcome == SEND_DONE ? sent : 1); i++) {
        datagram_release(
            pop_queued(self)); /* known addresses are exact: runs no code */
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return outcome;
}
#else
static SendOutcome
flush_several(DatagramObject *self)
{
    return flush_first(self);
}
#endif

/* The queue is empty. 0, or -1 with what connection_lost() raised. */
static int
datagram_drained(DatagramObject *self)
{
    datagram_unwatch(self, FD_WRITE);
    datagram_queue_trim(&self->queue);
    if (self->phase == DATAGRAM_CLOSING) {
        self->lost++;
        return datagram_lost(self, NULL);
    }
    return 0;
}

/* In the write context. 0, or -1 with what a method of the protocol raised. */
static int
datagram_flush(DatagramObject *self)
{
    size_t most = self->queue.count < FLUSH_MOST ? self->queue.count : FLUSH_MOST;
    size_t left_over = self->queue.count - most;
    while (self->queue.count > left_over) {
        SendOutcome outcome = flush_several(self);
        if (outcome == SEND_FAILED) {
            return send_failed(self); /* as asyncio: the next event goes on */
        }
        if (outcome == SEND_BLOCKED) {
            break;
        }
    }
    if (maybe_resume_protocol(self) < 0) { /* it may send more, or close */
        return -1;
    }
    return self->queue.count == 0 && self->lost == 0 ? datagram_drained(self) : 0;
}

static int
on_writable(LoopObject *Py_UNUSED(loop), PyObject *owner)
{
    DatagramObject *self = (DatagramObject *)owner;
    if (self->lost > 0) {
        return 0;
    }
    PyObject *context = context_enter(self->write_context);
    if (context == NULL) {
        return datagram_fatal_error(self, WRITE_FAILED);
    }
    int rc = datagram_flush(self);
    if (rc < 0) {
        rc = datagram_report(self, "_sendto_ready");
    }
    context_exit(context);
    return rc;
}

/* ---- sendto ----------------------------------------------------------------------- */

/* Checks and completes asyncio's (data, addr=None). Borrowed. 0, or -1. */
static int
sendto_arguments(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                 PyObject *given[2])
{
    static const char *const names[] = {"data", "addr"};
    static const ArgsSpec spec = {"sendto", names, 2, 1, 2};
    if (args_parse(&spec, args, nargs, kwnames, given) < 0) {
        return -1;
    }
    PyObject *data = given[0];
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        const char *dot = strrchr(Py_TYPE(data)->tp_name, '.');
        PyErr_Format(PyExc_TypeError,
                     "data argument must be a bytes-like object, not '%s'",
                     dot != NULL ? dot + 1 : Py_TYPE(data)->tp_name);
        return -1;
    }
    if (given[1] == NULL) {
        given[1] = Py_None;
    }
    return 0;
}

/* With an address of its own, the transport takes no other. 0, or -1. */
static int
sendto_own_address(DatagramObject *self, PyObject **address)
{
    if (self->address == NULL) {
        return 0;
    }
    int same = *address == Py_None
                   ? 1
                   : PyObject_RichCompareBool(self->address, *address, Py_EQ);
    if (same == 0) {
        PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S",
                     self->address);
    }
    *address = self->address;
    return same > 0 ? 0 : -1;
}

/* 0, or -1 with an exception for the caller of sendto(). */
static int
datagram_send(DatagramObject *self, PyObject *data, PyObject *address)
{
    LoopObject *loop = self->loop;
    if (loop->held > 0) {
        outbox_flush(loop); /* the order between transports stays */
    }
    if (self->phase == DATAGRAM_CLOSED || (self->lost > 0 && self->address != NULL)) {
        return flow_write_lost(loop, "socket.send() raised exception.", &self->lost);
    }
    if (self->queue.count == 0) {
        SendOutcome outcome = send_one(self, data, address);
        if (outcome == SEND_DONE) {
            return 0;
        }
        if (outcome == SEND_FAILED) {
            return send_failed(self);
        }
        if (self->phase == DATAGRAM_CLOSED) { /* what it ran ended us */
            return 0;
        }
        if (wait_writable(self) < 0) {
            return -1;
        }
    }
    return queue_datagram(self, data, address);
}

PyObject *
datagram_sendto(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    DatagramObject *self = (DatagramObject *)op;
    PyObject *given[2];
    if (sendto_arguments(args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    if (!PYLOOP_DATAGRAM_EMPTY) {
        int something = PyObject_IsTrue(given[0]);
        if (something <= 0) {
            return something < 0 ? NULL : Py_NewRef(Py_None);
        }
    }
    if (sendto_own_address(self, &given[1]) < 0 ||
        datagram_send(self, given[0], given[1]) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
