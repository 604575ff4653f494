/* clocks.c - what it costs to ask for the time, and to ask whether anything happened.
 *
 * This is for the decision when a busy loop polls: it may skip a poll only if knowing
 * that it may is much cheaper than the poll.  Also what one wait costs each way when
 * its event is there already.  Prints one line of JSON: nanoseconds per call, median
 * and best of many batches.  With --version, the versions of libuv
 * and Linux.
 */
#include "watching.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

enum { IDLE = 50, BATCHES = 41 };

static int epfd_empty, epfd_idle, epfd_backend;
static uv_loop_t loop_empty, loop_nested;
static uv_poll_t nested;
static uv_async_t waker_empty, waker_nested;
static Poller *poller;
static volatile uint64_t sink;

static void
clock_monotonic(void)
{
    sink = now_ns();
}

static void
clock_coarse(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    sink = (uint64_t)ts.tv_nsec;
}

static void
cycle_counter(void)
{
#if defined(__x86_64__)
    sink = __rdtsc();
#endif
}

static void
call_nothing(void)
{
    sink = 1;
}

static void
poll_once(int epfd)
{
    struct epoll_event events[MAX_EVENTS];
    sink = (uint64_t)epoll_wait(epfd, events, MAX_EVENTS, 0);
}

static void
poll_empty(void)
{
    poll_once(epfd_empty);
}

static void
poll_idle(void)
{
    poll_once(epfd_idle);
}

static void
poll_backend(void)
{
    poll_once(epfd_backend);
}

static void
backend_timeout(void)
{
    sink = (uint64_t)uv_backend_timeout(&loop_empty);
}

static void
run_empty(void)
{
    (void)uv_run(&loop_empty, UV_RUN_NOWAIT);
}

static void
run_nested(void)
{
    (void)uv_run(&loop_nested, UV_RUN_NOWAIT);
}

static void
on_nested(uv_poll_t *handle, int status, int events)
{
    (void)handle;
    (void)status;
    (void)events;
}

static int
epoll_with_idle(int count)
{
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN};
        int fd = eventfd(0, EFD_CLOEXEC);
        if (fd < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) < 0) {
            die("eventfd", errno);
        }
    }
    return epfd;
}

static void
set_up(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    uv_loop_init(&loop_empty);
    uv_loop_init(&loop_nested);
    uv_async_init(&loop_empty, &waker_empty, NULL);
    uv_async_init(&loop_nested, &waker_nested, NULL);
    epfd_empty = epoll_with_idle(0);
    epfd_idle = epoll_with_idle(IDLE);
    epfd_backend = epoll_with_idle(IDLE);
    if (epoll_ctl(epfd_backend, EPOLL_CTL_ADD, uv_backend_fd(&loop_empty), &event) <
        0) {
        die("epoll_ctl", errno);
    }
    if (uv_poll_init(&loop_nested, &nested, epfd_idle) < 0 ||
        uv_poll_start(&nested, UV_READABLE, on_nested) < 0) {
        die("uv_poll", EIO);
    }
}

static int
compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void
measure(const char *name, void (*function)(void), int calls, const char *separator)
{
    double ns[BATCHES];
    for (int i = 0; i < BATCHES; i++) {
        uint64_t begin = now_ns();
        for (int j = 0; j < calls; j++) {
            function();
        }
        ns[i] = (double)(now_ns() - begin) / calls;
    }
    qsort(ns, BATCHES, sizeof(ns[0]), compare);
    printf("\"%s\": {\"median_ns\": %.1f, \"best_ns\": %.1f}%s", name, ns[BATCHES / 2],
           ns[0], separator);
}

static int
print_versions(void)
{
    struct utsname name;
    uname(&name);
    printf("{\"libuv\": \"%s\", \"linux\": \"%s\"}\n", uv_version_string(),
           name.release);
    return 0;
}

static void
wait_ready(void)
{
    (void)poller->way->wait(poller);
    sink = poller->events_len;
}

static int wake_fd, timer_fd;

static void
wake_by_async(void)
{
    (void)uv_async_send(&poller->waker);
    (void)poller->way->wait(poller);
}

static void
wake_by_eventfd(void)
{
    uint64_t one = 1;
    if (write(wake_fd, &one, sizeof(one)) == sizeof(one)) {
        (void)poller->way->wait(poller);
    }
}

/* A wake and the wait that finds it, on one thread: no sleep, so none of its noise. */
static void
measure_wakes(void)
{
    static const char *const ways[] = {"uv_poll", "nested", "inverted"};
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        char name[64];
        poller = poller_new(ways[i], NULL);
        snprintf(name, sizeof(name), "uv_async_send and a wait: %s", ways[i]);
        measure(name, wake_by_async, 2000, ", ");
        poller_free(poller);
    }
    poller = poller_new("inverted", NULL);
    wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLET,
        .data.u64 = (uint64_t)poller_next_generation(poller) << 32 | (uint32_t)wake_fd,
    };
    if (epoll_ctl(poller->epfd, EPOLL_CTL_ADD, wake_fd, &event) < 0) {
        die("epoll_ctl", errno);
    }
    measure("own eventfd (edge, unread) and a wait: inverted", wake_by_eventfd, 2000,
            ", ");
    poller_free(poller);
    close(wake_fd);
}

static void
arm_timer(void)
{
    static long later;
    struct itimerspec at = {.it_value = {.tv_sec = 1 << 30, .tv_nsec = later}};
    later = (later + 1000) % 1000000;
    sink = (uint64_t)timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* One wait that finds one event, without sleeping: what the way itself costs. */
static void
measure_ways(void)
{
    static const char *const ways[] = {"uv_poll", "nested", "nested_first", "inverted"};
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        char name[64];
        int fd = eventfd(1, EFD_CLOEXEC);
        poller = poller_new(ways[i], NULL);
        int err = poller->way->watch(poller, fd, WATCH_READ);
        if (err < 0) {
            die("watch", err);
        }
        snprintf(name, sizeof(name), "a wait with one event: %s", ways[i]);
        measure(name, wait_ready, 2000, ", ");
        poller_free(poller);
        close(fd);
    }
}

int
main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        return print_versions();
    }
    pin_to_core(0);
    set_up();
    printf("{");
    measure("an empty call", call_nothing, 20000, ", ");
    measure("rdtsc", cycle_counter, 20000, ", ");
    measure("clock_gettime(MONOTONIC_COARSE)", clock_coarse, 20000, ", ");
    measure("clock_gettime(MONOTONIC)", clock_monotonic, 20000, ", ");
    measure("uv_backend_timeout", backend_timeout, 20000, ", ");
    measure_ways();
    measure_wakes();
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    measure("timerfd_settime", arm_timer, 2000, ", ");
    close(timer_fd);
    measure("epoll_wait(0), nothing in it", poll_empty, 2000, ", ");
    measure("epoll_wait(0), 50 idle", poll_idle, 2000, ", ");
    measure("epoll_wait(0), 50 idle + libuv's backend", poll_backend, 2000, ", ");
    measure("uv_run(NOWAIT), a uv_async_t", run_empty, 2000, ", ");
    measure("uv_run(NOWAIT), it and a uv_poll_t on 50 idle", run_nested, 2000, "}\n");
    return 0;
}
