/* libuv.h - libuv's loop, where it is what waits: under fds_uvpoll.c. */
#ifndef PYLOOP_LOOP_LIBUV_H
#define PYLOOP_LOOP_LIBUV_H

#include "base/compat.h"
#include "base/files.h"

#include <uv.h>

typedef struct {
    uv_loop_t uv;
    uv_async_t waker; /* active as long as the loop is open */
    FileId files[4];  /* of libuv's descriptors, as libuv_fds has them */
    int fork_err;     /* < 0: libuv could not follow a fork: not to be run again */
} UvLoop;

/* 0, or a libuv status and nothing is open. */
int libuv_open(UvLoop *self);
/* Any thread that libuv_end and libuv_follow_fork wait for; the GIL is not needed. */
void libuv_wake(UvLoop *self);
/* In a forked child: descriptors of its own. 0, or a libuv status, for ever then. */
int libuv_follow_fork(UvLoop *self);
/* Whether libuv can be entered once more. */
bool libuv_is_whole(UvLoop *self);
/* Ends libuv's loop, of which only the waker and closing handles are left; whole:
 * libuv_is_whole said so before they were closed. If not, it calls none of them back. */
void libuv_end(UvLoop *self, bool whole);

#endif
