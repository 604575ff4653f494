/* load.c - the load for the echo servers: N connections, one message in flight on each.
 *
 * Usage: load PROTOCOL PORT CONNECTIONS BYTES WARMUP_SECONDS SECONDS SERVER_PID
 *
 * Every connection sends BYTES bytes, reads them back, compares them, and starts again.
 * A message ends in a newline and has no other, so that a line server can echo it.
 * PROTOCOL is tcp or udp; of udp a message is one datagram, and a lost one would leave its
 * connection silent: so do no more than fit the server's receive buffer.
 * After the warm-up the echoes are counted for SECONDS; the CPU clock of the server's
 * process is read at both ends of that window, so that figure and count belong together.
 *
 * Prints one line of JSON: messages, cpu_ns (user and system), wall_ns.
 * Exit status 1 and a line on stderr when a connection fails or an echo differs.
 *
 * One thread, epoll, Linux.  Written to be much cheaper per message than any server that
 * it loads: a plain write and a plain read for each message when it fits the buffers. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_MAX = 256, READ_CHUNK = 256 * 1024 };

typedef struct {
    int fd;
    size_t sent;     /* bytes of the current message written */
    size_t received; /* bytes of its echo read */
    int wants_write; /* EPOLLOUT is in the mask */
} Connection;

typedef struct {
    int epoll_fd;
    int type;          /* SOCK_STREAM or SOCK_DGRAM */
    size_t size;       /* bytes in a message */
    char *message;     /* size bytes */
    char *scratch;     /* READ_CHUNK bytes */
    uint64_t messages; /* echoes completed since the start */
} Load;

static void
die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what,
            errno != 0 ? strerror(errno) : "unexpected");
    exit(1);
}

static uint64_t
clock_ns(clockid_t clock)
{
    struct timespec ts;
    if (clock_gettime(clock, &ts) < 0) {
        die("clock_gettime");
    }
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void
connection_watch(const Load *load, Connection *conn, int op, int wants_write)
{
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0)};
    event.data.ptr = conn;
    if (epoll_ctl(load->epoll_fd, op, conn->fd, &event) < 0) {
        die("epoll_ctl");
    }
    conn->wants_write = wants_write;
}

/* Write what is left of the message; ask for EPOLLOUT only when the kernel is full. */
static void
connection_send(const Load *load, Connection *conn)
{
    while (conn->sent < load->size) {
        ssize_t n = send(conn->fd, load->message + conn->sent, load->size - conn->sent,
                         MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                break;
            }
            die("send");
        }
        conn->sent += (size_t)n;
    }
    int wants_write = conn->sent < load->size;
    if (wants_write != conn->wants_write) {
        connection_watch(load, conn, EPOLL_CTL_MOD, wants_write);
    }
}

/* Read until the echo is whole, then send the next message; stop at a short read. */
static void
connection_receive(Load *load, Connection *conn)
{
    for (;;) {
        size_t left = load->size - conn->received;
        size_t want = left < READ_CHUNK ? left : READ_CHUNK;
        ssize_t n = recv(conn->fd, load->scratch, want, 0);
        if (n < 0) {
            if (errno == EAGAIN) {
                return;
            }
            die("recv");
        }
        errno = 0;
        if (n == 0) {
            die("the server closed a connection");
        }
        if (memcmp(load->scratch, load->message + conn->received, (size_t)n) != 0) {
            die("an echo differs from what was sent");
        }
        conn->received += (size_t)n;
        if (conn->received == load->size) {
            load->messages++;
            conn->received = 0;
            conn->sent = 0;
            connection_send(load, conn);
            return;
        }
        if ((size_t)n < want) {
            return;
        }
    }
}

static void
connection_open(Load *load, Connection *conn, uint16_t port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    conn->fd = socket(AF_INET, load->type | SOCK_CLOEXEC, 0);
    if (conn->fd < 0) {
        die("socket");
    }
    if (connect(conn->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        die("connect");
    }
    if (load->type == SOCK_STREAM &&
        setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0) {
        die("TCP_NODELAY");
    }
    if (fcntl(conn->fd, F_SETFL, O_NONBLOCK) < 0) {
        die("O_NONBLOCK");
    }
    connection_watch(load, conn, EPOLL_CTL_ADD, 0);
}

static void
run_until(Load *load, uint64_t deadline)
{
    struct epoll_event events[EVENTS_MAX];
    while (clock_ns(CLOCK_MONOTONIC) < deadline) {
        int n = epoll_wait(load->epoll_fd, events, EVENTS_MAX, 100);
        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n; i++) {
            Connection *conn = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                connection_send(load, conn);
            }
            if (events[i].events & ~(uint32_t)EPOLLOUT) {
                connection_receive(load, conn);
            }
        }
    }
}

static uint64_t
seconds_to_ns(const char *text)
{
    return (uint64_t)(strtod(text, NULL) * 1e9);
}

int
main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: load PROTOCOL PORT CONNECTIONS BYTES WARMUP_SECONDS "
                        "SECONDS SERVER_PID\n");
        return 2;
    }
    uint16_t port = (uint16_t)atoi(argv[2]);
    size_t count = strtoul(argv[3], NULL, 10);
    Load load = {.size = strtoul(argv[4], NULL, 10)};
    load.type = strcmp(argv[1], "udp") == 0 ? SOCK_DGRAM : SOCK_STREAM;
    uint64_t warmup = seconds_to_ns(argv[5]);
    uint64_t window = seconds_to_ns(argv[6]);
    clockid_t server_clock;

    errno = clock_getcpuclockid((pid_t)atol(argv[7]), &server_clock);
    if (errno != 0) {
        die("clock_getcpuclockid");
    }
    load.message = malloc(load.size);
    load.scratch = malloc(READ_CHUNK);
    Connection *conns = calloc(count, sizeof(*conns));
    if (load.size == 0 || load.message == NULL || load.scratch == NULL ||
        conns == NULL) {
        die("memory");
    }
    memset(load.message, 'x', load.size);
    load.message[load.size - 1] = '\n';
    load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (load.epoll_fd < 0) {
        die("epoll_create1");
    }
    for (size_t i = 0; i < count; i++) {
        connection_open(&load, &conns[i], port);
    }
    for (size_t i = 0; i < count; i++) {
        connection_send(&load, &conns[i]);
    }
    run_until(&load, clock_ns(CLOCK_MONOTONIC) + warmup);

    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    uint64_t cpu = clock_ns(server_clock);
    uint64_t messages = load.messages;
    run_until(&load, start + window);
    cpu = clock_ns(server_clock) - cpu;
    messages = load.messages - messages;
    printf("{\"messages\": %llu, \"cpu_ns\": %llu, \"wall_ns\": %llu}\n",
           (unsigned long long)messages, (unsigned long long)cpu,
           (unsigned long long)(clock_ns(CLOCK_MONOTONIC) - start));
    return 0;
}
