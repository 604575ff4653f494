/* stream.h - what the transports of stream sockets (socket.c) and of pipes (pipe.c) share:
 * one object, one way of reading (read.c), of writing (write.c) and of closing. What the
 * kinds do differently is in their StreamOps.
 *
 *  STREAM_OPENING -> STREAM_OPEN     [stream_start]    connection_made was called
 *  STREAM_OPENING, STREAM_OPEN
 *                 -> STREAM_CLOSING  [stream_close, stream_force_close]  no more reading
 *  STREAM_CLOSING -> STREAM_CLOSED   [stream_lost]     connection_lost was called, the
 *                                                      descriptor is closed
 * While STREAM_OPENING..STREAM_CLOSING: fd >= 0 is ours, protocol is set, and loop->fds
 * names a socket's transport as the descriptor's (a pipe may have two, one that reads and
 * one that writes, and add_reader() as well). STREAM_CLOSED: fd is closed, protocol and
 * server are gone.
 *
 * Invariant S1: lost <=> connection_lost is scheduled or was called.
 * Invariant S2: queue_bytes == sum of the lengths in the queue; held => the queue has
 *               not been offered to the kernel, and this stream is in the loop's outbox.
 * Invariant S3: plain > 0 => held, and the protocol, an SSLProtocol, has so many bytes in
 *               its backlog that are to be encrypted and sent after the queue.
 */
#ifndef PYLOOP_TRANSPORT_STREAM_H
#define PYLOOP_TRANSPORT_STREAM_H

#include "base/compat.h"

#include "loop/loop.h"
#include "loop/sockets.h"

#include <netinet/in.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef enum { STREAM_OPENING, STREAM_OPEN, STREAM_CLOSING, STREAM_CLOSED } StreamPhase;

enum { STREAM_INHERITED = 8 }; /* slots of asyncio's _FlowControlMixin: five today */

typedef struct {
    PyObject *bytes; /* strong: an exact bytes object */
    size_t offset;   /* what precedes was sent */
} WriteItem;

typedef struct {
    struct sockaddr_storage storage;
    socklen_t length;
    bool known; /* else the kernel gives none: it is not connected, or has no name */
} StreamAddress;

typedef struct StreamObject StreamObject;

/* What becomes of a write. */
typedef enum {
    HOLD_NOT,      /* it is offered to the kernel now */
    HOLD_CALLBACK, /* held: a later write of the same callback sends it */
    HOLD_BATCH,    /* held until the batch of callbacks ends */
    HOLD_QUEUE     /* put behind what the caller is about to offer */
} StreamHold;

/* One constant table per type. */
typedef struct {
    bool is_socket; /* else a pipe: see asyncio's unix_events for what that changes */
    /* A system call each, which does not wait: a count, or -1 with errno. */
    ssize_t (*receive)(int fd, void *into, size_t size);
    ssize_t (*send)(int fd, const void *data, size_t length);
    ssize_t (*send_vector)(int fd, struct iovec *vector, size_t count);
    FdCallback on_readable;            /* what it is watched for reading with */
    int (*on_eof)(StreamObject *self); /* 0, or -1 to leave run */
    /* What data_received raised: 0, or -1 to leave run. */
    int (*on_data_failed)(StreamObject *self);
    /* An error that only connection_lost is told of. */
    bool (*is_expected)(PyObject *exc);
    const char *read_failed, *write_failed; /* messages for the exception handler */
    const char *write_lost;                 /* the warning about writes after the end */
} StreamOps;

struct StreamObject {
    PyObject_HEAD
    PyObject *inherited[STREAM_INHERITED];
    PyObject *dict;
    PyObject *weakrefs;
    const StreamOps *ops;
    LoopObject *loop;   /* strong until dealloc (it owns *state); hidden once CLOSED */
    PyObject *protocol; /* strong or NULL (once CLOSED) */
    PyObject *context;  /* strong: descriptor events call the protocol in it */
    PyObject *sock; /* strong or NULL: an accepted descriptor's is made on demand; of a
                         * pipe any object with fileno() and close() */
    PyObject *identity;     /* strong or NULL: a pipe's, for fds_watch */
    PyObject *server;       /* strong or NULL: attached */
    PyObject *empty_waiter; /* strong or NULL: lend.c */
    PyObject *extra; /* strong dict or NULL: get_extra_info's, filled on demand */
    int fd;
    SocketKind kind;
    StreamPhase phase;
    bool buffered;        /* a socket's protocol is a BufferedProtocol */
    bool streams;         /* the protocol is exactly asyncio.StreamReaderProtocol */
    bool tls;             /* the protocol is exactly asyncio's SSLProtocol */
    bool paused;          /* pause_reading() */
    bool read_eof;        /* the peer sent EOF and the protocol keeps the transport */
    bool write_eof;       /* write_eof() */
    bool protocol_paused; /* pause_writing() was called */
    bool lost;            /* S1 */
    bool unreadable;      /* reading is never watched: a device that is written to */
    uint64_t born_ticks;  /* clock_ticks() as it was made */
    size_t
        max_size; /* what one event reads at most; but never more than SCRATCH_SIZE */
    struct sockaddr_in6 peer; /* accept's address of an IP peer; family 0: none */
    unsigned int conn_lost;   /* asyncio's: writes that were lost, and an end before */
    StreamAddress *names; /* extra.c, PyMem_RawMalloc: our own and the peer's, as they
                               * were when the descriptor closed; or NULL */

