/* fdmethods.c - add_reader, add_writer, remove_reader, remove_writer.
 *
 * A watch made here owns a Handle. Its identity is the file object that the user gave (as
 * in asyncio's selector), so that remove_reader(sock) finds it after sock.close().
 */
#include "loop/handle.h"

#include "base/args.h"
#include "base/call.h"
#include "base/errors.h"

static int
on_handle_ready(LoopObject *Py_UNUSED(loop), PyObject *owner)
{
    /* As asyncio's selector loop: a handle cancelled by itself is not watched for. */
    return ((HandleObject *)owner)->cancelled ? 1 : handle_run((HandleObject *)owner);
}

/* The transport that has claimed fd. New reference, NULL without, also with an exception. */
static PyObject *
fd_transport(LoopObject *self, int fd)
{
    FdEntry *entry = fds_entry(self, fd);
    if (entry == NULL || entry->transport != NULL || !entry->asyncios) {
        return entry != NULL ? Py_XNewRef(entry->transport) : NULL;
    }
    PyObject *number = PyLong_FromLong(fd);
    PyObject *transport =
        number != NULL
            ? call_method1((PyObject *)self, self->state->str__find_transport, number)
            : NULL;
    Py_XDECREF(number);
    if (transport == Py_None) {
        Py_CLEAR(transport); /* it is gone, and asyncio knows it by a weak reference */
    }
    return transport;
}

int
fd_check_no_transport(LoopObject *self, int fd, PyObject *fileobj)
{
    PyObject *transport = fd_transport(self, fd);
    if (transport == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *closing = call_method0(transport, self->state->str_is_closing);
    int free_to_use = closing != NULL ? PyObject_IsTrue(closing) : -1;
    Py_XDECREF(closing);
    if (free_to_use == 0) {
        PyErr_Format(PyExc_RuntimeError, "File descriptor %R is used by transport %R",
                     fileobj, transport);
    }
    Py_DECREF(transport);
    return free_to_use > 0 ? 0 : -1;
}

/* For the checks of asyncio's _ensure_fd_no_transport, which closed files pass. */
static int
fd_ensure(LoopObject *self, PyObject *fileobj, int *fd)
{
    *fd = args_descriptor(self->state->str_fileno, fileobj);
    return *fd < 0 ? -1 : fd_check_no_transport(self, *fd, fileobj);
}

/* The replaced owner of a watch: a Handle is cancelled, as asyncio does. */
static void
fd_drop_replaced(LoopObject *self, PyObject *owner)
{
    if (owner != NULL && handle_check(self->state, owner)) {
        handle_cancel((HandleObject *)owner);
    }
    Py_XDECREF(owner);
}

static bool
fd_has_context(PyObject *kwnames)
{
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), "context") ==
            0) {
            return true;
        }
    }
    return false;
}

/* For the public methods check_transport is true, and context= is not theirs. New
 * reference to the handle. */
static PyObject *
fd_add(LoopObject *self, unsigned int direction, const char *function,
       PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, bool check_transport)
{
    static const char *const names[] = {"fd", "callback"};
    const ArgsCallSpec spec = {function, names, 2};
    ArgsCall call;
    PyObject *replaced;
    if (check_transport && fd_has_context(kwnames)) {
        PyErr_Format(PyExc_TypeError,
                     "%s() got an unexpected keyword argument 'context'", function);
        return NULL;
    }
    if (args_parse_call_general(&spec, args, nargs, kwnames, &call) < 0) {
        return NULL;
    }
    PyObject *fileobj = call.leading[0];
    int fd = args_descriptor(self->state->str_fileno, fileobj);
    if (fd < 0 || (check_transport && fd_check_no_transport(self, fd, fileobj) < 0) ||
        loop_check_closed(self) < 0) {
        return NULL;
    }
    HandleObject *handle =
        handle_new(self, call.leading[1], call.rest, call.nrest, call.context);
    if (handle == NULL) {
        return NULL;
    }
    PyObject *identity = PyLong_Check(fileobj) ? NULL : fileobj;
    if (fds_watch(self, fd, direction, on_handle_ready, (PyObject *)handle, identity,
                  &replaced) < 0) {
        Py_DECREF(handle);
        return NULL;
    }
    fd_drop_replaced(self, replaced);
    return (PyObject *)handle;
}

/* The descriptor under which a file object that is closed by now was watched, or -1. */
static int
fd_find_closed(LoopObject *self, PyObject *fileobj)
{
    for (size_t fd = 0; fd < self->fds.capacity; fd++) {
        if (self->fds.entries[fd].identity == fileobj) {
            return (int)fd;
        }
    }
    return -1;
}

