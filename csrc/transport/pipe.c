/* pipe.c - ReadPipeTransport and WritePipeTransport: what connect_read_pipe() and
 * connect_write_pipe() give out, for pipes, FIFOs, sockets, ptys and character devices.
 *
 * The object, reading, writing and closing are those of sockets (stream.h). Here is what
 * asyncio does otherwise with a pipe:
 * - The descriptor is closed by the close() of the pipe object, whatever that is. It is not
 *   claimed in loop->fds: a terminal may have a transport for each direction, and
 *   add_reader() besides.
 * - The end of a reader comes by eof_received and connection_lost, each in a callback of
 *   its own, and nothing the protocol answers keeps the transport.
 * - A writer is watched for reading as well: its reader's end makes it ready. So do data
 *   that come the other way through a socket, which ends the transport as in asyncio.
 * - close(), write_eof() and the end of the peer are one thing to a writer; writes after it
 *   are counted.
 * - What data_received raises is reported, and the transport goes on.
 *
 * Thread: the loop's.  GIL: held.
 */
#include "transport/stream.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"
#include "loop/handle.h"
#include "transport/flow.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- system calls: the descriptor is non-blocking -------------------------------- */

static ssize_t
pipe_receive(int fd, void *into, size_t size)
{
    return read(fd, into, size);
}

static ssize_t
pipe_send(int fd, const void *data, size_t length)
{
    return write(fd, data, length);
}

static ssize_t
pipe_send_vector(int fd, struct iovec *vector, size_t count)
{
    return writev(fd, vector, (int)count);
}

/* ---- the reader ------------------------------------------------------------------- */

static int
pipe_on_eof(StreamObject *self)
{
    stream_log(self, "info", "was closed by peer", NULL);
    if (self->lost) {
        return 0; /* the log's handler closed it */
    }
    PyObject *eof_received =
        PyObject_GetAttr(self->protocol, self->loop->state->str_eof_received);
    int rc = eof_received != NULL
                 ? loop_call_soon(self->loop, eof_received, NULL, 0, NULL)
                 : -1;
    Py_XDECREF(eof_received);
    if (rc < 0) {
        return stream_fatal_error(self,
                                  "Fatal error: protocol.eof_received() call failed.");
    }
    /* connection_lost comes after it */
    return stream_close(self) == 0 ? 0
                                   : stream_fatal_error(self, self->ops->read_failed);
}

static int
pipe_on_data_failed(StreamObject *self)
{
    PyloopState *state = self->loop->state;
    return loop_report(self->loop,
                       "Exception in callback ReadPipeTransport._read_ready()",
                       state->str_transport, (PyObject *)self, state->str_protocol,
                       self->protocol, NULL);
}

/* Linux says EIO when the other side of a pty is closed: that is its way of an EOF. */
static bool
pipe_reader_is_expected(PyObject *exc)
{
    return PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_OSError) &&
           ((PyOSErrorObject *)exc)->myerrno != NULL &&
           PyLong_Check(((PyOSErrorObject *)exc)->myerrno) &&
           PyLong_AsLong(((PyOSErrorObject *)exc)->myerrno) == EIO;
}

static const StreamOps pipe_reader_ops = {
    .receive = pipe_receive,
    .on_readable = stream_on_readable,
    .on_eof = pipe_on_eof,
    .on_data_failed = pipe_on_data_failed,
    .is_expected = pipe_reader_is_expected,
    .read_failed = "Fatal read error on pipe transport",
};

/* ---- the writer ------------------------------------------------------------------- */

static int
pipe_on_peer_gone(LoopObject *Py_UNUSED(loop), PyObject *owner)
{
    StreamObject *self = (StreamObject *)owner;
    PyObject *exc = NULL;
    if (self->lost) {
        return 0;
    }
    stream_log(self, "info", "was closed by peer", NULL);
    if (self->queue_count > 0) {
        exc = PyObject_CallNoArgs(PyExc_BrokenPipeError);
        if (exc == NULL) {
            return stream_fatal_error(self, self->ops->write_failed);
        }
    }
    int rc = stream_force_close(self, exc);
    Py_XDECREF(exc);
    return rc;
}

static bool
pipe_writer_is_expected(PyObject *exc)
{
    return PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_OSError);
}

