/* stream.c - making, starting, closing, methods and attributes that all transports of a
 * stream of bytes share.
 *
 * Owns: the descriptor, through the Python socket when there is one, or the pipe object.
 * An open transport that reads is kept alive by loop->fds, as by asyncio's selector; one
 * that is dropped unclosed closes itself with a ResourceWarning (stream_finalize).
 */
#include "transport/stream.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"
#include "loop/handle.h"
#include "transport/flow.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- debug mode's log ---------------------------------------------------------- */

void
stream_log(StreamObject *self, const char *level, const char *text, PyObject *exc)
{
    if (!self->loop->debug) {
        return;
    }
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *done =
        PyObject_CallMethod((PyObject *)self->loop, "_log_transport", "sOsO", level,
                            (PyObject *)self, text, exc != NULL ? exc : Py_None);
    if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* ---- the server's count ------------------------------------------------------ */

int
stream_tell_server(StreamObject *self, PyObject *server, PyObject *name)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *done = call_method1(server, name, (PyObject *)self);
#else
    (void)self;
    PyObject *done = call_method0(server, name);
#endif
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* ---- making ------------------------------------------------------------------ */

StreamObject *
stream_alloc(LoopObject *loop, PyTypeObject *type, const StreamOps *ops,
             PyObject *protocol, PyObject *extra)
{
    StreamObject *self = (StreamObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    MEMORY_BEGINS(self);
    self->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    RACY_ADD(loop->state->live_transports, 1);
    self->ops = ops;
    self->fd = -1;
    self->born_ticks = clock_ticks();
    self->phase = STREAM_OPENING;
    self->protocol = Py_NewRef(protocol);
    self->high_water = FLOW_HIGH_WATER;
    self->low_water = FLOW_LOW_WATER;
    self->max_size = FLOW_MAX_SIZE;
    self->context = PyContext_CopyCurrent();
    self->extra = extra != NULL && extra != Py_None ? PyDict_Copy(extra) : NULL;
    if (self->context == NULL || PyErr_Occurred() ||
        loop_note_origin(loop, &self->dict) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    MADE(self);
    return self;
}

int
stream_check_protocol(PyloopState *state, PyObject *protocol)
{
    PyObject *made = PyObject_GetAttr(protocol, state->str_connection_made);
    Py_XDECREF(made);
    return made != NULL ? 0 : -1;
}

int
stream_schedule_start(StreamObject *self, PyObject *waiter, PyObject *context)
{
    if (stream_check_protocol(self->loop->state, self->protocol) < 0) {
        return -1;
    }
    PyObject *start = PyObject_GetAttr((PyObject *)self, self->loop->state->str__start);
    if (start == NULL) {
        return -1;
    }
    PyObject *args[1] = {waiter != NULL ? waiter : Py_None};
    int rc = loop_call_soon(self->loop, start, args, 1, context);
    Py_DECREF(start);
    return rc;
}

/* What connection_made raised, as of the callback that it is in asyncio. 0, or -1. */
static int
stream_report_made(StreamObject *self, PyObject *protocol)
{
    PyloopState *state = self->loop->state;
    if (errors_is_fatal()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *callback = PyObject_GetAttr(protocol, state->str_connection_made);
    PyObject *argv[2] = {NULL, (PyObject *)self};
    HandleObject *handle =
        callback != NULL ? handle_new(self->loop, callback, argv + 1, 1, NULL) : NULL;
    PyObject *args[3] = {(PyObject *)self->loop, (PyObject *)handle, exc};
    PyObject *done =
        handle != NULL
            ? call_method_handling(exc, state->str__report_callback_error, args, 3)
            : NULL;
    Py_XDECREF(done);
    Py_XDECREF((PyObject *)handle);
    Py_XDECREF(callback);
    Py_DECREF(exc);
    return done != NULL ? 0 : -1;
}

int
stream_start(StreamObject *self)
{
    PyloopState *state = self->loop->state;
    if (self->protocol == NULL) {
        return 0;
    }
    if (self->phase == STREAM_OPENING) {
        self->phase = STREAM_OPEN;
    }
    PyObject *protocol = Py_NewRef(self->protocol);
    PyObject *made =
        call_method1(protocol, state->str_connection_made, (PyObject *)self);
    Py_XDECREF(made);
    int rc = made != NULL ? 0 : stream_report_made(self, protocol);
    Py_DECREF(protocol);
    if (rc < 0) {
        return -1;
    }
    if (self->phase != STREAM_OPEN || self->paused || self->unreadable ||
        stream_watch_reading(self) == 0) {
        return 0;
    }
    /* Such as EPERM for /dev/null. Who waits for the transport gets it all the same. */
    return loop_report(self->loop, "Cannot watch the descriptor of a transport",
                       state->str_transport, (PyObject *)self, state->str_protocol,
                       self->protocol, NULL);
}

/* What is scheduled when a transport is made: start, then wake who waits. */
PyObject *
stream_start_method(PyObject *op, PyObject *waiter)
{
    StreamObject *self = (StreamObject *)op;
    if (stream_start(self) < 0) {
        return NULL;
    }
    if (waiter == Py_None) {
        Py_RETURN_NONE;
    }
    PyObject *args[2] = {waiter, Py_None};
    return PyObject_Vectorcall(self->loop->state->set_result_unless_cancelled, args, 2,
                               NULL);
}

/* ---- closing ----------------------------------------------------------------- */

void
stream_give_up(StreamObject *self)
{
    stream_drop_queue(self);
    if (self->phase == STREAM_CLOSED || self->fd < 0) {
        return;
    }
    stream_extra_keep(self);
    bool owned = self->ops->is_socket && stream_owns_fd(self);
    self->phase = STREAM_CLOSED;
    self->loop->metrics.transports--;
    self->lost = true;
    if (owned && stream_has_claim(self)) {
        fds_forget(self->loop, self->fd);
    }
    else { /* a pipe's, or closed behind our back: another may have the number by now */
        fds_leave(self->loop, self->fd, (PyObject *)self);
    }
}

/* 0, or -1 with what the close() of the socket or pipe object raised. */
static int
stream_close_file(StreamObject *self)
{
    if (self->sock == NULL) {
        (void)close(self->fd); /* nothing to be done about EIO */
        return 0;
    }
    /* Not by the state's name: the interpreter may be shutting down. */
    PyObject *closed = PyObject_CallMethod(self->sock, "close", NULL);
    Py_XDECREF(closed);
    return closed != NULL ? 0 : -1;
}

int
stream_shut(StreamObject *self)
{
    self->loop->poll_due = true;
    return shutdown(self->fd, SHUT_WR);
}

/* Closes, and gives up all that hangs on the descriptor. 0, or -1 with what the close()
 * raised; only that is anybody's to handle. */
static int
stream_dispose(StreamObject *self)
{
    if (self->phase == STREAM_CLOSED || self->fd < 0) {
        stream_drop_queue(self);
        return 0;
    }
    stream_give_up(self);
    self->loop->poll_due = true; /* as in stream_shut() */
    PyObject *failed = stream_close_file(self) < 0 ? PyErr_GetRaisedException() : NULL;
    Py_CLEAR(self->protocol);
    if (self->server != NULL) {
        PyObject *server = self->server;
        self->server = NULL;
        if (stream_tell_server(self, server, self->loop->state->str__detach) < 0) {
            PyErr_WriteUnraisable(server);
        }
        Py_DECREF(server);
    }
    if (failed != NULL) {
        PyErr_SetRaisedException(failed);
        return -1;
    }
    return 0;
}

/* The same for who cannot raise, and may be called while something is raised. */
static void
stream_dispose_quietly(StreamObject *self)
{
    if (self->loop == NULL) {
        return; /* it could not be made */
    }
    LockHold hold; /* the collector's thread may be another */
    lock_enter(&self->loop->lock, &hold);
    PyObject *raised = PyErr_GetRaisedException();
    if (stream_dispose(self) < 0) {
        PyErr_WriteUnraisable(self->sock);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    lock_exit(&hold);
}

int
stream_lost(StreamObject *self, PyObject *exc)
{
    int rc = 0;
    if (self->phase == STREAM_CLOSED) {
        return 0;
    }
    Py_INCREF(self);
    self->lost = true;
    stream_lend_no_more(self, exc);
    PyObject *protocol = Py_NewRef(self->protocol);
    PyloopState *state = self->loop->state;
    PyObject *done =
        call_method1(protocol, state->str_connection_lost, exc != NULL ? exc : Py_None);
    Py_XDECREF(done);
    if (done == NULL) {
        rc = loop_report(self->loop,
                         "Fatal error: protocol.connection_lost() call failed.",
                         state->str_protocol, protocol, NULL);
    }
    Py_DECREF(protocol);
    if (rc < 0) {
        stream_dispose_quietly(self); /* something is on its way out of run */
    }
    else if (stream_dispose(self) < 0) {
        rc = loop_report(self->loop, "Closing the file of a transport failed",
                         state->str_transport, (PyObject *)self, NULL);
    }
    Py_DECREF(self);
    return rc;
}

PyObject *
stream_lost_method(PyObject *op, PyObject *exc)
{
    if (stream_lost((StreamObject *)op, exc == Py_None ? NULL : exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
stream_schedule_lost(StreamObject *self, PyObject *exc)
{
    PyObject *callback = PyObject_GetAttr((PyObject *)self,
                                          self->loop->state->str__call_connection_lost);
    if (callback == NULL) {
        return -1;
    }
    PyObject *args[1] = {exc != NULL ? exc : Py_None};
    int rc = loop_call_soon(self->loop, callback, args, 1, NULL);
    Py_DECREF(callback);
    return rc;
}

/* Schedules the end and stops reading. Without memory for that the transport is as it was,
 * so that the call can be repeated: else nothing would ever end it. */
static int
stream_end_soon(StreamObject *self, PyObject *exc)
{
    int rc = stream_schedule_lost(self, exc);
    if (rc < 0 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    if (self->phase == STREAM_CLOSED) { /* scheduling may collect garbage */
        return rc;
    }
    self->phase = STREAM_CLOSING;
    stream_unwatch_reading(self);
    stream_set_lost(self);
    return rc;
}

int
stream_close(StreamObject *self)
{
    stream_release_held(self);
    if (self->phase >= STREAM_CLOSING) {
        return 0;
    }
    if (self->queue_count == 0) {
        return stream_end_soon(self, NULL);
    }
    self->phase = STREAM_CLOSING; /* stream_drained goes on */
    if (self->ops->is_socket) {
        stream_unwatch_reading(self);
    } /* else it is how the end of a pipe's reader is noticed */
    return 0;
}

int
stream_force_close(StreamObject *self, PyObject *exc)
{
    stream_release_held(self); /* written before the abort, so sent before it */
    if (self->lost) {
        return 0;
    }
    if (self->queue_count > 0) {
        stream_drop_queue(self);
        stream_unwatch_writing(self);
    }
    return stream_end_soon(self, exc);
}

int
stream_fatal_error(StreamObject *self, const char *message)
{
    if (errors_is_fatal()) {
        return -1;
    }
    int rc = 0;
    PyObject *exc = PyErr_GetRaisedException();
    Py_INCREF(self);
    if (self->ops->is_expected(exc)) {
        stream_log(self, "debug", message, exc);
    }
    else {
        PyloopState *state = self->loop->state;
        PyErr_SetRaisedException(Py_NewRef(exc));
        rc = loop_report(self->loop, message, state->str_transport, (PyObject *)self,
                         state->str_protocol, self->protocol, NULL);
    }
    if (rc == 0) {
        rc = stream_force_close(self, exc);
        if (rc < 0 && !self->lost) { /* no memory to do it soon: now, then */
            PyErr_Clear();
            rc = stream_lost(self, exc);
        }
    }
    Py_DECREF(self);
    Py_DECREF(exc);
    return rc;
}

int
stream_disowned(StreamObject *self, const char *message)
{
    stream_drop_queue(self);
    if (self->lost) {
        return 0; /* fileno() ended the transport: the protocol knows */
    }
    (void)errors_raise_errno(EBADF);
    return stream_fatal_error(self, message);
}

/* ---- methods ------------------------------------------------------------------ */

PyObject *
stream_close_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (stream_close((StreamObject *)op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
stream_abort(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (stream_force_close((StreamObject *)op, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* StreamWriter.drain() looks here, and may return without giving up its callback: what it
 * promises to have offered to the kernel must not be held, unless somebody sees to that. */
PyObject *
stream_is_closing(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    if (!self->loop->guarded) {
        stream_release_held(self);
    }
    return PyBool_FromLong(self->phase >= STREAM_CLOSING);
}

PyObject *
stream_is_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    return PyBool_FromLong(self->phase < STREAM_CLOSING && !self->paused);
}

PyObject *
stream_pause_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    if (self->phase < STREAM_CLOSING && !self->paused) {
        self->paused = true;
        stream_unwatch_reading(self);
        stream_log(self, "debug", "pauses reading", NULL);
    }
    Py_RETURN_NONE;
}

PyObject *
stream_resume_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    if (self->phase >= STREAM_CLOSING || !self->paused) {
        Py_RETURN_NONE;
    }
    self->paused = false;
    if (!stream_owns_fd(self)) {
        if (stream_disowned(self, self->ops->read_failed) < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    if (self->phase == STREAM_OPEN && !self->read_eof &&
        stream_watch_reading(self) < 0) {
        return NULL;
    }
    stream_log(self, "debug", "resumes reading", NULL);
    Py_RETURN_NONE;
}

PyObject *
stream_set_protocol(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    PyObject *protocol = args_one("set_protocol", "protocol", args, nargs, kwnames);
    if (protocol == NULL) {
        return NULL;
    }
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    if (self->phase != STREAM_CLOSED) {
        PyObject *former = self->protocol;
        self->protocol = Py_NewRef(protocol);
        stream_look_at_protocol(self);
        Py_XDECREF(former);
    }
    Py_RETURN_NONE;
}

PyObject *
stream_get_protocol(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *protocol = ((StreamObject *)op)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

PyObject *
stream_get_write_buffer_size(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    stream_release_held(self);
    return PyLong_FromSize_t(self->queue_bytes);
}

PyObject *
stream_get_write_buffer_limits(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StreamObject *self = (StreamObject *)op;
    return Py_BuildValue("(nn)", (Py_ssize_t)self->low_water,
                         (Py_ssize_t)self->high_water);
}

PyObject *
stream_can_write_eof(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

PyObject *
stream_get_extra_info(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const char *const names[] = {"name", "default"};
    static const ArgsSpec spec = {"get_extra_info", names, 2, 1, 2};
    StreamObject *self = (StreamObject *)op;
    PyObject *given[2];
    if (args_parse(&spec, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    stream_release_held(self);
    PyObject *value = stream_extra_get(self, given[0]);
    if (value == NULL && !PyErr_Occurred()) {
        value = Py_NewRef(given[1] != NULL ? given[1] : Py_None);
    }
    return value;
}

/* ---- attributes that asyncio's helpers and libraries read ---------------------- */

PyObject *
stream_get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    StreamObject *self = (StreamObject *)op;
    return Py_NewRef(self->phase != STREAM_CLOSED ? (PyObject *)self->loop : Py_None);
}

PyObject *
stream_get_sock(PyObject *op, void *Py_UNUSED(closure))
{
    StreamObject *self = (StreamObject *)op;
    if (self->phase == STREAM_CLOSED) {
        Py_RETURN_NONE;
    }
    return Py_XNewRef(stream_socket(self));
}

PyObject *
stream_get_extra(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_XNewRef(stream_extra_all((StreamObject *)op));
}

PyObject *
stream_get_protocol_attr(PyObject *op, void *Py_UNUSED(closure))
{
    return stream_get_protocol(op, NULL);
}

PyObject *
stream_get_fd(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((StreamObject *)op)->fd);
}

PyObject *
stream_get_conn_lost(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((StreamObject *)op)->conn_lost);
}

PyObject *
stream_get_closing(PyObject *op, void *Py_UNUSED(closure))
{
    return stream_is_closing(op, NULL);
}

PyObject *
stream_get_flag(PyObject *op, void *closure)
{
    return PyBool_FromLong(*(bool *)((char *)op + (size_t)(uintptr_t)closure));
}

/* ---- life ---------------------------------------------------------------------- */

int
stream_traverse(PyObject *op, visitproc visit, void *arg)
{
    StreamObject *self = (StreamObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->loop);
    Py_VISIT(self->dict);
    Py_VISIT(self->protocol);
    Py_VISIT(self->context);
    Py_VISIT(self->sock);
    Py_VISIT(self->identity);
    Py_VISIT(self->server);
    Py_VISIT(self->extra);
    Py_VISIT(self->empty_waiter);
    for (size_t i = 0; i < STREAM_INHERITED; i++) {
        Py_VISIT(self->inherited[i]);
    }
    return 0; /* the queue holds exact bytes only */
}

int
stream_clear(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    LAST_USE(op, &self->loop->lock);
    stream_dispose_quietly(self);
    Py_CLEAR(self->dict);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->context);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->identity);
    Py_CLEAR(self->server);
    Py_CLEAR(self->extra);
    Py_CLEAR(self->empty_waiter);
    for (size_t i = 0; i < STREAM_INHERITED; i++) {
        Py_CLEAR(self->inherited[i]);
    }
    return 0; /* loop stays until dealloc: the state is its module's */
}

void
stream_finalize(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    LAST_USE(op, &self->loop->lock);
    if (self->phase == STREAM_CLOSED || self->fd < 0) {
        return;
    }
    PyObject *raised = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning(op, 1, "unclosed transport %R", op) < 0) {
        PyErr_WriteUnraisable(op);
    }
    stream_dispose_quietly(self);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

void
stream_dealloc(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* the warning's filter made it live on */
    }
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)stream_clear(op);
    LoopObject *loop = self->loop;
    if (loop != NULL) {
        RACY_ADD(loop->state->live_transports, -1);
    }
    PyMem_RawFree(self->names);
    MEMORY_ENDS(op);
    tp->tp_free(op);
    Py_DECREF(tp);
    Py_XDECREF(loop);
}

PyTypeObject *
stream_type_over(PyObject *module, PyType_Spec *spec, PyTypeObject *base)
{
    Py_ssize_t room = (Py_ssize_t)offsetof(StreamObject, dict);
    if (base->tp_basicsize > room) {
        PyErr_Format(PyExc_ImportError,
                     "pyloop does not know this version of %s (its instances take %zd "
                     "bytes, at most %zd were expected)",
                     base->tp_name, base->tp_basicsize, room);
        return NULL;
    }
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, (PyObject *)base);
}
