/* run.c - the iteration: poll if due, due timers and inbox, then the ready batch.
 *
 * asyncio polls at every iteration; with callbacks ready, that costs more than they do.
 * Here a busy loop polls after POLL_CALLBACKS callbacks or POLL_TICKS of the cycle
 * counter, whichever comes first, and always when idle, in the first iteration of a run,
 * in one that stop() asked for, in debug mode, and with PYLOOP_POLL_EVERY_TICK=1.
 *
 * GIL: given up once per blocking poll, never per callback. A busy loop whose callbacks
 * are Python code gives it up between their instructions, when the interpreter asks. One
 * that runs nothing but C code has to come to such a place itself: every ASIDE_NS.
 */
#include "loop/handle.h"

#include "base/call.h"
#include "loop/outbox.h"

#include <math.h>

enum { POLL_CALLBACKS = 32 };

/* About 50 us on a 2 GHz counter, less on a faster one; exact where it counts ns. */
#define POLL_TICKS UINT64_C(100000)

/* A fraction of CPython's switch interval, 5 ms: how long a waiting thread waits at most
 * beyond it. */
#define ASIDE_NS UINT64_C(1000000)

double
loop_clock(void)
{
    return (double)clock_ns() / 1e9;
}

int
loop_now(LoopObject *self, double *now)
{
    if (!(loop_overrides(self) & OVERRIDE_TIME)) {
        *now = loop_clock();
        return 0;
    }
    PyObject *time = call_method0((PyObject *)self, self->state->str_time);
    if (time == NULL) {
        return -1;
    }
    *now = PyFloat_AsDouble(time);
    Py_DECREF(time);
    return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
}

void
loop_drop_words(Ring *ring)
{
    while (ring->count > 0) {
        uint64_t word = ring_pop(ring);
        if (!ready_word_is_fd(word)) {
            Py_DECREF((PyObject *)(uintptr_t)word);
        }
    }
}

/* Seconds that an idle loop may sleep: INFINITY without timers. 0, or -1. */
static int
run_idle_seconds(LoopObject *self, double *seconds)
{
    HeapNode *first = heap_first(&self->timers);
    *seconds = INFINITY;
    if (first == NULL) {
        return 0;
    }
    double now;
    if (loop_now(self, &now) < 0) {
        return -1;
    }
    first = heap_first(&self->timers); /* an overridden time() is the user's code */
    if (first != NULL) {
        *seconds = first->deadline > now ? first->deadline - now : 0;
    }
    return 0;
}

static inline bool
run_poll_due(LoopObject *self)
{
    return self->poll_due || RACY_LOAD(self->stopping) || self->debug ||
           self->poll_every_tick ||
           self->callback_serial - self->metrics.serial >= POLL_CALLBACKS ||
           self->metrics.last - self->metrics.poll_end >= POLL_TICKS;
}

/* Runs a Python function that does nothing, if it was not done for ASIDE_NS: there the
 * interpreter handles signals and other threads' requests. Not PyEval_SaveThread: without
 * a request, this thread takes the GIL back before another one has woken up to take it,
 * and who was woken begins to wait anew before it makes a request. 0, or -1. */
