/* loop.h - the loop object and everything that the files of loop/ offer each other.
 *
 * One iteration (run.c): poll if due -> due timers, inbox -> run the ready batch.
 *
 *   threads --inbox--+
 *   timers --heap----+--> ready ring --> handle_run / fds_dispatch --> Python
 *   epoll --events---+
 *
 * Thread: unless said otherwise, any that holds the GIL and, on free-threaded builds, the
 * loop's lock (base/lock.h). Without debug mode asyncio tolerates calls from other threads
 * while the loop's thread waits; they are safe here too because detached code
 * (fds_wait_nogil) touches neither ring nor heap.
 */
#ifndef PYLOOP_LOOP_LOOP_H
#define PYLOOP_LOOP_LOOP_H

#include "base/compat.h"

#include "base/lock.h"
#include "base/state.h"
#include "ds/heap.h"
#include "ds/ring.h"
#include "loop/fds.h"
#include "loop/metrics.h"

#include <assert.h>
#include <uv.h>

/*  LOOP_NEW  -> LOOP_OPEN    [loop_open]       the poller exists
 *  LOOP_OPEN -> LOOP_CLOSED  [loop_drop_work]  no handle, timer or watch is held any more;
 *                                              close() and dealloc end the poller as well
 *  LOOP_NEW is seen only inside loop_new and by the dealloc of what it could not finish. */
typedef enum { LOOP_NEW, LOOP_OPEN, LOOP_CLOSED } LoopPhase;

/* Methods that a subclass or an instance may replace and C code would else bypass. */
enum {
    OVERRIDE_TIME = 1 << 0,
    OVERRIDE_CALL_SOON = 1 << 1,
    OVERRIDE_CALL_AT = 1 << 2,
    OVERRIDE_CREATE_FUTURE = 1 << 3,
    OVERRIDE_CALL_LATER = 1 << 4,
    /* One of loop_hook_names() was ever set on the instance: look each time. */
    OVERRIDE_HOOK = 1 << 5,
};

typedef struct HandleObject HandleObject;
typedef struct CoroObject CoroObject;
typedef struct DatagramSpares DatagramSpares;
typedef struct Outbox Outbox;

/* Spent handles of one type: linked through ->loop; untracked, refcount 0. */
typedef struct {
    HandleObject *first;
    unsigned int count;
} HandleSpares;

struct LoopObject {
    PyObject_HEAD
    PyObject *module;   /* strong; visited; dropped only in dealloc (it owns *state) */
    PyloopState *state; /* borrowed from module */
    Lock lock;          /* base/lock.h: of all below, and of what belongs to the loop */
    LoopPhase phase;
    unsigned int forks; /* forks_count() of the process that the poller belongs to */
    bool counted;       /* in state->live_loops */

    /* Flags that asyncio keeps as attributes of the same name (getsets in loop.c). */
    bool stopping;
    bool debug;
    bool closed;
    PyObject *thread_id;        /* int or NULL for None: the running thread's */
    unsigned long thread_ident; /* thread_id as a number, 0 when not running */
    PyObject *task_factory;     /* strong or NULL for None */
    PyObject *task_keywords;    /* strong or NULL: tasks.c */
    PyObject *spent_futures[2]; /* strong or NULL: tasks.c */
    uint8_t spent_turn;         /* the place of the next one */
    PyObject *current_handle;   /* strong or NULL: debug mode only */

    uint8_t type_overrides; /* OVERRIDE_*: by the type, looked at when a run starts */
    uint8_t instance_overrides; /* OVERRIDE_*: by setattr on the instance */
    bool poll_every_tick;       /* PYLOOP_POLL_EVERY_TICK */

    Ring ready;  /* ready words (run.c); each handle word owns a reference */
    Heap timers; /* nodes embedded in TimerHandles; each owns a reference */
    FdTable fds;

    /* Poll skipping (run.c). */
    bool poll_due;          /* the next tick polls whatever the counters say */
    uint64_t last_aside_ns; /* when a busy run last let the interpreter look around */
    unsigned int depth;     /* nested runs */

