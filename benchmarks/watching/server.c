/* server.c - an echo server on descriptors that it owns, over any Poller.
 *
 * One recv into a scratch buffer per readable event, one send; what the kernel does not
 * take is kept and write interest is added until it is gone.
 */
#include "watching.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SCRATCH = 256 * 1024 };

typedef struct {
    char *pending; /* owned; unsent bytes */
    size_t start, len, capacity;
    bool writing; /* write interest is on */
    bool open;
} Connection;

typedef struct {
    const Job *job;
    Poller *poller;
    uint64_t bytes; /* echoed */
    int open;
    char *scratch;
    Connection connections[MAX_FDS]; /* by descriptor */
} Server;

static void
connection_close(Server *self, int fd)
{
    Connection *conn = &self->connections[fd];
    (void)self->poller->way->unwatch(self->poller, fd); /* it is closed next anyway */
    close(fd);
    free(conn->pending);
    *conn = (Connection){0};
    self->open--;
}

static void
accept_all(Server *self)
{
    for (;;) {
        int fd = accept4(self->job->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            return;
        }
        if (fd >= MAX_FDS) {
            die("accept", EMFILE);
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        int err = self->poller->way->watch(self->poller, fd, WATCH_READ);
        if (err < 0) {
            die("watch", err);
        }
        self->connections[fd].open = true;
        self->open++;
    }
}

static void
set_writing(Server *self, int fd, bool writing)
{
    Connection *conn = &self->connections[fd];
    if (conn->writing != writing) {
        conn->writing = writing;
        unsigned mask = WATCH_READ | (writing ? WATCH_WRITE : 0u);
        int err = self->poller->way->change(self->poller, fd, mask);
        if (err < 0) {
            die("change", err);
        }
    }
}

static void
keep(Connection *conn, const char *data, size_t len)
{
    if (conn->len == 0) {
        conn->start = 0;
    }
    size_t needed = conn->start + conn->len + len;
    if (needed > conn->capacity) {
        conn->capacity = needed * 2;
        conn->pending = realloc(conn->pending, conn->capacity);
        if (conn->pending == NULL) {
            die("realloc", ENOMEM);
        }
    }
    memcpy(conn->pending + conn->start + conn->len, data, len);
    conn->len += len;
}

static void
on_writable(Server *self, int fd)
{
    Connection *conn = &self->connections[fd];
    if (conn->len > 0) {
        ssize_t n = send(fd, conn->pending + conn->start, conn->len, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) {
                connection_close(self, fd);
            }
            return;
        }
        conn->start += (size_t)n;
        conn->len -= (size_t)n;
        self->bytes += (size_t)n;
    }
    if (conn->len == 0) {
        set_writing(self, fd, false);
    }
}

static void
on_readable(Server *self, int fd)
{
    Connection *conn = &self->connections[fd];
    ssize_t n = recv(fd, self->scratch, SCRATCH, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) {
            connection_close(self, fd);
        }
        return;
    }
    size_t sent = 0;
    if (conn->len == 0 && self->job->work != WORK_MASK) {
        ssize_t m = send(fd, self->scratch, (size_t)n, MSG_NOSIGNAL);
        if (m < 0 && errno != EAGAIN) {
            connection_close(self, fd);
            return;
        }
        sent = m > 0 ? (size_t)m : 0;
        self->bytes += sent;
    }
    if (sent < (size_t)n) {
        keep(conn, self->scratch + sent, (size_t)n - sent);
        set_writing(self, fd, true);
    }
}

static void
dispatch(Server *self)
{
    Poller *poller = self->poller;
    for (size_t i = 0; i < poller->events_len; i++) {
        Event event = poller->events[i];
        if (poller->generations[event.fd] != event.generation) {
            continue; /* closed by an earlier event of this batch */
        }
        if (event.fd == self->job->listener) {
            accept_all(self);
            continue;
        }
        if (event.mask & WATCH_READ) {
            on_readable(self, event.fd);
        }
        if ((event.mask & WATCH_WRITE) &&
            poller->generations[event.fd] == event.generation) {
            on_writable(self, event.fd);
        }
    }
}

void
serve_with_poller(const Job *job, Meter *meter)
{
    Server *self = calloc(1, sizeof(*self));
    self->job = job;
    self->scratch = malloc(SCRATCH);
    self->poller = poller_new(job->way, NULL);
    int err = self->poller->way->watch(self->poller, job->listener, WATCH_READ);
    if (err < 0) {
        die("watch", err);
    }
    while (atomic_load(&job->shared->phase) != PHASE_END || self->open > 0) {
        err = self->poller->way->wait(self->poller);
        if (err < 0) {
            die("wait", err);
        }
        meter_look(meter, job->shared, self->bytes, self->poller->waits);
        dispatch(self);
    }
    (void)self->poller->way->unwatch(self->poller, job->listener);
    poller_free(self->poller);
    free(self->scratch);
    free(self);
}
