/* sockets.h - between descriptors and Python's socket objects. */
#ifndef PYLOOP_LOOP_SOCKETS_H
#define PYLOOP_LOOP_SOCKETS_H

#include "base/compat.h"

#include "base/state.h"

#include <sys/socket.h>

typedef struct {
    int family, type, proto;
} SocketKind;

/* An int attribute of a _socket.socket by the base class's descriptor (state->socket_*):
 * the properties of socket.socket would make an enum member of it, which costs more than
 * a system call. 0, or -1 with an exception. */
int sockets_attribute(PyObject *sock, PyObject *descriptor, int *number);

/* What a Python socket says of itself. 0, or -1 with its error. */
int sockets_kind(PyloopState *state, PyObject *sock, SocketKind *kind);

/* socket.socket(family, type, proto, fd) with timeout 0, of the class that the socket
 * module has now, as socket.accept() takes it. Owns fd, which is closed on failure. New
 * reference, or NULL. */
PyObject *sockets_wrap(PyloopState *state, const SocketKind *kind, int fd);

/* The same, of socket.socket itself; a failure leaves fd open, the caller's. -1 makes a
 * socket that is closed. */
PyObject *sockets_lend(PyloopState *state, const SocketKind *kind, int fd);

/* A socket that is not exactly a socket.socket may have methods of its own, which asyncio's
 * transports call: asks loop.name(*args), whose arguments (NULL: not given) have sock among
 * them, to make what serves it (pyloop/_selector.py). New reference to that; to None where
 * it is for us; or NULL. */
PyObject *sockets_leave(PyloopState *state, PyObject *loop, PyObject *sock,
                        PyObject *name, PyObject *const *args, size_t nargs);

/* socket(2): non-blocking and not inherited; -1 with errno. */
int sockets_open(const SocketKind *kind);

/* An object that owns fd, and closes it unless it is taken out of it: for who has to hand
 * a socket through Python code that does not look at it. New reference; NULL leaves fd
 * open, the caller's. */
PyObject *sockets_box(const SocketKind *kind, int fd);
bool sockets_is_box(PyObject *object);
/* The descriptor, the caller's from now on; -1 when it was taken before. */
int sockets_unbox(PyObject *box, SocketKind *kind);

/* Looks up where a socket object keeps its descriptor, for sockets_is. 0, or -1. */
int sockets_init(PyloopState *state);

/* Is sock still open, as this descriptor? Whoever closes a socket object behind the back
 * of its user frees the number, which another file may have by now. No system call, and
 * for socket objects no call at all. Clears what a strange fileno() raises. */
bool sockets_is(PyloopState *state, PyObject *sock, int fd);

/* Where sock keeps its descriptor, as long as it lives; NULL if that is not known. */
const int *sockets_fd_field(PyloopState *state, PyObject *sock);

/* accept(2): a descriptor that is non-blocking and not inherited; -1 with errno. The
 * address is zeroed first (a path that fills its place has no NUL of its own). */
int sockets_accept(int fd, struct sockaddr_storage *address, socklen_t *length);

#endif
