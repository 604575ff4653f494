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

/* What the kernel says, or the peer's address that accept() said. */
static void
extra_ask_kernel(const StreamObject *self, bool peer, StreamAddress *address)
{
    memset(address, 0, sizeof(*address));
    if (peer && self->peer.sin6_family != 0) {
        memcpy(&address->storage, &self->peer, sizeof(self->peer));
        address->length = self->kind.family == AF_INET
                              ? (socklen_t)sizeof(struct sockaddr_in)
                              : (socklen_t)sizeof(struct sockaddr_in6);
        address->known = true;
        return;
    }
    struct sockaddr *place = (struct sockaddr *)&address->storage;
    address->length = sizeof(address->storage);
    address->known = (peer ? getpeername(self->fd, place, &address->length)
                           : getsockname(self->fd, place, &address->length)) == 0;
}

/* The peer's address or our own; new reference. */
static PyObject *
extra_address(StreamObject *self, bool peer)
{
    PyloopState *state = self->loop->state;
    if (!sockaddr_knows(self->kind.family)) {
        return extra_ask_socket(self,
                                peer ? state->str_getpeername : state->str_getsockname);
    }
    StreamAddress asked;
    const StreamAddress *address = &asked;
    if (self->names != NULL) {
        address = &self->names[peer];
    }
    else {
        extra_ask_kernel(self, peer, &asked);
    }
    return address->known ? sockaddr_to_python(&address->storage, address->length)
                          : Py_NewRef(Py_None);
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
    if (self->names == NULL &&
        (self->phase == STREAM_CLOSED || !stream_owns_fd(self))) {
        return Py_NewRef(Py_None); /* nobody can say any more */
    }
    return extra_address(self, name == state->str_peername);
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

/* Of an address family whose addresses only Python knows. */
static void
extra_keep_python(StreamObject *self)
{
    PyloopState *state = self->loop->state;
    PyObject *names[2] = {state->str_sockname, state->str_peername};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(names); i++) {
        /* No names any more: the interpreter is shutting down. */
        PyObject *value = names[i] != NULL ? stream_extra_get(self, names[i]) : NULL;
        if (value == NULL && PyErr_Occurred()) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(value);
    }
}

void
stream_extra_keep(StreamObject *self)
{
    if (!self->ops->is_socket || self->names != NULL || !stream_owns_fd(self)) {
        return;
    }
    if (!sockaddr_knows(self->kind.family)) {
        extra_keep_python(self);
        return;
    }
    StreamAddress *names = PyMem_RawMalloc(2 * sizeof(*names));
    if (names == NULL) {
        PyErr_NoMemory();
        PyErr_WriteUnraisable((PyObject *)self);
        return;
    }
    extra_ask_kernel(self, false, &names[0]);
    extra_ask_kernel(self, true, &names[1]);
    self->names = names;
}
