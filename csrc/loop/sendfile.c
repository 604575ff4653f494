/* sendfile.c - the kernel's sendfile(2) to a stream socket, as a sock_* operation.
 *
 * Waiting is sockops.c's: a part is sent each time the socket is writable. The file's
 * position is set once, by whatever ends the operation, so a cancelled one leaves it where
 * the peer's data ends.
 * Does not own: the file. It is asked for its descriptor before each part, so that one
 * which was closed meanwhile fails, instead of sending another file of that number.
 */
#include "loop/sockops.h"

#include "base/call.h"
#include "base/errors.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sendfile.h>
#endif

enum { FILE_ARG, OFFSET_ARG, COUNT_ARG };

enum { PART_MAX = 1 << 30 }; /* sendfile(2) itself stops just below 2 GiB */

/* The descriptor of the file, or -1 with an exception. */
static int
sendfile_file(SockOpObject *self)
{
    return PyObject_AsFileDescriptor(self->args[FILE_ARG]);
}

/* Where the next part begins. 0, or -1 with an exception. */
static int
sendfile_offset(SockOpObject *self, off_t *offset)
{
    long long first = PyLong_AsLongLong(self->args[OFFSET_ARG]);
    if (first == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (first > LLONG_MAX - self->sent) {
        PyErr_SetString(PyExc_OverflowError, "the file's end is beyond any offset");
        return -1;
    }
    *offset = (off_t)(first + self->sent);
    return 0;
}

/* How much the next part may be: 0 when all that was asked for is sent. 0, or -1 with an
 * exception. */
static int
sendfile_room(SockOpObject *self, size_t *room)
{
    PyObject *count = self->args[COUNT_ARG];
    int overflow;
    *room = PART_MAX;
    if (count == Py_None) {
        return 0; /* up to the file's end */
    }
    long long wanted = PyLong_AsLongLongAndOverflow(count, &overflow);
    if (wanted == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow <= 0 && wanted - self->sent < PART_MAX) {
        *room = wanted > self->sent ? (size_t)(wanted - self->sent) : 0;
    }
    return 0;
}

/* One system call; the file may have to come from a disk, so the GIL is given up.
 * Touches no PyObject meanwhile. Bytes sent, 0 at the file's end, or -1 with *err. */
static ssize_t
sendfile_part(int out, int in, off_t offset, size_t room, int *err)
{
    ssize_t sent;
    Py_BEGIN_ALLOW_THREADS do
    {
#ifdef __linux__
        sent = sendfile(out, in, &offset, room);
        *err = errno;
#elif defined(__APPLE__)
        off_t length = (off_t)room;
        int rc = sendfile(in, out, offset, &length, NULL, 0);
        *err = errno;
        sent = rc == 0 || length > 0 ? (ssize_t)length : -1;
#else
        (void)out, (void)in, (void)offset, (void)room;
        sent = -1;
        *err = ENOSYS;
#endif
    }
    while (sent < 0 && *err == EINTR)
        ;
    Py_END_ALLOW_THREADS return sent;
}

/* Nothing was sent: the file may be of a kind that the kernel cannot send, so the caller
 * may try another way. Raises what tells him, because of the OSError. */
static void
sendfile_raise_not_available(SockOpObject *self, int err)
{
    (void)errors_raise_errno(err);
    PyObject *cause = PyErr_GetRaisedException();
    PyErr_SetString(self->coro.loop->state->SendfileNotAvailableError,
                    "os.sendfile call failed");
    PyObject *exc = PyErr_GetRaisedException();
    PyException_SetCause(exc, cause);
    PyErr_SetRaisedException(exc);
}

static CoroStatus
sendfile_failed(SockOpObject *self, int err)
{
    if (err == EAGAIN || err == EWOULDBLOCK) {
        return CORO_WAIT;
    }
    if (self->sent == 0) {
        sendfile_raise_not_available(self, err);
    }
    else if (err == ENOTCONN) { /* as asyncio: one type on every system */
        PyErr_SetString(PyExc_ConnectionError, "socket is not connected");
    }
    else {
        (void)errors_raise_errno(err);
    }
    return CORO_ERROR;
}

/* A short part means a full socket or the file's end: the second call tells which. More
 * than these two would keep the loop from everybody else, were the peer fast enough. */
CoroStatus
sockcall_sendfile(SockOpObject *self, PyObject **result)
{
    for (int calls = 0; calls < 2; calls++) {
        size_t room;
        off_t offset;
        ssize_t sent = 0;
        int err = 0;
        if (sendfile_room(self, &room) < 0) {
            return CORO_ERROR;
        }
        if (room > 0) {
            int in = sendfile_offset(self, &offset) == 0 ? sendfile_file(self) : -1;
            if (in < 0 || sockcall_refresh_fd(self) < 0) {
                return CORO_ERROR;
            }
            sent = sendfile_part(self->fd, in, offset, room, &err);
        }
        if (sent < 0) {
            return sendfile_failed(self, err);
        }
        if (sent == 0) {
            *result = PyLong_FromSsize_t(self->sent);
            return *result != NULL ? CORO_RETURN : CORO_ERROR;
        }
        self->sent += sent;
        metrics_count_out(&self->coro.loop->metrics, (size_t)sent);
    }
    return CORO_WAIT;
}

void
sendfile_release(CoroObject *coro)
{
    SockOpObject *self = (SockOpObject *)coro;
    off_t offset;
    if (self->sent > 0 && self->args[FILE_ARG] != NULL) {
        int in = sendfile_offset(self, &offset) == 0 ? sendfile_file(self) : -1;
        if (in < 0 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_WriteUnraisable(self->args[FILE_ARG]);
        }
        else if (in < 0) {
            PyErr_Clear(); /* closed meanwhile: it has no position any more */
        }
        else {
            (void)lseek(in, offset, SEEK_SET); /* what can be sent can be positioned */
        }
    }
    sockop_release(coro);
}
