/* fds_epoll.c - the Linux poller: an epoll descriptor of the loop's own, without libuv's
 * loop (docs/decisions/0001).
 *
 * Owns: FdTable.epfd, .timerfd and .wakefd. One system call per wait. The timerfd carries
 * deadlines finer than epoll_wait's milliseconds, and the eventfd wake-ups by other
 * threads; both are edge-triggered and never read. The timerfd is armed anew only when
 * the earliest deadline moved forward.
 */
#include "loop/fds.h"

#ifdef __linux__

#include "base/errors.h"
#include "loop/loop.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 512, /* per poll; what does not fit is reported by the next */
};

/* In the low half of an event's data, where a descriptor would be. */
#define TAG_WAKER UINT32_C(0xFFFFFFFF)
#define TAG_TIMER UINT32_C(0xFFFFFFFE)

/* Seconds within which an armed deadline counts as the wanted one. */
#define TIMER_TOLERANCE 1e-6

static uint32_t
epoll_events_of(unsigned int mask)
{
    return ((mask & FD_READ) ? (uint32_t)EPOLLIN : 0u) |
           ((mask & FD_WRITE) ? (uint32_t)EPOLLOUT : 0u);
}

static int
epoll_control(FdTable *table, int op, int fd, uint64_t data, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.u64 = data}};
    return epoll_ctl(table->epfd, op, fd, &event) == 0 ? 0 : errno;
}

static uint64_t
epoll_data_of(int fd, uint32_t generation)
{
    return ((uint64_t)generation << 32) | (uint32_t)fd;
}

static int
epoll_add(FdTable *table, int fd, FdEntry *entry, uint32_t events)
{
    uint32_t generation = entry->generation + 1; /* F3 */
    int err =
        epoll_control(table, EPOLL_CTL_ADD, fd, epoll_data_of(fd, generation), events);
    if (err == EEXIST) { /* a duplicate of it is registered under this number */
        err = epoll_control(table, EPOLL_CTL_MOD, fd, epoll_data_of(fd, generation),
                            events);
    }
    if (err == 0) {
        entry->generation = generation;
        entry->pending = 0;
    }
    return err;
}

static int
epoll_arm(LoopObject *loop, int fd, FdEntry *entry, unsigned int mask, bool owned)
{
    (void)owned; /* the kernel knows */
    FdTable *table = &loop->fds;
    uint32_t events = epoll_events_of(mask);
    int err = 0;
    if (mask == 0) {
        if (entry->armed != 0) {
            err = epoll_control(table, EPOLL_CTL_DEL, fd, 0, 0);
        }
        entry->armed = 0;
        return err;
    }
    if (entry->armed != 0) {
        err = epoll_control(table, EPOLL_CTL_MOD, fd,
                            epoll_data_of(fd, entry->generation), events);
        if (err == ENOENT) { /* closed since, and the number taken by another file */
            err = epoll_add(table, fd, entry, events);
        }
    }
    else {
        err = epoll_add(table, fd, entry, events);
    }
    if (err == 0) {
        entry->armed = (uint8_t)mask;
    }
    return err;
}

/* Registers what is the poller's own in a fresh epoll descriptor. */
static int
epoll_add_own(FdTable *table)
{
    const uint32_t edges = (uint32_t)EPOLLIN | (uint32_t)EPOLLET;
    int err = epoll_control(table, EPOLL_CTL_ADD, table->wakefd, TAG_WAKER, edges);
    if (err == 0) {
        err = epoll_control(table, EPOLL_CTL_ADD, table->timerfd, TAG_TIMER, edges);
    }
    return err;
}

/* Registers in a fresh epoll descriptor what is the poller's own and all that is armed. */
static int
epoll_add_all(FdTable *table)
{
    int err = epoll_add_own(table);
    for (size_t fd = 0; err == 0 && fd < table->capacity; fd++) {
        FdEntry *entry = &table->entries[fd];
        if (entry->armed == 0) {
            continue;
        }
        err = epoll_control(table, EPOLL_CTL_ADD, (int)fd,
                            epoll_data_of((int)fd, entry->generation),
                            epoll_events_of(entry->armed));
        if (err == EBADF || err == EPERM) {
            entry->armed = 0; /* it was closed: unarmed, as the kernel has it */
            err = 0;
        }
    }
    return err;
}

/* A new epoll descriptor in the place of the old one, which stays if none can be had. 0,
 * or an errno. */
static int
epoll_rebuild(FdTable *table)
{
    int old = table->epfd;
    int fresh = epoll_create1(EPOLL_CLOEXEC);
    if (fresh < 0) {
        return errno;
    }
    table->epfd = fresh;
    int err = epoll_add_all(table);
    if (err != 0) {
        table->epfd = old;
        (void)close(fresh);
        return err;
    }
    (void)close(old);
    table->orphans = false;
    return 0;
}

/* Arms the timerfd so that the wait ends `seconds` from now or earlier. */
static int
epoll_arm_timer(FdTable *table, double seconds)
{
    double deadline = loop_clock() + seconds;
    if (table->timer_deadline <= deadline + TIMER_TOLERANCE) {
        return 0;
    }
    double whole = floor(deadline);
    struct itimerspec spec = {
        .it_value = {.tv_sec = (time_t)whole,
                     .tv_nsec = (long)ceil((deadline - whole) * 1e9)},
    };
    if (spec.it_value.tv_nsec >= 1000000000L) {
        spec.it_value.tv_nsec = 999999999L;
    }
    if (timerfd_settime(table->timerfd, TFD_TIMER_ABSTIME, &spec, NULL) < 0) {
        return errors_raise_errno(errno);
    }
    table->timer_deadline = deadline;
    return 0;
}

