/* pollers.c - the list of ways, and the few helpers every program needs. */
#include "watching.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const PollerWay *const ways[] = {
    &way_uv_poll,
    &way_nested,
    &way_nested_first,
    &way_inverted,
};

void
die(const char *what, int err)
{
    fprintf(stderr, "%s: %s\n", what, strerror(err < 0 ? -err : err));
    exit(1);
}

void
pin_to_core(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0) {
        die("sched_setaffinity", errno);
    }
}

uint64_t
now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

const PollerWay *
poller_way_find(const char *name)
{
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (strcmp(ways[i]->name, name) == 0) {
            return ways[i];
        }
    }
    return NULL;
}

Poller *
poller_new(const char *name, uv_async_cb on_wake)
{
    Poller *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        die("calloc", ENOMEM);
    }
    self->way = poller_way_find(name);
    if (self->way == NULL) {
        die(name, EINVAL);
    }
    self->epfd = -1;
    int err = uv_loop_init(&self->uv);
    if (err < 0) {
        die("uv_loop_init", err);
    }
    self->uv.data = self;
    err = uv_async_init(&self->uv, &self->waker, on_wake);
    if (err < 0) {
        die("uv_async_init", err);
    }
    err = self->way->open(self);
    if (err < 0) {
        die("open", err);
    }
    return self;
}

void
poller_free(Poller *self)
{
    self->way->close(self);
    uv_close((uv_handle_t *)&self->waker, NULL);
    while (uv_run(&self->uv, UV_RUN_NOWAIT) != 0) {
    }
    int err = uv_loop_close(&self->uv);
    if (err < 0) {
        die("uv_loop_close", err);
    }
    free(self);
}

void
poller_record(Poller *self, int fd, uint32_t generation, unsigned mask)
{
    if (self->events_len < MAX_EVENTS) {
        self->events[self->events_len++] =
            (Event){.fd = fd, .generation = generation, .mask = mask};
    }
}

uint32_t
poller_next_generation(Poller *self)
{
    if (++self->last_generation == 0) {
        self->last_generation = 1;
    }
    return self->last_generation;
}
