/* raw.c - the limit line of the echo rows: libuv's own streams, and no Python.
 *
 * The server is the one of the experiment in benchmarks/watching (uv_tcp_t, one buffer
 * for all reads, uv_try_write); what is here starts it as the other servers are started.
 *
 * Prints one line of JSON with the port once connections are taken; SIGTERM ends it.
 */
#include "../watching/watching.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void
die(const char *what, int err)
{
    fprintf(stderr, "raw: %s: %s\n", what, strerror(abs(err)));
    exit(1);
}

/* The load reads this process's clock from outside. */
void
meter_look(Meter *self, const Shared *shared, uint64_t bytes, uint64_t waits)
{
    (void)self;
    (void)shared;
    (void)bytes;
    (void)waits;
}

static void
on_terminate(int number)
{
    (void)number;
    _exit(0);
}

int
main(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    Shared shared = {PHASE_WARM_UP};
    Job job = {.shared = &shared};
    Meter meter = {0};

    job.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (job.listener < 0 ||
        bind(job.listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(job.listener, 1024) < 0 ||
        getsockname(job.listener, (struct sockaddr *)&addr, &len) < 0) {
        die("listen", errno);
    }
    signal(SIGTERM, on_terminate);
    signal(SIGPIPE, SIG_IGN);
    printf("{\"port\": %d}\n", ntohs(addr.sin_port));
    fflush(stdout);
    serve_with_uv_tcp(&job, &meter);
    return 0;
}
