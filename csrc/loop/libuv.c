/* libuv.c - libuv's loop inside ours: which descriptors are its own, and its end. */
#include "loop/loop.h"

#include <unistd.h>

enum { UV_FDS = Py_ARRAY_LENGTH(((LoopObject *)NULL)->uv_files) };

/* The descriptors that libuv has for itself; -1 for those that it has not. */
static void
loop_uv_fds(LoopObject *self, int fds[UV_FDS])
{
    fds[0] = self->uv.backend_fd;
    fds[1] = self->uv.async_io_watcher.fd;
    fds[2] = self->uv.signal_pipefd[0];
    fds[3] = self->uv.signal_pipefd[1];
}

void
loop_note_uv_files(LoopObject *self)
{
    int fds[UV_FDS];
    loop_uv_fds(self, fds);
    for (int i = 0; i < UV_FDS; i++) {
        self->uv_files[i] = (FileId){0};
        if (fds[i] >= 0) {
            (void)file_identify(fds[i], &self->uv_files[i]); /* or none is noted */
        }
    }
}

/* Ends libuv's loop: only closing handles are left, so it cannot wait. */
static void
loop_close_uv(LoopObject *self)
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
loop_uv_is_whole(LoopObject *self)
{
    int fds[UV_FDS];
    loop_uv_fds(self, fds);
    for (int i = 0; i < UV_FDS; i++) {
        if (fds[i] >= 0 && file_is_gone(fds[i], &self->uv_files[i])) {
            return false;
        }
    }
    return fds[0] >= 0;
}

/* Closes what libuv still has of descriptors, without it; its memory stays. */
static void
loop_abandon_uv(LoopObject *self)
{
    int fds[UV_FDS];
    loop_uv_fds(self, fds);
    for (int i = 0; i < UV_FDS; i++) {
        if (fds[i] >= 0 && !file_is_gone(fds[i], &self->uv_files[i])) {
            (void)close(fds[i]);
        }
    }
}

void
loop_end_uv(LoopObject *self, bool whole)
{
    if (whole) {
        loop_close_uv(self);
    }
    else {
        loop_abandon_uv(self);
    }
}
