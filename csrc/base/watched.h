/* watched.h - classes of Python's library whose functions C code stands in for.
 *
 * Such code has to keep out when somebody replaced one of the functions, a test's mock
 * or a tool that counts calls. What the classes had at the import of pyloop is kept, and
 * compared when a class changed: watched_is_unchanged() costs a comparison.
 */
#ifndef PYLOOP_BASE_WATCHED_H
#define PYLOOP_BASE_WATCHED_H

#include "base/compat.h"

#include "base/lock.h"

typedef enum {
    WATCHED_STREAM_READER,     /* asyncio.StreamReader */
    WATCHED_STREAM_PROTOCOL,   /* asyncio.StreamReaderProtocol */
    WATCHED_SSL_PROTOCOL,      /* asyncio.sslproto.SSLProtocol */
    WATCHED_SSL_TRANSPORT,     /* asyncio.sslproto._SSLProtocolTransport */
    WATCHED_SSL_OBJECT,        /* ssl.SSLObject */
    WATCHED_QUEUE,             /* asyncio.Queue */
    WATCHED_PRIORITY_QUEUE,    /* asyncio.PriorityQueue */
    WATCHED_LIFO_QUEUE,        /* asyncio.LifoQueue */
    WATCHED_EVENT,             /* asyncio.Event */
    WATCHED_LOCK,              /* asyncio.Lock */
    WATCHED_SEMAPHORE,         /* asyncio.Semaphore */
    WATCHED_BOUNDED_SEMAPHORE, /* asyncio.BoundedSemaphore */
    WATCHED_TIMEOUT,           /* asyncio.Timeout */
    WATCHED_TRANSPORT,         /* asyncio.Transport */
    WATCHED_DATAGRAM,          /* asyncio.DatagramTransport */
    WATCHED_COUNT,
} WatchedClass;

typedef struct {
    PyTypeObject *type;   /* strong; NULL: this version of Python has no such class */
    PyObject *attributes; /* strong: a dict, what the names were at import; NULL: it
                           * lacks one, so C code that stands for it stays out */
    unsigned int version; /* the type's, when it was looked at last and was unchanged */
} Watched;

/* Fills a table of WATCHED_COUNT. 0, or -1. */
int watched_init(Watched *table);
int watched_traverse(Watched *table, visitproc visit, void *arg);
void watched_clear(Watched *table);
/* Compares one by one. */
bool watched_look(Watched *watched);
/* Calls the method that the bases of a type of ours have, as super() finds it: what
 * somebody put there in the place of asyncio's function, which ours hides. */
PyObject *watched_call_replaced(PyTypeObject *type, PyObject *object, const char *name,
                                PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);

/* Whether the functions are still those of the import. */
static inline bool
watched_is_unchanged(Watched *watched)
{
    if (watched->attributes == NULL) {
        return false;
    }
    /* A type whose attributes change gets another version, or none (0) for a while. */
    unsigned int version = RACY_LOAD(watched->type->tp_version_tag);
    return (version != 0 && version == RACY_LOAD(watched->version)) ||
           watched_look(watched);
}

#endif
