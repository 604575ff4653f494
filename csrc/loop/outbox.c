/* outbox.c - see outbox.h.
 *
 * Owns: LoopObject.outbox, and a reference to everybody in it.
 */
#include "loop/outbox.h"

#include "base/forks.h"
#include "loop/clock.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

enum {
    OUTBOX_MAX = 64,       /* owners at a time */
    GUARD_WISHES = 64,     /* so many in ... */
    GUARD_QUIET_TICKS = 20 /* after which the guard sleeps until it is woken */
};
#define GUARD_WISHES_NS 100000000U /* ... so short a time begin the guard */
#define GUARD_TICK_NS 5000000U
#define OUTBOX_OLD_TICKS UINT64_C(1250000) /* of clock_ticks(): about 0.5 ms */

typedef struct {
    PyObject *owner; /* strong */
    const OutboxOps *ops;
    const int *sock_fd;
    int fd;
    bool tried; /* the guard has offered it to the kernel since the last addition */
    bool seen;  /* the guard has found it there since then, or since it came */
    size_t rescued;
} OutboxItem;

struct Outbox {
    uv_mutex_t lock; /* of all that follows up to `stop`, while there is a guard */
    uv_cond_t wake;
    OutboxItem items[OUTBOX_MAX];
    size_t first, end; /* those from first to before end are in it; 0 and 0: none */
    uint64_t changes;  /* grows with whatever comes and goes */
    bool asleep, stop;
    /* The loop's side. */
    uint64_t first_ticks; /* when the first of them came: clock_ticks() */
    unsigned int forks;   /* forks_count() of the process that the guard is in */
    uv_thread_t guard;
    bool refused; /* no thread was to be had */
    unsigned int wishes;
    uint64_t first_wish_ns;
};

/* ---- the guard's thread ------------------------------------------------------------- */

/* Each by its own age: others may come without end, callback by callback. */
static void
guard_rescue(Outbox *box)
{
    for (size_t i = box->first; i < box->end; i++) {
        OutboxItem *item = &box->items[i];
        if (item->tried || (item->sock_fd != NULL && *item->sock_fd != item->fd)) {
            continue;
        }
        if (!item->seen) {
            item->seen = true;
            continue;
        }
        ssize_t n = item->ops->rescue(item->owner, item->rescued);
        item->rescued += n > 0 ? (size_t)n : 0;
        item->tried = true; /* as asyncio's write(): the rest waits for the loop */
        item->seen = false;
    }
}

static void
guard_main(void *arg)
{
    Outbox *box = arg;
    uint64_t seen = 0;
    unsigned int quiet = 0;
    uv_mutex_lock(&box->lock);
    while (!box->stop) {
        if (quiet >= GUARD_QUIET_TICKS && box->end == 0) {
            box->asleep = true;
            uv_cond_wait(&box->wake, &box->lock);
            box->asleep = false;
            quiet = 0;
        }
        else {
            (void)uv_cond_timedwait(&box->wake, &box->lock, GUARD_TICK_NS);
        }
        guard_rescue(box);
        quiet = box->changes == seen ? quiet + 1 : 0;
        seen = box->changes;
    }
    uv_mutex_unlock(&box->lock);
}

/* The program's signals are for its own threads. 0, or a negative errno of libuv's. */
static int
guard_start_thread(Outbox *box)
{
    sigset_t all, usual;
    (void)sigfillset(&all);
    int blocked = pthread_sigmask(SIG_SETMASK, &all, &usual);
    int err = blocked != 0 ? -blocked : uv_thread_create(&box->guard, guard_main, box);
    if (blocked == 0) {
        (void)pthread_sigmask(SIG_SETMASK, &usual, NULL);
    }
    return err;
}

/* Nothing is to be held beyond its callback any more. */
static void
guard_end(LoopObject *loop)
{
    Outbox *box = loop->outbox;
    RACY_STORE(loop->guarded, false);
    if (box->forks != forks_count()) {
        return; /* it is in another process */
    }
    uv_mutex_lock(&box->lock);
    box->stop = true;
    uv_cond_signal(&box->wake);
    uv_mutex_unlock(&box->lock);
    (void)uv_thread_join(&box->guard);
    uv_cond_destroy(&box->wake);
    uv_mutex_destroy(&box->lock);
}

static bool
guard_start(LoopObject *loop)
{
    Outbox *box = loop->outbox;
    box->refused = true;
    box->forks = forks_count();
    box->stop = false;
    if (uv_mutex_init(&box->lock) < 0) {
        return false;
    }
    if (uv_cond_init(&box->wake) < 0) {
        goto fail_cond;
    }
    if (guard_start_thread(box) < 0) {
        goto fail_thread;
    }
    box->refused = false;
    RACY_STORE(loop->guarded, true);
    return true;
fail_thread:
    uv_cond_destroy(&box->wake);
fail_cond:
    uv_mutex_destroy(&box->lock);
    return false;
}

/* ---- the loop's side ------------------------------------------------------------------ */

