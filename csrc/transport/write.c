/* write.c - the write side of transports: the immediate try, holding, the queue.
 *
 * Owns: StreamObject.queue.  Does not own: the descriptor and its watch (loop/fds.c).
 *
 * write() offers data to the kernel at once when nothing is queued, as asyncio documents.
 * Except that a transport may hold them for a moment, in the loop's outbox:
 * - of one callback: a transport whose callbacks made the same number k >= 2 of writes
 *   HOLD_STREAK times running holds the first k - 1 of the next callback and sends all k
 *   with one system call. A callback that ends with fewer writes unlearns that.
 * - of a batch: while more callbacks are to run before the loop polls, and the outbox has a
 *   guard, all are sent at the end of the batch, or of the callback after which the oldest
 *   is old. (docs/decisions/0004)
 * What is held goes out when the callback or the batch ends, before a write that may not
 * be held and before anything that could tell the difference (stream_release_held's
 * callers), always in the order of the writes. A transport holds at most HOLD_BYTES, in
 * the loop's thread, not in debug mode, not with PYLOOP_HOLD_WRITES=0. A pipe never holds:
 * where a write ends means something to a device, and to a pipe with several writers.
 */
#include "transport/stream.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"
#include "loop/outbox.h"
#include "transport/flow.h"
#include "transport/tls.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
    HOLD_STREAK = 3,
    HOLD_BYTES = 64 * 1024,
    /* Writes that do not wait after one that waited too long: at first, and at most. */
    HOLD_OFF_FIRST = 7,
    HOLD_OFF_MAX = UINT8_MAX,
    QUEUE_FIRST_CAPACITY = 8,
    IOV_MAX_PER_SEND = 64,
    JOIN_BYTES = 4096,
};

static int on_writable(LoopObject *loop, PyObject *owner);

/* ---- the queue ------------------------------------------------------------ */

static inline WriteItem *
queue_at(StreamObject *self, size_t i)
{
    return &self->queue[(self->queue_head + i) & (self->queue_capacity - 1)];
}

/* Steals bytes. 0, or -1 with MemoryError. */
static int
queue_push_steal(StreamObject *self, PyObject *bytes, size_t offset)
{
    if (self->queue_count == self->queue_capacity) {
        size_t capacity =
            self->queue_capacity > 0 ? self->queue_capacity * 2 : QUEUE_FIRST_CAPACITY;
        WriteItem *queue = PyMem_RawMalloc(capacity * sizeof(WriteItem));
        if (queue == NULL) {
            Py_DECREF(bytes);
            PyErr_NoMemory();
            return -1;
        }
        for (size_t i = 0; i < self->queue_count; i++) {
            queue[i] = *queue_at(self, i);
        }
        PyMem_RawFree(self->queue);
        self->queue = queue;
        self->queue_head = 0;
        self->queue_capacity = capacity;
    }
    *queue_at(self, self->queue_count) = (WriteItem){bytes, offset};
    self->queue_count++;
    self->queue_bytes += (size_t)PyBytes_GET_SIZE(bytes) - offset;
    return 0;
}

/* Queues what follows the first `sent` bytes; exact bytes by reference, others copied,
 * because their owner may change them. */
static int
queue_push_rest(StreamObject *self, PyObject *data, const char *start, size_t length,
                size_t sent)
{
    if (PyBytes_CheckExact(data)) {
        return queue_push_steal(self, Py_NewRef(data), sent);
    }
    PyObject *copy =
        PyBytes_FromStringAndSize(start + sent, (Py_ssize_t)(length - sent));
    return copy != NULL ? queue_push_steal(self, copy, 0) : -1;
}

/* Forgets the first n queued bytes, which were sent. */
static void
queue_consume(StreamObject *self, size_t n)
{
    self->queue_bytes -= n;
    while (n > 0) {
        WriteItem *item = queue_at(self, 0);
        size_t left = (size_t)PyBytes_GET_SIZE(item->bytes) - item->offset;
        if (n < left) {
            item->offset += n;
            return;
        }
        n -= left;
        PyObject *bytes = item->bytes;
        self->queue_head = (self->queue_head + 1) & (self->queue_capacity - 1);
        self->queue_count--;
        Py_DECREF(bytes); /* exact bytes: runs no code */
    }
}

void
stream_take_plain(StreamObject *self)
{
    if (self->plain > 0) {
        self->plain = 0;
        self->loop->held_plain--;
        RACY_ADD(self->loop->state->held_plain, (size_t)-1);
    }
}

