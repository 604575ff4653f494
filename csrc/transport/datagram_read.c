/* datagram_read.c - the read side of DatagramTransport.
 *
 * An event takes up to DATAGRAM_BATCH datagrams out of the kernel with one system call;
 * the next event takes the next ones, so that other descriptors have their turn. asyncio
 * takes one per event. What a protocol does while it is called must have the same effect
 * all the same: after pause_reading() and loop.stop() the rest waits in the inbox, after
 * close() and abort() it is dropped (asyncio leaves it in the kernel).
 */
#include "transport/datagram.h"

#include "base/call.h"
#include "base/errors.h"
#include "loop/handle.h"
#include "loop/sockaddr.h"
#include "transport/datagram_spares.h"

#include <errno.h>

static const char READ_FAILED[] = "Fatal read error on datagram transport";
static const char READ_READY[] = "_read_ready";

static int on_readable(LoopObject *loop, PyObject *owner);

int
datagram_watch_reading(DatagramObject *self)
{
    PyObject *replaced;
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL || fds_watch(self->loop, self->fd, FD_READ, on_readable,
                                     (PyObject *)self, NULL, &replaced) < 0) {
        Py_XDECREF(context);
        return -1;
    }
    Py_XSETREF(self->read_context, context);
    Py_XDECREF(replaced);
    return 0;
}

static inline bool
datagram_reads(const DatagramObject *self)
{
    return self->phase == DATAGRAM_OPEN && !self->paused;
}

/* ---- delivering -------------------------------------------------------------- */

/* Steals datagram. 0, or -1 with what must leave run. */
static int
deliver_steal(DatagramObject *self, Datagram datagram)
{
    PyObject *protocol = Py_XNewRef(self->protocol);
    if (protocol == NULL) { /* making the datagram collected garbage, which ended us */
        datagram_release(datagram);
        return 0;
    }
    PyObject *done = call_method2(protocol, self->loop->state->str_datagram_received,
                                  datagram.data, datagram.address);
    Py_DECREF(protocol);
    datagram_release(datagram);
    Py_XDECREF(done);
    return done != NULL ? 0 : datagram_report(self, READ_READY);
}

int
datagram_schedule_inbox(DatagramObject *self)
{
    if (self->inbox.count == 0 || self->inbox_scheduled) {
        return 0;
    }
    PyObject *callback =
        PyObject_GetAttr((PyObject *)self, self->loop->state->str__read_inbox);
    if (callback == NULL) {
        return -1;
    }
    int rc = loop_call_soon(self->loop, callback, NULL, 0, NULL);
    Py_DECREF(callback);
    self->inbox_scheduled = rc == 0;
    return rc;
}

