/* names.c - getaddrinfo and getnameinfo of the loop, and _ensure_resolved, by which
 * asyncio's methods ask for the addresses of what they are given.
 *
 * A literal address is answered at once, with what socket.getaddrinfo() would return; so
 * is getnameinfo() when only numbers are asked for. Whatever may have to ask somebody (a
 * name, a service), or fails, goes asyncio's way: the inherited coroutine, that is the
 * default executor, whose answers and errors are socket's own. So does everything in debug
 * mode, which logs, and when a program has replaced the socket module's function.
 */
#include "loop/loop.h"

#include "base/args.h"
#include "base/errors.h"
#include "loop/coro.h"
#include "loop/methods.h"
#include "loop/sockaddr.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

/* Of getaddrinfo(); getnameinfo() has sockaddr and flags in the first two, and
 * _ensure_resolved() address and loop. */
enum { ARG_HOST, ARG_PORT, ARG_FAMILY, ARG_TYPE, ARG_PROTO, ARG_FLAGS, ARG_COUNT };
enum { ARG_ADDRESS = ARG_HOST, ARG_LOOP = ARG_PORT };

typedef struct {
    CoroObject coro;
    PyObject *args[ARG_COUNT]; /* strong or NULL: not given, or done */
} NameQueryObject;

/* A literal address in binary. */
typedef struct {
    int family;
    union {
        struct in_addr v4;
        struct in6_addr v6;
    } bytes;
} NamesLiteral;

/* ---- asyncio's way ------------------------------------------------------------ */

/* Waits for BaseEventLoop.name(loop, args[0], args[1], <names>=args[2]...). */
static CoroStatus
names_delegate(NameQueryObject *self, PyObject *name, PyObject *names)
{
    LoopObject *loop = self->coro.loop;
    PyObject *zero = PyLong_FromLong(0);
    PyObject *function = PyObject_GetAttr(loop->state->BaseEventLoop, name);
    PyObject *awaitable = NULL;
    CoroStatus status = CORO_ERROR;
    if (zero != NULL && function != NULL) {
        PyObject *values[1 + ARG_COUNT] = {(PyObject *)loop};
        for (size_t i = 0; i < ARG_COUNT; i++) {
            values[1 + i] = self->args[i] != NULL ? self->args[i] : zero;
        }
        awaitable = PyObject_Vectorcall(function, values, 3, names);
    }
    if (awaitable != NULL) {
        status = coro_await(&self->coro, awaitable);
    }
    Py_XDECREF(awaitable);
    Py_XDECREF(function);
    Py_XDECREF(zero);
    return status;
}

static CoroStatus
names_delegate_getaddrinfo(NameQueryObject *self)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *names = PyTuple_Pack(4, state->str_family, state->str_type,
                                   state->str_proto, state->str_flags);
    if (names == NULL) {
        return CORO_ERROR;
    }
    CoroStatus status = names_delegate(self, state->str_getaddrinfo, names);
    Py_DECREF(names);
    return status;
}

/* ---- literals ------------------------------------------------------------------- */

/* An optional argument as a C int; false for what is none. */
static bool
names_int(PyObject *value, int *number)
{
    int overflow;
    *number = 0;
    if (value == NULL) {
        return true;
    }
    if (!PyLong_Check(value)) {
        return false;
    }
    long wide = PyLong_AsLongAndOverflow(value, &overflow);
    *number = (int)wide;
    return overflow == 0 && wide >= INT_MIN && wide <= INT_MAX;
}

/* The text of an exact str or bytes; NULL, with nothing raised, for any other host. */
static const char *
names_host_text(PyObject *host)
{
    if (!PyBytes_CheckExact(host)) {
        return sockaddr_host_text(host);
    }
    const char *text = PyBytes_AS_STRING(host);
    return strlen(text) == (size_t)PyBytes_GET_SIZE(host) ? text : NULL;
}

