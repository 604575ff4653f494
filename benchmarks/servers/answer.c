/* answer.c - an HTTP server for rows in which the loop is the client's: one answer,
 * always the same, for everything that ends in an empty line.
 *
 * It reads no header, so requests have no body.  Prints one line of JSON with the port
 * once connections are taken; SIGTERM ends it.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

enum { BACKLOG = 1024, SCRATCH = 64 * 1024 };

static const char end_of_head[] = "\r\n\r\n";

static const char answer[] = "HTTP/1.1 200 OK\r\n"
                             "Content-Type: text/plain\r\n"
                             "Content-Length: 14\r\n"
                             "\r\n"
                             "Hello, world!\n";

typedef struct {
    uv_tcp_t tcp;   /* first */
    size_t matched; /* bytes of end_of_head that were the last ones read */
} Connection;

static void
check(const char *what, int err)
{
    if (err < 0) {
        fprintf(stderr, "answer: %s: %s\n", what, uv_strerror(err));
        exit(1);
    }
}

static void
on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    *buf = uv_buf_init(handle->loop->data, SCRATCH);
}

static void
on_closed(uv_handle_t *handle)
{
    free(handle);
}

/* An answer is far smaller than a socket's buffer: what the kernel does not take of it
 * is a peer that does not read, and its connection is closed. */
static void
on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    Connection *conn = (Connection *)stream;
    uv_buf_t out = uv_buf_init((char *)answer, sizeof(answer) - 1);
    for (ssize_t i = 0; i < nread; i++) {
        if (buf->base[i] == end_of_head[conn->matched]) {
            conn->matched++;
        }
        else {
            conn->matched = buf->base[i] == '\r';
        }
        if (conn->matched == sizeof(end_of_head) - 1) {
            conn->matched = 0;
            if (uv_try_write(stream, &out, 1) != (int)out.len) {
                nread = UV_EPIPE;
            }
        }
    }
    if (nread < 0) {
        uv_close((uv_handle_t *)stream, on_closed);
    }
}

static void
on_connection(uv_stream_t *listener, int status)
{
    Connection *conn = calloc(1, sizeof(*conn));
    check("listen", status);
    check("memory", conn == NULL ? UV_ENOMEM : 0);
    check("uv_tcp_init", uv_tcp_init(listener->loop, &conn->tcp));
    check("uv_accept", uv_accept(listener, (uv_stream_t *)&conn->tcp));
    (void)uv_tcp_nodelay(&conn->tcp, 1); /* slower without, not wrong */
    check("uv_read_start", uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read));
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
    int len = sizeof(addr);
    uv_loop_t loop;
    uv_tcp_t listener;

    signal(SIGTERM, on_terminate);
    signal(SIGPIPE, SIG_IGN);
    check("uv_loop_init", uv_loop_init(&loop));
    loop.data = malloc(SCRATCH);
    check("memory", loop.data == NULL ? UV_ENOMEM : 0);
    check("uv_tcp_init", uv_tcp_init(&loop, &listener));
    check("bind", uv_tcp_bind(&listener, (struct sockaddr *)&addr, 0));
    check("listen", uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection));
    check("getsockname", uv_tcp_getsockname(&listener, (struct sockaddr *)&addr, &len));
    printf("{\"port\": %d}\n", ntohs(addr.sin_port));
    fflush(stdout);
    return uv_run(&loop, UV_RUN_DEFAULT);
}
