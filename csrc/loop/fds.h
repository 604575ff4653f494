/* fds.h - the one table of watched descriptors, and the interface of what watches them.
 *
 * An entry per descriptor number says who waits for which direction. How the kernel is
 * asked is known by a poller alone: fds_epoll.c (Linux) or fds_uvpoll.c (everywhere);
 * docs/decisions/0001.
 *
 * Invariant F1: entry->pending != 0 <=> a ready word (fd, generation) is in the ring, or
 *               is being dispatched.
 * Invariant F2: a direction with an owner is in entry->armed, but not the other way
 *               round: a direction nobody wants any more is disarmed at its next event
 *               (lazy disarm), when its identity proves that the number was not reused.
 * Invariant F3: entry->generation changes whenever the kernel's registration is made
 *               anew, so an event or a ready word of an older one is recognised.
 */
#ifndef PYLOOP_LOOP_FDS_H
#define PYLOOP_LOOP_FDS_H

#include "base/compat.h"

typedef struct LoopObject LoopObject;

enum { FD_READ = 1, FD_WRITE = 2 };

/* What happens when a direction is ready. Runs in the loop's thread; may do anything,
 * closing the loop's descriptors included. 0; 1 to be unwatched; or -1 with an exception
 * that leaves run. */
typedef int (*FdCallback)(LoopObject *loop, PyObject *owner);

typedef struct {
    FdCallback ready; /* valid while owner != NULL */
    PyObject *owner;  /* strong; NULL: nobody waits for this direction */
} FdSlot;

typedef struct {
    FdSlot slots[2];     /* [0] reading, [1] writing */
    PyObject *identity;  /* strong or NULL: whose registration `armed` is (a weakref) */
    PyObject *transport; /* borrowed or NULL: the transport that owns the descriptor */
    void *poller_data;   /* of fds_uvpoll.c */
    uint32_t generation;
    uint8_t armed;   /* FD_* that the kernel watches for us */
    uint8_t pending; /* FD_* seen and not yet dispatched */
    bool lent;       /* the transport lets a sock_* operation use its descriptor */
    bool asyncios; /* a transport of asyncio's own claimed it: loop._transports knows */
} FdEntry;

typedef struct FdPoller FdPoller;

typedef struct {
    FdEntry *entries; /* indexed by descriptor */
    size_t capacity;
    size_t watched; /* entries with at least one owner: for debug_stats */
    const FdPoller *poller;
    /* fds_epoll.c */
    int epfd;
    int timerfd;
    int wakefd;            /* written under LoopObject.inbox_lock */
    double timer_deadline; /* what timerfd is armed for; INFINITY when it is not */
    bool orphans;          /* events of a registration that is not ours any more came */
    /* fds_uvpoll.c */
    struct FdUvPoller *uv_poller;
    bool
        refused; /* what arm() took was refused later: report_refused is to be called */
} FdTable;

/* What no errno of the kernel's says: an allocation of our own failed. */
#define FDS_NO_MEMORY (-1)

/* A way of watching. Errors are positive errnos or FDS_NO_MEMORY, 0 is success. */
struct FdPoller {
    const char *name;
    int (*init)(LoopObject *loop);
    /* With nothing armed and nobody who wakes it. */
    void (*close)(LoopObject *loop);
    /* Makes the kernel watch exactly `mask`; sets entry->armed and ->generation. owned: a
     * transport's own, so that what is armed is of this very file. */
    int (*arm)(LoopObject *loop, int fd, FdEntry *entry, unsigned int mask, bool owned);
    /* In a forked child: what the parent still uses is replaced by the child's own. 0, or
     * -1 with an exception; the next call tries again. */
    int (*after_fork)(LoopObject *loop);
    /* Waits until an event, a wake-up or `seconds` (INFINITY: no limit), with the GIL
     * given up if that is not 0; hands every event to fds_record. 0, or -1 with an
     * exception. */
    int (*poll)(LoopObject *loop, double seconds);
    /* Ends the wait in poll(), or the next one. From any thread, under inbox_lock. */
    void (*wake_nogil)(LoopObject *loop);
    /* Tells the exception handler of what arm() took and the kernel did not. NULL: it
     * never sets FdTable.refused. 0, or -1 with an exception that leaves run. */
    int (*report_refused)(LoopObject *loop);
};

extern const FdPoller fds_epoll_poller;
extern const FdPoller fds_uvpoll_poller;

int fds_init(LoopObject *loop);
/* Drops every owner: nothing is watched any more. */
void fds_drop_all(LoopObject *loop);
/* After fds_drop_all: ends the poller and frees the table. */
void fds_close(LoopObject *loop);

/* NULL when fd was never watched. Valid until the next call that may watch. */
FdEntry *fds_entry(LoopObject *loop, int fd);

/* owner's ready() is called when direction is ready. Takes the place of a former owner,
 * which is returned in *replaced (a new reference, or NULL). identity (may be NULL) is a
 * weak reference to the object that owns fd: as long as it is the same, the kernel's
 * registration is known to be good, and is not renewed. 0, or -1 with OSError. */
int fds_watch(LoopObject *loop, int fd, unsigned int direction, FdCallback ready,
              PyObject *owner, PyObject *identity, PyObject **replaced);

/* Nobody waits for direction any more. Returns the former owner (new reference) or NULL.
 * lazy: the kernel is told at the next unwanted event only; for descriptors whose
 * registration has an identity or a transport. Never raises. */
PyObject *fds_unwatch(LoopObject *loop, int fd, unsigned int direction, bool lazy);

/* The owner of fd is about to close it: unregisters at once, drops all. */
void fds_forget(LoopObject *loop, int fd);

/* owner gives up fd, which others may wait for too, or have by now: its own watches and
 * its claim end at once. */
void fds_leave(LoopObject *loop, int fd, PyObject *owner);

/* Claims fd for a transport (NULL: gives it up). 0, or -1 with MemoryError. */
int fds_set_transport(LoopObject *loop, int fd, PyObject *transport);

/* The same for a transport of asyncio's own (pyloop/_selector.py), which is not the owner
 * of what it has watched. 0, or -1 with an exception. */
int fds_set_asyncios(LoopObject *loop, int fd);

/* For pollers: an event of (fd, generation). Cannot fail: room was reserved. */
void fds_record(LoopObject *loop, int fd, uint32_t generation, unsigned int mask);

/* Runs what a ready word of fds_record stands for. 0, or -1 with an exception. */
int fds_dispatch(LoopObject *loop, uint64_t word);

/* Who waits for what the word stands for: borrowed, NULL when nobody does any more. */
PyObject *fds_word_owner(LoopObject *loop, uint64_t word);

/* Waits, records. seconds as in FdPoller.poll. 0, or -1. */
int fds_poll(LoopObject *loop, double seconds);

int fds_visit(FdTable *table, visitproc visit, void *arg);

#endif
