/* fds_uvpoll.c - the portable way of watching: one uv_poll_t per descriptor.
 *
 * Owns: the poller with libuv's loop and a timer (FdTable.uv_poller), and a watch per armed
 * descriptor (FdEntry.poller_data), which is freed when libuv has closed it.
 *
 * libuv ends the process when the kernel refuses a descriptor that it registers inside
 * uv_run: one that was closed, or whose number is a regular file's now. So nothing is
 * given to libuv early. arm() notes what is wanted; just before uv_run the noted watches
 * are looked at again, and those whose file is gone are dropped instead of started. That
 * uv_run keeps the GIL, so that no Python thread gets at them in between; what stays open
 * is the microsecond in which a thread without the GIL is already in close(). Noting saves
 * work as well: uv_poll_start costs two system calls, and a direction switched on and off
 * again between two polls costs none.
 *
 * Not cured: over epoll, a descriptor that is closed while watched stays registered if a
 * duplicate keeps its file open. libuv cannot remove it, and is busy inside uv_run while
 * that file is ready; asyncio's loop is then, too. fds_epoll.c cures it.
 *
 * Invariant V1: entry->poller_data != NULL <=> entry->armed != 0, and then the watch's
 *               generation and wanted are the entry's generation and armed.
 * Invariant V2: outside uv_run, libuv has nothing left to register: a watch is started
 *               only by uvpoll_start_changed, right before a uv_run with the GIL.
 * Invariant V3: a retired watch is in no entry. Its handle is closing, or it is noted as
 *               changed because its retirement is deferred.
 * Invariant V4: a refused watch is in no entry, nor noted as changed. It is retired as
 *               its error is reported; libuv does not watch it.
 * F3 here: a new watch has a new generation. One that is started anew keeps its own:
 *          no event is held back across uv_run, so none is older than the start.
 *
 * Thread and GIL: as in loop.h. While uv_run is detached (poller->detached), another
 * thread with the GIL may be in arm(): it touches no libuv handle then but the waker; it
 * defers what has to be done and wakes the loop.
 */
#include "loop/fds.h"

#include "base/errors.h"
#include "base/files.h"
#include "loop/handle.h"
#include "loop/libuv.h"

#include <math.h>
#include <stdlib.h>

typedef struct FdUvPoller FdUvPoller;
typedef struct FdUvWatch FdUvWatch;

struct FdUvWatch {
    uv_poll_t uv;       /* initialised if opened: on_watch_closed_nogil frees it then */
    FdUvPoller *poller; /* borrowed: outlives every watch that is not closing */
    FileId file;
    int fd;
    uint32_t generation;

    /* Written with the GIL, never inside uv_run. */
    int error;      /* of a refused one: an errno */
    uint8_t wanted; /* FD_*: what arm() asked for last */
    uint8_t active; /* FD_*: what libuv watches; 0 after an error stopped it */
    bool renew;     /* start it even if active == wanted: it may be another file */
    bool opened;    /* false: created while the loop was detached */
    bool retired;   /* V3 */
    FdUvWatch *changed_next;  /* of a refused one, too */
    FdUvWatch **changed_slot; /* what points here; NULL: not in poller->changed */

    /* Written inside uv_run, and by uvpoll_hand_over after it. */
    uint8_t seen; /* FD_*: != 0 <=> in poller->ready */
    bool failed;  /* libuv reported an error, and has stopped the handle */
    FdUvWatch *ready_next;
};

struct FdUvPoller {
    UvLoop loop;
    uv_timer_t timer; /* bounds a wait; open from init to close */
    bool detached;    /* in uv_run without the GIL */
    bool deferred;    /* arm() was called meanwhile: see uvpoll_settle */

    FdUvWatch *changed; /* to be started, opened or retired; oldest first */
    FdUvWatch **changed_end;
    FdUvWatch *refused; /* V4; newest first. Not NULL: loop->fds.refused */

    FdUvWatch *ready; /* what this uv_run reported, in libuv's order */
    FdUvWatch **ready_end;
    size_t ready_count;
};

static FdUvWatch *
watch_from_uv(uv_handle_t *handle)
{
    return (FdUvWatch *)((char *)handle - offsetof(FdUvWatch, uv));
}

/* ---- poller->changed ---- */

static void
changed_add(FdUvPoller *poller, FdUvWatch *watch)
{
    if (watch->changed_slot == NULL) {
        watch->changed_next = NULL;
        watch->changed_slot = poller->changed_end;
        *poller->changed_end = watch;
        poller->changed_end = &watch->changed_next;
    }
}

