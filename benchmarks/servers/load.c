/* load.c - the load for the echo servers: N connections, one message in flight on each.
 *
 * Usage: load PROTOCOL PORT CONNECTIONS IDLE BYTES WARMUP_SECONDS SECONDS SERVER_PID
 *
 * Every connection sends BYTES bytes, reads them back, compares them, and starts again;
 * IDLE more connections are open all the while and say nothing.
 * A message ends in a newline and has no other, so that a line server can echo it.
 * PROTOCOL is tcp, ws or udp; of ws (RFC 6455) a message is one binary frame; of udp it is
 * one datagram, and a lost one would leave its connection silent: so do no more than fit
 * the server's receive buffer.
 * After the warm-up the echoes are counted for SECONDS; the CPU clock of the server's
 * process is read at both ends of that window, so that figure and count belong together.
 *
 * Prints one line of JSON: messages, cpu_ns (user and system) and wall_ns of the window,
 * and total, the echoes since the start.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { EVENTS_MAX = 256, READ_CHUNK = 256 * 1024 };

/* The longest head of a frame: opcode, length, 16 bits of length, mask. */
enum { FRAME_HEAD_MAX = 8, FRAME_BYTES_MAX = 65535 };

typedef struct {
    int fd;
    size_t sent;     /* bytes of the current message written */
    size_t received; /* bytes of its echo read */
    int wants_write; /* EPOLLOUT is in the mask */
} Connection;

typedef struct {
    int epoll_fd;
    int type;          /* SOCK_STREAM or SOCK_DGRAM */
    int frames;        /* messages are frames of a WebSocket */
    size_t size;       /* bytes in a message */
    char *message;     /* size bytes */
    size_t echo_size;  /* bytes in its echo */
    char *echo;        /* echo_size bytes; may be message itself */
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
        size_t left = load->echo_size - conn->received;
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
        if (memcmp(load->scratch, load->echo + conn->received, (size_t)n) != 0) {
            die("an echo differs from what was sent");
        }
        conn->received += (size_t)n;
        if (conn->received == load->echo_size) {
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

/* Of TCP, each process of load has a source address of its own (all of 127/8 is this
 * machine): thousands of its connections linger in TIME_WAIT after it, and would use up
 * the ports of an address that runs shared. */
static void
bind_source(const Load *load, int fd)
{
    struct sockaddr_in source = {.sin_family = AF_INET};
    uint32_t pid = (uint32_t)getpid();
    int one = 1;
    if (load->type != SOCK_STREAM) {
        return;
    }
    source.sin_addr.s_addr = htonl(0x7f010000u | (pid & 0xffffu));
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one)) < 0 ||
        bind(fd, (struct sockaddr *)&source, sizeof(source)) < 0) {
        die("bind");
    }
}

/* Ask for a WebSocket and read the answer, which nothing follows. */
static void
connection_upgrade(const Load *load, const Connection *conn)
{
    static const char request[] = "GET / HTTP/1.1\r\n"
                                  "Host: 127.0.0.1\r\n"
                                  "Connection: Upgrade\r\n"
                                  "Upgrade: websocket\r\n"
                                  "Sec-WebSocket-Version: 13\r\n"
                                  "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                                  "\r\n";
    size_t got = 0;
    if (send(conn->fd, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0) {
        die("upgrade");
    }
    while (got < 4 || memcmp(load->scratch + got - 4, "\r\n\r\n", 4) != 0) {
        ssize_t n = recv(conn->fd, load->scratch + got, READ_CHUNK - got, 0);
        if (n <= 0) {
            die("the answer to an upgrade");
        }
        got += (size_t)n;
    }
    errno = 0;
    if (got < 12 || memcmp(load->scratch, "HTTP/1.1 101", 12) != 0) {
        die("the answer to an upgrade");
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
    bind_source(load, conn->fd);
    if (connect(conn->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        die("connect");
    }
    if (load->type == SOCK_STREAM &&
        setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0) {
        die("TCP_NODELAY");
    }
    if (load->frames) {
        connection_upgrade(load, conn);
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

/* A frame with *payload* of *size* bytes in new memory; its length in *length.  What a
 * client sends is masked, here with zeros, which leave the payload as it is. */
static char *
frame_new(const char *payload, size_t size, int masked, size_t *length)
{
    char *frame = calloc(1, size + FRAME_HEAD_MAX);
    size_t head = 2;
    if (frame == NULL) {
        die("memory");
    }
    frame[0] = (char)0x82; /* the only frame of a binary message */
    if (size < 126) {
        frame[1] = (char)size;
    }
    else {
        frame[1] = 126;
        frame[2] = (char)(size >> 8);
        frame[3] = (char)size;
        head = 4;
    }
    if (masked) {
        frame[1] |= (char)0x80;
        head += 4;
    }
    memcpy(frame + head, payload, size);
    *length = head + size;
    return frame;
}

static void
make_messages(Load *load)
{
    size_t size = load->size;
    char *payload = malloc(size);
    load->scratch = malloc(READ_CHUNK);
    if (size == 0 || payload == NULL || load->scratch == NULL) {
        die("memory");
    }
    memset(payload, 'x', size);
    payload[size - 1] = '\n';
    load->message = load->echo = payload;
    load->echo_size = size;
    if (load->frames) {
        if (size > FRAME_BYTES_MAX) {
            die("the size of a frame");
        }
        load->message = frame_new(payload, size, 1, &load->size);
        load->echo = frame_new(payload, size, 0, &load->echo_size);
        free(payload);
    }
}

/* Thousands of connections need more descriptors than the usual soft limit. */
static void
raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* too few are seen by socket() */
    }
}

int
main(int argc, char **argv)
{
    if (argc != 9) {
        fprintf(stderr, "usage: load PROTOCOL PORT CONNECTIONS IDLE BYTES "
                        "WARMUP_SECONDS SECONDS SERVER_PID\n");
        return 2;
    }
    uint16_t port = (uint16_t)atoi(argv[2]);
    size_t count = strtoul(argv[3], NULL, 10);
    size_t all = count + strtoul(argv[4], NULL, 10);
    Load load = {.size = strtoul(argv[5], NULL, 10)};
    load.type = strcmp(argv[1], "udp") == 0 ? SOCK_DGRAM : SOCK_STREAM;
    load.frames = strcmp(argv[1], "ws") == 0;
    uint64_t warmup = seconds_to_ns(argv[6]);
    uint64_t window = seconds_to_ns(argv[7]);
    clockid_t server_clock;

    errno = clock_getcpuclockid((pid_t)atol(argv[8]), &server_clock);
    if (errno != 0) {
        die("clock_getcpuclockid");
    }
    make_messages(&load);
    raise_descriptors();
    Connection *conns = calloc(all, sizeof(*conns));
    if (conns == NULL) {
        die("memory");
    }
    load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (load.epoll_fd < 0) {
        die("epoll_create1");
    }
    for (size_t i = 0; i < all; i++) {
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
    printf("{\"messages\": %llu, \"cpu_ns\": %llu, \"wall_ns\": %llu, "
           "\"total\": %llu}\n",
           (unsigned long long)messages, (unsigned long long)cpu,
           (unsigned long long)(clock_ns(CLOCK_MONOTONIC) - start),
           (unsigned long long)load.messages);
    return 0;
}
