/* tls.h - asyncio's TLS, with what is done per record in C.
 *
 * Handshake, shutdown, limits, errors and everything seldom are asyncio.sslproto's. Its
 * SSLProtocol keeps its state in its instance dict, on which tls.c works as asyncio's
 * functions do, in two places:
 *
 *   a SocketTransport is readable --tls_read()--> _incoming, decrypt, data_received()
 *                                 (in other states than WRAPPED: --> _incoming, asyncio)
 *   transport.write(data) of the app --tls_write()--> encrypt, _outgoing, the transport
 *
 * The latter is of a class without fields, which an SSLProtocol's transport gets with its
 * first data. Both stay out unless the classes are exactly asyncio's and their functions
 * those of the import (base/watched.h). So asyncio's own buffer is not read into, and
 * pyloop/_tls.py has it made empty.
 */
#ifndef PYLOOP_TRANSPORT_TLS_H
#define PYLOOP_TRANSPORT_TLS_H

#include "base/compat.h"

#include "transport/stream.h"

PyTypeObject *tlstransport_type_create(PyObject *module);
PyTypeObject *tlsfacts_type_create(PyObject *module);
/* Dicts tell tls_facts.c of changes, if they can. No exception. */
void tls_init(PyloopState *state);
void tls_clear(PyloopState *state);
/* The descriptor of a transport whose protocol is an SSLProtocol is readable. 1: what was
 * there is read and delivered. 0: nothing was done, the protocol has to do it. -1: must
 * leave run. */
int tls_read(StreamObject *self);
/* Encrypts what the protocol of a transport that was held has to, and queues it; drops it
 * when another process sends it. 0, or -1 with an exception that leaves run. */
int tls_release(StreamObject *self, bool drop);

#endif
