/* wake.c - what it costs that another thread wakes the loop.
 *
 *   wake WAY COUNT
 *
 * uv_poll, nested, nested_first, inverted   a uv_async_t
 * inverted_eventfd       an eventfd of our own in the epoll descriptor, read each time
 * inverted_eventfd_edge  the same, edge-triggered and never read
 *
 * The loop is asleep each time: the waking thread, on the other core, gives it 30 us
 * after each wake.  Prints one line of JSON: CPU of the loop's thread per wake, time
 * that the waking call takes its caller, time from before it to the loop's return.
 */
#include "watching.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define ASLEEP_NS 30000u

typedef struct {
    Poller *poller;
    int eventfd; /* -1: the uv_async_t is used */
    bool edge;
    bool woken; /* the loop's thread only */
    uint64_t count;
    _Atomic uint64_t done; /* wakes that the loop has seen and accounted */
    _Atomic uint64_t sent_at;
    double send_us; /* sums, written by the thread before it ends */
} Waking;

static void
on_async(uv_async_t *async)
{
    ((Waking *)async->data)->woken = true;
}

static void *
waker_main(void *arg)
{
    Waking *self = arg;
    uint64_t one = 1, sending = 0;
    pin_to_core(1);
    for (uint64_t i = 0; i < self->count; i++) {
        while (atomic_load(&self->done) < i) {
        }
        uint64_t begin = now_ns();
        while (now_ns() - begin < ASLEEP_NS) {
        }
        begin = now_ns();
        atomic_store(&self->sent_at, begin);
        if (self->eventfd < 0) {
            uv_async_send(&self->poller->waker);
        }
        else if (write(self->eventfd, &one, sizeof(one)) < 0) {
            die("write", errno);
        }
        sending += now_ns() - begin;
    }
    self->send_us = (double)sending / 1e3;
    return NULL;
}

static void
collect_eventfd(Waking *self)
{
    Poller *poller = self->poller;
    for (size_t i = 0; i < poller->events_len; i++) {
        if (poller->events[i].fd == self->eventfd) {
            uint64_t value;
            if (!self->edge && read(self->eventfd, &value, sizeof(value)) < 0) {
                die("read", errno);
            }
            self->woken = true;
        }
    }
}

static void
open_eventfd(Waking *self)
{
    self->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int err = self->poller->way->watch(self->poller, self->eventfd, WATCH_READ);
    if (self->eventfd < 0 || err < 0) {
        die("eventfd", errno);
    }
    if (self->edge) {
        struct epoll_event event = {
            .events = EPOLLIN | EPOLLET,
            .data.u64 = (uint64_t)self->poller->generations[self->eventfd] << 32 |
                        (uint32_t)self->eventfd,
        };
        epoll_ctl(self->poller->epfd, EPOLL_CTL_MOD, self->eventfd, &event);
    }
}

static double
thread_cpu_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

int
main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: wake WAY COUNT\n");
        return 2;
    }
    bool own = strncmp(argv[1], "inverted_eventfd", 16) == 0;
    Waking self = {
        .poller = poller_new(own ? "inverted" : argv[1], on_async),
        .eventfd = -1,
        .edge = strcmp(argv[1], "inverted_eventfd_edge") == 0,
        .count = (uint64_t)atol(argv[2]),
    };
    self.poller->waker.data = &self;
    if (own) {
        open_eventfd(&self);
    }
    pthread_t thread;
    pin_to_core(0);
    int err = pthread_create(&thread, NULL, waker_main, &self);
    if (err != 0) {
        die("pthread_create", err);
    }
    double begin = thread_cpu_us(), latency = 0;
    uint64_t seen = 0;
    while (seen < self.count) {
        self.poller->way->wait(self.poller);
        uint64_t now = now_ns();
        if (own) {
            collect_eventfd(&self);
        }
        if (self.woken) {
            self.woken = false;
            latency += (double)(now - atomic_load(&self.sent_at)) / 1e3;
            atomic_store(&self.done, ++seen);
        }
    }
    double used = thread_cpu_us() - begin, count = (double)self.count;
    pthread_join(thread, NULL);
    printf("{\"cpu_us\": %.3f, \"send_us\": %.3f, \"latency_us\": %.3f}\n",
           used / count, self.send_us / count, latency / count);
    return 0;
}
