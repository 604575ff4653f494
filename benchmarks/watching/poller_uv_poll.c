/* poller_uv_poll.c - the portable way: one uv_poll_t per descriptor.
 *
 * Owns: a uv_poll_t on the heap per watch, because uv_close() ends only in a later
 * iteration, by when the table's slot may hold another watch.
 */
#include "watching.h"

#include <errno.h>
#include <stdlib.h>

typedef struct {
    uv_poll_t uv; /* first: a uv_handle_t pointer is a pointer to the watch */
    int fd;
    uint32_t generation;
} UvWatch;

static void
on_ready(uv_poll_t *handle, int status, int events)
{
    UvWatch *watch = (UvWatch *)handle;
    Poller *self = handle->loop->data;
    unsigned mask = 0;
    if (status < 0) {
        mask = WATCH_READ | WATCH_WRITE;
    }
    else {
        mask |= (events & UV_READABLE) ? WATCH_READ : 0u;
        mask |= (events & UV_WRITABLE) ? WATCH_WRITE : 0u;
    }
    poller_record(self, watch->fd, watch->generation, mask);
}

static int
uv_mask(unsigned mask)
{
    return ((mask & WATCH_READ) ? UV_READABLE : 0) |
           ((mask & WATCH_WRITE) ? UV_WRITABLE : 0);
}

static int
way_open(Poller *self)
{
    (void)self;
    return 0;
}

static void
on_closed(uv_handle_t *handle)
{
    free(handle);
}

static int
way_unwatch(Poller *self, int fd)
{
    uv_poll_t *handle = self->handles[fd];
    if (handle == NULL) {
        return -ENOENT;
    }
    self->handles[fd] = NULL;
    self->generations[fd] = 0;
    uv_close((uv_handle_t *)handle, on_closed);
    return 0;
}

static void
way_close(Poller *self)
{
    for (int fd = 0; fd < MAX_FDS; fd++) {
        (void)way_unwatch(self, fd); /* most are not watched */
    }
}

static int
way_change(Poller *self, int fd, unsigned mask)
{
    return uv_poll_start(self->handles[fd], uv_mask(mask), on_ready);
}

static int
way_watch(Poller *self, int fd, unsigned mask)
{
    UvWatch *watch = malloc(sizeof(*watch));
    if (watch == NULL) {
        return -ENOMEM;
    }
    int err = uv_poll_init(&self->uv, &watch->uv, fd);
    if (err < 0) {
        free(watch);
        return err;
    }
    watch->fd = fd;
    watch->generation = poller_next_generation(self);
    self->handles[fd] = &watch->uv;
    self->generations[fd] = watch->generation;
    return way_change(self, fd, mask);
}

static int
way_wait(Poller *self)
{
    self->events_len = 0;
    self->waits++;
    (void)uv_run(&self->uv, UV_RUN_ONCE); /* returns whether handles are left */
    return 0;
}

const PollerWay way_uv_poll = {
    .name = "uv_poll",
    .open = way_open,
    .close = way_close,
    .watch = way_watch,
    .change = way_change,
    .unwatch = way_unwatch,
    .wait = way_wait,
};