    /* Work from other threads (threadsafe.c). */
    uv_mutex_t inbox_lock; /* from loop_new to dealloc */
    bool inbox_lock_made;
    bool inbox_open;    /* the poller may be woken, and takes calls; under inbox_lock */
    Ring inbox;         /* handle words, each owning a reference; under inbox_lock */
    bool inbox_waiting; /* inbox may be non-empty: read without the lock as a hint */

    HandleSpares spare_handles;
    HandleSpares spare_timers;
    CoroObject *free_coros; /* as HandleSpares, of AccelCoro */
    unsigned int free_coro_count;

    /* Writes that transports hold back for a moment (outbox.h). */
    Outbox *outbox;           /* made at first use */
    size_t held;              /* owners in it */
    size_t held_plain;        /* of these, who have to be asked before data can be sent:
                               * they hold no longer than their callback */
    bool guarded;             /* it has its guard */
    size_t batch_left;        /* callbacks of this batch that are still to run */
    uint32_t callback_serial; /* a number for each callback that run.c runs; read by
                               * watchdog.c without a lock */
    bool dispatching;         /* inside a callback run by run.c */
    bool polling;             /* in a poll that may have given up the lock; the same */
    bool close_due;           /* the thread that polls is to close the loop */
    bool hold_writes;         /* PYLOOP_HOLD_WRITES */

    /* Being run, for other threads (running.c): under its mutex. */
    LoopObject *run_next;
    LoopObject **run_place;   /* where the list points at this; NULL: not in it */
    unsigned long run_thread; /* who runs it */
    uint64_t run_number;      /* of this run, 0 while not running */

    char *scratch; /* SCRATCH_SIZE bytes for small reads; made at first use */
    DatagramSpares *datagrams; /* of transport/datagram_spares.c; made at first use */
    LoopMetrics metrics;
};

enum { SCRATCH_SIZE = 256 * 1024 };

/* loop.c */
PyTypeObject *loop_type_create(PyObject *module);
int loop_check_closed(LoopObject *self);
/* From LOOP_OPEN to LOOP_CLOSED, the system's part included. Idempotent. Not while a
 * thread is in a poll. */
void loop_close_core(LoopObject *self);
/* Debug mode: RuntimeError when called from another thread than the running one's. */
int loop_check_thread(LoopObject *self);
/* What every scheduling method checks first: the loop is open and, in debug mode, the
 * callback is one (asyncio's TypeErrors name `method`) and the thread is the loop's,
 * unless any_thread. 0, or -1. */
int loop_check_call(LoopObject *loop, PyObject *callback, const char *method,
                    bool any_thread);
void loop_refresh_overrides(LoopObject *self);
/* In a forked child, once: the kernel's side of the loop is shared with the parent and is
 * replaced by the child's own, so that nothing done here reaches the parent's. 0, or -1
 * with OSError when that cannot be had; the next call tries again what can be. */
int loop_check_fork(LoopObject *self);
char *loop_scratch(LoopObject *self); /* borrowed; NULL with MemoryError */

static inline uint8_t
loop_overrides(const LoopObject *self)
{
    return self->type_overrides | self->instance_overrides;
}

/* report.c */
/* Calls the loop's exception handler with the raised exception (which it clears), a
 * message, and (name, object) pairs ended by a NULL name; a NULL object is left out.
 * 0, or -1 with an exception that must leave run: SystemExit and KeyboardInterrupt are
 * not reported, and the handler may raise. */
int loop_report(LoopObject *self, const char *message, ...);
/* In debug mode: notes in *dict, an instance's (made if NULL), as _source_traceback where
 * in the program the instance is made. 0, or -1. */
int loop_note_origin(LoopObject *self, PyObject **dict);
/* repr, "<...>", of a transport with that instance dict (or NULL); with where it was made
 * before the ">" if that was noted. Steals repr, which may be NULL. New reference, or
 * NULL. */
PyObject *loop_repr_of_steal(LoopObject *self, PyObject *transport, PyObject *dict,
                             PyObject *repr);

/* run.c */
static inline uint64_t
ready_word_of_handle(HandleObject *handle)
{
    return (uint64_t)(uintptr_t)handle;
}

static inline bool
ready_word_is_fd(uint64_t word)
{
    return (word & 1) != 0;
}

static inline uint64_t
ready_word_of_fd(int fd, uint32_t generation)
{
    return ((uint64_t)generation << 32) | ((uint64_t)(uint32_t)fd << 1) | 1;
}

