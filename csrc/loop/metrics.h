/* metrics.h - what a loop counts of itself, always: loop.metrics().
 *
 * Counted where it happens, by the loop's thread, under its lock. Time is told by the cycle
 * counter: before a wait, after each poll, after a batch, and after single callbacks where
 * that costs nothing beside them (metrics_times_each). docs/internals/metrics.md.
 *
 * Invariant C1: mark is 0 while no iteration runs; all time from a run's begin to mark is in
 *               busy or idle.
 * Invariant C2: last is the newest reading, poll_end the one after the last poll, or of the
 *               run's begin.
 */
#ifndef PYLOOP_LOOP_METRICS_H
#define PYLOOP_LOOP_METRICS_H

#include "base/compat.h"

#include "base/lock.h"
#include "base/state.h"
#include "loop/clock.h"

#include <uv.h>

typedef struct LoopObject LoopObject;

enum {
    METRICS_SLOWEST = 8,
    METRICS_FEW = 4,
    /* The histogram: buckets of 64 ticks up to 1024, then 16 to each power of two, up to
     * 2^45 ticks (some hours), which the last bucket has as well as all beyond. */
    METRICS_UNIT_BITS = 6,
    METRICS_SUB_BITS = 4,
    METRICS_OCTAVES = 35,
    METRICS_BUCKETS = (METRICS_OCTAVES + 1) << METRICS_SUB_BITS,
};

/* About 100 us: what is shorter is not slow. */
#define METRICS_SLOW_TICKS UINT64_C(250000)

/* About 1 us: callbacks that take so long each are timed one by one, for 7 ns. */
#define METRICS_EACH_TICKS UINT64_C(3000)

/* About 50 us: who waited so long has the time to look at each callback. */
#define METRICS_LONG_WAIT_TICKS UINT64_C(100000)

typedef struct {
    PyObject *key; /* strong or NULL: a code object, a class, or an interned name */
    uint64_t ticks;
} MetricsSlow;

typedef struct LoopMetrics {
    /* The clock. */
    uint64_t last;
    uint64_t poll_end; /* watchdog.c reads it without a lock */
    uint64_t mark;
    uint64_t slow_ticks; /* what a callback has to take to be among the slowest */
    bool times_each;     /* the next batch's callbacks are timed one by one */
    unsigned int forks;  /* forks_count() of the process whose figures these are */

    uint64_t ticks;
    uint64_t polls;
    uint64_t callbacks; /* up to the last poll */
    uint32_t serial;    /* LoopObject.callback_serial at the last poll */
    size_t ready_max;

    uint64_t bytes_in, bytes_out;
    uint64_t messages_in, messages_out;
    uint64_t accept_pauses;
    size_t transports; /* that have a descriptor now */

    /* Ticks not yet converted, and what was, up to a moment that both clocks know. */
    uint64_t busy_ticks, idle_ticks;
    double busy_ns, idle_ns;
    uint64_t settled_ticks, settled_ns;
    uint64_t born_ticks, born_ns;

    /* From poll to poll: how long the loop did not look. */
    uint64_t stretch_max;
    uint64_t stretches[METRICS_BUCKETS];

    MetricsSlow slowest[METRICS_SLOWEST];

    /* Under LoopObject.inbox_lock: other threads count these. */
    uint64_t threadsafe_calls;
    uint64_t wakeups;
    uint64_t jobs, jobs_started, jobs_ended;
    uint64_t jobs_waited_ns, jobs_waited_max_ns;
} LoopMetrics;

void metrics_init(LoopObject *loop);
/* In a forked child: everything from zero. */
void metrics_check_fork(LoopObject *loop);
int metrics_traverse(LoopMetrics *metrics, visitproc visit, void *arg);
void metrics_clear(LoopMetrics *metrics);

/* `what`, a Handle or who waits for a descriptor, ran for so many ticks. Keeps an exception
 * that is set. */
void metrics_slow(LoopObject *loop, PyObject *what, uint64_t ticks);

/* As the module is loaded: from here on the two clocks are compared. */
void metrics_load(PyloopState *state);
/* Functions of the module. */
PyObject *metrics_ticks(PyObject *module, PyObject *ignored);
PyObject *metrics_seconds_since(PyObject *module, PyObject *ticks);