static bool
names_parse_literal(PyObject *host, int family, NamesLiteral *literal)
{
    static const int families[] = {AF_INET, AF_INET6};
    const char *text = names_host_text(host);
    for (size_t i = 0; text != NULL && i < Py_ARRAY_LENGTH(families); i++) {
        literal->family = families[i];
        if ((family == AF_UNSPEC || family == families[i]) &&
            inet_pton(families[i], text, &literal->bytes) == 1) {
            return true;
        }
    }
    return false;
}

/* (host, port) or (host, port, 0, 0), the host in its canonical form: inet_pton() reads
 * no other of IPv4, so that a str can be handed on. */
static PyObject *
names_address(const NamesLiteral *literal, PyObject *host, int port)
{
    if (literal->family == AF_INET && PyUnicode_Check(host)) {
        PyObject *number = PyLong_FromLong(port);
        PyObject *address = number != NULL ? PyTuple_Pack(2, host, number) : NULL;
        Py_XDECREF(number);
        return address;
    }
    char text[INET6_ADDRSTRLEN];
    /* Cannot fail: the family is known and the room is enough. */
    (void)inet_ntop(literal->family, &literal->bytes, text, sizeof(text));
    return Py_BuildValue(literal->family == AF_INET ? "(si)" : "(siii)", text, port, 0,
                         0);
}

/* (family, type, proto, '', address). */
static PyObject *
names_entry(PyObject *family, PyObject *type, int proto, PyObject *address)
{
    PyObject *number = PyLong_FromLong(proto);
    PyObject *canonname = PyUnicode_New(0, 0);
    PyObject *entry = NULL;
    if (number != NULL && canonname != NULL) {
        entry = PyTuple_Pack(5, family, type, number, canonname, address);
    }
    Py_XDECREF(number);
    Py_XDECREF(canonname);
    return entry;
}

/* The enum's member, as socket.getaddrinfo() gives it. Borrowed. */
static PyObject *
names_family(PyloopState *state, int family)
{
    return family == AF_INET ? state->family_inet : state->family_inet6;
}

/* The kinds of socket that the C library's getaddrinfo() lists for type and proto, in
 * kinds; their number, 0 when that is not known here. */
static size_t
names_kinds(PyloopState *state, int type, int proto, PyObject *types[3], int protos[3])
{
    if (type == SOCK_STREAM && (proto == 0 || proto == IPPROTO_TCP)) {
        types[0] = state->type_stream;
        protos[0] = IPPROTO_TCP;
        return 1;
    }
    if (type == SOCK_DGRAM && (proto == 0 || proto == IPPROTO_UDP)) {
        types[0] = state->type_dgram;
        protos[0] = IPPROTO_UDP;
        return 1;
    }
#ifdef __GLIBC__ /* others list other kinds when none is asked for */
    if (type == 0 && proto == 0) {
        types[0] = state->type_stream;
        protos[0] = IPPROTO_TCP;
        types[1] = state->type_dgram;
        protos[1] = IPPROTO_UDP;
        types[2] = state->type_raw;
        protos[2] = 0;
        return 3;
    }
#endif
    return 0;
}

/* The usual queries, without the C library. CORO_WAIT: not one of them. */
static CoroStatus
names_answer_directly(NameQueryObject *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    PyObject **args = self->args;
    NamesLiteral literal;
    PyObject *types[3];
    int protos[3], port, family, type, proto, flags;
    PyObject *number = args[ARG_PORT] != Py_None ? args[ARG_PORT] : NULL;
    if ((number != NULL && !PyLong_CheckExact(number)) || !names_int(number, &port) ||
        !names_int(args[ARG_FAMILY], &family) || !names_int(args[ARG_TYPE], &type) ||
        !names_int(args[ARG_PROTO], &proto) || !names_int(args[ARG_FLAGS], &flags) ||
        port < 0 || port > UINT16_MAX ||
        (flags & ~(AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV)) != 0 ||
        !names_parse_literal(args[ARG_HOST], family, &literal)) {
        return CORO_WAIT;
    }
    size_t count = names_kinds(state, type, proto, types, protos);
    if (count == 0) {
        return CORO_WAIT;
    }
    if (PySys_Audit("socket.getaddrinfo", "OOiii", args[ARG_HOST], args[ARG_PORT],
                    family, type, proto) < 0) {
        return CORO_ERROR;
    }
    PyObject *address = names_address(&literal, args[ARG_HOST], port);
    PyObject *list = address != NULL ? PyList_New((Py_ssize_t)count) : NULL;
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *entry = names_entry(names_family(state, literal.family), types[i],
                                      protos[i], address);
        if (entry == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, entry);
    }
    Py_XDECREF(address);
    *result = list;
    return list != NULL ? CORO_RETURN : CORO_ERROR;
}

