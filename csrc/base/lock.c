/* lock.c - see lock.h. Empty where there is a GIL.
 *
 * What a thread holds is a list through its stack, innermost first. lock_top is the one
 * variable of the project that belongs to a thread: a loop's lock is given up where only
 * the thread is known, and waiting for one lock gives up the others.
 *
 * lock_all is the one variable of the process: a forked child makes each lock anew that
 * another thread may have got, because that thread is not there to leave it. What the
 * lock protects is whole even so: os.fork() stops the other threads first, each at a
 * place where it could as well have run Python code.
 */
#include "base/lock.h"

#ifdef Py_GIL_DISABLED

#include <pthread.h>

static _Thread_local LockHold *lock_top;

static struct {
    uv_once_t once;
    int failed; /* a libuv status: what kept us from being told of forks */
    uv_mutex_t mutex;
    Lock *first;
} lock_all = {.once = UV_ONCE_INIT};

/* Its address is different in every thread, and known without a call. */
static inline void *
lock_self(void)
{
    return &lock_top;
}

/* ---- all locks, and forks -------------------------------------------------- */

static void
lock_before_fork(void)
{
    uv_mutex_lock(&lock_all.mutex);
}

static void
lock_after_fork(void)
{
    uv_mutex_unlock(&lock_all.mutex);
}

/* In the child, alone, before any Python code. Not destroyed before: its state is what a
 * thread left that does not exist. */
static void
lock_after_fork_in_child(void)
{
    for (Lock *lock = lock_all.first; lock != NULL; lock = lock->next) {
        if (RACY_LOAD(lock->owner) != lock_self()) {
            RACY_STORE(lock->owner, NULL);
            (void)uv_mutex_init(&lock->mutex); /* as it could be made in the parent */
        }
    }
    lock_after_fork();
}

static void
lock_prepare_all(void)
{
    lock_all.failed = uv_mutex_init(&lock_all.mutex);
    if (lock_all.failed == 0) {
        lock_all.failed = -pthread_atfork(lock_before_fork, lock_after_fork,
                                          lock_after_fork_in_child);
    }
}

int
lock_init(Lock *lock)
{
    uv_once(&lock_all.once, lock_prepare_all);
    int err = lock_all.failed;
    if (err == 0) {
        err = uv_mutex_init(&lock->mutex);
    }
    if (err < 0) {
        return err;
    }
    lock->owner = NULL;
    uv_mutex_lock(&lock_all.mutex);
    lock->next = lock_all.first;
    lock->place = &lock_all.first;
    if (lock->next != NULL) {
        lock->next->place = &lock->next;
    }
    lock_all.first = lock;
    uv_mutex_unlock(&lock_all.mutex);
    return 0;
}

void
lock_destroy(Lock *lock)
{
    assert(lock->owner == NULL);
    uv_mutex_lock(&lock_all.mutex);
    *lock->place = lock->next;
    if (lock->next != NULL) {
        lock->next->place = lock->place;
    }
    uv_mutex_unlock(&lock_all.mutex);
    uv_mutex_destroy(&lock->mutex);
}

/* ---- taking and leaving ---------------------------------------------------- */

static inline void
lock_release(Lock *lock)
{
    RACY_STORE(lock->owner, NULL);
    uv_mutex_unlock(&lock->mutex);
}

/* Everything that this thread holds, from the innermost on. */
static void
lock_suspend_all(void)
{
    for (LockHold *hold = lock_top; hold != NULL && !hold->suspended;
         hold = hold->outer) {
        hold->suspended = true;
        lock_release(hold->lock);
    }
}

/* The thread is never attached, nor stopped, while it waits; and it is attached without
 * the lock, because that may wait for whoever stops the world. */
static void
lock_wait(Lock *lock)
{
    lock_suspend_all();
    do {
        PyThreadState *thread = PyEval_SaveThread();
        uv_mutex_lock(&lock->mutex);
        uv_mutex_unlock(&lock->mutex);
        PyEval_RestoreThread(thread);
    } while (uv_mutex_trylock(&lock->mutex) != 0);
}

static inline void
lock_acquire(Lock *lock)
{
    if (uv_mutex_trylock(&lock->mutex) != 0) {
        lock_wait(lock);
    }
    RACY_STORE(lock->owner, lock_self());
}

void
lock_enter(Lock *lock, LockHold *hold)
{
    if (RACY_LOAD(lock->owner) == lock_self()) {
        hold->lock = NULL;
        return;
    }
    lock_acquire(lock);
    *hold = (LockHold){lock_top, lock, false};
    lock_top = hold;
}

void
lock_exit(LockHold *hold)
{
    if (hold->lock == NULL) {
        return;
    }
    assert(lock_top == hold && !hold->suspended);
    lock_top = hold->outer;
    lock_release(hold->lock);
    if (lock_top != NULL && lock_top->suspended) {
        lock_take_back(lock_top);
    }
}

LockHold *
lock_give_up(void)
{
    LockHold *held = lock_top;
    if (held != NULL) {
        lock_suspend_all();
        lock_top = NULL; /* what is called begins anew */
    }
    return held;
}

void
lock_take_back(LockHold *held)
{
    if (held != NULL) {
        assert(lock_top == NULL || lock_top == held);
        lock_top = NULL; /* nothing is held that waiting would have to give up */
        lock_acquire(held->lock);
        held->suspended = false;
        lock_top = held;
    }
}

#endif
