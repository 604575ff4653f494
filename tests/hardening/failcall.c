/* failcall.c - preloaded by fault.py: makes chosen system calls of the core fail.
 *
 * A call counts if it comes from the core or from libuv, told by the caller's address;
 * what the interpreter, its modules and the C library call is left alone. The script
 * steers through failcall_control without calling anything. Each function has a number,
 * F_*, in the order of ERRORS in fault.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shim_forks.h"

void failcall_add_range(int caller, uintptr_t low, uintptr_t high);

#define FUNCTIONS(X)                                                                   \
    X(epoll_create1)                                                                   \
    X(epoll_ctl)                                                                       \
    X(epoll_wait)                                                                      \
    X(eventfd)                                                                         \
    X(timerfd_create)                                                                  \
    X(timerfd_settime)                                                                 \
    X(recv)                                                                            \
    X(recvfrom)                                                                        \
    X(recvmmsg)                                                                        \
    X(send)                                                                            \
    X(sendto)                                                                          \
    X(sendmsg)                                                                         \
    X(sendmmsg)                                                                        \
    X(accept4)                                                                         \
    X(socket)                                                                          \
    X(connect)                                                                         \
    X(getsockopt)                                                                      \
    X(setsockopt)                                                                      \
    X(getsockname)                                                                     \
    X(getpeername)                                                                     \
    X(shutdown)                                                                        \
    X(close)                                                                           \
    X(read)                                                                            \
    X(write)                                                                           \
    X(writev)                                                                          \
    X(sendfile64)                                                                      \
    X(fcntl64)                                                                         \
    X(fstat64)                                                                         \
    X(ioctl)                                                                           \
    X(lseek64)                                                                         \
    X(epoll_pwait)                                                                     \
    X(pipe2)

enum {
#define X(name) F_##name,
    FUNCTIONS(X)
#undef X
        F_COUNT
};

enum {
    ARMED,    /* 0: count nothing, fail nothing */
    CALLER,   /* CALLER_* of the one that fails */
    FUNCTION, /* its F_*, -1: none */
    NUMBER,   /* which call of it, 1 being the first; 0: all of them */
    ERROR,    /* its errno; or for 0, LIMIT */
    LIMIT,    /* of bytes that are moved: a short read or write */
    FIRED,    /* how many have failed or were cut short */
    COUNTS,   /* from here: how often each was called, by the core and then by libuv */
};

enum { CALLER_CORE, CALLER_LIBUV, CALLER_OTHER };

long failcall_control[COUNTS + CALLER_OTHER * F_COUNT];

enum { RANGES_MAX = 16 };

static struct {
    uintptr_t low, high;
    int caller;
} ranges[RANGES_MAX];
static size_t range_count;

void
failcall_add_range(int caller, uintptr_t low, uintptr_t high)
{
    if (range_count < RANGES_MAX) {
        ranges[range_count].low = low;
        ranges[range_count].high = high;
        ranges[range_count].caller = caller;
        range_count++;
    }
}

static int
caller_of(uintptr_t address)
{
    for (size_t i = 0; i < range_count; i++) {
        if (address >= ranges[i].low && address < ranges[i].high) {
            return ranges[i].caller;
        }
    }
    return CALLER_OTHER;
}

/* Counts a call of `function`. Is it the one that is to fail? */
static int
is_chosen(long function, void *address)
{
    if (!failcall_control[ARMED]) {
        return 0;
    }
    int caller = caller_of((uintptr_t)address);
    if (caller == CALLER_OTHER) {
        return 0;
    }
    long count = ++failcall_control[COUNTS + caller * F_COUNT + function];
    if (failcall_control[CALLER] != caller || failcall_control[FUNCTION] != function ||
        (failcall_control[NUMBER] != 0 && failcall_control[NUMBER] != count)) {
        return 0;
    }
    failcall_control[FIRED]++;
    return 1;
}

#define REAL(name)                                                                     \
    static __typeof__(&name) real;                                                     \
    if (real == NULL) {                                                                \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                             \
    }

/* Fails a call, with what it would return for an error. */
#define FAIL(name)                                                                     \
    REAL(name)                                                                         \
    if (is_chosen(F_##name, __builtin_return_address(0))) {                            \
        errno = (int)failcall_control[ERROR];                                          \
        return -1;                                                                     \
    }

/* The same for a call that moves bytes: it may also be cut short. */
#define FAIL_OR_CUT(name, length)                                                      \
    REAL(name)                                                                         \
    if (is_chosen(F_##name, __builtin_return_address(0))) {                            \
        if (failcall_control[ERROR] != 0) {                                            \
            errno = (int)failcall_control[ERROR];                                      \
            return -1;                                                                 \
        }                                                                              \
        if ((length) > (size_t)failcall_control[LIMIT]) {                              \
            (length) = (size_t)failcall_control[LIMIT];                                \
        }                                                                              \
    }

int
epoll_create1(int flags)
{
    FAIL(epoll_create1)
    return real(flags);
}

int
epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    FAIL(epoll_ctl)
    return real(epfd, op, fd, event);
}

int
epoll_wait(int epfd, struct epoll_event *events, int most, int timeout)
{
    FAIL(epoll_wait)
    return real(epfd, events, most, timeout);
}

int
eventfd(unsigned int value, int flags)
{
    FAIL(eventfd)
    return real(value, flags);
}

int
timerfd_create(int clock, int flags)
{
    FAIL(timerfd_create)
    return real(clock, flags);
}

int
timerfd_settime(int fd, int flags, const struct itimerspec *value,
                struct itimerspec *old)
{
    FAIL(timerfd_settime)
    return real(fd, flags, value, old);
}

ssize_t
recv(int fd, void *buffer, size_t length, int flags)
{
    FAIL_OR_CUT(recv, length)
    return real(fd, buffer, length, flags);
}

ssize_t
recvfrom(int fd, void *restrict buffer, size_t length, int flags,
         struct sockaddr *restrict address, socklen_t *restrict size)
{
    FAIL(recvfrom)
    return real(fd, buffer, length, flags, address, size);
}

int
recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
         struct timespec *timeout)
{
    FAIL_OR_CUT(recvmmsg, count)
    return real(fd, messages, count, flags, timeout);
}