/* Methods of Loop. */
PyObject *metrics_read(PyObject *op, PyObject *ignored);
PyObject *metrics_executor_job(PyObject *op, PyObject *function);

/* A counter of cycles may step back when a virtual machine moves. */
static inline uint64_t
metrics_between(uint64_t begin, uint64_t end)
{
    return end > begin ? end - begin : 0;
}

static inline void
metrics_count_stretch(LoopMetrics *self, uint64_t ticks)
{
    uint64_t units = ticks >> METRICS_UNIT_BITS;
    unsigned int bucket = (unsigned int)units;
    if (units >> METRICS_SUB_BITS != 0) {
        unsigned int octave =
            63u - (unsigned int)__builtin_clzll(units) - METRICS_SUB_BITS;
        bucket = (octave << METRICS_SUB_BITS) + (unsigned int)(units >> octave);
        if (bucket >= METRICS_BUCKETS) {
            bucket = METRICS_BUCKETS - 1;
        }
    }
    self->stretches[bucket]++;
    if (ticks > self->stretch_max) {
        self->stretch_max = ticks;
    }
}

/* An iteration, or more of them, begins. False if one is running around it. */
static inline bool
metrics_enter(LoopMetrics *self)
{
    if (self->mark != 0) {
        return false;
    }
    self->mark = self->last = clock_ticks();
    RACY_STORE(self->poll_end, self->last); /* a watchdog reads it */
    return true;
}

/* With what metrics_enter() said. */
static inline void
metrics_leave(LoopMetrics *self, bool entered)
{
    if (entered) {
        uint64_t now = clock_ticks();
        self->busy_ticks += metrics_between(self->mark, now);
        metrics_count_stretch(self, metrics_between(self->poll_end, now));
        self->mark = 0;
    }
}

static inline void
metrics_wait_begins(LoopMetrics *self)
{
    uint64_t now = clock_ticks();
    self->busy_ticks += metrics_between(self->mark, now);
    metrics_count_stretch(self, metrics_between(self->poll_end, now));
    self->mark = self->last = now;
}

static inline void
metrics_polled(LoopMetrics *self, bool waited, uint32_t serial)
{
    uint64_t now = clock_ticks();
    if (waited) {
        self->idle_ticks += metrics_between(self->mark, now);
        self->mark = now;
        self->times_each |= metrics_between(self->last, now) >= METRICS_LONG_WAIT_TICKS;
    }
    else {
        metrics_count_stretch(self, metrics_between(self->poll_end, now));
    }
    self->polls++;
    self->callbacks += serial - self->serial;
    self->serial = serial;
    self->last = now;
    RACY_STORE(self->poll_end, now);
}

/* `what` ran since the last reading; the caller has a reference to it. */
static inline void
metrics_ran(LoopObject *loop, LoopMetrics *self, PyObject *what)
{
    uint64_t now = clock_ticks();
    uint64_t took = now - self->last; /* of a step back: too much to be slow */
    self->last = now;
    if (took >= self->slow_ticks) {
        metrics_slow(loop, what, took);
    }
}

/* A batch begins: whether its callbacks are timed one by one. One alone is timed for
 * nothing, since a batch's end is; a few, where a poll has just cost more than that. */
static inline bool
metrics_batch_begins(LoopMetrics *self, size_t count, uint32_t serial)
{
    self->ticks++;
    if (count > self->ready_max) {
        self->ready_max = count;
    }
    return count == 1 || self->times_each ||
           (count <= METRICS_FEW && serial == self->serial);
}

static inline void
metrics_batch_ends(LoopMetrics *self, size_t count, bool timed, uint64_t begin)
{
    if (!timed) {
        self->last = clock_ticks();
    }
    if (count != 1) {
        self->times_each =
            metrics_between(begin, self->last) >= count * METRICS_EACH_TICKS;
    }
}

static inline void
metrics_count_in(LoopMetrics *self, size_t bytes)
{
    self->bytes_in += bytes;
    self->messages_in++;
}

static inline void
metrics_count_out(LoopMetrics *self, size_t bytes)
{
    self->bytes_out += bytes;
    self->messages_out++;
}

#endif
