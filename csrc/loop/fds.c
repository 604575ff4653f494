/* fds.c - the table of watched descriptors; see fds.h for its invariants.
 *
 * Owns: FdTable.entries. A call that may run Python (dropping an owner, dispatching) may
 * grow the table: no FdEntry pointer is used after one.
 */
#include "loop/fds.h"

#include "base/errors.h"
#include "loop/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Raises an error of a FdPoller's. -1. */
static int
fds_raise(int err)
{
    if (err == FDS_NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    return errors_raise_errno(err);
}

static inline unsigned int
entry_wanted(const FdEntry *entry)
{
    return (entry->slots[0].owner != NULL ? (unsigned int)FD_READ : 0u) |
           (entry->slots[1].owner != NULL ? (unsigned int)FD_WRITE : 0u);
}

static inline FdSlot *
entry_slot(FdEntry *entry, unsigned int direction)
{
    return &entry->slots[direction == FD_READ ? 0 : 1];
}

/* Is the kernel's registration known to be of this very open file? A transport owns its
 * descriptor; a live socket object (by its weak reference) keeps its number. */
static inline bool
entry_has_identity(const FdEntry *entry)
{
    return entry->transport != NULL ||
           (entry->identity != NULL && PyWeakref_Check(entry->identity));
}

static inline bool
entry_trusts(const FdEntry *entry, PyObject *owner, PyObject *identity)
{
    if (entry->transport != NULL) {
        return entry->transport == owner || entry->lent;
    }
    return identity != NULL && entry->identity == identity && PyWeakref_Check(identity);
}

FdEntry *
fds_entry(LoopObject *loop, int fd)
{
    FdTable *table = &loop->fds;
    return fd >= 0 && (size_t)fd < table->capacity ? &table->entries[fd] : NULL;
}

/* The entry, made if need be; NULL with MemoryError. */
static FdEntry *
fds_entry_make(LoopObject *loop, int fd)
{
    FdTable *table = &loop->fds;
    if ((size_t)fd >= table->capacity) {
        size_t capacity = table->capacity > 0 ? table->capacity : 32;
        while (capacity <= (size_t)fd) {
            capacity *= 2;
        }
        FdEntry *entries = realloc(table->entries, capacity * sizeof(FdEntry));
        if (entries == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        memset(entries + table->capacity, 0,
               (capacity - table->capacity) * sizeof(FdEntry));
        table->entries = entries;
        table->capacity = capacity;
    }
    return &table->entries[fd];
}

static void
fds_count_watched(LoopObject *loop, bool before, bool after)
{
    if (before != after) {
        loop->fds.watched += after ? 1 : (size_t)-1;
        RACY_ADD(loop->state->live_watches, after ? 1 : -1);
    }
}

int
fds_watch(LoopObject *loop, int fd, unsigned int direction, FdCallback ready,
          PyObject *owner, PyObject *identity, PyObject **replaced)
{
    *replaced = NULL;
    if (loop_check_closed(loop) < 0 || loop_check_fork(loop) < 0) {
        return -1;
    }
    FdEntry *entry = fds_entry_make(loop, fd);
    if (entry == NULL) {
        return -1;
    }
    PyObject *stale = NULL;
    bool was_watched = entry_wanted(entry) != 0;
    bool trusted = entry_trusts(entry, owner, identity);
    if (!trusted || !(entry->armed & direction)) {
        /* Not trusted: what is armed may be of a descriptor closed since, so renew it. */
        unsigned int mask =
            direction | (trusted ? (unsigned int)entry->armed : entry_wanted(entry));
        uint32_t generation = entry->generation;
        bool was_armed = entry->armed != 0;
        int err = loop->fds.poller->arm(loop, fd, entry, mask,
                                        trusted && entry->transport != NULL);
        if (err != 0) {
            return fds_raise(err);
        }
        FdSlot *other = entry_slot(entry, direction == FD_READ ? FD_WRITE : FD_READ);
        if (was_armed && entry->generation != generation && other->owner != NULL) {
            /* The number was closed and is another file's now: who waited for the old
             * one does not wait for this one. */
            stale = other->owner;
            *other = (FdSlot){NULL, NULL};
            err = loop->fds.poller->arm(loop, fd, entry, direction, false);
            if (err != 0) { /* although it was armed for more just now */
                fds_count_watched(loop, was_watched, entry_wanted(entry) != 0);
                Py_DECREF(stale);
                return fds_raise(err);
            }
        }
    }
    PyObject *old_identity = NULL;
    if (entry->identity != identity && entry->transport == NULL) {
        old_identity = entry->identity;
        entry->identity = identity != NULL ? Py_NewRef(identity) : NULL;
    }
    fds_count_watched(loop, was_watched, true);
    FdSlot *slot = entry_slot(entry, direction);
    *replaced = slot->owner;
    slot->owner = Py_NewRef(owner);
    slot->ready = ready;
    /* What was ready was so for the former owner. */
    entry->pending &= (uint8_t)~direction;
    Py_XDECREF(old_identity);
    Py_XDECREF(stale);
    return 0;
}

/* Whether the poller can be told that less is watched. Not in the child of a fork that has
 * no poller of its own: then its parent's is left alone, and the next run raises. */
static bool
fds_can_disarm(LoopObject *loop)
{
    PyObject *exc = PyErr_GetRaisedException(); /* some come here with one */
    bool can = loop_check_fork(loop) == 0;
    PyErr_Clear(); /* it is raised when the loop runs */
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return can;
}

PyObject *
fds_unwatch(LoopObject *loop, int fd, unsigned int direction, bool lazy)
{
    FdEntry *entry = fds_entry(loop, fd);
    if (entry == NULL || entry_slot(entry, direction)->owner == NULL) {
        return NULL;
    }
    FdSlot *slot = entry_slot(entry, direction);
    PyObject *owner = slot->owner;
    slot->owner = NULL;
    slot->ready = NULL;
    entry->pending &= (uint8_t)~direction;
    unsigned int wanted = entry_wanted(entry);
    fds_count_watched(loop, true, wanted != 0);
    PyObject *identity = NULL;
    if (!(lazy && entry_has_identity(entry)) && fds_can_disarm(loop)) {
        /* An error means that the user closed it before: it is not watched either way. */
        (void)loop->fds.poller->arm(loop, fd, entry, wanted, entry->transport != NULL);
        if (wanted == 0) {
            identity = entry->identity;
            entry->identity = NULL;
        }
    }
    Py_XDECREF(identity);
    return owner;
}

void
fds_forget(LoopObject *loop, int fd)
{
    FdEntry *entry = fds_entry(loop, fd);
    if (entry == NULL) {
        return;
    }
    if (entry->armed != 0 && fds_can_disarm(loop)) {
        (void)loop->fds.poller->arm(loop, fd, entry, 0, false); /* as in fds_unwatch */
    }
    fds_count_watched(loop, entry_wanted(entry) != 0, false);
    PyObject *drop[3] = {entry->slots[0].owner, entry->slots[1].owner, entry->identity};
    memset(entry->slots, 0, sizeof(entry->slots));
    entry->identity = NULL;
    entry->transport = NULL;
    entry->lent = false;
    entry->asyncios = false;
    entry->pending = 0;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(drop); i++) {
        Py_XDECREF(drop[i]);
    }
}

void
fds_leave(LoopObject *loop, int fd, PyObject *owner)
{
    FdEntry *entry = fds_entry(loop, fd);
    if (entry == NULL) {
        return;
    }
    bool was_watched = entry_wanted(entry) != 0;
    PyObject *drop[3] = {NULL, NULL, NULL};
    if (entry->transport == owner) {
        entry->transport = NULL;
        entry->lent = false;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(entry->slots); i++) {
        if (entry->slots[i].owner == owner) {
            drop[i] = owner;
            entry->slots[i] = (FdSlot){NULL, NULL};
            entry->pending &= (uint8_t)~(i == 0 ? FD_READ : FD_WRITE);
        }
    }
    unsigned int wanted = entry_wanted(entry);
    if (entry->armed != wanted && fds_can_disarm(loop)) {
        (void)loop->fds.poller->arm(loop, fd, entry, wanted,
                                    entry->transport != NULL); /* as in fds_unwatch */
    }
    fds_count_watched(loop, was_watched, wanted != 0);
    if (wanted == 0 && entry->transport == NULL) {
        drop[2] = entry->identity;
        entry->identity = NULL;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(drop); i++) {
        Py_XDECREF(drop[i]);
    }
}

int
fds_set_transport(LoopObject *loop, int fd, PyObject *transport)
{
    if (loop_check_closed(loop) < 0) {
        return -1;
    }
    FdEntry *entry = fds_entry_make(loop, fd);
    if (entry == NULL) {
        return -1;
    }
    if (transport != NULL && entry->armed != 0) {
        /* Left from a former user of the number, or of this descriptor through sock_*. */
        fds_forget(loop, fd);
        entry = fds_entry(loop, fd);
    }
    entry->transport = transport;
    entry->lent = false;
    entry->asyncios = false;
    return 0;
}

int
fds_set_asyncios(LoopObject *loop, int fd)
{
    FdEntry *entry = loop_check_closed(loop) == 0 ? fds_entry_make(loop, fd) : NULL;
    if (entry == NULL) {
        return -1;
    }
    entry->asyncios = true;
    return 0;
}

/* The owner is used when its turn comes. With thousands of them it is in no cache then:
 * asked for here, the memory of a whole batch comes at once instead of one after another
 * (0.11 us of 8.26 a message with 5,000 connections, nothing with 50). */
static inline void
prefetch_owner(const PyObject *owner)
{
    enum { LINE = 64, LINES = 7 }; /* a transport with its collector's header */
    const char *start = (const char *)owner - LINE;
    for (int i = 0; i < LINES; i++) {
        __builtin_prefetch(start + i * LINE);
    }
}

void
fds_record(LoopObject *loop, int fd, uint32_t generation, unsigned int mask)
{
    FdEntry *entry = fds_entry(loop, fd);
    if (entry == NULL || entry->generation != generation || entry->armed == 0) {
        loop->fds.orphans = true;
        return;
    }
    unsigned int wanted = entry_wanted(entry);
    unsigned int fresh = mask & wanted;
    if (fresh != mask && (entry->armed & ~wanted) != 0) {
        /* The lazy disarm: an error is as in fds_unwatch. */
        (void)loop->fds.poller->arm(loop, fd, entry, wanted, entry->transport != NULL);
        if (entry->generation != generation) {
            return; /* the number is another file's now, of which this event was not */
        }
    }
    if (fresh != 0) {
        if (entry->pending == 0) {
            ring_push_reserved(&loop->ready, ready_word_of_fd(fd, generation));
        }
        prefetch_owner(
            entry_slot(entry, (fresh & FD_READ) ? FD_READ : FD_WRITE)->owner);
        entry->pending |= (uint8_t)fresh;
    }
}

/* Runs one direction of a ready entry, if it is still wanted and pending. */
static int
fds_dispatch_direction(LoopObject *loop, int fd, uint32_t generation,
                       unsigned int direction)
{
    FdEntry *entry = fds_entry(loop, fd);
    if (entry == NULL || entry->generation != generation ||
        !(entry->pending & direction)) {
        return 0; /* an earlier callback closed, removed or replaced it */
    }
    entry->pending &= (uint8_t)~direction;
    FdSlot *slot = entry_slot(entry, direction);
    if (slot->owner == NULL) {
        return 0;
    }
    FdCallback ready = slot->ready;
    PyObject *owner = Py_NewRef(slot->owner);
    int rc = ready(loop, owner);
    metrics_ran(loop, &loop->metrics, owner);
    if (rc > 0) {
        entry = fds_entry(loop, fd);
        if (entry != NULL && entry_slot(entry, direction)->owner == owner) {
            Py_XDECREF(fds_unwatch(loop, fd, direction, false));
        }
        rc = 0;
    }
    Py_DECREF(owner);
    return rc;
}

int
fds_dispatch(LoopObject *loop, uint64_t word)
{
    int fd = (int)((uint32_t)word >> 1);
    uint32_t generation = (uint32_t)(word >> 32);
    if (fds_dispatch_direction(loop, fd, generation, FD_READ) < 0) {
        FdEntry *entry = fds_entry(loop, fd);
        if (entry != NULL) {
            entry->pending = 0; /* leaving run: what is ready will be reported again */
        }
        return -1;
    }
    return fds_dispatch_direction(loop, fd, generation, FD_WRITE);
}

PyObject *
fds_word_owner(LoopObject *loop, uint64_t word)
{
    FdEntry *entry = fds_entry(loop, (int)((uint32_t)word >> 1));
    if (entry == NULL || entry->generation != (uint32_t)(word >> 32) ||
        entry->pending == 0) {
        return NULL;
    }
    return entry->slots[(entry->pending & FD_READ) ? 0 : 1].owner;
}

int
fds_poll(LoopObject *loop, double seconds)
{
    return loop->fds.poller->poll(loop, seconds);
}

int
fds_init(LoopObject *loop)
{
    const char *name = getenv("PYLOOP_POLLER");
#ifdef __linux__
    const FdPoller *poller = &fds_epoll_poller;
#else
    const FdPoller *poller = &fds_uvpoll_poller;
#endif
    if (name != NULL && strcmp(name, fds_uvpoll_poller.name) == 0) {
        poller = &fds_uvpoll_poller;
    }
    else if (name != NULL && *name != '\0' && strcmp(name, poller->name) != 0) {
        PyErr_Format(PyExc_ValueError,
                     "PYLOOP_POLLER must be '%s' or '%s' on this system, not '%s'",
                     poller->name, fds_uvpoll_poller.name, name);
        return -1;
    }
    loop->fds.poller = poller;
    int err = poller->init(loop);
    if (err != 0) {
        loop->fds.poller = NULL;
        return fds_raise(err);
    }
    return 0;
}

void
fds_drop_all(LoopObject *loop)
{
    /* Dropping an owner may run Python, which finds the loop closed: nothing is added. */
    for (size_t fd = 0; fd < loop->fds.capacity; fd++) {
        fds_forget(loop, (int)fd);
    }
}

void
fds_close(LoopObject *loop)
{
    FdTable *table = &loop->fds;
    if (table->poller != NULL) {
        table->poller->close(loop);
        table->poller = NULL;
    }
    free(table->entries);
    table->entries = NULL;
    table->capacity = 0;
}

int
fds_visit(FdTable *table, visitproc visit, void *arg)
{
    for (size_t fd = 0; fd < table->capacity; fd++) {
        FdEntry *entry = &table->entries[fd];
        Py_VISIT(entry->slots[0].owner);
        Py_VISIT(entry->slots[1].owner);
        Py_VISIT(entry->identity);
    }
    return 0;
}
