/* datagram.h - DatagramTransport: the transport of datagram sockets.
 *
 *  DATAGRAM_OPEN    -> DATAGRAM_CLOSING  [datagram_close, datagram_force_close]
 *                                        nothing is received any more; what is queued is
 *                                        still sent after close()
 *  DATAGRAM_CLOSING -> DATAGRAM_CLOSED   [datagram_lost]  connection_lost was called, the
 *                                        socket is closed
 * Up to DATAGRAM_CLOSING: fd >= 0 is ours through sock, loop->fds names us as its
 * transport, protocol is set. DATAGRAM_CLOSED: protocol and sock are gone.
 *
 * Invariant D1: lost > 0 <=> connection_lost is scheduled or was called (asyncio's
 *               _conn_lost, which also counts the datagrams since).
 * Invariant D2: queue_bytes == sum over the queue of the lengths, and of
 *               PYLOOP_DATAGRAM_HEADER for each.
 * Invariant D3: the inbox holds what was received before it could be delivered. While it
 *               is not empty nothing is received, so that the order stays.
 */
#ifndef PYLOOP_TRANSPORT_DATAGRAM_H
#define PYLOOP_TRANSPORT_DATAGRAM_H

#include "base/compat.h"

#include "loop/loop.h"
#include "loop/sockets.h"

#include <netinet/in.h>

typedef enum { DATAGRAM_OPEN, DATAGRAM_CLOSING, DATAGRAM_CLOSED } DatagramPhase;

enum {
    DATAGRAM_INHERITED = 8, /* slots of asyncio's _FlowControlMixin: five today */
    DATAGRAM_MAX_SIZE = 256 * 1024, /* the room for one: what is longer is cut off */
    DATAGRAM_BATCH = 32,            /* datagrams per system call, and per event */
};

typedef struct {
    PyObject *data;    /* strong: exact bytes */
    PyObject *address; /* strong: anything, None included */
} Datagram;

/* A first-in-first-out queue. */
typedef struct {
    Datagram *items; /* PyMem_RawMalloc; a ring of capacity (a power of two), or NULL */
    size_t head, count, capacity;
} DatagramQueue;

typedef struct {
    PyObject_HEAD
    PyObject *inherited[DATAGRAM_INHERITED];
    PyObject *dict;
    PyObject *weakrefs;
    LoopObject *loop;   /* strong until dealloc (it owns *state); hidden once CLOSED */
    PyObject *protocol; /* strong or NULL (once CLOSED) */
    PyObject *sock;     /* strong or NULL (once CLOSED) */
    PyObject *extra;    /* strong: a dict, get_extra_info's */
    PyObject *address;  /* strong or NULL: where everything goes (asyncio's _address) */
    PyObject *read_context;  /* strong or NULL: of whoever began to read */
    PyObject *write_context; /* strong or NULL: of whoever had to wait to send */
    int fd;
    SocketKind kind;
    DatagramPhase phase;
    bool connected;       /* to a named peer: send(), whatever the address */
    bool connected_peer;  /* to any peer: send() when no address is given */
    bool paused;          /* pause_reading() */
    bool protocol_paused; /* pause_writing() was called */
    bool inbox_scheduled; /* a callback will deliver the inbox */
    unsigned int lost;    /* D1 */
    DatagramQueue inbox;  /* D3 */
    DatagramQueue queue;  /* D2 */
    size_t queue_bytes;
    size_t high_water, low_water;
    size_t max_size;     /* of a datagram that is received: the rest is cut off */
    uint64_t born_ticks; /* clock_ticks() as it was made */
} DatagramObject;

/* datagram.c */
PyTypeObject *datagram_type_create(PyObject *module);
/* asyncio's _force_close: drops the queue; exc may be NULL. 0, or -1. */
int datagram_force_close(DatagramObject *self, PyObject *exc);
/* asyncio's _fatal_error with the raised exception, which it clears. 0, or -1 when that is
 * SystemExit or KeyboardInterrupt. */
int datagram_fatal_error(DatagramObject *self, const char *message);
/* Calls connection_lost and closes; exc may be NULL. 0, or -1 with what it raised. */
int datagram_lost(DatagramObject *self, PyObject *exc);
/* Calls error_received with the raised OSError, which it clears. 0, or -1 with what that
 * raised. */
int datagram_error_received(DatagramObject *self);
/* Reports what a method of the protocol raised inside an event, as asyncio's callback of
 * that event would: `callback` is its name. 0, or -1 with what must leave run. */
int datagram_report(DatagramObject *self, const char *callback);

/* datagram_read.c */
int datagram_watch_reading(DatagramObject *self);
/* After a pause: what was received before it is delivered by a callback. 0, or -1. */
int datagram_schedule_inbox(DatagramObject *self);
/* The method that is this callback. */
PyObject *datagram_read_inbox(PyObject *op, PyObject *ignored);

/* datagram_write.c */
PyObject *datagram_sendto(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames);
int datagram_maybe_pause_protocol(DatagramObject *self);
void datagram_drop_queue(DatagramObject *self);

/* datagram_queue.c */
/* Room for n more. 0, or -1 with MemoryError. */
int datagram_queue_reserve(DatagramQueue *queue, size_t n);
/* At the end; room must have been reserved. */
void datagram_queue_push_steal(DatagramQueue *queue, Datagram datagram);
/* At the front; room must have been reserved. */
void datagram_queue_unpop_steal(DatagramQueue *queue, Datagram datagram);
/* Borrowed: the i-th from the front. */
Datagram datagram_queue_at(const DatagramQueue *queue, size_t i);
/* The caller owns both references. */
Datagram datagram_queue_pop(DatagramQueue *queue);
/* Gives back the memory of an empty queue that was long. */
void datagram_queue_trim(DatagramQueue *queue);
/* Drops all. An address may be of any class: this may run Python. */
void datagram_queue_clear(DatagramQueue *queue);
int datagram_queue_visit(const DatagramQueue *queue, visitproc visit, void *arg);

static inline void
datagram_release(Datagram datagram)
{
    Py_DECREF(datagram.data);
    Py_DECREF(datagram.address);
}

/* False when somebody closed the Python socket behind our back: its number may be another
 * file's by now, and must not be used. */
static inline bool
datagram_owns_fd(DatagramObject *self)
{
    return sockets_is(self->loop->state, self->sock, self->fd);
}

/* Stops waiting for a direction, if it is us who waits: of a closed number another
 * transport may be the owner. */
void datagram_unwatch(DatagramObject *self, unsigned int direction);

#endif
