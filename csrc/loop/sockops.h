/* sockops.h - what the files of the sock_* methods share.
 *
 * sockops.c has the object, its waiting and its methods; sockcalls.c the attempts of each
 * operation, connect.c the steps of connecting, sendfile.c those of sendfile.
 *
 * An operation is attempted at once, and again each time its descriptor is ready, always
 * inside a step of the coroutine: what is ready only resolves the future that the task
 * waits for. So a task that is cancelled meanwhile has read nothing, and nothing is lost.
 *
 * Exactly socket.socket is served by system calls of our own; a subclass or another object
 * with its methods may mean something else by them, so they are called, as asyncio does.
 */
#ifndef PYLOOP_LOOP_SOCKOPS_H
#define PYLOOP_LOOP_SOCKOPS_H

#include "base/compat.h"

#include "base/args.h"
#include "loop/coro.h"

#include <sys/socket.h>

enum { SOCKOP_ARGS = 3 };

typedef struct {
    CoroObject coro;
    PyObject *sock;              /* strong; NULL once done, or without one */
    PyObject *args[SOCKOP_ARGS]; /* strong or NULL: what follows sock */
    PyObject *future; /* strong or NULL: unresolved, and this operation's to resolve */
    Py_ssize_t sent;  /* sendall, sendfile: bytes sent */
    int fd;           /* the descriptor of the last attempt; -1: sock knows it */
    int watched;      /* the descriptor that we asked to watch, or -1: its slot may have
                       * another owner by now */
    bool native;      /* exactly socket.socket */
    bool holds_data;  /* sendall: args[0] is our own memoryview */
    uint8_t stage;    /* connect.c: ConnectStage */
} SockOpObject;

typedef struct {
    CoroKind coro; /* first: a CoroKind of a SockOpObject is a SockKind */
    ArgsSpec args; /* [0] is sock */
    unsigned int direction;
    bool lazy; /* the registration may stay: the next operation mostly wants it */
    /* CORO_WAIT: it would block. */
    CoroStatus (*attempt)(SockOpObject *self, PyObject **result);
} SockKind;

/* sockops.c */
/* An operation that has not run, of a type that begins with SockOpObject. sock and
 * args[0..nargs) may be NULL. */
PyObject *sockop_alloc(LoopObject *loop, PyTypeObject *type, const SockKind *kind,
                       PyObject *sock, PyObject *const *args, Py_ssize_t nargs);
int sockop_traverse(CoroObject *coro, visitproc visit, void *arg);
void sockop_release(CoroObject *coro);
/* The checks of asyncio's sock_*. 0, or -1. */
int sockop_begin(SockOpObject *self);
/* Watches the descriptor and waits. CORO_WAIT, or CORO_ERROR. */
CoroStatus sockop_wait(SockOpObject *self);
/* Calls sock.name(...) with nargs arguments: CORO_RETURN with *result, CORO_WAIT for
 * BlockingIOError and InterruptedError, CORO_ERROR. */
CoroStatus sockop_call(SockOpObject *self, PyObject *name, PyObject *const *args,
                       size_t nargs, PyObject **result);

/* sockcalls.c */
/* self->fd = sock.fileno(), which is -1 for a closed socket. 0, or -1. */
int sockcall_refresh_fd(SockOpObject *self);
CoroStatus sockcall_recv(SockOpObject *self, PyObject **result);
CoroStatus sockcall_recv_into(SockOpObject *self, PyObject **result);
CoroStatus sockcall_recvfrom(SockOpObject *self, PyObject **result);
CoroStatus sockcall_recvfrom_into(SockOpObject *self, PyObject **result);
CoroStatus sockcall_sendall(SockOpObject *self, PyObject **result);
CoroStatus sockcall_sendto(SockOpObject *self, PyObject **result);
CoroStatus sockcall_accept(SockOpObject *self, PyObject **result);
/* To the address args[0]. CORO_WAIT: the connection is being made. */
CoroStatus sockcall_connect(SockOpObject *self, PyObject **result);
/* connect(2) of self->fd. CORO_RETURN (without a result), CORO_WAIT, CORO_ERROR. */
CoroStatus sockcall_connect_to(SockOpObject *self, const struct sockaddr *address,
                               socklen_t length);
/* SO_ERROR. CORO_RETURN with *err, CORO_WAIT as sockop_call, CORO_ERROR. */
CoroStatus sockcall_pending_error(SockOpObject *self, int *err);

/* connect.c: of sock_connect */
CoroStatus connect_resume(CoroObject *coro, PyObject *value, PyObject **result);

/* sendfile.c: the arguments are the file, the offset and the count (or None). */
CoroStatus sockcall_sendfile(SockOpObject *self, PyObject **result);
void sendfile_release(CoroObject *coro);

#endif
