/* tls_parts.h - what tls.c (reading), tls_write.c and tls_facts.c share: an SSLProtocol of
 * asyncio's as C code sees it, and steps on it. Nobody else includes it; see tls.h.
 */
#ifndef PYLOOP_TRANSPORT_TLS_PARTS_H
#define PYLOOP_TRANSPORT_TLS_PARTS_H

#include "transport/tls.h"

#include "transport/reader.h"

enum {
    TLS_RECORD = 16384
}; /* bytes of data that one record has at most, RFC 8446 5.1 */

/* What is looked up in an SSLProtocol's dict. */
#define PYLOOP_TLS_ITEMS(X)                                                            \
    X(STATE, _state)                                                                   \
    X(SSL_OBJECT, _sslobj)                                                             \
    X(INCOMING, _incoming)                                                             \
    X(OUTGOING, _outgoing)                                                             \
    X(BACKLOG, _write_backlog)                                                         \
    X(TRANSPORT, _transport)                                                           \
    X(APP_TRANSPORT, _app_transport)                                                   \
    X(APP_PROTOCOL, _app_protocol)                                                     \
    X(APP_IS_BUFFER, _app_protocol_is_buffer)                                          \
    X(APP_READING_PAUSED, _app_reading_paused)                                         \
    X(APP_WRITING_PAUSED, _app_writing_paused)                                         \
    X(SSL_READING_PAUSED, _ssl_reading_paused)                                         \
    X(SSL_WRITING_PAUSED, _ssl_writing_paused)                                         \
    X(INCOMING_HIGH, _incoming_high_water)                                             \
    X(OUTGOING_HIGH, _outgoing_high_water)                                             \
    X(BUFFER_UPDATED, buffer_updated)                                                  \
    X(DO_READ, _do_read)                                                               \
    X(WRITE_APPDATA, _write_appdata)                                                   \
    X(DO_WRITE, _do_write)

typedef enum {
#define X(name, attribute) TLS_##name,
    PYLOOP_TLS_ITEMS(X)
#undef X
        TLS_ITEMS
} TlsItem;

/* tls_facts.c: what is known of a protocol's dict. */
typedef struct {
    PyObject_HEAD
    const PyObject *dict; /* whose facts: the dict that owns this. Compared only */
    uint64_t version;     /* before 3.12: the dict's, when known was begun */
    uint32_t known;       /* a bit for each item */
    uint32_t changes;     /* counted, so that one during a look-up is seen */
    PyObject *values[TLS_ITEMS];
} TlsFacts;

static_assert(TLS_ITEMS <= 32, "TlsFacts.known has too few bits");

/* What is used of an SSLProtocol; new references. */
typedef struct {
    PyloopState *state;
    PyObject *protocol;
    PyObject *dict;
    TlsFacts *facts; /* or NULL */
    PyObject *phase;
    PyObject *ssl; /* what ssl.SSLObject calls its _sslobj */
    PyObject *incoming, *outgoing;
} TlsView;

/* Whether C code may do this protocol's work: it is exactly asyncio's, and has no functions
 * of its own under these names. If so, view is filled. No exception is raised. */
bool tls_view(PyloopState *state, PyObject *protocol, TlsItem function,
              TlsItem function2, TlsView *view);
void tls_view_drop(TlsView *view);

/* protocol.name(). 0, or -1. */
int tls_call(TlsView *view, PyObject *name);
/* An SSLWantReadError or SSLSyscallError is no error: clears it and says so. */
bool tls_wants_more(PyloopState *state);
/* What asyncio does with what its try block raised. 0; -1 when that goes further. */
int tls_failed(TlsView *view);

/* ---- tls_facts.c: the protocol's dict, most of which does not change for a long time --- */

/* What is known of a protocol with that dict: new reference, or NULL. No exception. */
TlsFacts *tls_facts_of(PyloopState *state, PyObject *dict);
/* From now on there are facts. No exception. */
void tls_facts_begin(TlsView *view);
/* As tls_get(), of what is not known yet. */
int tls_look_up(TlsView *view, TlsItem item, PyObject **value);
bool tls_look_up_flag(TlsView *view, TlsItem item);

/* Whether it is known what an attribute is: then it is *value, borrowed, or NULL. */
static inline bool
tls_knows(const TlsView *view, TlsItem item, PyObject **value)
{
    const TlsFacts *facts = view->facts;
    if (facts == NULL || (facts->known & ((uint32_t)1 << item)) == 0 ||
        facts->version != PYLOOP_DICT_VERSION(view->dict)) {
        return false;
    }
    *value = facts->values[item];
    return true;
}

/* An attribute in the dict. 1 and a new reference, 0 absent, -1. */
static inline int
tls_get(TlsView *view, TlsItem item, PyObject **value)
{
    if (!tls_knows(view, item, value)) {
        return tls_look_up(view, item, value);
    }
    Py_XINCREF(*value);
    return *value != NULL;
}

/* Whether it is there and true. Anything but True is false. No exception. */
static inline bool
tls_flag(TlsView *view, TlsItem item)
{
    PyObject *value;
    return tls_knows(view, item, &value) ? value == Py_True
                                         : tls_look_up_flag(view, item);
}

/* An int; -1 when it is something else. No exception. */
Py_ssize_t tls_number(TlsView *view, TlsItem item);
/* protocol._write_buffer_size, bytes; as tls_number(). */
Py_ssize_t tls_size(TlsView *view);
/* It is there already, so nothing is allocated. 0, or -1. */
int tls_set_size(TlsView *view, PyObject *size);

/* tls_write.c: protocol._process_outgoing(). stream: the transport below, when what is to
 * become of the records is known; or NULL. 0, or -1. */
int tls_process_outgoing(TlsView *view, StreamObject *stream, StreamHold how);

#endif