static int
run_step_aside(LoopObject *self)
{
    uint64_t now = clock_ns();
    if (now - self->last_aside_ns < ASIDE_NS) {
        return 0;
    }
    self->last_aside_ns = now;
    PyObject *done = call_method0((PyObject *)self, self->state->str__step_aside);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

static inline bool
run_is_idle(LoopObject *self)
{
    return self->ready.count == 0 && !RACY_LOAD(self->stopping) &&
           !RACY_LOAD(self->inbox_waiting);
}

/* Another thread's close() came during the poll, which may have failed. -1. */
static int
run_close(LoopObject *self)
{
    PyErr_Clear(); /* whatever it was, it is because of that */
    loop_close_core(self);
    return loop_check_closed(self);
}

static int
run_poll_for(LoopObject *self, double seconds)
{
    if (loop_check_fork(self) < 0) { /* a callback forked, and this is the child */
        return -1;
    }
    if (self->fds.poller == NULL) {
        /* A callback closed it: close() was told that it is not run. */
        return loop_check_closed(self);
    }
    if (self->polling) { /* free-threaded: two threads were let past is_running() */
        PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
        return -1;
    }
    if (seconds > 0) {
        metrics_wait_begins(&self->metrics);
    }
    RACY_STORE(self->polling, true);
    int rc = fds_poll(self, seconds);
    RACY_STORE(self->polling, false);
    metrics_polled(&self->metrics, seconds > 0, self->callback_serial);
    if (self->close_due) {
        return run_close(self);
    }
    if (rc < 0) {
        return -1;
    }
    self->poll_due = false;
    if (self->fds.refused && self->fds.poller->report_refused(self) < 0) {
        return -1;
    }
    if (seconds > 0) {
        return PyErr_CheckSignals(); /* handlers run in the main thread only */
    }
    return run_step_aside(self);
}

/* Runs the Python handlers of signals that came during callbacks which are no Python code,
 * and so did not see to them. What they raise is reported, as from a Python callback;
 * once the loop waits it leaves run, as from asyncio's select(). 0, or -1. */
static int
run_signal_handlers(LoopObject *self)
{
    LockHold *held = lock_give_up();
    int rc = PyErr_CheckSignals();
    lock_take_back(held);
    return rc == 0 ? 0 : loop_report(self, "Exception in a signal handler", NULL);
}

/* 0 with something to do, else as run_idle_seconds(). 0, or -1. */
static int
run_seconds(LoopObject *self, double *seconds)
{
    *seconds = 0;
    return run_is_idle(self) ? run_idle_seconds(self, seconds) : 0;
}

/* The signals' sockets are always watched: a loop with more waits for somebody outside. */
enum { OWN_DESCRIPTORS = 1 };

/* pyloop.tasks looks whether anything can end the wait that has no limit. 0, or -1. */
static int
run_tell_about_to_block(LoopObject *self, double *seconds)
{
    if (self->fds.watched > OWN_DESCRIPTORS) {
        return 0;
    }
    PyObject *done = call_method0((PyObject *)self, self->state->str__about_to_block);
    Py_XDECREF(done);
    if (done == NULL && loop_report(self, "Exception in a deadlock trace", NULL) < 0) {
        return -1;
    }
    return run_seconds(self, seconds); /* Python code ran */
}

static int
run_poll(LoopObject *self)
{
    double seconds;
    if (run_signal_handlers(self) < 0 || run_seconds(self, &seconds) < 0) {
        return -1;
    }
    if (isinf(seconds) && RACY_LOAD(self->state->trace_waits) &&
        run_tell_about_to_block(self, &seconds) < 0) {
        return -1;
    }
    return run_poll_for(self, seconds);
}

int
loop_poll(LoopObject *self, double seconds)
{
    if (self->held > 0) {
        outbox_flush(self);
    }
    bool entered = metrics_enter(&self->metrics);
    int rc = run_poll_for(self, run_is_idle(self) ? seconds : 0);
    metrics_leave(&self->metrics, entered);
    if (rc < 0) {
        return -1;
    }
    return RACY_LOAD(self->inbox_waiting) ? threadsafe_take_inbox(self) : 0;
}

static inline int
run_word(LoopObject *self, uint64_t word)
{
    return ready_word_is_fd(word) ? fds_dispatch(self, word)
                                  : handle_run((HandleObject *)(uintptr_t)word);
}

/* Logs what ran for `seconds` if that is slow. 0, or -1. */
static int
run_log_if_slow(LoopObject *self, PyObject *subject, double seconds)
{
    PyObject *limit =
        PyObject_GetAttr((PyObject *)self, self->state->str_slow_callback_duration);
    double allowed = limit != NULL ? PyFloat_AsDouble(limit) : -1.0;
    Py_XDECREF(limit);
    if (allowed == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (seconds < allowed) {
        return 0;
    }
    PyObject *duration = PyFloat_FromDouble(seconds);
    PyObject *logged =
        duration != NULL
            ? call_method2((PyObject *)self, self->state->str__log_slow_callback,
                           subject, duration)
            : NULL;
    Py_XDECREF(duration);
    Py_XDECREF(logged);
    return logged != NULL ? 0 : -1;
}

/* Debug mode: what runs is named as the current handle, and logged if it is slow. */
static int
run_word_debug(LoopObject *self, uint64_t word)
{
    double before, after;
    PyObject *subject = ready_word_is_fd(word) ? fds_word_owner(self, word)
                                               : (PyObject *)(uintptr_t)word;
    if (subject == NULL) {
        return 0; /* a descriptor that nobody watches any more */
    }
    if (!ready_word_is_fd(word) && ((HandleObject *)subject)->cancelled) {
        return 0;
    }
    Py_INCREF(subject);
    Py_XSETREF(self->current_handle, Py_NewRef(subject));
    int rc = loop_now(self, &before);
    if (rc == 0) {
        rc = run_word(self, word);
    }
    if (rc == 0) {
        rc = loop_now(self, &after);
    }
    if (rc == 0) {
        rc = run_log_if_slow(self, subject, after - before);
    }
    Py_CLEAR(self->current_handle);
    Py_DECREF(subject);
    return rc;
}

/* Runs one word, drops its reference, and sends what a transport held back meanwhile. A
 * descriptor's callbacks are timed by fds.c, one that nobody waits for by nobody. */
static inline int
run_next(LoopObject *self, bool timed)
{
    uint64_t word = ring_pop(&self->ready);
    RACY_STORE(self->callback_serial, self->callback_serial + 1);
    if (!timed && ready_word_is_fd(word)) {
        self->metrics.last = clock_ticks();
    }
    int rc = !self->debug ? run_word(self, word) : run_word_debug(self, word);
    if (!ready_word_is_fd(word)) {
        if (timed) {
            metrics_ran(self, &self->metrics, (PyObject *)(uintptr_t)word);
        }
        Py_DECREF((PyObject *)(uintptr_t)word);
    }
    if (self->held > 0 && (self->batch_left == 0 || !self->guarded ||
                           self->held_plain > 0 || outbox_is_old(self))) {
        outbox_flush(self);
    }
    return rc;
}

/* A nested run may take what this batch counted. */
static inline int
run_words(LoopObject *self, size_t todo, bool timed)
{
    int rc = 0;
    while (todo > 0 && self->ready.count > 0 && rc == 0) {
        self->batch_left = --todo;
        rc = run_next(self, timed);
    }
    return rc;
}

/* Runs as many words as are ready now; what they add waits for the next iteration. */
static int
run_batch(LoopObject *self)
{
    size_t todo = self->ready.count;
    bool outer = self->dispatching;
    size_t outer_left = self->batch_left;
    uint64_t begin = self->metrics.last;
    bool timed = metrics_batch_begins(&self->metrics, todo, self->callback_serial);
    self->dispatching = true;
    /* Two copies: what times nothing has no question to ask for each. */
    int rc = timed ? run_words(self, todo, true) : run_words(self, todo, false);
    metrics_batch_ends(&self->metrics, todo, timed, begin);
    self->dispatching = outer;
    self->batch_left = outer_left;
    if (self->held > 0) { /* an error ended the batch, or a nested run its rest */
        outbox_flush(self);
    }
    return rc;
}

static int
run_iteration(LoopObject *self)
{
    if ((self->ready.count == 0 || run_poll_due(self)) && run_poll(self) < 0) {
        return -1;
    }
    /* Looked at here first: most iterations have neither. */
    if ((self->timers.count > 0 && timers_move_due(self) < 0) ||
        (RACY_LOAD(self->inbox_waiting) && threadsafe_take_inbox(self) < 0)) {
        return -1;
    }
    return run_batch(self);
}

int
loop_run_once(LoopObject *self)
{
    if (self->held > 0) {
        outbox_flush(self); /* a nested run begins: nothing stays held */
    }
    self->poll_due = true;
    bool entered = metrics_enter(&self->metrics);
    int rc = run_iteration(self);
    metrics_leave(&self->metrics, entered);
    return rc;
}

int
loop_run(LoopObject *self)
{
    int rc;
    loop_refresh_overrides(self);
    if (self->held > 0) {
        outbox_flush(self);
    }
    self->poll_due = true;
    self->depth++;
    bool entered = metrics_enter(&self->metrics);
    do {
        rc = run_iteration(self);
    } while (rc == 0 && !RACY_LOAD(self->stopping));
    if (rc == 0) {
        rc = run_signal_handlers(self);
    }
    metrics_leave(&self->metrics, entered);
    self->depth--;
    return rc;
}