static void
changed_remove(FdUvPoller *poller, FdUvWatch *watch)
{
    if (watch->changed_slot != NULL) {
        *watch->changed_slot = watch->changed_next;
        if (watch->changed_next != NULL) {
            watch->changed_next->changed_slot = watch->changed_slot;
        }
        else {
            poller->changed_end = watch->changed_slot;
        }
        watch->changed_slot = NULL;
    }
}

/* ---- libuv's callbacks ---- */

/* GIL: detached, or held in a run that does not wait. Touches no PyObject and no list
 * but poller->ready. libuv may report a descriptor more than once in a run (it polls
 * again when more than 1024 are ready), so each watch gathers its own. */
static void
on_ready_nogil(uv_poll_t *handle, int status, int events)
{
    FdUvWatch *watch = watch_from_uv((uv_handle_t *)handle);
    FdUvPoller *poller = watch->poller;
    unsigned int mask;
    if (status < 0) {
        /* No events come with an error: every direction must look for itself. */
        mask = FD_READ | FD_WRITE;
        watch->failed = true;
    }
    else {
        /* A hang-up alone arrives as every watched direction; with something left to
         * read, as reading first, unless the kernel says writable itself (it mostly does).
         */
        mask = ((events & UV_READABLE) ? (unsigned int)FD_READ : 0u) |
               ((events & UV_WRITABLE) ? (unsigned int)FD_WRITE : 0u);
    }
    if (mask != 0 && watch->seen == 0) {
        watch->ready_next = NULL;
        *poller->ready_end = watch;
        poller->ready_end = &watch->ready_next;
        poller->ready_count++;
    }
    watch->seen |= (uint8_t)mask;
}

/* GIL: as on_ready_nogil. Before 1.45, uv_run runs a timer that is due already before it
 * polls, and would then wait as if there had been none: uv_stop keeps it from waiting. */
