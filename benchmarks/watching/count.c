/* count.c - counts the system calls of the server, ours and libuv's.
 *
 * Defined in the executable, these names come before the C library's for libuv too.  So
 * the count is taken at full speed, where strace would slow the server down and change
 * how many events a wake-up finds.  Only the calls that an echo server makes are here;
 * reading the clock is none of them (it stays in user space).
 */
#include "watching.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

uint64_t counted_syscalls, counted_epoll_ctls;

/* The C library's function of the same name, looked up at the first call. */
#define NEXT(name)                                                                     \
    static __typeof__(&name) next;                                                     \
    if (next == NULL && (*(void **)&next = dlsym(RTLD_NEXT, #name)) == NULL) {         \
        abort();                                                                       \
    }                                                                                  \
    counted_syscalls++

int
epoll_wait(int epfd, struct epoll_event *events, int count, int timeout)
{
    NEXT(epoll_wait);
    return next(epfd, events, count, timeout);
}

int
epoll_pwait(int epfd, struct epoll_event *events, int count, int timeout,
            const sigset_t *mask)
{
    NEXT(epoll_pwait);
    return next(epfd, events, count, timeout, mask);
}

int
epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    NEXT(epoll_ctl);
    counted_epoll_ctls++;
    return next(epfd, op, fd, event);
}

ssize_t
recv(int fd, void *data, size_t len, int flags)
{
    NEXT(recv);
    return next(fd, data, len, flags);
}

ssize_t
send(int fd, const void *data, size_t len, int flags)
{
    NEXT(send);
    return next(fd, data, len, flags);
}

ssize_t
read(int fd, void *data, size_t len)
{
    NEXT(read);
    return next(fd, data, len);
}

ssize_t
write(int fd, const void *data, size_t len)
{
    NEXT(write);
    return next(fd, data, len);
}

ssize_t
writev(int fd, const struct iovec *iov, int count)
{
    NEXT(writev);
    return next(fd, iov, count);
}

ssize_t
sendmsg(int fd, const struct msghdr *message, int flags)
{
    NEXT(sendmsg);
    return next(fd, message, flags);
}

int
accept(int fd, struct sockaddr *addr, socklen_t *len)
{
    NEXT(accept);
    return next(fd, addr, len);
}

int
accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    NEXT(accept4);
    return next(fd, addr, len, flags);
}

int
setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    NEXT(setsockopt);
    return next(fd, level, name, value, len);
}

int
ioctl(int fd, unsigned long request, ...)
{
    NEXT(ioctl);
    va_list args;
    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    return next(fd, request, arg);
}

int
close(int fd)
{
    NEXT(close);
    return next(fd);
}

/* libuv closes descriptors and drives io_uring through this one. */
long
syscall(long number, ...)
{
    NEXT(syscall);
    long arg[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++) {
        arg[i] = va_arg(args, long);
    }
    va_end(args);
    return next(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}
