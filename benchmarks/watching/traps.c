/* traps.c - what becomes of a process that does what users do to watched descriptors.
 *
 *   traps
 *
 * Each case runs once per way in a child of its own, because some abort.  Prints one
 * line of JSON: {case: {way: outcome}}.
 */
#include "watching.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUTCOME = 80, ROUNDS = 10, LIMIT_US = 200000 };

/* Writes what happened into outcome. */
typedef void (*Case)(Poller *self, char *outcome);

static void
socket_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) {
        die("socketpair", errno);
    }
}

static int
watch(Poller *self, int fd, unsigned mask)
{
    return self->way->watch(self, fd, mask);
}

/* From here on every wait returns at once: for cases that expect no event. */
static void
keep_ticking(Poller *self)
{
    int err = watch(self, eventfd(1, EFD_CLOEXEC), WATCH_READ);
    if (err < 0) {
        die("eventfd", err);
    }
}

static int
count_events(Poller *self, int fd, int rounds)
{
    int count = 0;
    for (int i = 0; i < rounds; i++) {
        self->way->wait(self);
        for (size_t j = 0; j < self->events_len; j++) {
            count += self->events[j].fd == fd;
        }
    }
    return count;
}

static void
say_error(char *outcome, const char *where, int err)
{
    snprintf(outcome, OUTCOME, "%s: %s", where, err == 0 ? "ok" : uv_err_name(err));
}

static void
case_closed_then_changed(Poller *self, char *outcome)
{
    int fds[2];
    socket_pair(fds);
    watch(self, fds[0], WATCH_READ);
    keep_ticking(self);
    self->way->wait(self);
    close(fds[0]);
    say_error(outcome, "change", self->way->change(self, fds[0], WATCH_WRITE));
    self->way->wait(self);
}

static void
case_closed_before_poll(Poller *self, char *outcome)
{
    int fds[2];
    socket_pair(fds);
    keep_ticking(self);
    int err = watch(self, fds[0], WATCH_READ);
    close(fds[0]);
    self->way->wait(self);
    say_error(outcome, "watch", err);
}

static void
case_number_reused(Poller *self, char *outcome)
{
    int fds[2], more[2];
    socket_pair(fds);
    watch(self, fds[0], WATCH_READ);
    keep_ticking(self);
    self->way->wait(self);
    int number = fds[0];
    close(number);
    socket_pair(more);
    if (more[0] != number) {
        die("the number was not reused", EINVAL);
    }
    int err = watch(self, number, WATCH_READ);
    if (err == 0 && write(more[1], "x", 1) != 1) {
        die("write", errno);
    }
    int events = err == 0 ? count_events(self, number, 1) : 0;
    snprintf(outcome, OUTCOME, "watch: %s, %d event(s)",
             err == 0 ? "ok" : uv_err_name(err), events);
}

/* A duplicate keeps the open file, and so the kernel's registration, alive: it can no
 * longer be removed, and goes on being reported.  Returning is the better outcome: the
 * loop sees an event of no watch, and can make a new epoll descriptor. */
static void
case_closed_with_duplicate(Poller *self, char *outcome)
{
    int fds[2];
    socket_pair(fds);
    watch(self, fds[0], WATCH_READ);
    if (write(fds[1], "x", 1) != 1) {
        die("write", errno);
    }
    self->way->wait(self);
    if (dup(fds[0]) < 0) {
        die("dup", errno);
    }
    close(fds[0]);
    (void)self->way->unwatch(self, fds[0]);
    self->way->wait(self); /* uv_poll: uv_close ends in here */
    self->way->wait(self);
    snprintf(outcome, OUTCOME, "the wait returns, %zu event(s)", self->events_len);
}

static void
case_regular_file(Poller *self, char *outcome)
{
    FILE *file = tmpfile();
    if (file == NULL) {
        die("tmpfile", errno);
    }
    say_error(outcome, "watch", watch(self, fileno(file), WATCH_READ));
}

