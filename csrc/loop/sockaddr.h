/* sockaddr.h - socket addresses between C and Python, in the socket module's forms. */
#ifndef PYLOOP_LOOP_SOCKADDR_H
#define PYLOOP_LOOP_SOCKADDR_H

#include "base/compat.h"

#include <sys/socket.h>

/* True for the families that the functions below know: AF_INET, AF_INET6, AF_UNIX. */
bool sockaddr_knows(int family);

/* (host, port), (host, port, flowinfo, scope_id), or a path as str (an abstract name as
 * bytes, '' for an unnamed socket); None when length is 0, which is what the kernel says
 * of a peer that it does not name. The family must be known, and `storage` must have been
 * zero before the kernel filled it: a path that fills its place has no NUL of its own. */
PyObject *sockaddr_to_python(const struct sockaddr_storage *storage, socklen_t length);

/* The address that the socket module would make of `address` without resolving a name:
 * exact tuples with a numeric host, exact str or bytes paths. False when it is anything
 * else, errors included: then the socket's own method is to be called. Raises nothing. */
bool sockaddr_from_python(int family, PyObject *address,
                          struct sockaddr_storage *storage, socklen_t *length);

/* host's text when it is an exact str without NUL, and so may be a literal; borrowed from
 * it. Else NULL, with nothing raised. */
const char *sockaddr_host_text(PyObject *host);

#endif