static Outbox *
outbox_of(LoopObject *loop)
{
    if (loop->outbox == NULL) {
        loop->outbox = PyMem_RawCalloc(1, sizeof(Outbox));
    }
    return loop->outbox;
}

bool
outbox_is_guarded(LoopObject *loop)
{
    if (loop->guarded) {
        return true;
    }
    Outbox *box = outbox_of(loop);
    if (box == NULL || box->refused || loop->held > 0) {
        return false;
    }
    uint64_t now = uv_hrtime();
    if (now - box->first_wish_ns > GUARD_WISHES_NS) {
        box->first_wish_ns = now;
        box->wishes = 0;
    }
    return ++box->wishes >= GUARD_WISHES && guard_start(loop);
}

/* Takes over the item's reference. An error is kept apart from one that may be raised just
 * now. */
static void
outbox_send(OutboxItem *item, size_t rescued)
{
    PyObject *raised = PyErr_GetRaisedException();
    if (item->ops->send(item->owner, rescued) < 0) {
        PyErr_WriteUnraisable(item->owner); /* SystemExit out of a notification */
    }
    Py_DECREF(item->owner);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* In a forked child the guard is not there, and may have had the lock. What was held is
 * the parent's to send. */
static void
outbox_after_fork(LoopObject *loop)
{
    Outbox *box = loop->outbox;
    Outbox was = *box;
    memset(box, 0, sizeof(Outbox));
    loop->held = 0;
    RACY_STORE(loop->guarded, false);
    for (size_t i = was.first; i < was.end; i++) {
        outbox_send(&was.items[i], SIZE_MAX);
    }
}

void
outbox_enter(LoopObject *loop)
{
    if (loop->guarded && loop->outbox->forks != forks_count()) {
        outbox_after_fork(loop);
    }
    if (loop->guarded) {
        uv_mutex_lock(&loop->outbox->lock);
    }
}

void
outbox_leave(LoopObject *loop)
{
    if (loop->guarded) {
        uv_mutex_unlock(&loop->outbox->lock);
    }
}

bool
outbox_has_room(LoopObject *loop)
{
    return outbox_of(loop) != NULL && loop->outbox->end < OUTBOX_MAX;
}

void
outbox_add(LoopObject *loop, PyObject *owner, const OutboxOps *ops, const int *sock_fd,
           int fd)
{
    Outbox *box = loop->outbox;
    if (!outbox_is_last(loop, owner)) {
        assert(box->end < OUTBOX_MAX);
        if (box->end == 0) {
            box->first_ticks = clock_ticks();
        }
        box->items[box->end++] = (OutboxItem){
            .owner = Py_NewRef(owner), .ops = ops, .sock_fd = sock_fd, .fd = fd};
        loop->held++;
    }
    box->items[box->end - 1].tried = false; /* a callback may wait more than once */
    box->changes++;
    if (box->asleep) {
        uv_cond_signal(&box->wake);
    }
}

bool
outbox_is_old(const LoopObject *loop)
{
    return loop->held > 0 &&
           clock_ticks() - loop->outbox->first_ticks >= OUTBOX_OLD_TICKS;
}

bool
outbox_is_last(const LoopObject *loop, const PyObject *owner)
{
    return loop->held > 0 && loop->outbox->items[loop->outbox->end - 1].owner == owner;
}

size_t
outbox_forget(LoopObject *loop, PyObject *owner)
{
    size_t rescued = 0;
    outbox_enter(loop);
    Outbox *box = loop->outbox;
    size_t i = box->first;
    while (i < box->end && box->items[i].owner != owner) {
        i++;
    }
    bool found = i < box->end;
    if (found) {
        rescued = box->items[i].rescued;
        box->end--;
        loop->held--;
        memmove(&box->items[i], &box->items[i + 1],
                (box->end - i) * sizeof(OutboxItem));
        if (box->first == box->end) {
            box->first = box->end = 0;
        }
    }
    outbox_leave(loop);
    if (found) {
        Py_DECREF(owner);
    }
    return rescued;
}

/* Takes the oldest one out; false if there is none. */
static bool
outbox_take(LoopObject *loop, OutboxItem *item)
{
    outbox_enter(loop);
    Outbox *box = loop->outbox;
    bool taken = box->first < box->end;
    if (taken) {
        *item = box->items[box->first++];
        loop->held--;
        box->changes++;
        if (box->first == box->end) {
            box->first = box->end = 0;
        }
    }
    outbox_leave(loop);
    return taken;
}

void
outbox_flush(LoopObject *loop)
{
    OutboxItem item;
    while (outbox_take(loop, &item)) { /* others stay while this one's code runs */
        outbox_send(&item, item.rescued);
    }
}

void
outbox_rest(LoopObject *loop)
{
    if (loop->held > 0) {
        outbox_flush(loop);
    }
    if (loop->guarded) {
        guard_end(loop);
    }
}

void
outbox_close(LoopObject *loop)
{
    outbox_rest(loop);
    PyMem_RawFree(loop->outbox);
    loop->outbox = NULL;
}