/* Runs until stop(). 0, or -1 with what a callback let through. */
int loop_run(LoopObject *self);
/* One iteration, which polls. */
int loop_run_once(LoopObject *self);
/* Polls, and waits up to `seconds` (INFINITY: no limit) if nothing is ready; takes what
 * other threads scheduled. Timers stay where they are. 0, or -1. */
int loop_poll(LoopObject *self, double seconds);
/* Seconds, from the overridden time() if there is one. 0, or -1. */
int loop_now(LoopObject *self, double *now);
double loop_clock(void);
/* Drops every word of a ring of handles and descriptor events. */
void loop_drop_words(Ring *ring);

/* timers.c */
int timers_move_due(LoopObject *self);
void timers_drop_all(LoopObject *self);
PyObject *timers_call_later(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
PyObject *timers_call_at(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames);
PyObject *timers_snapshot(LoopObject *self);
void timers_unqueue(LoopObject *self, PyObject *handle);

/* outside.c */
PyObject *outside_poll(PyObject *op, PyObject *timeout);
PyObject *outside_pop_ready(PyObject *op, PyObject *ignored);
PyObject *outside_dispatch(PyObject *op, PyObject *number);

/* threadsafe.c */
PyObject *threadsafe_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);
int threadsafe_take_inbox(LoopObject *self);
void threadsafe_wake(LoopObject *self);
void threadsafe_drop_inbox(LoopObject *self);

/* fdmethods.c: add_reader and its family */
PyObject *fd_add_reader(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames);
PyObject *fd_add_writer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames);
PyObject *fd_remove_reader(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *fd_remove_writer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *fd_private_add_reader(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *fd_private_add_writer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *fd_private_remove_reader(PyObject *op, PyObject *fileobj);
PyObject *fd_private_remove_writer(PyObject *op, PyObject *fileobj);
PyObject *fd_ensure_no_transport(PyObject *op, PyObject *fileobj);
PyObject *fd_claim(PyObject *op, PyObject *number);
PyObject *fd_watched(PyObject *op, PyObject *number);
PyObject *fd_users(PyObject *op, PyObject *ignored);
int fd_check_no_transport(LoopObject *self, int fd, PyObject *fileobj);

/* sockops.c */
PyTypeObject *sockop_type_create(PyObject *module);
PyObject *sockop_recv(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames);
PyObject *sockop_recv_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *sockop_recvfrom(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames);
PyObject *sockop_recvfrom_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);
PyObject *sockop_sendall(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames);
PyObject *sockop_sendto(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames);
PyObject *sockop_accept(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames);
PyObject *sockop_connect(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames);
PyObject *sockop_sendfile(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames);

/* connect.c */
PyTypeObject *connectop_type_create(PyObject *module);
PyObject *connect_open(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);

/* names.c */
PyTypeObject *namequery_type_create(PyObject *module);
PyObject *names_getaddrinfo(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
PyObject *names_getnameinfo(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
PyObject *names_ensure_resolved(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);

/* transport/: the hooks that make transports and serve. Defined above this layer, named
 * here because Loop's table of methods must list them. */
PyObject *socket_make_transport(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *transportop_new(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames);
PyObject *pipe_make_reader(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *pipe_make_writer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *listener_start_serving(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames);
PyObject *listener_stop_serving(PyObject *op, PyObject *sock);

PyObject *datagram_make_transport(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames);
/* When the loop closes. */
void datagram_free_spares(LoopObject *loop);

/* coro.c: when the loop closes */
void coro_free_spares(LoopObject *loop);

/* tasks.c: create_future and create_task */
PyObject *loop_create_future(LoopObject *self);
/* The same, for the thread's running loop. */
PyObject *loop_create_future_running(LoopObject *self);
/* Steals a future that is done, whose result is None or a bool, and which was waited for:
 * for loop_create_future_running(), once nobody else has it. */
void loop_spend_future(LoopObject *self, PyObject *future);
void loop_drop_futures(LoopObject *self);
PyObject *tasks_create_future(PyObject *op, PyObject *ignored);
PyObject *tasks_create_task(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
/* trace(waits, creation): the module's function. */
PyObject *tasks_trace(PyObject *module, PyObject *args);

#endif
