/* sockets.c - see sockets.h. */
#include "loop/sockets.h"

#include "base/call.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* An attribute's value (stolen, may be NULL) as a number. 0, or -1 with an exception. */
static int
sockets_take_number(PyObject *value, int *number)
{
    long result = value != NULL ? PyLong_AsLong(value) : -1;
    Py_XDECREF(value);
    *number = (int)result;
    return result == -1 && PyErr_Occurred() ? -1 : 0;
}

static int
sockets_number(PyObject *sock, PyObject *name, int *number)
{
    return sockets_take_number(PyObject_GetAttr(sock, name), number);
}

int
sockets_attribute(PyObject *sock, PyObject *descriptor, int *number)
{
    return sockets_take_number(
        Py_TYPE(descriptor)->tp_descr_get(descriptor, sock, NULL), number);
}

int
sockets_kind(PyloopState *state, PyObject *sock, SocketKind *kind)
{
    if ((PyObject *)Py_TYPE(sock) == state->SocketType) {
        return sockets_attribute(sock, state->socket_family, &kind->family) < 0 ||
                       sockets_attribute(sock, state->socket_type, &kind->type) < 0
                   ? -1
                   : sockets_attribute(sock, state->socket_proto, &kind->proto);
    }
    if (sockets_number(sock, state->str_family, &kind->family) < 0 ||
        sockets_number(sock, state->str_type, &kind->type) < 0) {
        return -1;
    }
    return sockets_number(sock, state->str_proto, &kind->proto);
}

PyObject *
sockets_leave(PyloopState *state, PyObject *loop, PyObject *sock, PyObject *name,
              PyObject *const *args, size_t nargs)
{
    enum { MOST = 8 };
    PyObject *values[1 + MOST] = {loop};
    if (Py_IS_TYPE(sock, (PyTypeObject *)state->SocketType)) {
        return Py_NewRef(Py_None);
    }
    assert(nargs <= MOST);
    for (size_t i = 0; i < nargs; i++) {
        values[1 + i] = args[i] != NULL ? args[i] : Py_None;
    }
    return call_method(name, values, 1 + nargs);
}

static PyObject *
sockets_make(PyObject *cls, const SocketKind *kind, int fd)
{
    int type = kind->type;
#ifdef SOCK_NONBLOCK
    type |= SOCK_NONBLOCK; /* the constructor takes it for "the timeout is 0" */
#endif
    if (fd >= 0) {
        return PyObject_CallFunction(cls, "iiii", kind->family, type, kind->proto, fd);
    }
    PyObject *sock = PyObject_CallFunction(cls, "iii", kind->family, type, kind->proto);
    PyObject *closed = sock != NULL ? PyObject_CallMethod(sock, "close", NULL) : NULL;
    if (closed == NULL) {
        Py_CLEAR(sock);
    }
    Py_XDECREF(closed);
    return sock;
}

PyObject *
sockets_wrap(PyloopState *state, const SocketKind *kind, int fd)
{
    PyObject *cls = PyObject_GetAttr(state->socket_module, state->str_socket);
    PyObject *sock = cls != NULL ? sockets_make(cls, kind, fd) : NULL;
    /* Another class may have taken the descriptor before it failed. */
    if (sock == NULL && (cls == NULL || cls == state->SocketType)) {
        (void)close(fd);
    }
    Py_XDECREF(cls);
    return sock;
}

PyObject *
sockets_lend(PyloopState *state, const SocketKind *kind, int fd)
{
    return sockets_make(state->SocketType, kind, fd);
}

/* The first field of every socket object. No header says so: hence the look at one. */
enum { SOCK_FD_OFFSET = sizeof(PyObject) };

static int
sockets_stored_fd(PyObject *sock, Py_ssize_t offset)
{
    return *(const int *)((const char *)sock + offset);
}

