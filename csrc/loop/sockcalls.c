/* sockcalls.c - one attempt of each sock_* operation: the system call, its arguments and
 * its result.
 *
 * Every call is made with MSG_DONTWAIT on the number that sock.fileno() gives now, so a
 * socket closed meanwhile fails with EBADF and a blocking one does not block the loop.
 * Buffers are taken for the attempt only; what sendall sends is held over its waits.
 */
#include "loop/sockops.h"

#include "base/call.h"
#include "base/errors.h"
#include "loop/sockaddr.h"
#include "loop/sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS; Python ignores SIGPIPE anyway */
#endif

/* ---- what the attempts share -------------------------------------------------- */

int
sockcall_refresh_fd(SockOpObject *self)
{
    PyObject *number = call_method0(self->sock, self->coro.loop->state->str_fileno);
    if (number == NULL) {
        return -1;
    }
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    if (fd == -1 && PyErr_Occurred()) {
        return -1;
    }
    self->fd = (int)fd;
    return 0;
}

/* After a failed call: CORO_WAIT when it would block, else CORO_ERROR with OSError. */
static CoroStatus
sockcall_failed(int err)
{
    if (err == EAGAIN || err == EWOULDBLOCK) {
        return CORO_WAIT;
    }
    (void)errors_raise_errno(err);
    return CORO_ERROR;
}

/* self->args[0] as a number of bytes. 0, or -1 with what sock.recv() raises. */
static int
sockcall_size(SockOpObject *self, const char *function, Py_ssize_t *size)
{
    PyObject *number = PyNumber_Index(self->args[0]);
    if (number == NULL) {
        return -1;
    }
    *size = PyLong_AsSsize_t(number);
    Py_DECREF(number);
    if (*size == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (*size < 0) {
        PyErr_Format(PyExc_ValueError, "negative buffersize in %s", function);
        return -1;
    }
    return 0;
}

/* self->args[0] as a writable buffer. 0, or -1 with what sock.recv_into() raises. */
static int
sockcall_writable(SockOpObject *self, const char *function, Py_buffer *view)
{
    if (PyObject_GetBuffer(self->args[0], view, PyBUF_WRITABLE) == 0) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "%s() argument 1 must be read-write bytes-like object, not %.50s",
                 function, Py_TYPE(self->args[0])->tp_name);
    return -1;
}

/* 1 when the socket is native and its addresses are known here, 0, or -1. */
static int
sockcall_knows_family(SockOpObject *self, int *family)
{
    if (!self->native) {
        return 0;
    }
    if (sockets_attribute(self->sock, self->coro.loop->state->socket_family, family) <
        0) {
        return -1;
    }
    return sockaddr_knows(*family);
}

/* What a method of a socket's returned, for sockets that are not native: bytes, a number of
 * them, or either with an address. How many bytes. */
static size_t
sockcall_bytes_in(PyObject *result)
{
    if (PyTuple_Check(result) && PyTuple_GET_SIZE(result) > 0) {
        result = PyTuple_GET_ITEM(result, 0);
    }
    if (PyBytes_Check(result)) {
        return (size_t)PyBytes_GET_SIZE(result);
    }
    Py_ssize_t n = PyLong_CheckExact(result) ? PyLong_AsSsize_t(result) : 0;
    if (n == -1 && PyErr_Occurred()) {
        PyErr_Clear(); /* nobody has so many */
    }
    return n > 0 ? (size_t)n : 0;
}

/* The socket's own method. */
static CoroStatus
sockcall_receive_method(SockOpObject *self, PyObject *name, size_t nargs,
                        PyObject **result)
{
    CoroStatus status = sockop_call(self, name, self->args, nargs, result);
    if (status == CORO_RETURN) {
        metrics_count_in(&self->coro.loop->metrics, sockcall_bytes_in(*result));
    }
    return status;
}

/* recv(2), or recvfrom(2) when storage is given. */
static ssize_t
sockcall_receive(SockOpObject *self, void *buffer, size_t size,
                 struct sockaddr_storage *storage, socklen_t *length)
{
    ssize_t received;
    if (storage != NULL) {
        memset(storage, 0, sizeof(*storage));
        *length = sizeof(*storage);
    }
    do {
        received = recvfrom(self->fd, buffer, size, MSG_DONTWAIT,
                            (struct sockaddr *)storage, length);
    } while (received < 0 && errno == EINTR);
    if (received > 0 || (received == 0 && storage != NULL)) {
        metrics_count_in(&self->coro.loop->metrics, (size_t)received);
    }
    return received;
}

