/* stream.h - SocketTransport: the transport of stream sockets, over read.c and write.c.
 *
 *  STREAM_OPENING -> STREAM_OPEN     [stream_start]    connection_made was called
 *  STREAM_OPENING, STREAM_OPEN
 *                 -> STREAM_CLOSING  [stream_close, stream_force_close]  no more reading
 *  STREAM_CLOSING -> STREAM_CLOSED   [stream_lost]     connection_lost was called, the
 *                                                      descriptor is closed
 * While STREAM_OPENING..STREAM_CLOSING: fd >= 0 is ours, loop->fds names us as its
 * transport, protocol is set. STREAM_CLOSED: fd is closed, protocol and server are gone.
 *
 * Invariant S1: lost > 0 <=> connection_lost is scheduled or was called (asyncio's
 *               _conn_lost, which also counts the writes since).
 * Invariant S2: queue_bytes == sum of the lengths in the queue; held <=> loop->holder is
 *               this stream and the queue has not been offered to the kernel.
 */
#ifndef PYLOOP_TRANSPORT_STREAM_H
#define PYLOOP_TRANSPORT_STREAM_H

#include "base/compat.h"

#include "loop/loop.h"
#include "loop/sockets.h"

#include <netinet/in.h>

typedef enum { STREAM_OPENING, STREAM_OPEN, STREAM_CLOSING, STREAM_CLOSED } StreamPhase;

enum { STREAM_INHERITED = 8 }; /* slots of asyncio's _FlowControlMixin: five today */

typedef struct {
    PyObject *bytes; /* strong: an exact bytes object */
    size_t offset;   /* what precedes was sent */
} WriteItem;

typedef struct {
    PyObject_HEAD
    PyObject *inherited[STREAM_INHERITED];
    PyObject *dict;
    PyObject *weakrefs;
    LoopObject *loop;   /* strong until dealloc (it owns *state); hidden once CLOSED */
    PyObject *protocol; /* strong or NULL (once CLOSED) */
    PyObject *context;  /* strong: descriptor events call the protocol in it */
    PyObject *sock;     /* strong or NULL: an accepted descriptor's is made on demand */
    PyObject *server;   /* strong or NULL: attached */
    PyObject *empty_waiter; /* strong or NULL: lend.c */
    PyObject *extra; /* strong dict or NULL: get_extra_info's, filled on demand */
    int fd;
    SocketKind kind;
    StreamPhase phase;
    bool buffered;        /* the protocol is a BufferedProtocol */
    bool paused;          /* pause_reading() */
    bool read_eof;        /* the peer sent EOF and the protocol keeps the transport */
    bool write_eof;       /* write_eof() */
    bool protocol_paused; /* pause_writing() was called */
    unsigned int lost;    /* S1 */
    struct sockaddr_in6 peer; /* accept's address of an IP peer; family 0: none */

    /* write.c */
    WriteItem *queue; /* PyMem_RawMalloc; a ring of queue_capacity, or NULL */
    size_t queue_head, queue_count, queue_capacity;
    size_t queue_bytes;
    size_t high_water, low_water;
    uint32_t callback_serial; /* loop->callback_serial at the last write */
    uint8_t writes_now;       /* writes in that callback, up to 255 */
    uint8_t writes_learned;   /* how many the last callbacks made, when the same */
    uint8_t writes_streak;    /* in how many callbacks in a row */
} StreamObject;

/* stream.c */
PyTypeObject *stream_type_create(PyObject *module);
/* Takes over the descriptor (and sock, a Python socket, or NULL) only when it succeeds. The
 * protocol's connection_made is not called yet: stream_start does. */
StreamObject *stream_new(LoopObject *loop, int fd, PyObject *sock,
                         const SocketKind *kind, PyObject *protocol, PyObject *extra,
                         PyObject *server);
/* connection_made, then reading. 0, or -1 with what must leave run. */
int stream_start(StreamObject *self);
/* The connection is lost: stream_owns_fd() is false. As an operation on a closed socket. */
int stream_disowned(StreamObject *self, const char *message);
/* The transport.close() of asyncio. 0, or -1 (the loop is closed). */
int stream_close(StreamObject *self);
/* asyncio's _force_close: drops the queue; exc may be NULL. 0, or -1. */
int stream_force_close(StreamObject *self, PyObject *exc);
/* asyncio's _fatal_error with the raised exception, which it clears. 0, or -1 when that is
 * SystemExit or KeyboardInterrupt. */
int stream_fatal_error(StreamObject *self, const char *message);
/* Calls connection_lost and closes. Steals nothing; exc may be NULL. 0, or -1. */
int stream_lost(StreamObject *self, PyObject *exc);

/* extra.c */
/* The Python socket (made on demand); borrowed, or NULL. */
PyObject *stream_socket(StreamObject *self);
/* Looks name up: new reference, or NULL without an exception when it is not there. */
PyObject *stream_extra_get(StreamObject *self, PyObject *name);
/* All of it, as a dict; borrowed, or NULL. */
PyObject *stream_extra_all(StreamObject *self);
/* Before the descriptor closes: what can be asked afterwards too. Errors are reported. */
void stream_extra_keep(StreamObject *self);

/* read.c */
int stream_watch_reading(StreamObject *self);
void stream_unwatch_reading(StreamObject *self);
void stream_look_at_protocol(StreamObject *self); /* sets buffered */

/* write.c */
PyObject *stream_write(PyObject *op, PyObject *data);
PyObject *stream_writelines(PyObject *op, PyObject *list);
PyObject *stream_write_eof(PyObject *op, PyObject *ignored);
PyObject *stream_set_write_buffer_limits(PyObject *op, PyObject *const *args,
                                         Py_ssize_t nargs, PyObject *kwnames);
int stream_maybe_pause_protocol(StreamObject *self);
/* Offers what is held to the kernel, now. Any error becomes the transport's. */
void stream_release_held(StreamObject *self);
void stream_drop_queue(StreamObject *self);

/* False when somebody closed the Python socket behind our back: its number may be another
 * file's by now, and must not be used. */
static inline bool
stream_owns_fd(StreamObject *self)
{
    return self->sock == NULL || sockets_is(self->loop->state, self->sock, self->fd);
}

static inline bool
stream_is_holding(const StreamObject *self)
{
    return self->loop->holder == (const PyObject *)self;
}

/* lend.c */
PyObject *stream_make_empty_waiter(PyObject *op, PyObject *ignored);
PyObject *stream_reset_empty_waiter(PyObject *op, PyObject *ignored);
/* The queue is empty: who waits for the descriptor may use it. 0, or -1. */
int stream_lend(StreamObject *self);
/* The connection is lost, before the descriptor closes; exc may be NULL. */
void stream_lend_no_more(StreamObject *self, PyObject *exc);

/* server.c */
PyTypeObject *listener_type_create(PyObject *module);

#endif