    /* write.c */
    WriteItem *queue; /* PyMem_RawMalloc; a ring of queue_capacity, or NULL */
    size_t queue_head, queue_count, queue_capacity;
    size_t queue_bytes;
    size_t high_water, low_water;
    uint32_t callback_serial; /* loop->callback_serial at the last write */
    uint8_t writes_now;       /* writes in that callback, up to 255 */
    uint8_t writes_learned;   /* how many the last callbacks made, when the same */
    uint8_t writes_streak;    /* in how many callbacks in a row */
    uint8_t hold_off;         /* writes that are not to wait for the batch's end */
    uint8_t hold_off_next; /* what that was the last time, halved by what went well */
    bool held;             /* in the outbox, or just taken out of it */
    size_t plain;          /* S3 */
};

/* stream.c */
/* A type whose instances are StreamObjects, over a class of asyncio's. New reference. */
PyTypeObject *stream_type_over(PyObject *module, PyType_Spec *spec, PyTypeObject *base);
/* A transport of that type without a descriptor (fd is -1): the caller gives it one when
 * nothing can fail any more. extra: a dict, which is copied, None or NULL. */
StreamObject *stream_alloc(LoopObject *loop, PyTypeObject *type, const StreamOps *ops,
                           PyObject *protocol, PyObject *extra);
/* _start, with a waiter or None, is called soon, in context or, for NULL, a copy of the
 * current one. 0, or -1. */
int stream_schedule_start(StreamObject *self, PyObject *waiter, PyObject *context);
/* A protocol without connection_made makes no transport. 0, or -1. */
int stream_check_protocol(PyloopState *state, PyObject *protocol);
/* Tells the server by its _attach or _detach; asyncio.Server counts its connections, and
 * from 3.13 on it is told which. 0, or -1. */
int stream_tell_server(StreamObject *self, PyObject *server, PyObject *name);
/* connection_made, then reading. 0, or -1 with what must leave run. */
int stream_start(StreamObject *self);
/* The connection is lost: stream_owns_fd() is false. As an operation on a closed socket. */
int stream_disowned(StreamObject *self, const char *message);
/* Leaves the descriptor as it is, open, and is STREAM_CLOSED. Runs user code. */
void stream_give_up(StreamObject *self);
/* The transport.close() of asyncio. 0, or -1 (the loop is closed). */
int stream_close(StreamObject *self);
/* asyncio's _force_close: drops the queue; exc may be NULL. 0, or -1. */
int stream_force_close(StreamObject *self, PyObject *exc);
/* asyncio's _fatal_error with the raised exception, which it clears. 0, or -1 when that is
 * SystemExit or KeyboardInterrupt. */
int stream_fatal_error(StreamObject *self, const char *message);
/* Calls connection_lost and closes. Steals nothing; exc may be NULL. 0, or -1. */
int stream_lost(StreamObject *self, PyObject *exc);

/* In debug mode: logs what happened to the transport, with the traceback of exc unless it
 * is NULL. level: "debug" or "info". */
void stream_log(StreamObject *self, const char *level, const char *text, PyObject *exc);

/* connection_lost is about to be scheduled or called (S1). */
static inline void
stream_set_lost(StreamObject *self)
{
    self->lost = true;
    if (self->ops->is_socket) {
        self->conn_lost++; /* asyncio's pipes count the writes only */
    }
}

/* Does this transport wait for direction (FD_READ or FD_WRITE)? */
static inline bool
stream_waits_for(StreamObject *self, unsigned int direction)
{
    FdEntry *entry = fds_entry(self->loop, self->fd);
    return entry != NULL &&
           entry->slots[direction == FD_READ ? 0 : 1].owner == (PyObject *)self;
}

/* Is the descriptor's number this transport's in loop->fds? Never a pipe's. */
static inline bool
stream_has_claim(StreamObject *self)
{
    FdEntry *entry = fds_entry(self->loop, self->fd);
    return entry != NULL && entry->transport == (PyObject *)self;
}

