/* server_uv_tcp.c - the reference: the same echo on libuv's own streams.
 *
 * uv_tcp_t, uv_read_start into one shared buffer, uv_try_write; what the kernel does
 * not take goes through uv_write.
 */
#include "watching.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SCRATCH = 256 * 1024, BACKLOG = 1024 };

typedef struct {
    uv_loop_t uv;
    uv_tcp_t listener;
    char *scratch;
    uint64_t bytes;
    int open;
} Server;

typedef struct {
    uv_write_t uv; /* first */
    Server *server;
    size_t len;
    char data[];
} Write;

static void
on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    Server *self = handle->loop->data;
    (void)suggested;
    *buf = uv_buf_init(self->scratch, SCRATCH);
}

static void
on_closed(uv_handle_t *handle)
{
    Server *self = handle->loop->data;
    self->open--;
    free(handle);
}

static void
on_written(uv_write_t *request, int status)
{
    Write *write = (Write *)request;
    if (status == 0) {
        write->server->bytes += write->len;
    }
    free(write);
}

static void
connection_close(uv_stream_t *stream)
{
    if (!uv_is_closing((uv_handle_t *)stream)) {
        uv_close((uv_handle_t *)stream, on_closed);
    }
}

static void
on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    Server *self = stream->loop->data;
    if (nread <= 0) {
        if (nread < 0) {
            connection_close(stream);
        }
        return;
    }
    uv_buf_t out = uv_buf_init(buf->base, (unsigned)nread);
    int n = uv_try_write(stream, &out, 1);
    if (n < 0 && n != UV_EAGAIN) {
        connection_close(stream);
        return;
    }
    size_t sent = n > 0 ? (size_t)n : 0;
    self->bytes += sent;
    if (sent < (size_t)nread) {
        size_t left = (size_t)nread - sent;
        Write *write = malloc(sizeof(*write) + left);
        write->server = self;
        write->len = left;
        memcpy(write->data, buf->base + sent, left);
        uv_buf_t rest = uv_buf_init(write->data, (unsigned)left);
        if (uv_write(&write->uv, stream, &rest, 1, on_written) < 0) {
            free(write);
            connection_close(stream);
        }
    }
}

static void
on_connection(uv_stream_t *listener, int status)
{
    Server *self = listener->loop->data;
    if (status < 0) {
        die("listen", status);
    }
    uv_tcp_t *tcp = malloc(sizeof(*tcp));
    uv_tcp_init(&self->uv, tcp);
    self->open++;
    int err = uv_accept(listener, (uv_stream_t *)tcp);
    if (err < 0) {
        connection_close((uv_stream_t *)tcp);
        return;
    }
    uv_tcp_nodelay(tcp, 1);
    err = uv_read_start((uv_stream_t *)tcp, on_alloc, on_read);
    if (err < 0) {
        die("uv_read_start", err);
    }
}

void
serve_with_uv_tcp(const Job *job, Meter *meter)
{
    Server *self = calloc(1, sizeof(*self));
    self->scratch = malloc(SCRATCH);
    uv_loop_init(&self->uv);
    self->uv.data = self;
    uv_tcp_init(&self->uv, &self->listener);
    int err = uv_tcp_open(&self->listener, job->listener);
    if (err < 0) {
        die("uv_tcp_open", err);
    }
    err = uv_listen((uv_stream_t *)&self->listener, BACKLOG, on_connection);
    if (err < 0) {
        die("uv_listen", err);
    }
    uint64_t waits = 0;
    while (atomic_load(&job->shared->phase) != PHASE_END || self->open > 0) {
        uv_run(&self->uv, UV_RUN_ONCE);
        waits++;
        meter_look(meter, job->shared, self->bytes, waits);
    }
    uv_close((uv_handle_t *)&self->listener, NULL);
    while (uv_run(&self->uv, UV_RUN_NOWAIT) != 0) {
    }
    uv_loop_close(&self->uv);
    free(self->scratch);
    free(self);
}