void
stream_drop_queue(StreamObject *self)
{
    if (self->held) {
        self->held = false;
        stream_take_plain(self);
        (void)outbox_forget(self->loop, (PyObject *)self);
    }
    queue_consume(self, self->queue_bytes);
    PyMem_RawFree(self->queue);
    self->queue = NULL;
    self->queue_capacity = 0;
    self->queue_head = 0;
}

/* ---- flow control ---------------------------------------------------------- */

int
stream_maybe_pause_protocol(StreamObject *self)
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
stream_maybe_resume_protocol(StreamObject *self)
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

PyObject *
stream_set_write_buffer_limits(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    StreamObject *self = (StreamObject *)op;
    if (flow_parse_limits(args, nargs, kwnames, &self->high_water, &self->low_water) <
        0) {
        return NULL;
    }
    if (stream_maybe_pause_protocol(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- sending --------------------------------------------------------------- */

static bool
would_block(int err)
{
    return err == EAGAIN || err == EWOULDBLOCK || err == EINTR;
}

/* All of a small queue in one piece: up to some KiB, copying takes less time than a vector
 * takes the kernel (0.2 us less for 119 and 14 bytes, which send() takes 3.8 us for). */
static ssize_t
queue_send_joined(StreamObject *self)
{
    char joined[JOIN_BYTES];
    const char *data = joined;
    size_t length = 0;
    for (size_t i = 0; i < self->queue_count; i++) {
        WriteItem *item = queue_at(self, i);
        const char *piece = PyBytes_AS_STRING(item->bytes) + item->offset;
        size_t left = (size_t)PyBytes_GET_SIZE(item->bytes) - item->offset;
        if (self->queue_count == 1) {
            data = piece; /* it need not move */
        }
        else {
            memcpy(joined + length, piece, left);
        }
        length += left;
    }
    return self->ops->send(self->fd, data, length);
}

/* Of what follows the first `skip` bytes, as much as one vector takes. */
static ssize_t
queue_send_vector(StreamObject *self, size_t skip)
{
    struct iovec vector[IOV_MAX_PER_SEND];
    size_t count = 0;
    for (size_t i = 0; i < self->queue_count && count < IOV_MAX_PER_SEND; i++) {
        WriteItem *item = queue_at(self, i);
        size_t left = (size_t)PyBytes_GET_SIZE(item->bytes) - item->offset;
        if (skip >= left) {
            skip -= left;
            continue;
        }
        vector[count].iov_base = PyBytes_AS_STRING(item->bytes) + item->offset + skip;
        vector[count++].iov_len = left - skip;
        skip = 0;
    }
    return count > 0 ? self->ops->send_vector(self->fd, vector, count) : 0;
}

/* One system call for the queue's head. Bytes sent (0: would block), or -1 with errno. */
static ssize_t
queue_send(StreamObject *self)
{
    if (!stream_owns_fd(self)) {
        errno = EBADF;
        return -1;
    }
    ssize_t n = self->queue_bytes <= JOIN_BYTES ? queue_send_joined(self)
                                                : queue_send_vector(self, 0);
    if (n > 0) {
        metrics_count_out(&self->loop->metrics, (size_t)n);
    }
    return n < 0 && would_block(errno) ? 0 : n;
}

/* What the kernel did not take waits for it; the protocol hears of a full queue. A
 * descriptor that cannot be watched is a lost connection. 0, or -1 to leave run. */
static int
stream_wait_writable(StreamObject *self)
{
    PyObject *replaced;
    if (fds_watch(self->loop, self->fd, FD_WRITE, on_writable, (PyObject *)self,
                  self->identity, &replaced) < 0) {
        stream_drop_queue(self);
        return stream_fatal_error(self, self->ops->write_failed);
    }
    Py_XDECREF(replaced);
    return stream_maybe_pause_protocol(self);
}

void
stream_unwatch_writing(StreamObject *self)
{
    if (stream_waits_for(self, FD_WRITE)) {
        Py_XDECREF(fds_unwatch(self->loop, self->fd, FD_WRITE, true));
    }
}

static void
stream_release_storage(StreamObject *self)
{
    if (self->queue_capacity > QUEUE_FIRST_CAPACITY) {
        stream_drop_queue(self);
    }
}

static int
stream_write_failed(StreamObject *self, int err)
{
    stream_drop_queue(self);
    stream_unwatch_writing(self);
    if (!self->ops->is_socket) {
        self->conn_lost++; /* a socket's end is counted by stream_set_lost */
    }
    (void)errors_raise_errno(err);
    return stream_fatal_error(self, self->ops->write_failed);
}

/* The queue is empty: what waited for that. 0, or -1 if it must leave run. */
static int
stream_drained(StreamObject *self)
{
    stream_unwatch_writing(self);
    stream_release_storage(self);
    if (self->phase == STREAM_CLOSING) {
        stream_set_lost(self);
        return stream_lost(self, NULL);
    }
    if (stream_lend(self) < 0) {
        return loop_report(self->loop, "Exception while waking a sendfile",
                           self->loop->state->str_transport, (PyObject *)self, NULL);
    }
    if (self->write_eof && stream_owns_fd(self)) {
        (void)stream_shut(self); /* a lost peer is seen by reading */
    }
    return 0;
}

static int
stream_flush_queue(StreamObject *self)
{
    ssize_t n = queue_send(self);
    if (n < 0) {
        return stream_write_failed(self, errno);
    }
    queue_consume(self, (size_t)n);
    if (stream_maybe_resume_protocol(self) < 0) { /* it may write more, or close */
        return -1;
    }
    return self->queue_count == 0 && !self->lost ? stream_drained(self) : 0;
}

static int
on_writable(LoopObject *Py_UNUSED(loop), PyObject *owner)
{
    StreamObject *self = (StreamObject *)owner;
    if (self->lost) {
        return 0;
    }
    stream_release_held(self);
    if (self->queue_count == 0 || self->lost) {
        return self->lost ? 0 : stream_drained(self);
    }
    PyObject *context = context_enter(self->context);
    if (context == NULL) {
        return stream_fatal_error(self, self->ops->write_failed);
    }
    int rc = stream_flush_queue(self);
    context_exit(context);
    return rc;
}

/* ---- holding ---------------------------------------------------------------- */

/* What every held write needs. */
static bool
stream_can_hold(StreamObject *self, size_t length)
{
    LoopObject *loop = self->loop;
    return loop->dispatching && loop->hold_writes && self->ops->is_socket &&
           !loop->debug && self->queue_bytes + length <= HOLD_BYTES &&
           self->queue_bytes + length <= self->high_water &&
           (self->queue_count == 0 || self->held) &&
           loop->thread_ident == PyThread_get_thread_ident();
}

/* Counts this write; true if it is one that a later write of this callback will send. */
static bool
stream_may_hold(StreamObject *self, size_t length)
{
    LoopObject *loop = self->loop;
    if (self->callback_serial != loop->callback_serial) {
        /* The first write of a callback: learn from the last one. */
        if (self->writes_now == self->writes_learned) {
            if (self->writes_streak < HOLD_STREAK) {
                self->writes_streak++;
            }
        }
        else {
            self->writes_learned = self->writes_now;
            self->writes_streak = 1;
        }
        self->callback_serial = loop->callback_serial;
        self->writes_now = 0;
    }
    if (self->writes_now < UINT8_MAX) {
        self->writes_now++;
    }
    return self->writes_streak >= HOLD_STREAK &&
           self->writes_now < self->writes_learned &&
           self->writes_learned < UINT8_MAX && stream_can_hold(self, length);
}

/* True if the write may wait for the end of the batch. */
static bool
stream_may_wait(StreamObject *self, size_t length)
{
    if (self->loop->batch_left == 0 || !stream_can_hold(self, length)) {
        return false;
    }
    if (self->hold_off > 0) {
        self->hold_off--;
        return false;
    }
    return outbox_is_guarded(self->loop) && !outbox_is_old(self->loop);
}

/* Offers the queue; what the kernel does not take stays, and is watched. */
static int
stream_send_queue(StreamObject *self)
{
    ssize_t n = queue_send(self);
    if (n < 0) {
        return stream_write_failed(self, errno);
    }
    queue_consume(self, (size_t)n);
    return self->queue_count > 0 ? stream_wait_writable(self) : 0;
}

/* Sends what was held until now. */
static int
stream_send_held(PyObject *owner, size_t rescued)
{
    StreamObject *self = (StreamObject *)owner;
    self->held = false;
    if (rescued > 0) { /* its callback took long: by habit, if the next one does too */
        unsigned int next = self->hold_off_next * 2u + HOLD_OFF_FIRST;
        self->hold_off_next = (uint8_t)(next < HOLD_OFF_MAX ? next : HOLD_OFF_MAX);
        self->hold_off = self->hold_off_next;
        self->writes_streak = 0;
        metrics_count_out(&self->loop->metrics, rescued);
        queue_consume(self, rescued < self->queue_bytes ? rescued : self->queue_bytes);
    }
    else {
        self->hold_off_next /= 2;
    }
    if (self->plain > 0) {
        stream_take_plain(self);
        if (tls_release(self, rescued == SIZE_MAX) < 0) {
            return -1;
        }
    }
    return self->queue_count > 0 ? stream_send_queue(self) : 0;
}

/* The only one that holds does so no longer. 0, or -1 to leave run. */
static int
stream_send_now(StreamObject *self)
{
    size_t rescued = outbox_forget(self->loop, (PyObject *)self);
    return stream_send_held((PyObject *)self, rescued);
}

/* The guard's: not joined, for nobody else's memory is to be had there. */
static ssize_t
stream_rescue_held(PyObject *owner, size_t rescued)
{
    return queue_send_vector((StreamObject *)owner, rescued);
}

static const OutboxOps stream_outbox_ops = {stream_send_held, stream_rescue_held};

void
stream_release_held(StreamObject *self)
{
    if (self->held) {
        self->writes_streak = 0;
        outbox_flush(self->loop); /* the caller has a reference */
    }
}

StreamHold
stream_plan_write(StreamObject *self, size_t length, size_t most)
{
    LoopObject *loop = self->loop;
    bool later = stream_may_hold(self, length) && self->plain + length <= most;
    StreamHold how = later                           ? HOLD_CALLBACK
                     : stream_may_wait(self, length) ? HOLD_BATCH
                                                     : HOLD_NOT;
    if (loop->held > 0) {
        bool only = self->held && loop->held == 1;
        bool joins =
            self->held ? outbox_is_last(loop, (PyObject *)self) : outbox_has_room(loop);
        if (!only && (how == HOLD_NOT || !joins)) {
            outbox_flush(loop); /* which may end this transport */
            how = stream_can_hold(self, length) ? how : HOLD_NOT;
        }
    }
    return self->held || outbox_has_room(loop) ? how : HOLD_NOT;
}

/* Under the outbox's lock. */
static void
stream_hold(StreamObject *self)
{
    const int *field =
        self->sock != NULL ? sockets_fd_field(self->loop->state, self->sock) : NULL;
    self->held = true;
    outbox_add(self->loop, (PyObject *)self, &stream_outbox_ops, field, self->fd);
}

void
stream_hold_plain(StreamObject *self, size_t length)
{
    outbox_enter(self->loop);
    stream_hold(self);
    outbox_leave(self->loop);
    if (self->plain == 0) {
        self->loop->held_plain++;
        RACY_ADD(self->loop->state->held_plain, 1u);
    }
    self->plain += length;
}

/* ---- write, writelines, write_eof -------------------------------------------- */

static int
stream_write_lost(StreamObject *self)
{
    return flow_write_lost(self->loop, self->ops->write_lost, &self->conn_lost);
}

/* After the end of a socket, or from close() on of a pipe. */
static inline bool
stream_loses_writes(const StreamObject *self)
{
    return self->phase >= STREAM_CLOSING && (self->lost || !self->ops->is_socket);
}

/* 0, or -1 with an exception for the caller of write(). */
static int
stream_write_bytes(StreamObject *self, PyObject *data, const char *start, size_t length,
                   StreamHold how)
{
    if (stream_loses_writes(self)) { /* the protocol of one that held has ended us */
        return stream_write_lost(self);
    }
    if (how != HOLD_NOT || self->held) {
        outbox_enter(self->loop);
        int rc = queue_push_rest(self, data, start, length, 0);
        if (rc == 0 && how != HOLD_QUEUE) {
            stream_hold(self);
        }
        outbox_leave(self->loop);
        return rc < 0 || how != HOLD_NOT ? rc : stream_send_now(self);
    }
    size_t sent = 0;
    if (self->queue_count == 0) {
        if (!stream_owns_fd(self)) {
            return stream_write_failed(self, EBADF);
        }
        ssize_t n = self->ops->send(self->fd, start, length);
        if (n < 0 && !would_block(errno)) {
            return stream_write_failed(self, errno);
        }
        if (n > 0) {
            sent = (size_t)n;
            metrics_count_out(&self->loop->metrics, sent);
        }
        if (sent == length) {
            return 0;
        }
    }
    if (queue_push_rest(self, data, start, length, sent) < 0) {
        return -1;
    }
    return stream_wait_writable(self);
}

/* 0, or -1 with what asyncio's write() and writelines() raise. */
static int
stream_check_writable(StreamObject *self, const char *function)
{
    if (self->write_eof) {
        PyErr_Format(PyExc_RuntimeError, "Cannot call %s() after write_eof()",
                     function);
        return -1;
    }
    if (self->empty_waiter != NULL) {
        PyErr_Format(PyExc_RuntimeError, "unable to %s; sendfile is in progress",
                     function);
        return -1;
    }
    return 0;
}

/* 0, or -1 as above. */
static int
stream_write_counted(StreamObject *self, PyObject *data, const char *start,
                     size_t length)
{
    if (stream_loses_writes(self)) {
        return stream_write_lost(self);
    }
    StreamHold how = stream_plan_write(self, length, SIZE_MAX);
    return stream_write_bytes(self, data, start, length, how);
}

int
stream_write_planned(StreamObject *self, PyObject *data, StreamHold how)
{
    size_t length = (size_t)PyBytes_GET_SIZE(data);
    if (stream_check_writable(self, "write") < 0) {
        return -1;
    }
    return length > 0
               ? stream_write_bytes(self, data, PyBytes_AS_STRING(data), length, how)
               : 0;
}

static int
stream_write_object(StreamObject *self, PyObject *data)
{
    if (PyBytes_CheckExact(data)) {
        size_t length = (size_t)PyBytes_GET_SIZE(data);
        if (length == 0) {
            return 0;
        }
        return stream_write_counted(self, data, PyBytes_AS_STRING(data), length);
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return stream_fatal_error(self, self->ops->write_failed);
    }
    int rc =
        view.len > 0 ? stream_write_counted(self, data, view.buf, (size_t)view.len) : 0;
    PyBuffer_Release(&view);
    return rc;
}

PyObject *
stream_write(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *data = args_one("write", "data", args, nargs, kwnames);
    if (data == NULL) {
        return NULL;
    }
    StreamObject *self = (StreamObject *)op;
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        const char *dot = strrchr(Py_TYPE(data)->tp_name, '.');
        return PyErr_Format(PyExc_TypeError,
                            "data argument must be a " PYLOOP_BYTES_LIKE ", not '%s'",
                            dot != NULL ? dot + 1 : Py_TYPE(data)->tp_name);
    }
    if (stream_check_writable(self, "write") < 0 ||
        stream_write_object(self, data) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Every item as exact bytes, empty ones left out: a new list, or NULL with TypeError. */
static PyObject *
writelines_collect(PyObject *list, size_t *total)
{
    PyObject *items =
        PYLOOP_SEQUENCE_ITEMS(list, "writelines() argument must be iterable");
    PyObject *lines = items != NULL ? PyList_New(0) : NULL;
    *total = 0;
    for (Py_ssize_t i = 0; lines != NULL && i < PySequence_Fast_GET_SIZE(items); i++) {
        PyObject *line = Py_NewRef(PySequence_Fast_GET_ITEM(items, i));
        if (PyObject_CheckBuffer(line)) {
            if (!PyBytes_CheckExact(line)) {
                Py_SETREF(line, PyBytes_FromObject(line)); /* may run Python */
            }
        }
        else {
            PyErr_Format(PyExc_TypeError,
                         "writelines() item %zd: a bytes-like object is required, "
                         "not '%s'",
                         i, Py_TYPE(line)->tp_name);
            Py_CLEAR(line);
        }
        if (line == NULL ||
            (PyBytes_GET_SIZE(line) > 0 && PyList_Append(lines, line) < 0)) {
            Py_CLEAR(lines);
        }
        else {
            *total += (size_t)PyBytes_GET_SIZE(line);
        }
        Py_XDECREF(line);
    }
    Py_XDECREF(items);
    return lines;
}

/* Counts as one write; gathered into one sendmsg when nothing was queued. */
static int
stream_write_lines(StreamObject *self, PyObject *lines, size_t total)
{
    if (total == 0) {
        return 0;
    }
    bool holds = stream_plan_write(self, total, SIZE_MAX) != HOLD_NOT;
    if (stream_loses_writes(self)) {
        return stream_write_lost(self);
    }
    bool offer = self->queue_count == 0;
    int rc = 0;
    outbox_enter(self->loop);
    for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(lines); i++) {
        rc = queue_push_steal(self, Py_NewRef(PyList_GET_ITEM(lines, i)), 0);
    }
    if (rc == 0 && (holds || self->held)) {
        stream_hold(self);
    }
    outbox_leave(self->loop);
    if (rc < 0 || holds) {
        return rc;
    }
    if (self->held) {
        return stream_send_now(self);
    }
    return offer ? stream_send_queue(self) : stream_maybe_pause_protocol(self);
}

PyObject *
stream_writelines(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    PyObject *list = args_one("writelines", "list_of_data", args, nargs, kwnames);
    if (list == NULL) {
        return NULL;
    }
    StreamObject *self = (StreamObject *)op;
    size_t total;
    if (stream_check_writable(self, "writelines") < 0) {
        return NULL;
    }
    PyObject *lines = writelines_collect(list, &total);
    if (lines == NULL) {
        return NULL;
    }
    int rc = stream_write_lines(self, lines, total);
    Py_DECREF(lines);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