/* Whether host may be a literal in any of the forms that the C library reads (127.1, with
 * a scope, ...): it has a colon, or its last label begins with a digit. */
static bool
names_may_be_literal(PyObject *host)
{
    const char *text = names_host_text(host);
    if (text == NULL) {
        return false;
    }
    const char *dot = strrchr(text, '.');
    const char *last = dot != NULL ? dot + 1 : text;
    return strchr(text, ':') != NULL || isdigit((unsigned char)*last);
}

/* Asks socket.getaddrinfo() for numbers only, so that it cannot block. CORO_WAIT: it
 * failed, and the whole query is to be made for its answer or its error. */
static CoroStatus
names_answer_numeric(NameQueryObject *self, PyObject *function, PyObject **result)
{
    PyObject **args = self->args;
    int family, type, proto, flags;
    if (!names_may_be_literal(args[ARG_HOST]) ||
        !names_int(args[ARG_FAMILY], &family) || !names_int(args[ARG_TYPE], &type) ||
        !names_int(args[ARG_PROTO], &proto) || !names_int(args[ARG_FLAGS], &flags)) {
        return CORO_WAIT;
    }
    *result = PyObject_CallFunction(function, "OOiiii", args[ARG_HOST], args[ARG_PORT],
                                    family, type, proto,
                                    flags | AI_NUMERICHOST | AI_NUMERICSERV);
    if (*result != NULL) {
        return CORO_RETURN;
    }
    if (errors_is_fatal()) {
        return CORO_ERROR;
    }
    PyErr_Clear(); /* it will be raised again, if it still is one */
    return CORO_WAIT;
}

/* ---- _ensure_resolved --------------------------------------------------------------- */

/* Whether asyncio's coroutine and the function that it asks first are what they were. */
static bool
resolve_finds_all(PyloopState *state)
{
    return methods_finds(state->BaseEventLoop, state->str__ensure_resolved,
                         state->ensure_resolved) &&
           methods_module_has(state->base_events_module, state->str__ipaddr_info,
                              state->ipaddr_info) &&
           methods_module_has(state->base_events_module, state->str_socket,
                              state->socket_module);
}

/* The address of a literal as asyncio makes it: of the host and the port (exact str and
 * int) as they were given, and what IPv6 has besides. New reference. */
static PyObject *
resolve_address(int family, PyObject *given)
{
    PyObject *host = PyTuple_GET_ITEM(given, 0), *port = PyTuple_GET_ITEM(given, 1);
    if (family == AF_INET) {
        return PyTuple_Pack(2, host, port);
    }
    if (PyTuple_GET_SIZE(given) == 2) {
        return Py_BuildValue("(OOii)", host, port, 0, 0);
    }
    return Py_NewRef(given);
}

/* Whether the arguments are of a literal, which is then in *literal. */
static bool
resolve_is_literal(PyObject *const *args, NamesLiteral *literal)
{
    PyObject *given = args[ARG_ADDRESS];
    int family, type = SOCK_STREAM, proto; /* asyncio's default */
    return PyTuple_CheckExact(given) &&
           (PyTuple_GET_SIZE(given) == 2 || PyTuple_GET_SIZE(given) == 4) &&
           PyUnicode_CheckExact(PyTuple_GET_ITEM(given, 0)) &&
           PyLong_CheckExact(PyTuple_GET_ITEM(given, 1)) &&
           names_int(args[ARG_FAMILY], &family) &&
           (args[ARG_TYPE] == NULL || names_int(args[ARG_TYPE], &type)) &&
           (type == SOCK_STREAM || type == SOCK_DGRAM) &&
           names_int(args[ARG_PROTO], &proto) &&
           (proto == 0 || proto == IPPROTO_TCP || proto == IPPROTO_UDP) &&
           names_parse_literal(PyTuple_GET_ITEM(given, 0), family, literal);
}