/* For an n beyond the scratch buffer: no more than a stream has now, if that fits it. A
 * large allocation for nothing costs more than the rest of the call. */
static int
sockcall_limit_size(SockOpObject *self, Py_ssize_t *size)
{
    int type, available = 0;
    if (sockets_attribute(self->sock, self->coro.loop->state->socket_type, &type) < 0) {
        return -1;
    }
    if (type == SOCK_STREAM && ioctl(self->fd, FIONREAD, &available) == 0) {
        *size = Py_MIN(*size, Py_MAX((Py_ssize_t)available, SCRATCH_SIZE));
    }
    return 0;
}

/* Receives up to size bytes into a new bytes object. */
static CoroStatus
sockcall_receive_bytes(SockOpObject *self, Py_ssize_t size,
                       struct sockaddr_storage *storage, socklen_t *length,
                       PyObject **result)
{
    if (size > SCRATCH_SIZE && sockcall_limit_size(self, &size) < 0) {
        return CORO_ERROR;
    }
    /* What fits the scratch buffer is received there and copied: measured, a copy of 200
     * kB costs a quarter of the page faults of a fresh buffer. */
    bool direct = size > SCRATCH_SIZE;
    PyObject *bytes = direct ? PyBytes_FromStringAndSize(NULL, size) : NULL;
    char *buffer = direct ? (bytes != NULL ? PyBytes_AS_STRING(bytes) : NULL)
                          : loop_scratch(self->coro.loop);
    if (buffer == NULL) {
        return CORO_ERROR;
    }
    ssize_t received = sockcall_receive(self, buffer, (size_t)size, storage, length);
    if (received < 0) {
        int err = errno;
        Py_XDECREF(bytes);
        return sockcall_failed(err);
    }
    if (!direct) {
        bytes = PyBytes_FromStringAndSize(buffer, received);
    }
    else if (received < size) {
        (void)_PyBytes_Resize(&bytes, received); /* on failure bytes is NULL */
    }
    *result = bytes;
    return bytes != NULL ? CORO_RETURN : CORO_ERROR;
}

/* first (stolen, may be NULL) and the address as a pair. */
static CoroStatus
sockcall_pair_steal(PyObject *first, const struct sockaddr_storage *storage,
                    socklen_t length, PyObject **result)
{
    PyObject *address = first != NULL ? sockaddr_to_python(storage, length) : NULL;
    if (address == NULL) {
        Py_XDECREF(first);
        return CORO_ERROR;
    }
    *result = PyTuple_Pack(2, first, address);
    Py_DECREF(first);
    Py_DECREF(address);
    return *result != NULL ? CORO_RETURN : CORO_ERROR;
}

/* ---- receiving ------------------------------------------------------------------ */

CoroStatus
sockcall_recv(SockOpObject *self, PyObject **result)
{
    Py_ssize_t size;
    if (!self->native) {
        return sockcall_receive_method(self, self->coro.loop->state->str_recv, 1,
                                       result);
    }
    if (sockcall_size(self, "recv", &size) < 0 || sockcall_refresh_fd(self) < 0) {
        return CORO_ERROR;
    }
    if (size == 0) { /* as socket.recv(0): there is nothing to wait for */
        *result = PyBytes_FromStringAndSize(NULL, 0);
        return *result != NULL ? CORO_RETURN : CORO_ERROR;
    }
    return sockcall_receive_bytes(self, size, NULL, NULL, result);
}

CoroStatus
sockcall_recv_into(SockOpObject *self, PyObject **result)
{
    Py_buffer view;
    if (!self->native) {
        return sockcall_receive_method(self, self->coro.loop->state->str_recv_into, 1,
                                       result);
    }
    if (sockcall_refresh_fd(self) < 0 ||
        sockcall_writable(self, "recv_into", &view) < 0) {
        return CORO_ERROR;
    }
    ssize_t received = 0; /* into no room: as socket.recv_into(), nothing to wait for */
    int err = 0;
    if (view.len > 0) {
        received = sockcall_receive(self, view.buf, (size_t)view.len, NULL, NULL);
        err = errno;
    }
    PyBuffer_Release(&view);
    if (received < 0) {
        return sockcall_failed(err);
    }
    *result = PyLong_FromSsize_t(received);
    return *result != NULL ? CORO_RETURN : CORO_ERROR;
}

