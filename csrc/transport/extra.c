/* extra.c - what get_extra_info() answers: socket, sockname, peername, and the caller's
 * (of a pipe, the caller's and the pipe object, which are in the dict from the start).
 *
 * asyncio computes all three for every connection; most are never asked for, so they are
 * made on demand, and what the kernel forgets when the descriptor closes is kept then.
 */
#include "transport/stream.h"

#include "base/call.h"
#include "loop/sockaddr.h"

#include <string.h>
#include <sys/socket.h>

PyObject *
stream_socket(StreamObject *self)
{
    if (self->sock != NULL) {
        return self->sock;
    }
    /* Closed before anybody asked: a socket object that is closed as well. */
    self->sock = sockets_lend(self->loop->state, &self->kind,
                              self->phase != STREAM_CLOSED ? self->fd : -1);
    return self->sock;
}

/* The address by the socket's method, None where the kernel gives none; new reference. */
static PyObject *
extra_ask_socket(StreamObject *self, PyObject *method)
{
    PyObject *sock = stream_socket(self);
    if (sock == NULL) {
        return NULL;
    }
    PyObject *address = call_method0(sock, method);
    if (address == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear(); /* as asyncio: not connected, or of no name, is None */
        address = Py_NewRef(Py_None);
    }
    return address;
}

static PyObject *
extra_sockname(StreamObject *self)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    memset(&address, 0, sizeof(address));
    if (!sockaddr_knows(self->kind.family)) {
        return extra_ask_socket(self, self->loop->state->str_getsockname);
    }
    if (getsockname(self->fd, (struct sockaddr *)&address, &length) < 0) {
        return Py_NewRef(Py_None);
    }
    return sockaddr_to_python(&address, length);
}

static PyObject *
extra_peername(StreamObject *self)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    memset(&address, 0, sizeof(address));
    if (!sockaddr_knows(self->kind.family)) {
        return extra_ask_socket(self, self->loop->state->str_getpeername);
    }
    if (self->peer.sin6_family != 0) {
        memcpy(&address, &self->peer, sizeof(self->peer));
        length = self->kind.family == AF_INET ? (socklen_t)sizeof(struct sockaddr_in)
                                              : (socklen_t)sizeof(struct sockaddr_in6);
        return sockaddr_to_python(&address, length);
    }
    if (getpeername(self->fd, (struct sockaddr *)&address, &length) < 0) {
        return Py_NewRef(Py_None);
    }
    return sockaddr_to_python(&address, length);
}

static PyObject *
extra_transport_socket(StreamObject *self)
{
    PyObject *sock = stream_socket(self);
    return sock != NULL ? PyObject_CallOneArg(self->loop->state->TransportSocket, sock)
                        : NULL;
}

/* Makes the answer to one of the three names: new reference, or NULL. */
static PyObject *
extra_make(StreamObject *self, PyObject *name)
{
    PyloopState *state = self->loop->state;
    if (name == state->str_socket) {
        return extra_transport_socket(self);
    }
    if (self->phase == STREAM_CLOSED || !stream_owns_fd(self)) {
        return Py_NewRef(Py_None); /* nobody can say any more */
    }
    return name == state->str_sockname ? extra_sockname(self) : extra_peername(self);
}

/* The interned name that a user's str is equal to, or NULL. */
static PyObject *
extra_known_name(PyloopState *state, PyObject *name)
{
    PyObject *known[3] = {state->str_socket, state->str_sockname, state->str_peername};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(known); i++) {
        if (name == known[i] ||
            (PyUnicode_Check(name) && PyUnicode_Compare(name, known[i]) == 0)) {
            return known[i];
        }
    }
    return NULL;
}

PyObject *
stream_extra_get(StreamObject *self, PyObject *name)
{
    if (self->extra != NULL) {
        PyObject *value;
        if (PyDict_GetItemRef(self->extra, name, &value) != 0) {
            return value;
        }
    }
    PyObject *known =
        self->ops->is_socket ? extra_known_name(self->loop->state, name) : NULL;
    if (known == NULL) {
        return NULL;
    }
    if (self->extra == NULL) {
        self->extra = PyDict_New();
        if (self->extra == NULL) {
            return NULL;
        }
    }
    PyObject *value = extra_make(self, known);
    if (value != NULL && PyDict_SetItem(self->extra, known, value) < 0) {
        Py_CLEAR(value);
    }
    return value;
}

PyObject *
stream_extra_all(StreamObject *self)
{
    PyloopState *state = self->loop->state;
    PyObject *names[3] = {state->str_socket, state->str_sockname, state->str_peername};
    for (size_t i = 0; self->ops->is_socket && i < Py_ARRAY_LENGTH(names); i++) {
        PyObject *value = stream_extra_get(self, names[i]);
        if (value == NULL) {
            return NULL;
        }
        Py_DECREF(value);
    }
    return self->extra;
}

void
stream_extra_keep(StreamObject *self)
{
    PyloopState *state = self->loop->state;
    PyObject *names[2] = {state->str_sockname, state->str_peername};
    for (size_t i = 0; self->ops->is_socket && i < Py_ARRAY_LENGTH(names); i++) {
        /* No names any more: the interpreter is shutting down. */
        PyObject *value = names[i] != NULL ? stream_extra_get(self, names[i]) : NULL;
        if (value == NULL && PyErr_Occurred()) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(value);
    }
}
