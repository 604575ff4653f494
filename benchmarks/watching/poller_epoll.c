/* poller_epoll.c - the Linux ways: all descriptors in an epoll descriptor of our own.
 *
 * nested        libuv watches our epoll descriptor with one uv_poll_t and blocks; then
 *               ours is collected with timeout 0.  Two system calls a wake-up.
 * nested_first  the same, but after a wait that found something ours is tried with
 *               timeout 0 before libuv blocks.  One call while busy, three when idle.
 * inverted      libuv's backend descriptor is in ours; we block in epoll_wait and enter
 *               libuv, without blocking, only when its descriptor is reported, or when
 *               libuv says that it has something to do before anybody blocks.
 */
#include "watching.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

/* The event data of libuv's backend descriptor: no watch has generation 0. */
#define BACKEND_DATA ((uint64_t)0)

static uint32_t
epoll_mask(unsigned mask)
{
    return ((mask & WATCH_READ) ? (uint32_t)EPOLLIN : 0u) |
           ((mask & WATCH_WRITE) ? (uint32_t)EPOLLOUT : 0u);
}

static int
control(Poller *self, int op, int fd, unsigned mask)
{
    struct epoll_event event = {
        .events = epoll_mask(mask),
        .data.u64 = (uint64_t)self->generations[fd] << 32 | (uint32_t)fd,
    };
    return epoll_ctl(self->epfd, op, fd, &event) < 0 ? -errno : 0;
}

static int
way_watch(Poller *self, int fd, unsigned mask)
{
    self->generations[fd] = poller_next_generation(self);
    int err = control(self, EPOLL_CTL_ADD, fd, mask);
    if (err < 0) {
        self->generations[fd] = 0;
    }
    return err;
}

static int
way_change(Poller *self, int fd, unsigned mask)
{
    int err = control(self, EPOLL_CTL_MOD, fd, mask);
    if (err == -ENOENT) { /* closed and its number reused, behind our back */
        err = control(self, EPOLL_CTL_ADD, fd, mask);
    }
    return err;
}

static int
way_unwatch(Poller *self, int fd)
{
    if (self->generations[fd] == 0) {
        return -ENOENT;
    }
    self->generations[fd] = 0;
    return epoll_ctl(self->epfd, EPOLL_CTL_DEL, fd, NULL) < 0 ? -errno : 0;
}

/* Returns whether libuv's descriptor was among the events. */
static bool
collect(Poller *self, int timeout_ms, int *found)
{
    struct epoll_event events[MAX_EVENTS];
    bool backend = false;
    int n = epoll_wait(self->epfd, events, MAX_EVENTS, timeout_ms);
    for (int i = 0; i < n; i++) {
        uint64_t data = events[i].data.u64;
        if (data == BACKEND_DATA) {
            backend = true;
            continue;
        }
        uint32_t bits = events[i].events;
        unsigned mask = 0;
        if (bits & (EPOLLERR | EPOLLHUP)) {
            mask = WATCH_READ | WATCH_WRITE;
        }
        else {
            mask |= (bits & EPOLLIN) ? WATCH_READ : 0u;
            mask |= (bits & EPOLLOUT) ? WATCH_WRITE : 0u;
        }
        poller_record(self, (int)(uint32_t)data, (uint32_t)(data >> 32), mask);
    }
    *found = n < 0 ? -errno : n;
    return backend;
}

/* --- nested --- */

static void
on_nested_ready(uv_poll_t *handle, int status, int events)
{
    Poller *self = handle->loop->data;
    (void)status;
    (void)events;
    self->nested_ready = true;
}

static int
nested_open(Poller *self)
{
    self->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (self->epfd < 0) {
        return -errno;
    }
    int err = uv_poll_init(&self->uv, &self->nested, self->epfd);
    if (err < 0) {
        return err;
    }
    return uv_poll_start(&self->nested, UV_READABLE, on_nested_ready);
}

static void
nested_close(Poller *self)
{
    uv_close((uv_handle_t *)&self->nested, NULL);
    (void)uv_run(&self->uv, UV_RUN_NOWAIT);
    close(self->epfd);
}

static int
nested_wait(Poller *self)
{
    int found = 0;
    self->events_len = 0;
    self->waits++;
    self->nested_ready = false;
    (void)uv_run(&self->uv, UV_RUN_ONCE);
    if (self->nested_ready) {
        (void)collect(self, 0, &found);
    }
    return found < 0 ? found : 0;
}

static int
nested_first_wait(Poller *self)
{
    int found = 0;
    if (self->was_busy) {
        self->events_len = 0;
        (void)collect(self, 0, &found);
        if (found > 0) {
            self->waits++;
            return 0;
        }
    }
    int err = nested_wait(self);
    self->was_busy = self->events_len > 0;
    return err;
}

/* --- inverted --- */

static int
inverted_open(Poller *self)
{
    self->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (self->epfd < 0) {
        return -errno;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = BACKEND_DATA};
    if (epoll_ctl(self->epfd, EPOLL_CTL_ADD, uv_backend_fd(&self->uv), &event) < 0) {
        return -errno;
    }
    return 0;
}

static void
inverted_close(Poller *self)
{
    close(self->epfd);
}

/* libuv tells its descriptor of new handles only inside uv_run, and ends uv_close
 * there; until then uv_backend_timeout is 0.  It is 0 too when no handle is referenced,
 * and then uv_run does not even poll: the waker must stay referenced.
 *
 * Having run libuv we must not block: its callbacks may just have used up the very wake
 * that the caller waits for. */
static int
inverted_wait(Poller *self)
{
    int found = 0, timeout_ms = -1;
    self->events_len = 0;
    self->waits++;
    if (uv_backend_timeout(&self->uv) == 0) {
        (void)uv_run(&self->uv, UV_RUN_NOWAIT);
        timeout_ms = 0;
    }
    if (collect(self, timeout_ms, &found)) {
        (void)uv_run(&self->uv, UV_RUN_NOWAIT);
    }
    return found < 0 && found != -EINTR ? found : 0;
}

#define EPOLL_WAY(way_name, open_function, close_function, wait_function)              \
    {.name = (way_name),                                                               \
     .open = (open_function),                                                          \
     .close = (close_function),                                                        \
     .watch = way_watch,                                                               \
     .change = way_change,                                                             \
     .unwatch = way_unwatch,                                                           \
     .wait = (wait_function)}

const PollerWay way_nested =
    EPOLL_WAY("nested", nested_open, nested_close, nested_wait);
const PollerWay way_nested_first =
    EPOLL_WAY("nested_first", nested_open, nested_close, nested_first_wait);
const PollerWay way_inverted =
    EPOLL_WAY("inverted", inverted_open, inverted_close, inverted_wait);