ssize_t
send(int fd, const void *buffer, size_t length, int flags)
{
    FAIL_OR_CUT(send, length)
    return real(fd, buffer, length, flags);
}

ssize_t
sendto(int fd, const void *buffer, size_t length, int flags,
       const struct sockaddr *address, socklen_t size)
{
    FAIL(sendto)
    return real(fd, buffer, length, flags, address, size);
}

ssize_t
sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct msghdr copy = *message;
    struct iovec first;
    REAL(sendmsg)
    if (is_chosen(F_sendmsg, __builtin_return_address(0))) {
        if (failcall_control[ERROR] != 0) {
            errno = (int)failcall_control[ERROR];
            return -1;
        }
        first = message->msg_iov[0];
        if (first.iov_len > (size_t)failcall_control[LIMIT]) {
            first.iov_len = (size_t)failcall_control[LIMIT];
        }
        copy.msg_iov = &first;
        copy.msg_iovlen = 1;
    }
    return real(fd, &copy, flags);
}

int
sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    FAIL_OR_CUT(sendmmsg, count)
    return real(fd, messages, count, flags);
}

int
accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict size, int flags)
{
    FAIL(accept4)
    return real(fd, address, size, flags);
}

int
socket(int family, int type, int protocol)
{
    FAIL(socket)
    return real(family, type, protocol);
}

int
connect(int fd, const struct sockaddr *address, socklen_t size)
{
    FAIL(connect)
    return real(fd, address, size);
}

int
getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict size)
{
    FAIL(getsockopt)
    return real(fd, level, name, value, size);
}

int
setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    FAIL(setsockopt)
    return real(fd, level, name, value, size);
}

int
getsockname(int fd, struct sockaddr *restrict address, socklen_t *restrict size)
{
    FAIL(getsockname)
    return real(fd, address, size);
}

int
getpeername(int fd, struct sockaddr *restrict address, socklen_t *restrict size)
{
    FAIL(getpeername)
    return real(fd, address, size);
}

int
shutdown(int fd, int how)
{
    FAIL(shutdown)
    return real(fd, how);
}

/* The kernel closes the descriptor whatever it says then. */
int
close(int fd)
{
    REAL(close)
    int chosen = is_chosen(F_close, __builtin_return_address(0));
    int result = real(fd);
    if (chosen) {
        errno = (int)failcall_control[ERROR];
        return -1;
    }
    return result;
}

ssize_t
read(int fd, void *buffer, size_t length)
{
    FAIL_OR_CUT(read, length)
    return real(fd, buffer, length);
}

ssize_t
write(int fd, const void *buffer, size_t length)
{
    FAIL_OR_CUT(write, length)
    return real(fd, buffer, length);
}

ssize_t
writev(int fd, const struct iovec *vector, int count)
{
    struct iovec first;
    REAL(writev)
    if (is_chosen(F_writev, __builtin_return_address(0))) {
        if (failcall_control[ERROR] != 0) {
            errno = (int)failcall_control[ERROR];
            return -1;
        }
        first = vector[0];
        if (first.iov_len > (size_t)failcall_control[LIMIT]) {
            first.iov_len = (size_t)failcall_control[LIMIT];
        }
        return real(fd, &first, 1);
    }
    return real(fd, vector, count);
}

ssize_t
sendfile64(int out, int in, off64_t *offset, size_t length)
{
    FAIL_OR_CUT(sendfile64, length)
    return real(out, in, offset, length);
}

int
fcntl64(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *); /* an int or a pointer, or unused */
    va_end(arguments);
    FAIL(fcntl64)
    return real(fd, command, argument);
}

int
fstat64(int fd, struct stat64 *status)
{
    FAIL(fstat64)
    return real(fd, status);
}

int
ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    FAIL(ioctl)
    return real(fd, request, argument);
}

off64_t
lseek64(int fd, off64_t offset, int whence)
{
    FAIL(lseek64)
    return real(fd, offset, whence);
}

/* ---- what only libuv calls ---- */

int
epoll_pwait(int epfd, struct epoll_event *events, int most, int timeout,
            const sigset_t *mask)
{
    FAIL(epoll_pwait)
    return real(epfd, events, most, timeout, mask);
}

int
pipe2(int ends[2], int flags)
{
    FAIL(pipe2)
    return real(ends, flags);
}
