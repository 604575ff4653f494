/* libuv.c - libuv's loop inside ours: making it, which descriptors are its own, its end. */
#include "loop/libuv.h"

#include "loop/sockets.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STANDARD_FDS = 3 }; /* stdin, stdout and stderr: 0 to 2 */

enum { UV_FDS = Py_ARRAY_LENGTH(((UvLoop *)NULL)->files) };

/* The descriptors that libuv has for itself; -1 for those that it has not. */
static void
libuv_fds(UvLoop *self, int fds[UV_FDS])
{
    fds[0] = self->uv.backend_fd;
    fds[1] = self->uv.async_io_watcher.fd;
    fds[2] = self->uv.signal_pipefd[0];
    fds[3] = self->uv.signal_pipefd[1];
}

/* Notes which files libuv's descriptors are: once they are made, and after a fork. */
static void
libuv_note_files(UvLoop *self)
{
    int fds[UV_FDS];
    libuv_fds(self, fds);
    for (int i = 0; i < UV_FDS; i++) {
        self->files[i] = (FileId){0};
        if (fds[i] >= 0) {
            (void)file_identify(fds[i], &self->files[i]); /* or none is noted */
        }
    }
}

/* libuv aborts the process when it is to close a descriptor that is a standard stream's by
 * its number, as its own are in a program that has closed these. So none of the numbers is
 * free while it opens some: taken, those that were, are to be closed after that. */
static void
standard_fds_take(int taken[STANDARD_FDS])
{
    const SocketKind any = {.family = AF_UNIX, .type = SOCK_STREAM};
    for (int fd = 0; fd < STANDARD_FDS; fd++) {
        taken[fd] = -1;
        if (fcntl(fd, F_GETFD) < 0) {
            taken[fd] = sockets_open(&any);
        }
    }
}

static void
standard_fds_give_back(const int taken[STANDARD_FDS])
{
    for (int fd = 0; fd < STANDARD_FDS; fd++) {
        if (taken[fd] >= 0) {
            (void)close(taken[fd]);
        }
    }
}

/* GIL: detached or held. Runs inside uv_run; being woken is all that it is for. */
static void
on_wake_nogil(uv_async_t *Py_UNUSED(waker))
{
}

/* 0, or libuv's error. */
static int
libuv_make(UvLoop *self)
{
    self->fork_err = 0;
    self->uv.backend_fd = -1;
    int err = uv_loop_init(&self->uv);
    if (err < 0) {
        /* libuv 1.44 forgets its epoll descriptor when a later one cannot be had. */
        if (self->uv.backend_fd != -1 && fcntl(self->uv.backend_fd, F_GETFD) != -1) {
            (void)close(self->uv.backend_fd);
        }
        return err;
    }
    err = uv_async_init(&self->uv, &self->waker, on_wake_nogil);
    if (err < 0) {
        int left = uv_loop_close(&self->uv);
        assert(left == 0);
        (void)left;
        return err;
    }
    libuv_note_files(self);
    return 0;
}

int
libuv_open(UvLoop *self)
{
    int taken[STANDARD_FDS];
    standard_fds_take(taken);
    int err = libuv_make(self);
    standard_fds_give_back(taken);
    return err;
}

void
libuv_wake(UvLoop *self)
{
    if (self->fork_err == 0) {
        (void)uv_async_send(
            &self->waker); /* fails only for a handle that is no async */
    }
}

int
libuv_follow_fork(UvLoop *self)
{
    if (self->fork_err == 0) {
        int taken[STANDARD_FDS];
        standard_fds_take(taken);
        self->fork_err = uv_loop_fork(&self->uv);
        standard_fds_give_back(taken);
        libuv_note_files(self);
    }
    return self->fork_err;
}

/* Ends libuv's loop: only closing handles are left, so it cannot wait. */
static void
libuv_close(UvLoop *self)
{
    uv_close((uv_handle_t *)&self->waker, NULL);
    (void)uv_run(&self->uv, UV_RUN_DEFAULT);
    int err = uv_loop_close(&self->uv);
    assert(err == 0);
    (void)err;
}

/* Whether libuv can be entered once more: not after a fork that left it without a
 * descriptor to poll, nor when the program has closed its descriptors, as one does that
 * becomes a daemon. It would abort the process. */
bool
libuv_is_whole(UvLoop *self)
{
    int fds[UV_FDS];
    libuv_fds(self, fds);
    for (int i = 0; i < UV_FDS; i++) {
        if (fds[i] >= 0 && file_is_gone(fds[i], &self->files[i])) {
            return false;
        }
    }
    return fds[0] >= 0;
}

/* Closes what libuv still has of descriptors, without it; its memory stays. */
static void
libuv_abandon(UvLoop *self)
{
    int fds[UV_FDS];
    libuv_fds(self, fds);
    for (int i = 0; i < UV_FDS; i++) {
        if (fds[i] >= 0 && !file_is_gone(fds[i], &self->files[i])) {
            (void)close(fds[i]);
        }
    }
}

void
libuv_end(UvLoop *self, bool whole)
{
    if (whole) {
        libuv_close(self);
    }
    else {
        libuv_abandon(self);
    }
}