/* stream.c: methods, attributes and slots, for the tables of every type */
PyObject *stream_start_method(PyObject *op, PyObject *waiter);
PyObject *stream_lost_method(PyObject *op, PyObject *exc);
PyObject *stream_close_method(PyObject *op, PyObject *ignored);
PyObject *stream_abort(PyObject *op, PyObject *ignored);
PyObject *stream_is_closing(PyObject *op, PyObject *ignored);
PyObject *stream_is_reading(PyObject *op, PyObject *ignored);
PyObject *stream_pause_reading(PyObject *op, PyObject *ignored);
PyObject *stream_resume_reading(PyObject *op, PyObject *ignored);
PyObject *stream_set_protocol(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames);
PyObject *stream_get_protocol(PyObject *op, PyObject *ignored);
PyObject *stream_get_write_buffer_size(PyObject *op, PyObject *ignored);
PyObject *stream_get_write_buffer_limits(PyObject *op, PyObject *ignored);
PyObject *stream_can_write_eof(PyObject *op, PyObject *ignored);
PyObject *stream_get_extra_info(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *stream_get_loop(PyObject *op, void *closure);
PyObject *stream_get_sock(PyObject *op, void *closure);
PyObject *stream_get_extra(PyObject *op, void *closure);
PyObject *stream_get_protocol_attr(PyObject *op, void *closure);
PyObject *stream_get_fd(PyObject *op, void *closure);
PyObject *stream_get_conn_lost(PyObject *op, void *closure);
PyObject *stream_get_closing(PyObject *op, void *closure);
PyObject *stream_get_flag(PyObject *op, void *closure); /* closure: the bool's offset */
int stream_traverse(PyObject *op, visitproc visit, void *arg);
int stream_clear(PyObject *op);
void stream_finalize(PyObject *op);
void stream_dealloc(PyObject *op);

/* extra.c */
/* The Python socket (made on demand); borrowed, or NULL. */
PyObject *stream_socket(StreamObject *self);
/* Looks name up: new reference, or NULL without an exception when it is not there. */
PyObject *stream_extra_get(StreamObject *self, PyObject *name);
/* All of it, as a dict; borrowed, or NULL. */
PyObject *stream_extra_all(StreamObject *self);
/* Before the descriptor closes: what can be asked afterwards too. Errors are reported. */
void stream_extra_keep(StreamObject *self);

/* shutdown(2) of the write end. The next iteration polls, as after a close: the peer may be
 * on this loop, and programs that end one connection and begin the next depend on asyncio's
 * order. Beside a connection, a poll is nothing. 0, or -1 with errno. */
int stream_shut(StreamObject *self);

/* read.c */
int stream_on_readable(LoopObject *loop, PyObject *owner); /* reads, for the protocol */
/* Receives into the loop's scratch buffer. 1: *n bytes came, at *data; 0: none, and what
 * that means was done; -1: must leave run. */
int stream_receive(StreamObject *self, char **data, ssize_t *n);
int stream_watch_reading(StreamObject *self);
void stream_unwatch_reading(StreamObject *self);
/* Sets buffered, streams, tls; may run user code. */
void stream_look_at_protocol(StreamObject *self);

/* write.c */
PyObject *stream_write(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);
PyObject *stream_writelines(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
PyObject *stream_set_write_buffer_limits(PyObject *op, PyObject *const *args,
                                         Py_ssize_t nargs, PyObject *kwnames);
int stream_maybe_pause_protocol(StreamObject *self);
/* Offers what is held to the kernel, now. Any error becomes the transport's. */
void stream_release_held(StreamObject *self);
void stream_drop_queue(StreamObject *self);
/* For tls_write.c, whose records come from several writes: what is to become of the next
 * one, of length bytes, which is counted. It sends what others hold if it would overtake
 * that, so user code may run. HOLD_CALLBACK only while no more than `most` bytes are held
 * for the protocol to encrypt, these included. */
StreamHold stream_plan_write(StreamObject *self, size_t length, size_t most);
/* write(data), exact bytes, when that is known. 0, or -1 with what write() raises. */
int stream_write_planned(StreamObject *self, PyObject *data, StreamHold how);
/* length more bytes wait in the protocol's backlog (S3): for HOLD_CALLBACK. */
void stream_hold_plain(StreamObject *self, size_t length);
/* They are about to be written. */
void stream_take_plain(StreamObject *self);
void stream_unwatch_writing(StreamObject *self);

/* False when somebody closed the socket or pipe object behind our back: its number may be
 * another file's by now, and must not be used. May run user code: a pipe's fileno(). */
static inline bool
stream_owns_fd(StreamObject *self)
{
    return self->sock == NULL || (sockets_is(self->loop->state, self->sock, self->fd) &&
                                  self->phase != STREAM_CLOSED);
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

/* socket.c */
PyTypeObject *socket_type_create(PyObject *module);
/* Takes over the descriptor (and sock, a Python socket, or NULL) only when it succeeds. The
 * protocol's connection_made is not called yet: stream_start does. */
StreamObject *socket_new(LoopObject *loop, int fd, PyObject *sock,
                         const SocketKind *kind, PyObject *protocol, PyObject *extra,
                         PyObject *server);

/* Remembers the peer, and schedules the start as stream_schedule_start; its context, unless
 * it is NULL, is that of all callbacks. 0, or -1. */
int socket_start_soon(StreamObject *self, PyObject *waiter, PyObject *context);

/* make.c */
PyTypeObject *transportop_type_create(PyObject *module);

/* pipe.c */
PyTypeObject *pipe_reader_type_create(PyObject *module);
PyTypeObject *pipe_writer_type_create(PyObject *module);

#endif