static const StreamOps pipe_writer_ops = {
    .send = pipe_send,
    .send_vector = pipe_send_vector,
    .on_readable = pipe_on_peer_gone,
    .is_expected = pipe_writer_is_expected,
    .write_failed = "Fatal write error on pipe transport",
    .write_lost = "pipe closed by peer or os.write(pipe, data) raised exception.",
};

/* ---- making ------------------------------------------------------------------------ */

/* The descriptor of a pipe object; -1 with the error of its fileno() or of what that is. */
static int
pipe_descriptor(PyloopState *state, PyObject *pipe, struct stat *status)
{
    PyObject *number = call_method0(pipe, state->str_fileno);
    long fd = number != NULL ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    if (fd == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (fd > INT_MAX || fstat((int)fd, status) < 0) {
        return errors_raise_errno(fd > INT_MAX ? EBADF : errno);
    }
    return (int)fd;
}

/* As os.set_blocking(fd, False). */
static int
pipe_set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 ||
        (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)) {
        return errors_raise_errno(errno);
    }
    return 0;
}

/* Whether the end of the other side can be seen by watching a writer for reading. */
static bool
pipe_shows_peer(const struct stat *status)
{
    if (S_ISSOCK(status->st_mode)) {
        return true;
    }
#if defined(_AIX)
    return false;
#elif defined(__APPLE__) || defined(__sun)
    /* One that has a name is readable as long as what was written is unread. */
    return S_ISFIFO(status->st_mode) && status->st_nlink == 0;
#else
    return S_ISFIFO(status->st_mode);
#endif
}

