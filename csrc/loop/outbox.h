/* outbox.h - whoever holds data back for a moment, to send them together with others'.
 *
 * An owner (a transport) that holds has data in a queue of its own which the kernel was not
 * offered yet. It stands in the loop's outbox, in the order of the writes, until
 * outbox_flush(): when the callback ends or, with a guard, when the batch of callbacks
 * ends, or one after which the oldest is old, and before anything that could tell.
 *
 * The guard is a thread that looks at the outbox while there is one: what was held for a
 * whole tick means callbacks that take long or wait for a peer, and is offered to the
 * kernel by the guard. So nobody waits for what is held for longer than GUARD_TICK_NS
 * twice. It knows nothing of Python: no GIL, no thread state.
 *
 * Invariant O1: loop->held == the number of owners in the outbox; 0 outside of run.
 * Invariant O2: with a guard, the outbox and its owners' queues change under its lock only
 *               (outbox_enter, outbox_leave).
 */
#ifndef PYLOOP_LOOP_OUTBOX_H
#define PYLOOP_LOOP_OUTBOX_H

#include "loop/loop.h"

#include <sys/types.h>

typedef struct {
    /* In the loop's thread, when the owner has left the outbox: offers its data to the
     * kernel, after the first `rescued` bytes, which the guard has sent (SIZE_MAX: all are
     * sent by another process). 0, or -1 with an exception that leaves run. */
    int (*send)(PyObject *owner, size_t rescued);
    /* In the guard's thread, under the lock and without the GIL: one system call for what
     * is queued after the first `rescued` bytes. The number of bytes sent, or -1. */
    ssize_t (*rescue)(PyObject *owner, size_t rescued);
} OutboxOps;

/* Whether what is held may stay so beyond its callback. Starts the guard once that was
 * asked often in a short time: before, and where no thread can be had, it may not. */
bool outbox_is_guarded(LoopObject *loop);

/* Around each change of the queue of who holds, or is about to. Between them no Python
 * code may run. */
void outbox_enter(LoopObject *loop);
void outbox_leave(LoopObject *loop);

/* Is there room for one more, who holds nothing yet? False when memory is short, too. */
bool outbox_has_room(LoopObject *loop);
/* Under the lock: owner has data now, more than before when it holds already. sock_fd is
 * where a socket object keeps the descriptor, NULL if there is none; fd is what the guard
 * has to find there. */
void outbox_add(LoopObject *loop, PyObject *owner, const OutboxOps *ops,
                const int *sock_fd, int fd);
/* Has the first of them been in it for so long that its system call is nothing beside? */
bool outbox_is_old(const LoopObject *loop);
/* Is owner the last one, so that its next data may join without overtaking anybody's? */
bool outbox_is_last(const LoopObject *loop, const PyObject *owner);
/* owner, if it is in it, leaves without its send(), for which this is `rescued`. */
size_t outbox_forget(LoopObject *loop, PyObject *owner);

/* Everybody's send(), in order. What leaves run is said to be unraisable. */
void outbox_flush(LoopObject *loop);

/* Sends all, and there is no guard until one is wished for again. */
void outbox_rest(LoopObject *loop);
/* The same, for good. */
void outbox_close(LoopObject *loop);

#endif