static PyObject *
fd_remove(LoopObject *self, unsigned int direction, PyObject *fileobj,
          bool check_transport)
{
    int fd = args_descriptor(self->state->str_fileno, fileobj);
    if (fd < 0) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear(); /* no descriptor, so not watched either */
            Py_RETURN_FALSE;
        }
        PyObject *exc = PyErr_GetRaisedException();
        fd = PyLong_Check(fileobj) ? -1 : fd_find_closed(self, fileobj);
        if (fd < 0) {
            PyErr_SetRaisedException(exc);
            return NULL;
        }
        Py_DECREF(exc);
    }
    else if (check_transport && fd_check_no_transport(self, fd, fileobj) < 0) {
        return NULL;
    }
    if (RACY_LOAD(self->closed)) {
        Py_RETURN_FALSE;
    }
    FdEntry *entry = fds_entry(self, fd);
    PyObject *owner =
        entry != NULL ? entry->slots[direction == FD_READ ? 0 : 1].owner : NULL;
    if (owner == NULL ||
        (entry->transport != NULL && !handle_check(self->state, owner))) {
        Py_RETURN_FALSE; /* a transport's own watch is not the user's to remove */
    }
    fd_drop_replaced(self, fds_unwatch(self, fd, direction, false));
    Py_RETURN_TRUE;
}

PyObject *
fd_add_reader(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *handle =
        fd_add((LoopObject *)op, FD_READ, "add_reader", args, nargs, kwnames, true);
    if (handle == NULL) {
        return NULL;
    }
    Py_DECREF(handle);
    Py_RETURN_NONE;
}

PyObject *
fd_add_writer(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *handle =
        fd_add((LoopObject *)op, FD_WRITE, "add_writer", args, nargs, kwnames, true);
    if (handle == NULL) {
        return NULL;
    }
    Py_DECREF(handle);
    Py_RETURN_NONE;
}

PyObject *
fd_private_add_reader(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    return fd_add((LoopObject *)op, FD_READ, "_add_reader", args, nargs, kwnames,
                  false);
}

PyObject *
fd_private_add_writer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    return fd_add((LoopObject *)op, FD_WRITE, "_add_writer", args, nargs, kwnames,
                  false);
}

PyObject *
fd_remove_reader(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *fileobj = args_one("remove_reader", "fd", args, nargs, kwnames);
    if (fileobj == NULL) {
        return NULL;
    }
    return fd_remove((LoopObject *)op, FD_READ, fileobj, true);
}

PyObject *
fd_remove_writer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *fileobj = args_one("remove_writer", "fd", args, nargs, kwnames);
    if (fileobj == NULL) {
        return NULL;
    }
    return fd_remove((LoopObject *)op, FD_WRITE, fileobj, true);
}

PyObject *
fd_private_remove_reader(PyObject *op, PyObject *fileobj)
{
    return fd_remove((LoopObject *)op, FD_READ, fileobj, false);
}

PyObject *
fd_private_remove_writer(PyObject *op, PyObject *fileobj)
{
    return fd_remove((LoopObject *)op, FD_WRITE, fileobj, false);
}

PyObject *
fd_ensure_no_transport(PyObject *op, PyObject *fileobj)
{
    int fd;
    if (fd_ensure((LoopObject *)op, fileobj, &fd) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _claim(fd): for a transport of asyncio's own. */
PyObject *
fd_claim(PyObject *op, PyObject *number)
{
    LoopObject *self = (LoopObject *)op;
    int fd = args_descriptor(self->state->str_fileno, number);
    if (fd < 0 || fds_set_asyncios(self, fd) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _watched(fd): what of it somebody waits for, as bits: FD_READ, FD_WRITE. */
PyObject *
fd_watched(PyObject *op, PyObject *number)
{
    LoopObject *self = (LoopObject *)op;
    int fd = args_descriptor(self->state->str_fileno, number);
    if (fd < 0) {
        return NULL;
    }
    FdEntry *entry = fds_entry(self, fd);
    long watched = 0;
    if (entry != NULL) {
        watched = (entry->slots[0].owner != NULL ? FD_READ : 0) |
                  (entry->slots[1].owner != NULL ? FD_WRITE : 0);
    }
    return PyLong_FromLong(watched);
}

/* Appends what is there. 0, or -1. */
static int
users_add(PyObject *users, PyObject *user)
{
    return user != NULL ? PyList_Append(users, user) : 0;
}

/* One that waits for both directions of its descriptor comes twice, or three times. */
PyObject *
fd_users(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = (LoopObject *)op;
    PyObject *users = PyList_New(0);
    for (size_t fd = 0; users != NULL && fd < self->fds.capacity; fd++) {
        FdEntry *entry = &self->fds.entries[fd];
        if (users_add(users, entry->transport) < 0 ||
            users_add(users, entry->slots[0].owner) < 0 ||
            users_add(users, entry->slots[1].owner) < 0) {
            Py_CLEAR(users);
        }
    }
    return users;
}