/* The transport, started soon. refusal: for what is not a pipe. New reference, or NULL. */
static StreamObject *
pipe_new(LoopObject *loop, PyTypeObject *type, const StreamOps *ops,
         const char *refusal, PyObject *const given[4])
{
    PyloopState *state = loop->state;
    PyObject *pipe = given[0];
    struct stat status;
    int fd = pipe_descriptor(state, pipe, &status);
    if (fd < 0) {
        return NULL;
    }
    if (!S_ISFIFO(status.st_mode) && !S_ISSOCK(status.st_mode) &&
        !S_ISCHR(status.st_mode)) {
        PyErr_SetString(PyExc_ValueError, refusal);
        return NULL;
    }
    if (loop_check_closed(loop) < 0 || stream_check_protocol(state, given[1]) < 0 ||
        pipe_set_nonblocking(fd) < 0) {
        return NULL;
    }
    StreamObject *self = stream_alloc(loop, type, ops, given[1], given[3]);
    if (self == NULL) {
        return NULL;
    }
    if (self->extra == NULL) {
        self->extra = PyDict_New();
    }
    if (self->extra == NULL || PyDict_SetItem(self->extra, state->str_pipe, pipe) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->identity = PyWeakref_NewRef(pipe, NULL);
    if (self->identity == NULL) {
        PyErr_Clear(); /* not of every object there is one: loop->fds does without */
    }
    self->fd = fd;
    loop->metrics.transports++;
    self->sock = Py_NewRef(pipe);
    self->unreadable = ops == &pipe_writer_ops && !pipe_shows_peer(&status);
    if (stream_schedule_start(self, given[2], NULL) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

PyObject *
pipe_make_reader(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"pipe", "protocol", "waiter", "extra"};
    static const ArgsSpec spec = {"_make_read_pipe_transport", names, 4, 2, 4};
    LoopObject *loop = (LoopObject *)op;
    PyObject *given[4];
    if (args_parse(&spec, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    return (PyObject *)pipe_new(loop, loop->state->ReadPipeTransportType,
                                &pipe_reader_ops,
                                "Pipe transport is for pipes/sockets only.", given);
}

PyObject *
pipe_make_writer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"pipe", "protocol", "waiter", "extra"};
    static const ArgsSpec spec = {"_make_write_pipe_transport", names, 4, 2, 4};
    LoopObject *loop = (LoopObject *)op;
    PyObject *given[4];
    if (args_parse(&spec, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    return (PyObject *)pipe_new(
        loop, loop->state->WritePipeTransportType, &pipe_writer_ops,
        "Pipe transport is only for pipes, sockets and character devices", given);
}

/* ---- repr ------------------------------------------------------------------------- */

/* "<name fd=3", with " closed" or " closing" before fd as far as it is so; new reference. */
static PyObject *
pipe_repr_begin(StreamObject *self, const char *name)
{
    return PyUnicode_FromFormat("<%s%s fd=%d", name,
                                self->phase == STREAM_CLOSED    ? " closed"
                                : self->phase == STREAM_CLOSING ? " closing"
                                                                : "",
                                self->fd);
}

static PyObject *
pipe_reader_describe(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    PyObject *begin = pipe_repr_begin(self, "ReadPipeTransport");
    if (begin == NULL) {
        return NULL;
    }
    PyObject *repr = PyUnicode_FromFormat("%U %s>", begin,
                                          self->phase == STREAM_CLOSED      ? "closed"
                                          : self->loop->phase != LOOP_OPEN  ? "open"
                                          : stream_waits_for(self, FD_READ) ? "polling"
                                                                            : "idle");
    Py_DECREF(begin);
    return repr;
}

static PyObject *
pipe_reader_repr(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    return loop_repr_of_steal(self->loop, op, self->dict, pipe_reader_describe(op));
}

static PyObject *
pipe_writer_describe(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    PyObject *begin = pipe_repr_begin(self, "WritePipeTransport");
    if (begin == NULL) {
        return NULL;
    }
    PyObject *repr;
    if (self->phase == STREAM_CLOSED || self->loop->phase != LOOP_OPEN) {
        repr = PyUnicode_FromFormat("%U %s>", begin,
                                    self->phase == STREAM_CLOSED ? "closed" : "open");
    }
    else {
        repr = PyUnicode_FromFormat(
            "%U %s bufsize=%zu>", begin,
            stream_waits_for(self, FD_WRITE) ? "polling" : "idle", self->queue_bytes);
    }
    Py_DECREF(begin);
    return repr;
}

static PyObject *
pipe_writer_repr(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    return loop_repr_of_steal(self->loop, op, self->dict, pipe_writer_describe(op));
}

/* ---- attributes -------------------------------------------------------------------- */

/* transport._pipe = None is how asyncio's tests take the pipe away from a transport whose
 * loop is closed: then it is theirs to close. */
static int
pipe_set_pipe(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    StreamObject *self = (StreamObject *)op;
    if (value != Py_None) {
        PyErr_SetString(PyExc_AttributeError, "_pipe can be set to None only");
        return -1;
    }
    stream_give_up(self);
    Py_CLEAR(self->protocol);
    return 0;
}

/* ---- tables ------------------------------------------------------------------------ */

#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

static PyMemberDef pipe_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(StreamObject, dict), Py_READONLY, NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(StreamObject, weakrefs), Py_READONLY,
     NULL},
    {"_born_ticks", Py_T_ULONGLONG, offsetof(StreamObject, born_ticks), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

#define LOCK_OF(op) (&((StreamObject *)(op))->loop->lock)

LOCKED_NOARGS(stream_is_closing)
LOCKED_KEYWORDS(stream_set_protocol)
LOCKED_NOARGS(stream_get_protocol)
LOCKED_KEYWORDS(stream_get_extra_info)
LOCKED_O(stream_start_method)
LOCKED_O(stream_lost_method)
LOCKED_NOARGS(stream_close_method)
LOCKED_NOARGS(stream_is_reading)
LOCKED_NOARGS(stream_pause_reading)
LOCKED_NOARGS(stream_resume_reading)
LOCKED_KEYWORDS(stream_write)
LOCKED_NOARGS(stream_abort)
LOCKED_NOARGS(stream_get_write_buffer_size)
LOCKED_NOARGS(stream_get_write_buffer_limits)
LOCKED_KEYWORDS(stream_set_write_buffer_limits)
LOCKED_SETTER(pipe_set_pipe)
LOCKED_GETTER(stream_get_loop)
LOCKED_GETTER(stream_get_sock)
LOCKED_GETTER(stream_get_extra)
LOCKED_GETTER(stream_get_protocol_attr)
LOCKED_GETTER(stream_get_closing)
LOCKED_GETTER(stream_get_fd)
LOCKED_GETTER(stream_get_conn_lost)
LOCKED_GETTER(stream_get_flag)
LOCKED_GETTER(flow_get_size)
LOCKED_SETTER(flow_set_max_size)
LOCKED_REPR(pipe_reader_repr)
LOCKED_REPR(pipe_writer_repr)

static PyGetSetDef pipe_reader_getsets[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_loop", LOCKED(stream_get_loop), NULL, NULL, NULL},
    {"_pipe", LOCKED(stream_get_sock), LOCKED(pipe_set_pipe), NULL, NULL},
    {"_fileno", LOCKED(stream_get_fd), NULL, NULL, NULL},
    {"_extra", LOCKED(stream_get_extra), NULL, NULL, NULL},
    {"_protocol", LOCKED(stream_get_protocol_attr), NULL, NULL, NULL},
    {"_closing", LOCKED(stream_get_closing), NULL, NULL, NULL},
    {"_paused", LOCKED(stream_get_flag), NULL, NULL,
     (void *)offsetof(StreamObject, paused)},
    {"max_size", LOCKED(flow_get_size), LOCKED(flow_set_max_size), NULL,
     (void *)offsetof(StreamObject, max_size)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef pipe_writer_getsets[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_loop", LOCKED(stream_get_loop), NULL, NULL, NULL},
    {"_pipe", LOCKED(stream_get_sock), LOCKED(pipe_set_pipe), NULL, NULL},
    {"_fileno", LOCKED(stream_get_fd), NULL, NULL, NULL},
    {"_extra", LOCKED(stream_get_extra), NULL, NULL, NULL},
    {"_protocol", LOCKED(stream_get_protocol_attr), NULL, NULL, NULL},
    {"_closing", LOCKED(stream_get_closing), NULL, NULL, NULL},
    {"_conn_lost", LOCKED(stream_get_conn_lost), NULL, NULL, NULL},
    {"_protocol_paused", LOCKED(stream_get_flag), NULL, NULL,
     (void *)offsetof(StreamObject, protocol_paused)},
    {"_high_water", LOCKED(flow_get_size), NULL, NULL,
     (void *)offsetof(StreamObject, high_water)},
    {"_low_water", LOCKED(flow_get_size), NULL, NULL,
     (void *)offsetof(StreamObject, low_water)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef pipe_reader_methods[] = {
    {"is_closing", LOCKED(stream_is_closing), METH_NOARGS,
     "is_closing($self, /)\n--\n\nReturn True if the transport is closing or closed."},
    {"set_protocol", FASTCALL(LOCKED(stream_set_protocol)),
     METH_FASTCALL | METH_KEYWORDS,
     "set_protocol($self, protocol)\n--\n\nUse another protocol from now on."},
    {"get_protocol", LOCKED(stream_get_protocol), METH_NOARGS,
     "get_protocol($self, /)\n--\n\nReturn the protocol, None when closed."},
    {"get_extra_info", FASTCALL(LOCKED(stream_get_extra_info)),
     METH_FASTCALL | METH_KEYWORDS,
     "get_extra_info($self, name, default=None)\n--\n\n"
     "Return 'pipe', the pipe object, or default for an unknown name."},
    {"_start", LOCKED(stream_start_method), METH_O, NULL},
    {"_call_connection_lost", LOCKED(stream_lost_method), METH_O, NULL},
    {"close", LOCKED(stream_close_method), METH_NOARGS,
     "close($self, /)\n--\n\nStop reading, then call connection_lost(None)."},
    {"is_reading", LOCKED(stream_is_reading), METH_NOARGS,
     "is_reading($self, /)\n--\n\nReturn True if the transport receives data."},
    {"pause_reading", LOCKED(stream_pause_reading), METH_NOARGS,
     "pause_reading($self, /)\n--\n\nCall no data_received() until resume_reading()."},
    {"resume_reading", LOCKED(stream_resume_reading), METH_NOARGS,
     "resume_reading($self, /)\n--\n\nGo on receiving after pause_reading()."},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef pipe_writer_methods[] = {
    {"is_closing", LOCKED(stream_is_closing), METH_NOARGS,
     "is_closing($self, /)\n--\n\nReturn True if the transport is closing or closed."},
    {"set_protocol", FASTCALL(LOCKED(stream_set_protocol)),
     METH_FASTCALL | METH_KEYWORDS,
     "set_protocol($self, protocol)\n--\n\nUse another protocol from now on."},
    {"get_protocol", LOCKED(stream_get_protocol), METH_NOARGS,
     "get_protocol($self, /)\n--\n\nReturn the protocol, None when closed."},
    {"get_extra_info", FASTCALL(LOCKED(stream_get_extra_info)),
     METH_FASTCALL | METH_KEYWORDS,
     "get_extra_info($self, name, default=None)\n--\n\n"
     "Return 'pipe', the pipe object, or default for an unknown name."},
    {"_start", LOCKED(stream_start_method), METH_O, NULL},
    {"_call_connection_lost", LOCKED(stream_lost_method), METH_O, NULL},
    {"write", FASTCALL(LOCKED(stream_write)), METH_FASTCALL | METH_KEYWORDS,
     "write($self, data)\n--\n\n"
     "Write bytes, at once as far as the kernel takes them; queue the rest.\n\n"
     "Raises TypeError for data that is not bytes-like."},
    {"write_eof", LOCKED(stream_close_method), METH_NOARGS,
     "write_eof($self, /)\n--\n\nClose the pipe once the queue is written; as "
     "close()."},
    {"can_write_eof", stream_can_write_eof, METH_NOARGS,
     "can_write_eof($self, /)\n--\n\nReturn True: pipes can."},
    {"close", LOCKED(stream_close_method), METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Write what is queued, then call connection_lost(None); take no more data."},
    {"abort", LOCKED(stream_abort), METH_NOARGS,
     "abort($self, /)\n--\n\n"
     "Close at once; what is queued is lost. connection_lost(None) is called."},
    {"get_write_buffer_size", LOCKED(stream_get_write_buffer_size), METH_NOARGS,
     "get_write_buffer_size($self, /)\n--\n\nReturn how many bytes are queued."},
    {"get_write_buffer_limits", LOCKED(stream_get_write_buffer_limits), METH_NOARGS,
     "get_write_buffer_limits($self, /)\n--\n\nReturn the water marks (low, high), "
     "bytes."},
    {"set_write_buffer_limits", FASTCALL(LOCKED(stream_set_write_buffer_limits)),
     METH_FASTCALL | METH_KEYWORDS,
     "set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
     "Set the water marks, in bytes, at which the protocol's pause_writing() and\n"
     "resume_writing() are called. Raises ValueError unless high >= low >= 0."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pipe_reader_slots[] = {
    {Py_tp_doc,
     "The transport of what is read from a pipe; an asyncio.ReadTransport made by the "
     "loop."},
    {Py_tp_methods, pipe_reader_methods},
    {Py_tp_getset, pipe_reader_getsets},
    {Py_tp_members, pipe_members},
    {Py_tp_repr, LOCKED(pipe_reader_repr)},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_finalize, stream_finalize},
    {Py_tp_dealloc, stream_dealloc},
    {0, NULL},
};

static PyType_Slot pipe_writer_slots[] = {
    {Py_tp_doc, "The transport of what is written to a pipe; an asyncio.WriteTransport "
                "made by the "
                "loop."},
    {Py_tp_methods, pipe_writer_methods},
    {Py_tp_getset, pipe_writer_getsets},
    {Py_tp_members, pipe_members},
    {Py_tp_repr, LOCKED(pipe_writer_repr)},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_finalize, stream_finalize},
    {Py_tp_dealloc, stream_dealloc},
    {0, NULL},
};

static PyType_Spec pipe_reader_spec = {
    .name = "pyloop._core.ReadPipeTransport",
    .basicsize = sizeof(StreamObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pipe_reader_slots,
};

static PyType_Spec pipe_writer_spec = {
    .name = "pyloop._core.WritePipeTransport",
    .basicsize = sizeof(StreamObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pipe_writer_slots,
};

PyTypeObject *
pipe_reader_type_create(PyObject *module)
{
    return stream_type_over(module, &pipe_reader_spec,
                            (PyTypeObject *)state_of_module(module)->ReadTransport);
}

PyTypeObject *
pipe_writer_type_create(PyObject *module)
{
    return stream_type_over(module, &pipe_writer_spec,
                            (PyTypeObject *)state_of_module(module)->FlowControlMixin);
}