CoroStatus
sockcall_recvfrom(SockOpObject *self, PyObject **result)
{
    struct sockaddr_storage storage;
    socklen_t length;
    Py_ssize_t size;
    PyObject *data = NULL;
    int family;
    int known = sockcall_knows_family(self, &family);
    if (known == 0) {
        return sockcall_receive_method(self, self->coro.loop->state->str_recvfrom, 1,
                                       result);
    }
    if (known < 0 || sockcall_size(self, "recvfrom", &size) < 0 ||
        sockcall_refresh_fd(self) < 0) {
        return CORO_ERROR;
    }
    CoroStatus status = sockcall_receive_bytes(self, size, &storage, &length, &data);
    return status == CORO_RETURN ? sockcall_pair_steal(data, &storage, length, result)
                                 : status;
}

/* Puts the number of bytes to receive, all of the buffer's for 0, in args[1]. 0, or -1. */
static int
sockcall_settle_nbytes(SockOpObject *self)
{
    int given = self->args[1] != NULL ? PyObject_IsTrue(self->args[1]) : 0;
    if (given != 0) {
        return given < 0 ? -1 : 0;
    }
    Py_ssize_t size = PyObject_Size(self->args[0]);
    PyObject *nbytes = size >= 0 ? PyLong_FromSsize_t(size) : NULL;
    if (nbytes == NULL) {
        return -1;
    }
    Py_XSETREF(self->args[1], nbytes);
    return 0;
}

