/* sockaddr.c - see sockaddr.h. */
#include "loop/sockaddr.h"

#include <arpa/inet.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

enum { FLOWINFO_MAX = 0xfffff }; /* 20 bits: RFC 3493 */

bool
sockaddr_knows(int family)
{
    return family == AF_INET || family == AF_INET6 || family == AF_UNIX;
}

static PyObject *
sockaddr_host(int family, const void *address)
{
    char text[INET6_ADDRSTRLEN];
    if (inet_ntop(family, address, text, sizeof(text)) == NULL) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyUnicode_FromString(text);
}

static PyObject *
sockaddr_unix_to_python(const struct sockaddr_un *address, socklen_t length)
{
#ifdef __linux__
    size_t start = offsetof(struct sockaddr_un, sun_path);
    if (length > start && address->sun_path[0] == '\0') {
        return PyBytes_FromStringAndSize(address->sun_path,
                                         (Py_ssize_t)(length - start));
    }
#else
    (void)length;
#endif
    return PyUnicode_DecodeFSDefault(address->sun_path);
}

PyObject *
sockaddr_to_python(const struct sockaddr_storage *storage, socklen_t length)
{
    if (length == 0) {
        Py_RETURN_NONE;
    }
    if (storage->ss_family == AF_UNIX) {
        return sockaddr_unix_to_python((const struct sockaddr_un *)storage, length);
    }
    if (storage->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)storage;
        return Py_BuildValue("(NiII)", sockaddr_host(AF_INET6, &v6->sin6_addr),
                             (int)ntohs(v6->sin6_port),
                             (unsigned int)ntohl(v6->sin6_flowinfo),
                             (unsigned int)v6->sin6_scope_id);
    }
    assert(storage->ss_family == AF_INET);
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)storage;
    return Py_BuildValue("(Ni)", sockaddr_host(AF_INET, &v4->sin_addr),
                         (int)ntohs(v4->sin_port));
}

const char *
sockaddr_host_text(PyObject *host)
{
    Py_ssize_t size;
    if (!PyUnicode_CheckExact(host)) {
        return NULL;
    }
    const char *text = PyUnicode_AsUTF8AndSize(host, &size);
    if (text == NULL) {
        PyErr_Clear(); /* lone surrogates: no literal */
        return NULL;
    }
    return strlen(text) == (size_t)size ? text : NULL;
}

/* An int of 0..limit; false, with nothing raised, for anything else. */
static bool
sockaddr_number(PyObject *object, long long limit, long long *number)
{
    int overflow;
    if (!PyLong_CheckExact(object)) {
        return false;
    }
    *number = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0 && *number >= 0 && *number <= limit;
}

static bool
sockaddr_inet_from_python(int family, PyObject *address,
                          struct sockaddr_storage *storage, socklen_t *length)
{
    long long port, flowinfo = 0, scope = 0;
    Py_ssize_t items = PyTuple_CheckExact(address) ? PyTuple_GET_SIZE(address) : 0;
    if (items < 2 || items > (family == AF_INET6 ? 4 : 2) ||
        !sockaddr_number(PyTuple_GET_ITEM(address, 1), UINT16_MAX, &port) ||
        (items > 2 &&
         !sockaddr_number(PyTuple_GET_ITEM(address, 2), FLOWINFO_MAX, &flowinfo)) ||
        (items > 3 &&
         !sockaddr_number(PyTuple_GET_ITEM(address, 3), UINT32_MAX, &scope))) {
        return false;
    }
    const char *text = sockaddr_host_text(PyTuple_GET_ITEM(address, 0));
    if (text == NULL) {
        return false;
    }
    if (family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)storage;
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *length = sizeof(*v4);
        return inet_pton(AF_INET, text, &v4->sin_addr) == 1;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)storage;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    v6->sin6_flowinfo = htonl((uint32_t)flowinfo);
    v6->sin6_scope_id = (uint32_t)scope;
    *length = sizeof(*v6);
    return inet_pton(AF_INET6, text, &v6->sin6_addr) == 1;
}

static bool
sockaddr_unix_from_python(PyObject *address, struct sockaddr_storage *storage,
                          socklen_t *length)
{
    struct sockaddr_un *name = (struct sockaddr_un *)storage;
    PyObject *path = NULL;
    if (PyUnicode_CheckExact(address)) {
        path = PyUnicode_EncodeFSDefault(address);
    }
    else if (PyBytes_CheckExact(address)) {
        path = Py_NewRef(address);
    }
    if (path == NULL) {
        PyErr_Clear(); /* the socket's method raises its own */
        return false;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(path);
    const char *text = PyBytes_AS_STRING(path);
    /* An abstract name is counted, a path ends with a NUL that counts too. */
    bool abstract = size == 0 || text[0] == '\0';
#ifdef __linux__
    bool fits = size + (abstract ? 0 : 1) <= sizeof(name->sun_path);
#else
    bool fits = !abstract && size + 1 <= sizeof(name->sun_path);
#endif
    if (fits) {
        name->sun_family = AF_UNIX;
        memcpy(name->sun_path, text, size);
        *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size +
                              (abstract ? 0 : 1));
    }
    Py_DECREF(path);
    return fits;
}

bool
sockaddr_from_python(int family, PyObject *address, struct sockaddr_storage *storage,
                     socklen_t *length)
{
    memset(storage, 0, sizeof(*storage));
    if (family == AF_UNIX) {
        return sockaddr_unix_from_python(address, storage, length);
    }
    return (family == AF_INET || family == AF_INET6) &&
           sockaddr_inet_from_python(family, address, storage, length);
}