static void
case_blocking_flag(Poller *self, char *outcome)
{
    int fds[2];
    if (pipe(fds) < 0) {
        die("pipe", errno);
    }
    watch(self, fds[0], WATCH_READ);
    bool blocking = (fcntl(fds[0], F_GETFL) & O_NONBLOCK) == 0;
    snprintf(outcome, OUTCOME, "%s", blocking ? "still blocking" : "made non-blocking");
}

static void
case_refused_connect(Poller *self, char *outcome)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int closed = socket(AF_INET, SOCK_STREAM, 0); /* bound, not listening: refuses */
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(closed, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        getsockname(closed, (struct sockaddr *)&addr, &len) < 0) {
        die("bind", errno);
    }
    /* In progress or refused at once: the same for this purpose. */
    (void)connect(fd, (struct sockaddr *)&addr, sizeof(addr));
    watch(self, fd, WATCH_WRITE);
    keep_ticking(self);
    int count = count_events(self, fd, ROUNDS);
    snprintf(outcome, OUTCOME, "reported in %d of %d polls", count, ROUNDS);
}

static volatile sig_atomic_t alarmed;

static void
on_alarm(int number)
{
    (void)number;
    alarmed = 1;
}

/* Blocks for ever where EINTR is swallowed: the parent's time limit ends it. */
static void
case_signal(Poller *self, char *outcome)
{
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval soon = {.it_value.tv_usec = 20000};
    int fds[2];
    socket_pair(fds);
    watch(self, fds[0], WATCH_READ);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    while (!alarmed) {
        self->way->wait(self);
    }
    snprintf(outcome, OUTCOME, "the wait returns");
}

static const struct {
    const char *name;
    Case run;
} cases[] = {
    {"closed, then its mask changed", case_closed_then_changed},
    {"closed before the first poll", case_closed_before_poll},
    {"closed, its number watched anew", case_number_reused},
    {"closed while a duplicate lives", case_closed_with_duplicate},
    {"a regular file", case_regular_file},
    {"the user's blocking pipe", case_blocking_flag},
    {"a refused connect", case_refused_connect},
    {"a signal while blocked", case_signal},
};

static void
run_case(Case function, const char *way, char *outcome)
{
    int fds[2], status = 0;
    struct rusage usage;
    if (pipe(fds) < 0) {
        die("pipe", errno);
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char said[OUTCOME] = "";
        close(fds[0]);
        function(poller_new(way, NULL), said);
        _exit(write(fds[1], said, strlen(said)) < 0);
    }
    close(fds[1]);
    usleep(LIMIT_US);
    kill(child, SIGKILL); /* a zombie, mostly: then it does nothing */
    wait4(child, &status, 0, &usage);
    bool spun = usage.ru_utime.tv_usec + usage.ru_stime.tv_usec > LIMIT_US / 4;
    ssize_t n = read(fds[0], outcome, OUTCOME - 1);
    close(fds[0]);
    outcome[n > 0 ? n : 0] = '\0';
    if (WIFSIGNALED(status)) {
        snprintf(outcome, OUTCOME, "%s",
                 WTERMSIG(status) == SIGABRT   ? "the process aborts"
                 : WTERMSIG(status) != SIGKILL ? strsignal(WTERMSIG(status))
                 : spun                        ? "the wait spins for ever"
                                               : "the wait goes on");
    }
}

int
main(void)
{
    static const char *const ways[] = {"uv_poll", "nested", "inverted"};
    printf("{");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        printf("%s\"%s\": {", i ? ", " : "", cases[i].name);
        for (size_t j = 0; j < sizeof(ways) / sizeof(ways[0]); j++) {
            char outcome[OUTCOME];
            run_case(cases[i].run, ways[j], outcome);
            printf("%s\"%s\": \"%s\"", j ? ", " : "", ways[j], outcome);
        }
        printf("}");
    }
    printf("}\n");
    return 0;
}