/* [(family, type, proto, '', address)], as asyncio answers for a literal. */
static PyObject *
resolve_answer(PyloopState *state, PyObject *const *args, const NamesLiteral *literal)
{
    PyObject *type = args[ARG_TYPE] != NULL ? args[ARG_TYPE] : state->type_stream;
    PyObject *family = args[ARG_FAMILY];
    int number, asked;
    /* Cannot fail: resolve_is_literal() took them. */
    (void)names_int(type, &number);
    (void)names_int(family, &asked);
    PyObject *address = resolve_address(literal->family, args[ARG_ADDRESS]);
    PyObject *list = address != NULL ? PyList_New(1) : NULL;
    PyObject *entry =
        list != NULL
            ? names_entry(
                  asked == AF_UNSPEC ? names_family(state, literal->family) : family,
                  type, number == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP, address)
            : NULL;
    Py_XDECREF(address);
    if (entry == NULL) {
        Py_XDECREF(list);
        return NULL;
    }
    PyList_SET_ITEM(list, 0, entry);
    return list;
}

/* ---- steps ------------------------------------------------------------------------ */

/* The answer is in the place of the address. */
static CoroStatus
resolve_resume(CoroObject *coro, PyObject *Py_UNUSED(value), PyObject **result)
{
    NameQueryObject *self = (NameQueryObject *)coro;
    *result = self->args[ARG_ADDRESS];
    self->args[ARG_ADDRESS] = NULL;
    return CORO_RETURN;
}

/* The socket module's own function: neither replaced since we were imported nor before. */
static bool
names_is_own_getaddrinfo(PyloopState *state, PyObject *function)
{
    return function == state->original_getaddrinfo && PyFunction_Check(function) &&
           PyFunction_GET_GLOBALS(function) == PyModule_GetDict(state->socket_module);
}

static CoroStatus
names_getaddrinfo_resume(CoroObject *coro, PyObject *value, PyObject **result)
{
    NameQueryObject *self = (NameQueryObject *)coro;
    PyloopState *state = coro->loop->state;
    if (value != NULL) {
        *result = Py_NewRef(value);
        return CORO_RETURN;
    }
    if (loop_check_closed(coro->loop) < 0) {
        return CORO_ERROR;
    }
    if (coro->loop->debug) {
        return names_delegate_getaddrinfo(self);
    }
    PyObject *function = PyObject_GetAttr(state->socket_module, state->str_getaddrinfo);
    if (function == NULL) {
        return CORO_ERROR;
    }
    CoroStatus status = CORO_WAIT;
    if (names_is_own_getaddrinfo(state, function)) {
        status = names_answer_directly(self, result);
        if (status == CORO_WAIT) {
            status = names_answer_numeric(self, function, result);
        }
    }
    Py_DECREF(function);
    return status == CORO_WAIT ? names_delegate_getaddrinfo(self) : status;
}

static CoroStatus
names_getnameinfo_resume(CoroObject *coro, PyObject *value, PyObject **result)
{
    NameQueryObject *self = (NameQueryObject *)coro;
    PyloopState *state = coro->loop->state;
    const int numeric = NI_NUMERICHOST | NI_NUMERICSERV;
    int flags;
    if (value != NULL) {
        *result = Py_NewRef(value);
        return CORO_RETURN;
    }
    if (loop_check_closed(coro->loop) < 0) {
        return CORO_ERROR;
    }
    PyObject *function = PyObject_GetAttr(state->socket_module, state->str_getnameinfo);
    if (function == NULL) {
        return CORO_ERROR;
    }
    CoroStatus status;
    /* The module's own is a builtin; numbers for numbers are made without asking. */
    if (function == state->original_getnameinfo && PyCFunction_Check(function) &&
        names_int(self->args[1], &flags) && (flags & numeric) == numeric) {
        *result = PyObject_CallFunction(function, "Oi", self->args[0], flags);
        status = *result != NULL ? CORO_RETURN : CORO_ERROR;
    }
    else {
        status = names_delegate(self, state->str_getnameinfo, NULL);
    }
    Py_DECREF(function);
    return status;
}

