/* read.c - the read side of transports.
 *
 * Data go through the loop's scratch buffer into a bytes object of the right size; a
 * BufferedProtocol's buffer is read into directly. The registration is kept while the
 * transport pauses (lazy disarm in loop/fds.c): pausing and resuming cost no system call
 * unless data arrive in between.
 */
#include "transport/stream.h"

#include "base/call.h"
#include "base/errors.h"
#include "transport/reader.h"
#include "transport/tls.h"

#include <errno.h>

int
stream_watch_reading(StreamObject *self)
{
    PyObject *replaced;
    if (fds_watch(self->loop, self->fd, FD_READ, self->ops->on_readable,
                  (PyObject *)self, self->identity, &replaced) < 0) {
        return -1;
    }
    Py_XDECREF(replaced);
    return 0;
}

void
stream_unwatch_reading(StreamObject *self)
{
    if (stream_waits_for(self, FD_READ)) {
        Py_XDECREF(fds_unwatch(self->loop, self->fd, FD_READ, true));
    }
}

void
stream_look_at_protocol(StreamObject *self)
{
    if (!self->ops->is_socket) {
        return; /* asyncio's pipes know data_received() only */
    }
    PyObject *protocol = Py_NewRef(self->protocol);
    int buffered = PyObject_IsInstance(protocol, self->loop->state->BufferedProtocol);
    if (buffered < 0) {
        PyErr_Clear(); /* a protocol whose __class__ raises is no BufferedProtocol */
    }
    if (self->protocol == protocol) { /* else its __class__ has set another */
        Watched *watched = self->loop->state->watched;
        self->buffered = buffered > 0;
        self->streams = Py_IS_TYPE(protocol, watched[WATCHED_STREAM_PROTOCOL].type);
        self->tls = Py_IS_TYPE(protocol, watched[WATCHED_SSL_PROTOCOL].type);
    }
    Py_DECREF(protocol);
}

/* What recv() said. 1: n bytes came; 0: handled, nothing came; -1: must leave run. */
static int
stream_after_recv(StreamObject *self, ssize_t n)
{
    if (n > 0) {
        metrics_count_in(&self->loop->metrics, (size_t)n);
        return 1;
    }
    if (n == 0) {
        return self->ops->on_eof(self);
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        return 0;
    }
    (void)errors_raise_errno(errno);
    return stream_fatal_error(self, self->ops->read_failed);
}

/* protocol.name(argument). The method may set another protocol, and a method made in C
 * does not keep its object alive. */
static PyObject *
stream_call_protocol(StreamObject *self, PyObject *name, PyObject *argument)
{
    if (self->protocol == NULL) { /* a buffer's own method has ended us */
        Py_RETURN_NONE;
    }
    PyObject *protocol = Py_NewRef(self->protocol);
    PyObject *done = call_method1(protocol, name, argument);
    Py_DECREF(protocol);
    return done;
}

int
stream_receive(StreamObject *self, char **data, ssize_t *n)
{
    *data = loop_scratch(self->loop);
    if (*data == NULL) {
        return stream_fatal_error(self, self->ops->read_failed);
    }
    size_t room = self->max_size < SCRATCH_SIZE ? self->max_size : SCRATCH_SIZE;
    *n = self->ops->receive(self->fd, *data, room);
    return stream_after_recv(self, *n);
}

static int
stream_read_bytes(StreamObject *self)
{
    char *scratch;
    ssize_t n;
    int rc = stream_receive(self, &scratch, &n);
    if (rc <= 0) {
        return rc;
    }
    if (self->streams) {
        rc = reader_feed(self->loop, self->protocol, scratch, (size_t)n);
        if (rc != 0) {
            return rc > 0 ? 0 : self->ops->on_data_failed(self);
        }
    }
    PyObject *data = PyBytes_FromStringAndSize(scratch, (Py_ssize_t)n);
    if (data == NULL) {
        return stream_fatal_error(self, self->ops->read_failed);
    }
    PyObject *done =
        stream_call_protocol(self, self->loop->state->str_data_received, data);
    Py_DECREF(data);
    if (done == NULL) {
        return self->ops->on_data_failed(self);
    }
    Py_DECREF(done);
    return 0;
}

/* The protocol's buffer, of at least one byte; new reference, or NULL. */
static PyObject *
stream_get_buffer(StreamObject *self)
{
    PyObject *hint = PyLong_FromLong(-1);
    if (hint == NULL) {
        return NULL;
    }
    PyObject *buffer =
        stream_call_protocol(self, self->loop->state->str_get_buffer, hint);
    Py_DECREF(hint);
    Py_ssize_t size = buffer != NULL ? PyObject_Size(buffer) : -1;
    if (size == 0) {
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
    }
    if (size <= 0) {
        Py_CLEAR(buffer);
    }
    return buffer;
}

/* recv_into(buffer). As recv(); -1 with errno 0 means that an exception is set. */
static ssize_t
stream_recv_into(StreamObject *self, PyObject *buffer)
{
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) {
        PyErr_Clear(); /* as socket.recv_into(), which says TypeError */
        PyErr_Format(PyExc_TypeError,
                     "get_buffer() must return a read-write bytes-like object, not %s",
                     Py_TYPE(buffer)->tp_name);
        errno = 0;
        return -1;
    }
    ssize_t n = -1;
    int err = EAGAIN;
    if (self->phase != STREAM_CLOSED) { /* the buffer's own method may have ended us */
        n = self->ops->receive(self->fd, view.buf, (size_t)view.len);
        err = errno;
    }
    PyBuffer_Release(&view);
    errno = err;
    return n;
}

static int
stream_read_into_buffer(StreamObject *self)
{
    PyObject *buffer = stream_get_buffer(self);
    if (buffer == NULL) {
        return stream_fatal_error(self,
                                  "Fatal error: protocol.get_buffer() call failed.");
    }
    if (self->lost) { /* get_buffer() closed us */
        Py_DECREF(buffer);
        return 0;
    }
    ssize_t n = stream_recv_into(self, buffer);
    int err = errno;
    Py_DECREF(buffer);
    if (n < 0 && err == 0) {
        return stream_fatal_error(self, self->ops->read_failed);
    }
    errno = err;
    int rc = stream_after_recv(self, n);
    if (rc <= 0) {
        return rc;
    }
    PyObject *count = PyLong_FromSsize_t((Py_ssize_t)n);
    PyObject *done =
        count != NULL
            ? stream_call_protocol(self, self->loop->state->str_buffer_updated, count)
            : NULL;
    Py_XDECREF(count);
    if (done == NULL) {
        return stream_fatal_error(
            self, "Fatal error: protocol.buffer_updated() call failed.");
    }
    Py_DECREF(done);
    return 0;
}

int
stream_on_readable(LoopObject *Py_UNUSED(loop), PyObject *owner)
{
    StreamObject *self = (StreamObject *)owner;
    if (self->lost || self->paused) {
        return 0;
    }
    if (!stream_owns_fd(self)) {
        return stream_disowned(self, self->ops->read_failed);
    }
    PyObject *context = context_enter(self->context);
    if (context == NULL) {
        return stream_fatal_error(self, self->ops->read_failed);
    }
    int rc = self->tls ? tls_read(self) : 0;
    if (rc == 0) {
        rc = self->buffered ? stream_read_into_buffer(self) : stream_read_bytes(self);
    }
    context_exit(context);
    return rc < 0 ? -1 : 0;
}