static unsigned int
epoll_mask_of(uint32_t events)
{
    /* As asyncio's selector: an error or a hang-up wakes every waiting direction. */
    return ((events & ~(uint32_t)EPOLLOUT) ? (unsigned int)FD_READ : 0u) |
           ((events & ~(uint32_t)EPOLLIN) ? (unsigned int)FD_WRITE : 0u);
}

static int
epoll_poll(LoopObject *loop, double seconds)
{
    /* Beyond this many seconds (a day) the wait just ends early once. */
    const double longest = 86400.0;
    FdTable *table = &loop->fds;
    struct epoll_event events[EVENTS_MAX];
    if (!ring_reserve(&loop->ready, EVENTS_MAX)) {
        PyErr_NoMemory();
        return -1;
    }
    if (seconds > 0 && !isinf(seconds) &&
        epoll_arm_timer(table, seconds < longest ? seconds : longest) < 0) {
        return -1;
    }
    int timeout = seconds > 0 ? -1 : 0;
    int count, err;
    if (seconds > 0) {
        LockHold *held = lock_give_up();
        PyThreadState *thread = PyEval_SaveThread();
        count = epoll_wait(table->epfd, events, EVENTS_MAX, timeout);
        err = errno;
        PyEval_RestoreThread(thread);
        lock_take_back(held);
        if (!ring_reserve(&loop->ready, EVENTS_MAX)) { /* others may have used it up */
            table->timer_deadline = INFINITY; /* edge-triggered: to be armed anew */
            PyErr_NoMemory();
            return -1;
        }
    }
    else {
        count = epoll_wait(table->epfd, events, EVENTS_MAX, timeout);
        err = errno;
    }
    if (count < 0) {
        return err == EINTR ? 0 : errors_raise_errno(err); /* run.c looks at signals */
    }
    for (int i = 0; i < count; i++) {
        uint32_t low = (uint32_t)events[i].data.u64;
        if (low == TAG_TIMER) {
            table->timer_deadline = INFINITY;
        }
        else if (low != TAG_WAKER) { /* to be woken is all that the waker is for */
            fds_record(loop, (int)low, (uint32_t)(events[i].data.u64 >> 32),
                       epoll_mask_of(events[i].events));
        }
    }
    if (table->orphans) {
        /* Events came for a registration that is not ours any more: its number was closed
         * while a duplicate keeps the file open, so that it cannot be removed. Where there
         * is no descriptor for another epoll, the next poll tries again: until then the
         * loop does not sleep, as asyncio's does not, but it goes on. */
        (void)epoll_rebuild(table);
    }
    return 0;
}

/* Any thread. It fails only for an eventfd that is full, and so awake already, or that the
 * program has closed. */
static void
epoll_wake_nogil(LoopObject *loop)
{
    (void)eventfd_write(loop->fds.wakefd, 1);
}

/* A timerfd and a waker. 0, or an errno and there is neither. */
static int
epoll_make_own(int *timerfd, int *wakefd)
{
    *timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (*timerfd < 0) {
        return errno;
    }
    *wakefd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (*wakefd < 0) {
        int err = errno;
        (void)close(*timerfd);
        return err;
    }
    return 0;
}

static void
epoll_close(LoopObject *loop)
{
    FdTable *table = &loop->fds;
    (void)close(table->wakefd);
    (void)close(table->timerfd);
    (void)close(table->epfd);
    table->epfd = table->timerfd = table->wakefd = -1;
}

static int
epoll_init(LoopObject *loop)
{
    FdTable *table = &loop->fds;
    table->timer_deadline = INFINITY;
    table->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (table->epfd < 0) {
        return errno;
    }
    int err = epoll_make_own(&table->timerfd, &table->wakefd);
    if (err != 0) {
        (void)close(table->epfd);
        return err;
    }
    err = epoll_add_own(table);
    if (err != 0) {
        epoll_close(loop);
    }
    return err;
}

static int
epoll_after_fork(LoopObject *loop)
{
    FdTable *table = &loop->fds;
    int timerfd, wakefd = -1;
    int err = epoll_make_own(&timerfd, &wakefd);
    if (err != 0) {
        return errors_raise_errno(err);
    }
    (void)close(table->timerfd); /* the parent's goes on, and so does its waker */
    table->timerfd = timerfd;
    table->timer_deadline = INFINITY;
    uv_mutex_lock(&loop->inbox_lock); /* a thread of this process may be waking it */
    (void)close(table->wakefd);
    table->wakefd = wakefd;
    uv_mutex_unlock(&loop->inbox_lock);
    err = epoll_rebuild(table);
    return err != 0 ? errors_raise_errno(err) : 0;
}

const FdPoller fds_epoll_poller = {
    .name = "epoll",
    .init = epoll_init,
    .close = epoll_close,
    .arm = epoll_arm,
    .after_fork = epoll_after_fork,
    .poll = epoll_poll,
    .wake_nogil = epoll_wake_nogil,
};

#endif
