/* timers.c - how late a blocking call wakes up for a deadline, and what the wake costs.
 *
 *   timers WAY WAIT_US COUNT
 *
 * epoll_wait     the timeout in whole milliseconds, rounded up
 * timerfd        a timerfd in the epoll descriptor, edge-triggered, never read, armed
 *                for the absolute deadline before each wait
 * pwait2         epoll_pwait2 with a timeout in nanoseconds
 * pwait2_slack   the same after prctl(PR_SET_TIMERSLACK, 1)
 * nested         the timerfd in our epoll descriptor, libuv blocking on that one
 * uv_timer       a uv_timer_t, started with the milliseconds rounded up
 *
 * Prints one line of JSON.  Lateness is the time of return less the deadline: negative
 * is early.  All but uv_timer wait on 50 idle descriptors besides.
 */
#include "watching.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { IDLE = 50 };

typedef struct {
    int epfd;
    int timerfd;
    uv_loop_t uv;
    uv_timer_t timer;
    uv_poll_t nested;
    bool fired;
} Waiter;

typedef void (*WaitFunction)(Waiter *self, uint64_t deadline);

static struct timespec
timespec_from_ns(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

static uint64_t
left_ns(uint64_t deadline)
{
    uint64_t now = now_ns();
    return now < deadline ? deadline - now : 0;
}

static void
arm_timerfd(Waiter *self, uint64_t deadline)
{
    struct itimerspec at = {.it_value = timespec_from_ns(deadline)};
    if (timerfd_settime(self->timerfd, TFD_TIMER_ABSTIME, &at, NULL) < 0) {
        die("timerfd_settime", errno);
    }
}

static void
wait_epoll(Waiter *self, uint64_t deadline)
{
    struct epoll_event event;
    int ms = (int)((left_ns(deadline) + 999999u) / 1000000u);
    (void)epoll_wait(self->epfd, &event, 1, ms);
}

static void
wait_timerfd(Waiter *self, uint64_t deadline)
{
    struct epoll_event event;
    arm_timerfd(self, deadline);
    (void)epoll_wait(self->epfd, &event, 1, -1);
}

static void
wait_pwait2(Waiter *self, uint64_t deadline)
{
    struct epoll_event event;
    struct timespec left = timespec_from_ns(left_ns(deadline));
    long n = syscall(SYS_epoll_pwait2, self->epfd, &event, 1, &left, NULL, 0);
    if (n < 0 && errno != EINTR) {
        die("epoll_pwait2", errno);
    }
}

static void
wait_nested(Waiter *self, uint64_t deadline)
{
    struct epoll_event event;
    arm_timerfd(self, deadline);
    (void)uv_run(&self->uv, UV_RUN_ONCE);
    (void)epoll_wait(self->epfd, &event, 1, 0);
}

static void
on_timer(uv_timer_t *timer)
{
    ((Waiter *)timer->loop->data)->fired = true;
}

static void
wait_uv_timer(Waiter *self, uint64_t deadline)
{
    self->fired = false;
    uv_timer_start(&self->timer, on_timer, (left_ns(deadline) + 999999u) / 1000000u, 0);
    while (!self->fired) {
        (void)uv_run(&self->uv, UV_RUN_ONCE);
    }
}

static void
on_nested(uv_poll_t *handle, int status, int events)
{
    (void)handle;
    (void)status;
    (void)events;
}

static void
waiter_open(Waiter *self, const char *way)
{
    self->epfd = epoll_create1(EPOLL_CLOEXEC);
    self->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    if (self->epfd < 0 || self->timerfd < 0 ||
        epoll_ctl(self->epfd, EPOLL_CTL_ADD, self->timerfd, &event) < 0) {
        die("open", errno);
    }
    for (int i = 0; i < IDLE; i++) {
        event.events = EPOLLIN;
        int fd = eventfd(0, EFD_CLOEXEC);
        if (fd < 0 || epoll_ctl(self->epfd, EPOLL_CTL_ADD, fd, &event) < 0) {
            die("eventfd", errno);
        }
    }
    uv_loop_init(&self->uv);
    self->uv.data = self;
    if (strcmp(way, "nested") == 0) {
        uv_poll_init(&self->uv, &self->nested, self->epfd);
        uv_poll_start(&self->nested, UV_READABLE, on_nested);
        uv_run(&self->uv, UV_RUN_NOWAIT);
    }
    else if (strcmp(way, "uv_timer") == 0) {
        uv_timer_init(&self->uv, &self->timer);
    }
    else if (strcmp(way, "pwait2_slack") == 0) {
        prctl(PR_SET_TIMERSLACK, 1);
    }
}

static WaitFunction
wait_function(const char *way)
{
    static const struct {
        const char *name;
        WaitFunction function;
    } table[] = {
        {"epoll_wait", wait_epoll}, {"timerfd", wait_timerfd},
        {"pwait2", wait_pwait2},    {"pwait2_slack", wait_pwait2},
        {"nested", wait_nested},    {"uv_timer", wait_uv_timer},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (strcmp(table[i].name, way) == 0) {
            return table[i].function;
        }
    }
    die(way, EINVAL);
}

static int
compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double
cpu_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

int
main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: timers WAY WAIT_US COUNT\n");
        return 2;
    }
    WaitFunction wait = wait_function(argv[1]);
    uint64_t wait_ns = (uint64_t)(atof(argv[2]) * 1e3);
    size_t count = (size_t)atol(argv[3]), early = 0;
    double *late = calloc(count, sizeof(*late));
    Waiter waiter = {0};
    pin_to_core(0);
    waiter_open(&waiter, argv[1]);
    double begin = cpu_us();
    for (size_t i = 0; i < count; i++) {
        uint64_t deadline = now_ns() + wait_ns;
        wait(&waiter, deadline);
        late[i] = ((double)now_ns() - (double)deadline) / 1e3;
        early += late[i] < 0;
    }
    double used = cpu_us() - begin;
    qsort(late, count, sizeof(*late), compare);
    printf("{\"median_us\": %.1f, \"p99_us\": %.1f, \"min_us\": %.1f, \"early\": %zu, "
           "\"cpu_us\": %.2f}\n",
           late[count / 2], late[(count * 99) / 100], late[0], early,
           used / (double)count);
    free(late);
    return 0;
}