/* How much of view to fill. 0, or -1 with what sock.recvfrom_into() raises. */
static int
sockcall_room(SockOpObject *self, const Py_buffer *view, Py_ssize_t *room)
{
    PyObject *number = PyNumber_Index(self->args[1]);
    if (number == NULL) {
        return -1;
    }
    *room = PyLong_AsSsize_t(number);
    Py_DECREF(number);
    if (*room == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (*room < 0 || *room > view->len) {
        PyErr_SetString(PyExc_ValueError,
                        *room < 0 ? "negative buffersize in recvfrom_into"
                                  : "nbytes is greater than the length of the buffer");
        return -1;
    }
    return 0;
}

CoroStatus
sockcall_recvfrom_into(SockOpObject *self, PyObject **result)
{
    struct sockaddr_storage storage;
    socklen_t length;
    Py_buffer view;
    Py_ssize_t room;
    int family;
    if (sockcall_settle_nbytes(self) < 0) {
        return CORO_ERROR;
    }
    int known = sockcall_knows_family(self, &family);
    if (known == 0) {
        return sockcall_receive_method(self, self->coro.loop->state->str_recvfrom_into,
                                       2, result);
    }
    if (known < 0 || sockcall_refresh_fd(self) < 0 ||
        sockcall_writable(self, "recvfrom_into", &view) < 0) {
        return CORO_ERROR;
    }
    ssize_t received = -1;
    int err = 0;
    int rc = sockcall_room(self, &view, &room);
    if (rc == 0) {
        received = sockcall_receive(self, view.buf, (size_t)room, &storage, &length);
        err = errno;
    }
    PyBuffer_Release(&view);
    if (rc < 0) {
        return CORO_ERROR;
    }
    if (received < 0) {
        return sockcall_failed(err);
    }
    return sockcall_pair_steal(PyLong_FromSsize_t(received), &storage, length, result);
}

/* ---- sending -------------------------------------------------------------------- */

/* sock.send() of what is left, for sockets that are not native. *count is the number of
 * bytes sent when it is CORO_RETURN. */
static CoroStatus
sockcall_send_method(SockOpObject *self, Py_ssize_t *count)
{
    PyObject *rest = Py_NewRef(self->args[0]);
    PyObject *sent = NULL;
    if (self->holds_data) {
        Py_SETREF(rest, PySequence_GetSlice(rest, self->sent, PY_SSIZE_T_MAX));
        if (rest == NULL) {
            return CORO_ERROR;
        }
    }
    CoroStatus status =
        sockop_call(self, self->coro.loop->state->str_send, &rest, 1, &sent);
    Py_DECREF(rest);
    if (status != CORO_RETURN) {
        return status;
    }
    *count = PyNumber_AsSsize_t(sent, PyExc_OverflowError);
    Py_DECREF(sent);
    return *count == -1 && PyErr_Occurred() ? CORO_ERROR : CORO_RETURN;
}

/* The same by send(2). */
static CoroStatus
sockcall_send_native(SockOpObject *self, const Py_buffer *view, Py_ssize_t *count)
{
    if (sockcall_refresh_fd(self) < 0) {
        return CORO_ERROR;
    }
    do {
        *count = send(self->fd, (const char *)view->buf + self->sent,
                      (size_t)(view->len - self->sent), MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (*count < 0 && errno == EINTR);
    return *count < 0 ? sockcall_failed(errno) : CORO_RETURN;
}

/* From the first wait on, the data may not be resized, and are bytes. 0, or -1. */
static int
sockcall_hold_data(SockOpObject *self)
{
    if (self->holds_data) {
        return 0;
    }
    PyObject *view = PyMemoryView_FromObject(self->args[0]);
    if (view != NULL) {
        Py_SETREF(view, PyObject_CallMethod(view, "cast", "s", "B"));
    }
    if (view == NULL) {
        return -1;
    }
    Py_SETREF(self->args[0], view);
    self->holds_data = true;
    return 0;
}

CoroStatus
sockcall_sendall(SockOpObject *self, PyObject **result)
{
    Py_buffer view;
    Py_ssize_t count = 0;
    if (PyObject_GetBuffer(self->args[0], &view, PyBUF_SIMPLE) < 0) {
        return CORO_ERROR;
    }
    CoroStatus status = self->native ? sockcall_send_native(self, &view, &count)
                                     : sockcall_send_method(self, &count);
    if (status == CORO_RETURN) {
        self->sent += count;
        metrics_count_out(&self->coro.loop->metrics, (size_t)Py_MAX(count, 0));
    }
    bool all = self->sent >= view.len;
    PyBuffer_Release(&view);
    if (status == CORO_ERROR) {
        return CORO_ERROR;
    }
    if (all) {
        *result = Py_NewRef(Py_None);
        return CORO_RETURN;
    }
    /* After a part was taken there is no room now: another attempt would be in vain. */
    return sockcall_hold_data(self) == 0 ? CORO_WAIT : CORO_ERROR;
}

CoroStatus
sockcall_sendto(SockOpObject *self, PyObject **result)
{
    struct sockaddr_storage storage;
    socklen_t length;
    Py_buffer view;
    int family;
    int known = sockcall_knows_family(self, &family);
    if (known > 0) {
        known = sockaddr_from_python(family, self->args[1], &storage, &length);
    }
    if (known == 0) {
        CoroStatus status = sockop_call(self, self->coro.loop->state->str_sendto,
                                        self->args, 2, result);
        if (status == CORO_RETURN) {
            metrics_count_out(&self->coro.loop->metrics, sockcall_bytes_in(*result));
        }
        return status;
    }
    if (known < 0 || sockcall_refresh_fd(self) < 0 ||
        PyObject_GetBuffer(self->args[0], &view, PyBUF_SIMPLE) < 0) {
        return CORO_ERROR;
    }
    ssize_t sent = -1;
    int err = 0;
    int rc = PySys_Audit("socket.sendto", "OO", self->sock, self->args[1]);
    if (rc == 0) {
        do {
            sent = sendto(self->fd, view.buf, (size_t)view.len,
                          MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&storage,
                          length);
            err = errno;
        } while (sent < 0 && err == EINTR);
    }
    PyBuffer_Release(&view);
    if (rc < 0) {
        return CORO_ERROR;
    }
    if (sent < 0) {
        return sockcall_failed(err);
    }
    metrics_count_out(&self->coro.loop->metrics, (size_t)sent);
    *result = PyLong_FromSsize_t(sent);
    return *result != NULL ? CORO_RETURN : CORO_ERROR;
}

/* ---- accepting ------------------------------------------------------------------- */

/* sock.setblocking(False). 0, or -1. */
static int
sockcall_set_nonblocking(SockOpObject *self, PyObject *sock)
{
    PyObject *set =
        call_method1(sock, self->coro.loop->state->str_setblocking, Py_False);
    Py_XDECREF(set);
    return set != NULL ? 0 : -1;
}

/* A Python socket of the listening one's kind. Owns fd. */
static PyObject *
sockcall_make_socket(SockOpObject *self, int family, int fd)
{
    PyloopState *state = self->coro.loop->state;
    SocketKind kind = {.family = family};
    if (sockets_attribute(self->sock, state->socket_type, &kind.type) < 0 ||
        sockets_attribute(self->sock, state->socket_proto, &kind.proto) < 0) {
        (void)close(fd);
        return NULL;
    }
    return sockets_wrap(state, &kind, fd);
}

/* sock.accept() and setblocking(False), as asyncio. */
static CoroStatus
sockcall_accept_method(SockOpObject *self, PyObject **result)
{
    CoroStatus status =
        sockop_call(self, self->coro.loop->state->str_accept, self->args, 0, result);
    if (status != CORO_RETURN) {
        return status;
    }
    PyObject *connection = PySequence_GetItem(*result, 0);
    int rc = connection != NULL ? sockcall_set_nonblocking(self, connection) : -1;
    Py_XDECREF(connection);
    if (rc < 0) {
        Py_CLEAR(*result);
        return CORO_ERROR;
    }
    return CORO_RETURN;
}

CoroStatus
sockcall_accept(SockOpObject *self, PyObject **result)
{
    struct sockaddr_storage storage = {0};
    socklen_t length;
    int family;
    int known = sockcall_knows_family(self, &family);
    if (known == 0) {
        return sockcall_accept_method(self, result);
    }
    if (known < 0 || sockcall_refresh_fd(self) < 0) {
        return CORO_ERROR;
    }
    int fd = sockets_accept(self->fd, &storage, &length);
    if (fd < 0) {
        return sockcall_failed(errno);
    }
    PyObject *sock = sockcall_make_socket(self, family, fd);
#ifndef SOCK_NONBLOCK
    if (sock != NULL && sockcall_set_nonblocking(self, sock) < 0) {
        Py_CLEAR(sock);
    }
#endif
    return sockcall_pair_steal(sock, &storage, length, result);
}

/* ---- connecting ------------------------------------------------------------------ */

/* Whether sock.gettimeout() is 0: with another a native call would block. 1, 0, or -1. */
static int
sockcall_is_nonblocking(SockOpObject *self)
{
    PyObject *timeout =
        call_method0(self->sock, self->coro.loop->state->str_gettimeout);
    if (timeout == NULL) {
        return -1;
    }
    int zero = PyFloat_CheckExact(timeout) && PyFloat_AS_DOUBLE(timeout) == 0.0;
    Py_DECREF(timeout);
    return zero;
}

CoroStatus
sockcall_connect_to(SockOpObject *self, const struct sockaddr *address,
                    socklen_t length)
{
    if (connect(self->fd, address, length) == 0) {
        return CORO_RETURN;
    }
    /* Interrupted, it goes on by itself, as when it would block. */
    return errno == EINPROGRESS || errno == EALREADY || errno == EINTR
               ? CORO_WAIT
               : sockcall_failed(errno);
}

CoroStatus
sockcall_connect(SockOpObject *self, PyObject **result)
{
    struct sockaddr_storage storage;
    socklen_t length;
    int family;
    int known = sockcall_knows_family(self, &family);
    if (known > 0) {
        known = sockaddr_from_python(family, self->args[0], &storage, &length)
                    ? sockcall_is_nonblocking(self)
                    : 0;
    }
    if (known == 0) {
        return sockop_call(self, self->coro.loop->state->str_connect, self->args, 1,
                           result);
    }
    if (known < 0 || sockcall_refresh_fd(self) < 0 ||
        PySys_Audit("socket.connect", "OO", self->sock, self->args[0]) < 0) {
        return CORO_ERROR;
    }
    CoroStatus status =
        sockcall_connect_to(self, (const struct sockaddr *)&storage, length);
    *result = status == CORO_RETURN ? Py_NewRef(Py_None) : NULL;
    return status;
}

CoroStatus
sockcall_pending_error(SockOpObject *self, int *err)
{
    if (self->native) {
        socklen_t length = sizeof(*err);
        if (sockcall_refresh_fd(self) < 0) {
            return CORO_ERROR;
        }
        return getsockopt(self->fd, SOL_SOCKET, SO_ERROR, err, &length) == 0
                   ? CORO_RETURN
                   : sockcall_failed(errno);
    }
    PyObject *option[2] = {PyLong_FromLong(SOL_SOCKET), PyLong_FromLong(SO_ERROR)};
    PyObject *number = NULL;
    CoroStatus status = CORO_ERROR;
    if (option[0] != NULL && option[1] != NULL) {
        status = sockop_call(self, self->coro.loop->state->str_getsockopt, option, 2,
                             &number);
    }
    Py_XDECREF(option[0]);
    Py_XDECREF(option[1]);
    if (status == CORO_RETURN) {
        *err = (int)PyLong_AsLong(number);
        Py_DECREF(number);
        status = *err == -1 && PyErr_Occurred() ? CORO_ERROR : CORO_RETURN;
    }
    return status;
}