/* ---- the object and the methods ----------------------------------------------------- */

static int
names_traverse(CoroObject *coro, visitproc visit, void *arg)
{
    NameQueryObject *self = (NameQueryObject *)coro;
    for (size_t i = 0; i < ARG_COUNT; i++) {
        Py_VISIT(self->args[i]);
    }
    return 0;
}

static void
names_release(CoroObject *coro)
{
    NameQueryObject *self = (NameQueryObject *)coro;
    for (size_t i = 0; i < ARG_COUNT; i++) {
        Py_CLEAR(self->args[i]);
    }
}

PyTypeObject *
namequery_type_create(PyObject *module)
{
    return coro_type_create(module, "pyloop._core.NameQuery", sizeof(NameQueryObject),
                            "The coroutine of the loop's getaddrinfo and getnameinfo.");
}

static PyObject *
names_new(PyObject *op, const CoroKind *kind, const ArgsSpec *spec,
          PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *values[ARG_COUNT];
    if (args_parse(spec, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    NameQueryObject *self =
        (NameQueryObject *)coro_new(loop->state->NameQueryType, kind, loop);
    for (Py_ssize_t i = 0; self != NULL && i < spec->count; i++) {
        self->args[i] = Py_XNewRef(values[i]);
    }
    return (PyObject *)self;
}

static const CoroKind kind_getaddrinfo = {
    "Loop.getaddrinfo", names_getaddrinfo_resume, NULL,
    names_release,      names_traverse,           NULL};
static const CoroKind kind_getnameinfo = {
    "Loop.getnameinfo", names_getnameinfo_resume, NULL,
    names_release,      names_traverse,           NULL};

static const CoroKind kind_ensure_resolved = {
    "Loop._ensure_resolved", resolve_resume, NULL, names_release, names_traverse, NULL};

static const char *const getaddrinfo_names[] = {"host", "port",  "family",
                                                "type", "proto", "flags"};
static const char *const getnameinfo_names[] = {"sockaddr", "flags"};
static const char *const ensure_resolved_names[] = {"address", "loop",  "family",
                                                    "type",    "proto", "flags"};

static const ArgsSpec getaddrinfo_args = {"getaddrinfo", getaddrinfo_names, ARG_COUNT,
                                          2, 2};
static const ArgsSpec getnameinfo_args = {"getnameinfo", getnameinfo_names, 2, 1, 2};
static const ArgsSpec ensure_resolved_args = {"_ensure_resolved", ensure_resolved_names,
                                              ARG_COUNT, 2, 1};

PyObject *
names_getaddrinfo(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    return names_new(op, &kind_getaddrinfo, &getaddrinfo_args, args, nargs, kwnames);
}

PyObject *
names_getnameinfo(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    return names_new(op, &kind_getnameinfo, &getnameinfo_args, args, nargs, kwnames);
}

PyObject *
names_ensure_resolved(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    PyloopState *state = ((LoopObject *)op)->state;
    NamesLiteral literal;
    PyObject *given[ARG_COUNT];
    if (args_parse(&ensure_resolved_args, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    if (!resolve_is_literal(given, &literal) || !resolve_finds_all(state)) {
        return methods_call_asyncios(op, state, state->str__ensure_resolved, args,
                                     nargs, kwnames);
    }
    PyObject *answer = resolve_answer(state, given, &literal);
    NameQueryObject *self = NULL;
    if (answer != NULL) {
        self = (NameQueryObject *)coro_new(state->NameQueryType, &kind_ensure_resolved,
                                           (LoopObject *)op);
    }
    if (self == NULL) {
        Py_XDECREF(answer);
        return NULL;
    }
    self->args[ARG_ADDRESS] = answer;
    return (PyObject *)self;
}