/* The rest of the inbox is for another callback; what is raised stays raised. 0, or -1. */
static int
leave_inbox(DatagramObject *self)
{
    PyObject *raised = PyErr_GetRaisedException();
    int rc = datagram_schedule_inbox(self);
    if (raised != NULL) {
        if (rc < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        PyErr_SetRaisedException(raised);
        rc = -1;
    }
    return rc;
}

/* In the read context. 0, or -1 with what must leave run. */
static int
deliver_inbox(DatagramObject *self)
{
    while (self->inbox.count > 0 && datagram_reads(self)) {
        int rc = deliver_steal(self, datagram_queue_pop(&self->inbox));
        if ((rc < 0 || self->loop->stopping) && datagram_reads(self)) {
            return leave_inbox(self);
        }
        if (rc < 0) {
            return -1;
        }
    }
    if (self->phase != DATAGRAM_OPEN) {
        datagram_queue_clear(&self->inbox);
    }
    datagram_queue_trim(&self->inbox);
    return 0;
}

PyObject *
datagram_read_inbox(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DatagramObject *self = (DatagramObject *)op;
    self->inbox_scheduled = false;
    if (self->inbox.count == 0) { /* delivered by an event meanwhile, or dropped */
        Py_RETURN_NONE;
    }
    PyObject *context = context_enter(self->read_context);
    int rc = context != NULL ? deliver_inbox(self) : -1;
    if (context != NULL) {
        context_exit(context);
    }
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- receiving ---------------------------------------------------------------- */

/* The raised exception is what receiving ended with. 0, or -1 with what must leave run. */
static int
receive_failed(DatagramObject *self)
{
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
        PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        PyErr_Clear(); /* there is nothing: no failure */
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return datagram_fatal_error(self, READ_FAILED);
    }
    return datagram_error_received(self) < 0 ? datagram_report(self, READ_READY) : 0;
}

static void
count_received(DatagramObject *self, Datagram datagram)
{
    Py_ssize_t size = PyBytes_CheckExact(datagram.data)
                          ? PyBytes_GET_SIZE(datagram.data)
                          : 0; /* a socket of the user's */
    metrics_count_in(&self->loop->metrics, (size_t)size);
}

/* Of a family whose addresses only Python's socket knows. */
static int
receive_by_method(DatagramObject *self)
{
    PyObject *size = PyLong_FromSize_t(
        self->max_size < DATAGRAM_MAX_SIZE ? self->max_size : DATAGRAM_MAX_SIZE);
    PyObject *sock = Py_NewRef(self->sock); /* its method may end us */
    PyObject *pair =
        size != NULL ? call_method1(sock, self->loop->state->str_recvfrom, size) : NULL;
    Py_DECREF(sock);
    Py_XDECREF(size);
    if (pair == NULL) {
        return receive_failed(self);
    }
    Datagram datagram;
    if (!PyArg_ParseTuple(pair, "OO", &datagram.data, &datagram.address)) {
        Py_DECREF(pair);
        return datagram_fatal_error(self, READ_FAILED);
    }
    Py_INCREF(datagram.data);
    Py_INCREF(datagram.address);
    Py_DECREF(pair);
    count_received(self, datagram);
    return deliver_steal(self, datagram);
}

/* Moves what is in the room to the inbox. 0, or -1 with MemoryError. */
static int
fill_inbox(DatagramObject *self, const DatagramRoom *room, int count)
{
    if (datagram_queue_reserve(&self->inbox, (size_t)count) < 0) {
        return -1;
    }
    for (int i = 0; i < count; i++) {
        Datagram datagram;
        if (room_make_datagram(self->loop, room, i, self->max_size, &datagram) < 0) {
            return -1;
        }
        datagram_queue_push_steal(&self->inbox, datagram);
        count_received(self, datagram);
    }
    return 0;
}

static int
receive_batch(DatagramObject *self)
{
    LoopObject *loop = self->loop;
    bool long_ones = self->kind.family == AF_UNIX ||
                     (self->kind.type != SOCK_DGRAM && self->kind.type != SOCK_RAW);
    DatagramRoom *room = room_take(loop);
    if (room == NULL) {
        return datagram_fatal_error(self, READ_FAILED);
    }
    int count = room_receive(room, self->fd, long_ones);
    if (count <= 0) {
        int err = errno;
        room_give_back(loop, room);
        if (count == 0 || err == EAGAIN || err == EWOULDBLOCK || err == EINTR) {
            return 0;
        }
        (void)errors_raise_errno(err);
        return receive_failed(self);
    }
    Datagram first = {NULL, NULL};
    int rc = count == 1 ? room_make_datagram(loop, room, 0, self->max_size, &first)
                        : fill_inbox(self, room, count);
    room_give_back(loop, room);
    if (rc < 0) {
        return datagram_fatal_error(self, READ_FAILED);
    }
    if (count == 1) {
        count_received(self, first);
    }
    return count == 1 ? deliver_steal(self, first) : deliver_inbox(self);
}

/* In the read context. 0, or -1 with what must leave run. */
static int
datagram_read(DatagramObject *self)
{
    if (self->inbox.count > 0) {
        return deliver_inbox(self); /* what is in the kernel is reported again */
    }
    return sockaddr_knows(self->kind.family) ? receive_batch(self)
                                             : receive_by_method(self);
}

static int
on_readable(LoopObject *Py_UNUSED(loop), PyObject *owner)
{
    DatagramObject *self = (DatagramObject *)owner;
    if (!datagram_reads(self)) {
        return 0;
    }
    PyObject *context = context_enter(self->read_context);
    if (context == NULL) {
        return datagram_fatal_error(self, READ_FAILED);
    }
    int rc;
    if (datagram_owns_fd(self)) {
        rc = datagram_read(self);
    }
    else {
        (void)errors_raise_errno(EBADF);
        rc = receive_failed(self);
        rc = rc < 0 ? rc : 1; /* it is not to be watched any more */
    }
    context_exit(context);
    return rc;
}
