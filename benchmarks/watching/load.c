/* load.c - the load generator: closed loop, one message in flight per connection.
 *
 * Runs in a process of its own, on another core, and says when the measured phase
 * begins and ends.
 */
#include "watching.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define WARM_UP_NS 60000000u
#define COOL_DOWN_NS 10000000u

typedef struct {
    int fd;
    size_t to_send, to_receive; /* of the current message */
    bool writing;
} Client;

typedef struct {
    const Job *job;
    int epfd;
    char *data;
    char *scratch;
    uint64_t deadline; /* end of the current phase */
} Load;

static int
connect_to(int port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        die("connect", errno);
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

static void
load_send(Load *self, Client *client)
{
    size_t done = self->job->size - client->to_send;
    ssize_t n = send(client->fd, self->data + done, client->to_send,
                     MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) {
        die("load: send", errno);
    }
    if (n > 0) {
        client->to_send -= (size_t)n;
    }
    bool writing = client->to_send > 0;
    if (writing != client->writing) {
        struct epoll_event event = {
            .events = EPOLLIN | (writing ? (uint32_t)EPOLLOUT : 0u),
            .data.ptr = client,
        };
        client->writing = writing;
        if (epoll_ctl(self->epfd, EPOLL_CTL_MOD, client->fd, &event) < 0) {
            die("load: epoll_ctl", errno);
        }
    }
}

static void
load_start_message(Load *self, Client *client)
{
    client->to_send = self->job->size;
    client->to_receive = self->job->size;
    load_send(self, client);
}

static void
load_receive(Load *self, Client *client)
{
    ssize_t n = recv(client->fd, self->scratch, client->to_receive, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        die("load: recv", n == 0 ? ECONNRESET : errno);
    }
    if (n > 0) {
        client->to_receive -= (size_t)n;
        if (client->to_receive == 0) {
            load_start_message(self, client);
        }
    }
}

/* Moves to the next phase when its time has come; false at the end. */
static bool
load_tick(Load *self)
{
    uint64_t now = now_ns();
    if (now < self->deadline) {
        return true;
    }
    int phase = atomic_load(&self->job->shared->phase) + 1;
    if (phase == PHASE_MEASURE) {
        self->deadline = now + (uint64_t)(self->job->seconds * 1e9);
    }
    else {
        self->deadline = now + COOL_DOWN_NS;
    }
    if (phase == PHASE_END) {
        return false;
    }
    atomic_store(&self->job->shared->phase, phase);
    return true;
}

static void
load_echo(Load *self)
{
    int count = self->job->connections;
    Client *clients = calloc((size_t)count, sizeof(*clients));
    for (int i = 0; i < count; i++) {
        clients[i].fd = connect_to(self->job->port);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        if (epoll_ctl(self->epfd, EPOLL_CTL_ADD, clients[i].fd, &event) < 0) {
            die("load: epoll_ctl", errno);
        }
    }
    for (int i = 0; i < count; i++) {
        load_start_message(self, &clients[i]);
    }
    while (load_tick(self)) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(self->epfd, events, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            Client *client = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                load_send(self, client);
            }
            if (events[i].events & ~(uint32_t)EPOLLOUT) {
                load_receive(self, client);
            }
        }
    }
    atomic_store(&self->job->shared->phase, PHASE_END);
    for (int i = 0; i < count; i++) {
        close(clients[i].fd);
    }
    free(clients);
}

/* A connection per message, closed with a reset: no port stays in TIME_WAIT. */
static void
load_churn(Load *self)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    bool more = true;
    while (more) {
        int fd = connect_to(self->job->port);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        if (send(fd, self->data, self->job->size, MSG_NOSIGNAL) < 0) {
            die("load: send", errno);
        }
        size_t left = self->job->size;
        while (left > 0) {
            ssize_t n = recv(fd, self->scratch, left, 0);
            if (n <= 0) {
                die("load: recv", errno);
            }
            left -= (size_t)n;
        }
        more = load_tick(self);
        if (!more) { /* before the last close, whose event ends the server's wait */
            atomic_store(&self->job->shared->phase, PHASE_END);
        }
        close(fd);
    }
}

void
load_run(const Job *job)
{
    Load self = {
        .job = job,
        .epfd = epoll_create1(EPOLL_CLOEXEC),
        .data = malloc(job->size),
        .scratch = malloc(job->size),
        .deadline = now_ns() + WARM_UP_NS,
    };
    memset(self.data, 'x', job->size);
    if (job->work == WORK_CHURN) {
        load_churn(&self);
    }
    else {
        load_echo(&self);
    }
    free(self.data);
    free(self.scratch);
    close(self.epfd);
}
