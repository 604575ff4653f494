/* tls_parts.h - what tls.c (reading) and tls_write.c share: an SSLProtocol of asyncio's as C
 * code sees it, and steps on it. Nobody else includes it; see tls.h.
 */
#ifndef PYLOOP_TRANSPORT_TLS_PARTS_H
#define PYLOOP_TRANSPORT_TLS_PARTS_H

#include "transport/tls.h"

#include "transport/reader.h"

enum {
    TLS_RECORD = 16384
}; /* bytes of data that one record has at most, RFC 8446 5.1 */

/* What is used of an SSLProtocol; new references. */
typedef struct {
    PyloopState *state;
    PyObject *protocol;
    PyObject *dict;
    PyObject *phase;
    PyObject *ssl; /* what ssl.SSLObject calls its _sslobj */
    PyObject *incoming, *outgoing;
} TlsView;

/* Whether C code may do this protocol's work: it is exactly asyncio's, and has no functions
 * of its own under these names. If so, view is filled. No exception is raised. */
bool tls_view(PyloopState *state, PyObject *protocol, PyObject *name, PyObject *name2,
              TlsView *view);
void tls_view_drop(TlsView *view);

/* protocol.name(). 0, or -1. */
int tls_call(TlsView *view, PyObject *name);
/* An int of the protocol's; -1 when it is something else. */
Py_ssize_t tls_number(TlsView *view, PyObject *name);
/* An SSLWantReadError or SSLSyscallError is no error: clears it and says so. */
bool tls_wants_more(PyloopState *state);
/* What asyncio does with what its try block raised. 0; -1 when that goes further. */
int tls_failed(TlsView *view);

/* tls_write.c: protocol._process_outgoing(). stream: the transport below, when what is to
 * become of the records is known; or NULL. 0, or -1. */
int tls_process_outgoing(TlsView *view, StreamObject *stream, StreamHold how);

#endif