int
sockets_init(PyloopState *state)
{
    PyObject *sock = PyObject_CallNoArgs(state->BaseSocketType);
    if (sock == NULL) {
        PyErr_Clear(); /* no sockets to be had just now: ask fileno() each time */
        return 0;
    }
    PyObject *fd = PyObject_CallMethodNoArgs(sock, state->str_fileno);
    long open_fd = fd != NULL ? PyLong_AsLong(fd) : -1;
    Py_XDECREF(fd);
    bool found = open_fd >= 0 && sockets_stored_fd(sock, SOCK_FD_OFFSET) == open_fd;
    PyObject *closed = open_fd >= 0 ? call_method0(sock, state->str_close) : NULL;
    found = found && closed != NULL && sockets_stored_fd(sock, SOCK_FD_OFFSET) == -1;
    Py_DECREF(sock);
    if (closed == NULL) {
        return -1;
    }
    Py_DECREF(closed);
    state->sock_fd_offset = found ? SOCK_FD_OFFSET : 0;
    return 0;
}

const int *
sockets_fd_field(PyloopState *state, PyObject *sock)
{
    return state->sock_fd_offset > 0 &&
                   PyObject_TypeCheck(sock, (PyTypeObject *)state->BaseSocketType)
               ? (const int *)((const char *)sock + state->sock_fd_offset)
               : NULL;
}

bool
sockets_is(PyloopState *state, PyObject *sock, int fd)
{
    const int *field = sockets_fd_field(state, sock);
    if (field != NULL) {
        return *field == fd;
    }
    if (state->str_fileno == NULL) { /* no names any more: the interpreter shuts down */
        return false;
    }
    PyObject *number = PyObject_CallMethodNoArgs(sock, state->str_fileno);
    long value = number != NULL ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    if (PyErr_Occurred()) {
        PyErr_Clear(); /* it is not open, then */
    }
    return value == fd;
}

#ifndef SOCK_NONBLOCK
/* Makes fd (-1: none, with errno) non-blocking and not inherited. fd, or -1 with errno and
 * fd closed. */
static int
sockets_set_flags(int fd)
{
    if (fd >= 0 &&
        (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)) {
        int err = errno;
        (void)close(fd);
        errno = err;
        return -1;
    }
    return fd;
}
#endif

int
sockets_open(const SocketKind *kind)
{
#ifdef SOCK_NONBLOCK
    return socket(kind->family, kind->type | SOCK_NONBLOCK | SOCK_CLOEXEC, kind->proto);
#else
    return sockets_set_flags(socket(kind->family, kind->type, kind->proto));
#endif
}

int
sockets_accept(int fd, struct sockaddr_storage *address, socklen_t *length)
{
    int accepted;
    memset(address, 0, sizeof(*address));
    do {
        *length = sizeof(*address);
#ifdef SOCK_NONBLOCK
        accepted = accept4(fd, (struct sockaddr *)address, length,
                           SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
        accepted = accept(fd, (struct sockaddr *)address, length);
#endif
    } while (accepted < 0 && errno == EINTR);
#ifdef SOCK_NONBLOCK
    return accepted;
#else
    return sockets_set_flags(accepted);
#endif
}

/* ---- boxes ------------------------------------------------------------------------- */

static const char box_name[] = "pyloop.socket";

typedef struct {
    SocketKind kind;
    int fd; /* -1: taken */
} SocketBox;

static void
sockets_drop_box(PyObject *capsule)
{
    SocketBox *box = PyCapsule_GetPointer(capsule, box_name);
    if (box->fd >= 0) {
        (void)close(box->fd); /* nothing to be done about EIO */
    }
    PyMem_RawFree(box);
}

PyObject *
sockets_box(const SocketKind *kind, int fd)
{
    SocketBox *box = PyMem_RawMalloc(sizeof(*box));
    if (box == NULL) {
        return PyErr_NoMemory();
    }
    *box = (SocketBox){*kind, -1};
    PyObject *capsule = PyCapsule_New(box, box_name, sockets_drop_box);
    if (capsule == NULL) {
        PyMem_RawFree(box);
        return NULL;
    }
    box->fd = fd;
    return capsule;
}

bool
sockets_is_box(PyObject *object)
{
    return PyCapsule_IsValid(object, box_name);
}

int
sockets_unbox(PyObject *object, SocketKind *kind)
{
    SocketBox *box = PyCapsule_GetPointer(object, box_name);
    int fd = box->fd;
    *kind = box->kind;
    box->fd = -1;
    return fd;
}