static void
on_timeout_nogil(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

/* GIL: as on_ready_nogil. */
static void
on_watch_closed_nogil(uv_handle_t *handle)
{
    free(watch_from_uv(handle));
}

/* ---- watches ---- */

/* Not opened yet; NULL when memory is short (no exception). */
static FdUvWatch *
watch_new(FdUvPoller *poller, int fd, FileId file)
{
    FdUvWatch *watch = calloc(1, sizeof(*watch));
    if (watch != NULL) {
        watch->poller = poller;
        watch->fd = fd;
        watch->file = file;
    }
    return watch;
}

/* Initialises the handle; asks the kernel whether it can watch such a file at all. 0, or
 * a positive errno: EPERM for a regular file, EEXIST for a descriptor of libuv's own. */
static int
watch_open(FdUvWatch *watch)
{
    assert(!watch->opened && !watch->poller->detached);
    int flags = fcntl(watch->fd, F_GETFL);
    if (flags < 0) {
        return errno;
    }
    int err = uv_poll_init(&watch->poller->loop.uv, &watch->uv, watch->fd);
    if (!(flags & O_NONBLOCK)) {
        /* libuv made it non-blocking, but it is the user's, and so is who shares it: a
         * shell has the same terminal. Cannot fail where F_GETFL did not. */
        (void)fcntl(watch->fd, F_SETFL, flags);
    }
    watch->opened = err == 0;
    return -err;
}

/* Ends the watch; the caller has taken it out of its entry. */
static void
watch_retire(FdUvPoller *poller, FdUvWatch *watch)
{
    watch->retired = true;
    if (poller->detached) {
        changed_add(poller, watch);
        poller->deferred = true;
        return;
    }
    changed_remove(poller, watch);
    if (watch->opened) {
        uv_close((uv_handle_t *)&watch->uv, on_watch_closed_nogil);
    }
    else {
        free(watch);
    }
}

static void
entry_drop_watch(FdUvPoller *poller, FdEntry *entry)
{
    FdUvWatch *watch = entry->poller_data;
    entry->poller_data = NULL;
    entry->armed = 0;
    if (watch != NULL) {
        watch_retire(poller, watch);
    }
}

/* The descriptor of a noted watch was closed. As with epoll, it is just not reported any
 * more. */
static void
uvpoll_drop(LoopObject *loop, FdUvWatch *watch)
{
    FdEntry *entry = fds_entry(loop, watch->fd);
    assert(entry != NULL && entry->poller_data == watch);
    entry_drop_watch(loop->fds.uv_poller, entry);
}

/* libuv will not have the descriptor of a noted watch, of which arm()'s caller was told
 * success: the loop's exception handler hears of it after this poll. */
static void
uvpoll_refuse(LoopObject *loop, FdUvWatch *watch, int err)
{
    FdUvPoller *poller = loop->fds.uv_poller;
    FdEntry *entry = fds_entry(loop, watch->fd);
    assert(entry != NULL && entry->poller_data == watch && err > 0);
    entry->poller_data = NULL;
    entry->armed = 0;
    changed_remove(poller, watch);
    watch->error = err;
    watch->changed_next = poller->refused;
    poller->refused = watch;
    loop->fds.refused = true;
}

/* ---- the poller's interface ---- */

/* A new watch for fd in the place of the entry's former one. 0, or an error of FdPoller's. */
static int
uvpoll_replace(LoopObject *loop, FdEntry *entry, int fd, FileId file)
{
    FdUvPoller *poller = loop->fds.uv_poller;
    FdUvWatch *watch = watch_new(poller, fd, file);
    if (watch == NULL) {
        return FDS_NO_MEMORY;
    }
    entry_drop_watch(poller, entry); /* first: libuv has one handle per number */
    int err = poller->detached ? 0 : watch_open(watch);
    if (err != 0) {
        free(watch);
        return err;
    }
    entry->generation++; /* F3 */
    entry->pending = 0;
    entry->poller_data = watch;
    watch->generation = entry->generation;
    return 0;
}

static int
uvpoll_arm(LoopObject *loop, int fd, FdEntry *entry, unsigned int mask, bool owned)
{
    FdUvPoller *poller = loop->fds.uv_poller;
    FdUvWatch *watch = entry->poller_data;
    assert((watch != NULL) == (entry->armed != 0)); /* V1 */
    if (mask == 0) {
        entry_drop_watch(poller, entry);
        return 0;
    }
    if (watch == NULL || !owned) {
        FileId file;
        int err = file_identify(fd, &file);
        if (err == 0 && (watch == NULL || !file_equal(&file, &watch->file))) {
            err = uvpoll_replace(loop, entry, fd, file);
        }
        if (err != 0) {
            entry_drop_watch(poller, entry);
            return err;
        }
        watch = entry->poller_data;
    }
    /* Asked for what is armed already, or for more: the same id may be another file. */
    bool shrinks = (mask & ~(unsigned int)entry->armed) == 0 && mask != entry->armed;
    watch->renew = watch->renew || (!owned && !shrinks);
    watch->wanted = (uint8_t)mask;
    entry->armed = (uint8_t)mask;
    changed_add(poller, watch);
    if (poller->detached) {
        poller->deferred = true;
        threadsafe_wake(loop);
    }
    return 0;
}

/* Opens what was armed while the loop was detached, unless it was closed meanwhile. */
static void
uvpoll_open_late(LoopObject *loop, FdUvWatch *watch)
{
    FileId file;
    int err = file_identify(watch->fd, &file);
    if (err == EBADF || (err == 0 && !file_equal(&file, &watch->file))) {
        uvpoll_drop(loop, watch);
        return;
    }
    if (err == 0) {
        err = watch_open(watch);
    }
    if (err != 0) {
        uvpoll_refuse(loop, watch, err);
    }
}

/* Opens and closes what arm() could not while the loop was detached. */
static void
uvpoll_settle(LoopObject *loop, FdUvPoller *poller)
{
    FdUvWatch *next;
    for (FdUvWatch *watch = poller->changed; watch != NULL; watch = next) {
        next = watch->changed_next;
        if (watch->retired) {
            /* It comes before its number's new watch, which libuv would refuse else. */
            watch_retire(poller, watch);
        }
        else if (!watch->opened) {
            uvpoll_open_late(loop, watch);
        }
    }
    poller->deferred = false;
}

/* Tells libuv what changed since the last run. True if there is something to register: a
 * uv_run must follow at once (V2). *err is an errno if the kernel does not say what a
 * descriptor is: what changed from there on is for the next run. */
static bool
uvpoll_start_changed(LoopObject *loop, FdUvPoller *poller, int *err)
{
    FdUvWatch *watch;
    bool started = false;
    *err = 0;
    while ((watch = poller->changed) != NULL) {
        assert(watch->opened && !watch->retired);
        if (watch->active == watch->wanted && !watch->renew) {
            changed_remove(poller, watch); /* changed and changed back */
            continue;
        }
        FileId file;
        int found = file_identify(watch->fd, &file);
        if (found != 0 && found != EBADF) {
            *err = found;
            break;
        }
        changed_remove(poller, watch);
        int events = ((watch->wanted & FD_READ) ? UV_READABLE : 0) |
                     ((watch->wanted & FD_WRITE) ? UV_WRITABLE : 0);
        if (found != 0 || !file_equal(&file, &watch->file)) {
            uvpoll_drop(loop, watch);
            continue;
        }
        int refused = uv_poll_start(&watch->uv, events, on_ready_nogil);
        if (refused != 0) {
            uvpoll_refuse(loop, watch, -refused);
            continue;
        }
        watch->active = watch->wanted;
        watch->renew = false;
        started = true;
    }
    return started;
}

/* Hands what uv_run reported to the table. 0, or -1 with MemoryError: then what is ready
 * still is so at the next poll. */
static int
uvpoll_hand_over(LoopObject *loop, FdUvPoller *poller)
{
    bool room = ring_reserve(&loop->ready, poller->ready_count);
    FdUvWatch *next;
    FdUvWatch *watch = poller->ready;
    poller->ready = NULL;
    poller->ready_end = &poller->ready;
    poller->ready_count = 0;
    for (; watch != NULL; watch = next) {
        next = watch->ready_next;
        unsigned int mask = watch->seen;
        watch->seen = 0;
        if (watch->failed) {
            watch->failed = false;
            watch->active = 0;
            if (!watch->retired) {
                changed_add(poller, watch); /* to be started again, if still wanted */
            }
        }
        if (room) {
            /* May disarm, which retires the watch; it is freed by the next uv_run. */
            fds_record(loop, watch->fd, watch->generation, mask);
        }
    }
    if (!room) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Makes uv_run end after `seconds`: at a whole millisecond of libuv's clock, which is its
 * resolution, and never at an earlier one. */
static void
uvpoll_start_timer(FdUvPoller *poller, double seconds)
{
    const double longest = 86400.0; /* beyond a day the wait just ends early once */
    const uint64_t ms = 1000000;    /* in nanoseconds */
    double wait = ceil((seconds < longest ? seconds : longest) * 1e9);
    uint64_t deadline = (uv_hrtime() + (uint64_t)wait + ms - 1) / ms;
    uv_update_time(&poller->loop.uv); /* the timer counts from libuv's idea of now */
    uint64_t now = uv_now(&poller->loop.uv);
    /* Cannot fail: the timer is not closing. */
    (void)uv_timer_start(&poller->timer, on_timeout_nogil,
                         deadline > now ? deadline - now : 0, 0);
}

static int
uvpoll_poll(LoopObject *loop, double seconds)
{
    FdUvPoller *poller = loop->fds.uv_poller;
    assert(!poller->detached && !poller->deferred && poller->ready == NULL);
    int err;
    if (loop->poll_due && !libuv_is_whole(&poller->loop)) { /* a run begins */
        return errors_raise_errno(EBADF);
    }
    bool started = uvpoll_start_changed(loop, poller, &err);
    /* uv_run returns whether handles are left: the waker always is. */
    if (started || err != 0) {
        (void)uv_run(&poller->loop.uv, UV_RUN_NOWAIT);
        seconds = 0; /* it may have taken a wake-up: the caller looks and comes again */
    }
    if (seconds > 0 && !isinf(seconds)) {
        uvpoll_start_timer(poller, seconds);
    }
    /* A wait that a signal interrupts goes on: the signals' wake-up descriptor ends it. */
    if (seconds > 0) {
        poller->detached = true;
        LockHold *held = lock_give_up();
        PyThreadState *thread = PyEval_SaveThread();
        (void)uv_run(&poller->loop.uv, UV_RUN_ONCE);
        PyEval_RestoreThread(thread);
        lock_take_back(held);
        poller->detached = false;
    }
    else if (!started && err == 0) {
        (void)uv_run(&poller->loop.uv, UV_RUN_NOWAIT);
    }
    (void)uv_timer_stop(&poller->timer); /* cannot fail; may not have been started */
    if (poller->deferred) {
        uvpoll_settle(loop, poller);
    }
    if (uvpoll_hand_over(loop, poller) < 0) {
        return -1;
    }
    return err == 0 ? 0 : errors_raise_errno(err);
}

/* Called outside uv_run: what the handler does is as in a callback. */
static int
uvpoll_report_refused(LoopObject *loop)
{
    FdUvWatch *watch;
    int rc = 0;
    loop->fds.refused = false;
    while (rc == 0 && loop->fds.uv_poller != NULL &&
           (watch = loop->fds.uv_poller->refused) != NULL) {
        loop->fds.uv_poller->refused = watch->changed_next;
        FdEntry *entry = fds_entry(loop, watch->fd);
        const FdSlot *slot = &entry->slots[entry->slots[0].owner != NULL ? 0 : 1];
        PyObject *owner = Py_XNewRef(slot->owner);
        char message[64];
        (void)PyOS_snprintf(message, sizeof(message), "Descriptor %d cannot be watched",
                            watch->fd);
        (void)errors_raise_errno(watch->error);
        watch_retire(loop->fds.uv_poller, watch);
        bool handle = owner != NULL && handle_check(loop->state, owner);
        rc = loop_report(loop, message, loop->state->str_handle, handle ? owner : NULL,
                         NULL);
        Py_XDECREF(owner);
    }
    loop->fds.refused =
        loop->fds.uv_poller != NULL && loop->fds.uv_poller->refused != NULL;
    return rc;
}

static int
uvpoll_init(LoopObject *loop)
{
    FdUvPoller *poller = calloc(1, sizeof(*poller));
    if (poller == NULL) {
        return FDS_NO_MEMORY;
    }
    int err = libuv_open(&poller->loop);
    if (err < 0) {
        free(poller);
        return -err;
    }
    poller->changed_end = &poller->changed;
    poller->ready_end = &poller->ready;
    (void)uv_timer_init(&poller->loop.uv, &poller->timer); /* cannot fail */
    loop->fds.uv_poller = poller;
    return 0;
}

static void
uvpoll_close(LoopObject *loop)
{
    FdTable *table = &loop->fds;
    FdUvPoller *poller = table->uv_poller;
    assert(!poller->detached);
    bool whole = libuv_is_whole(&poller->loop);
    for (size_t fd = 0; fd < table->capacity; fd++) {
        entry_drop_watch(poller, &table->entries[fd]);
    }
    FdUvWatch *next;
    for (FdUvWatch *watch = poller->refused; watch != NULL; watch = next) {
        next = watch->changed_next;
        watch_retire(poller, watch);
    }
    assert(poller->changed == NULL && poller->ready == NULL);
    uv_close((uv_handle_t *)&poller->timer, NULL);
    libuv_end(&poller->loop, whole);
    free(poller);
    table->uv_poller = NULL;
}

static void
uvpoll_wake_nogil(LoopObject *loop)
{
    libuv_wake(&loop->fds.uv_poller->loop);
}

/* uv_loop_fork left every started watch to be registered by the next uv_run, unseen (V2):
 * they are stopped, and started again as changed ones are. */
static int
uvpoll_after_fork(LoopObject *loop)
{
    FdTable *table = &loop->fds;
    FdUvPoller *poller = table->uv_poller;
    uv_mutex_lock(&loop->inbox_lock); /* a thread of this process may be waking it */
    int err = libuv_follow_fork(&poller->loop);
    uv_mutex_unlock(&loop->inbox_lock);
    if (err < 0) {
        return errors_raise_uv(err);
    }
    /* If another thread forked while the loop waited, that wait is not in this process. */
    poller->detached = false;
    poller->ready = NULL;
    poller->ready_end = &poller->ready;
    poller->ready_count = 0;
    for (size_t fd = 0; fd < table->capacity; fd++) {
        FdUvWatch *watch = table->entries[fd].poller_data;
        if (watch != NULL && watch->opened) {
            (void)uv_poll_stop(&watch->uv); /* cannot fail */
            watch->active = 0;
            watch->seen = 0;
            watch->failed = false;
            changed_add(poller, watch);
        }
    }
    if (poller->deferred) {
        uvpoll_settle(loop, poller);
    }
    return 0;
}

const FdPoller fds_uvpoll_poller = {
    .name = "uv_poll",
    .init = uvpoll_init,
    .close = uvpoll_close,
    .arm = uvpoll_arm,
    .after_fork = uvpoll_after_fork,
    .poll = uvpoll_poll,
    .wake_nogil = uvpoll_wake_nogil,
    .report_refused = uvpoll_report_refused,
};
