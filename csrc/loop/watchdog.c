/* watchdog.c - see watchdog.h.
 *
 * The loop's side costs nothing: run.c numbers its callbacks and notes when it polls, for
 * its own ends. Who looks several times at these numbers, and finds them unchanged and the
 * loop in no poll, knows that one callback ran all the time; how long, it tells by its own
 * clock. So what is seen begins up to a tick late, and ends so.
 *
 * A time in which this thread did not look either (the process was stopped, the machine
 * had no processor for it) counts as two ticks at most: else whatever ran at a SIGSTOP
 * would be too slow at SIGCONT.
 *
 * While a C call holds the GIL, nothing in Python can be told. For that there is the GIL
 * alarm: a timer of the kernel's that sends this thread, as it waits for the GIL, a signal
 * for which faulthandler is registered, whose handler needs no GIL.
 *
 * Owns: Watcher.watches, under the mutex of the running loops (running.h).
 * Thread: any. GIL: held, except in *_nogil. Nothing here takes a loop's lock.
 */
#include "loop/watchdog.h"

#include "base/call.h"
#include "loop/running.h"

#include <math.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

enum {
    LOOKS = 4,        /* per threshold */
    QUIET_LOOKS = 40, /* with no loop running, after which nobody looks any more */
};
#define TICK_MIN_NS UINT64_C(1000000)
#define NS_PER_SECOND 1e9

typedef enum { EVENT_NONE, EVENT_BEGIN, EVENT_END } EventKind;

/* What is known of one run of a loop. */
typedef struct {
    uint64_t run;         /* LoopObject.run_number */
    unsigned long thread; /* which runs it */
    uint32_t serial;      /* as at the last look */
    uint64_t polls;       /* metrics.poll_end, the same */
    uint64_t since_ns;    /* when what runs was seen first */
    uint64_t watched_ns;  /* how long it was watched since */
    uint64_t number;      /* of the block that was told, 0: none */
    bool present;         /* the run goes on */
    EventKind due;        /* to be told */
    double seconds;       /* how long, of EVENT_END */
} Watch;

typedef struct {
    EventKind kind;
    uint64_t number, run, since_ns;
    unsigned long thread;
    double seconds;
} WatchEvent;

typedef struct {
    PyObject_HEAD
    PyObject *module;   /* strong; dropped last: it owns *state */
    PyloopState *state; /* borrowed from module */
    uint64_t threshold_ns, tick_ns;
    double gil_threshold; /* seconds, 0: no alarm */
    int signum; /* the alarm's, for which faulthandler is registered; 0: none */
    void (*handler)(int); /* faulthandler's */
    /* Under the mutex of the running loops. */
    Watch *watches; /* PyMem_Raw; freed in dealloc */
    size_t count, room;
    uint64_t blocks;    /* the number of the latest one */
    uint64_t looked_ns; /* when it looked last, 0: not yet */
    unsigned int quiet; /* looks at no loop */
    bool woken;
} WatcherObject;

/* ---- looking ------------------------------------------------------------------------ */

/* The watch of a run, a new one if there is none; NULL when memory is short. */
static Watch *
watcher_find_locked(WatcherObject *self, uint64_t run)
{
    for (size_t i = 0; i < self->count; i++) {
        if (self->watches[i].run == run) {
            return &self->watches[i];
        }
    }
    if (self->count == self->room) {
        size_t room = self->room * 2 + 4;
        Watch *grown = PyMem_RawRealloc(self->watches, room * sizeof(Watch));
        if (grown == NULL) {
            return NULL;
        }
        self->watches = grown;
        self->room = room;
    }
    Watch *watch = &self->watches[self->count++];
    *watch = (Watch){.run = run};
    return watch;
}

/* Another callback runs, or none. */
static void
watch_restart(Watch *watch, uint64_t now)
{
    if (watch->number != 0) {
        watch->due = EVENT_END;
        watch->seconds = (double)(now - watch->since_ns) / NS_PER_SECOND;
    }
    watch->since_ns = now;
    watch->watched_ns = 0;
}

/* Whether the loop does what it did at the last look, and it is no wait. */
static bool
watch_is_stuck(const Watch *watch, const LoopObject *loop)
{
    return !RACY_LOAD(loop->polling) &&
           RACY_LOAD(loop->callback_serial) == watch->serial &&
           RACY_LOAD(loop->metrics.poll_end) == watch->polls;
}

static void
watch_look(WatcherObject *self, Watch *watch, const LoopObject *loop, uint64_t now,
           uint64_t passed)
{
    bool known = watch->since_ns != 0;
    watch->present = true;
    if (known && watch_is_stuck(watch, loop)) {
        watch->watched_ns += passed;
        if (watch->number == 0 && watch->watched_ns >= self->threshold_ns) {
            watch->number = ++self->blocks;
            watch->due = EVENT_BEGIN;
        }
        return;
    }
    watch_restart(watch, now);
    watch->thread = loop->run_thread;
    watch->serial = RACY_LOAD(loop->callback_serial);
    watch->polls = RACY_LOAD(loop->metrics.poll_end);
}

static void
watcher_look_locked(WatcherObject *self)
{
    uint64_t now = uv_hrtime();
    uint64_t passed = now - self->looked_ns;
    if (passed > 2 * self->tick_ns) {
        passed = 2 * self->tick_ns;
    }
    self->looked_ns = now;
    for (size_t i = 0; i < self->count; i++) {
        self->watches[i].present = false;
    }
    LoopObject *loop = self->state->running->first;
    self->quiet = loop != NULL ? 0 : self->quiet + 1;
    for (; loop != NULL; loop = loop->run_next) {
        Watch *watch = watcher_find_locked(self, loop->run_number);
        if (watch != NULL) {
            watch_look(self, watch, loop, now, passed);
        }
    }
    for (size_t i = 0; i < self->count; i++) {
        if (!self->watches[i].present) {
            watch_restart(&self->watches[i], now);
        }
    }
}

/* Takes what is to be told out of the watches, and forgets those of runs that are over. */
static bool
watcher_take_locked(WatcherObject *self, WatchEvent *event)
{
    size_t i = 0;
    while (i < self->count) {
        Watch *watch = &self->watches[i];
        EventKind kind = watch->due;
        *event = (WatchEvent){.kind = kind,
                              .number = watch->number,
                              .run = watch->run,
                              .since_ns = watch->since_ns,
                              .thread = watch->thread,
                              .seconds = watch->seconds};
        watch->due = EVENT_NONE;
        if (kind == EVENT_END) {
            watch->number = 0;
        }
        if (!watch->present) {
            *watch = self->watches[--self->count];
        }
        else {
            i++;
        }
        if (kind != EVENT_NONE) {
            return true;
        }
    }
    return false;
}

/* Waits until there is something to tell; false when it was woken instead. */
static bool
watcher_wait_nogil(WatcherObject *self, WatchEvent *event)
{
    RunningLoops *running = self->state->running;
    bool found = false;
    running_lock(running);
    while (!self->woken && !(found = watcher_take_locked(self, event))) {
        if (self->quiet >= QUIET_LOOKS && running->first == NULL) {
            uv_cond_wait(&running->changed, &running->mutex);
        }
        else {
            (void)uv_cond_timedwait(&running->changed, &running->mutex, self->tick_ns);
        }
        watcher_look_locked(self);
    }
    if (!found) {
        self->woken = false;
    }
    running_unlock(running);
    return found;
}

/* ---- the GIL alarm ------------------------------------------------------------------ */

#if defined(__linux__) && defined(SYS_timer_create) && defined(SYS_gettid)
#define HAVE_THREAD_TIMERS 1
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* What the kernel calls timer_t. */
typedef int AlarmTimer;

static bool
alarm_create(AlarmTimer *timer, int signum, double seconds)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = signum};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    /* Not by the C library's functions: before 2.34 glibc has them in another library. */
    if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, timer) < 0) {
        return false;
    }
    double whole = floor(seconds);
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)whole,
                     .tv_nsec = 1 + (long)((seconds - whole) * 0.999 * NS_PER_SECOND)}};
    if (syscall(SYS_timer_settime, *timer, 0, &when, NULL) < 0) {
        (void)syscall(SYS_timer_delete, *timer);
        return false;
    }
    return true;
}

static void
alarm_delete(AlarmTimer timer)
{
    (void)syscall(SYS_timer_delete, timer); /* cannot fail: it exists */
}
#else
#define HAVE_THREAD_TIMERS 0
typedef int AlarmTimer;

static bool
alarm_create(AlarmTimer *Py_UNUSED(timer), int Py_UNUSED(signum),
             double Py_UNUSED(seconds))
{
    return false;
}

static void
alarm_delete(AlarmTimer Py_UNUSED(timer))
{
}
#endif

static void (*alarm_handler(int signum))(int)
{
    struct sigaction action;
    return sigaction(signum, NULL, &action) == 0 ? action.sa_handler : SIG_ERR;
}

/* Has the alarm set off, unless the program took the signal for itself meanwhile. */
static bool
watcher_set_alarm(WatcherObject *self, AlarmTimer *timer)
{
    sigset_t alarm;
    if (self->signum == 0 || alarm_handler(self->signum) != self->handler ||
        !alarm_create(timer, self->signum, self->gil_threshold)) {
        return false;
    }
    (void)sigemptyset(&alarm); /* these cannot fail: it is a signal's number */
    (void)sigaddset(&alarm, self->signum);
    (void)pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);
    return true;
}

/* ---- methods ------------------------------------------------------------------------ */

static PyObject *
watcher_next(PyObject *op, PyObject *dump)
{
    WatcherObject *self = (WatcherObject *)op;
    WatchEvent event = {.kind = EVENT_NONE};
    AlarmTimer timer = 0;
    sigset_t all, usual;
    FIRST_USE(op);
    int may_dump = PyObject_IsTrue(dump);
    if (may_dump < 0) {
        return NULL;
    }
    LockHold *held = lock_give_up();
    PyThreadState *thread = PyEval_SaveThread();
    (void)sigfillset(&all); /* the program's signals are for its own threads */
    bool masked = pthread_sigmask(SIG_SETMASK, &all, &usual) == 0;
    bool found = watcher_wait_nogil(self, &event);
    bool set = found && may_dump && event.kind == EVENT_BEGIN &&
               watcher_set_alarm(self, &timer);
    uint64_t asked = uv_hrtime();
    PyEval_RestoreThread(thread);
    uint64_t now = uv_hrtime();
    if (set) {
        alarm_delete(timer);
    }
    if (masked) {
        (void)pthread_sigmask(SIG_SETMASK, &usual, NULL);
    }
    lock_take_back(held);
    if (!found) {
        Py_RETURN_NONE;
    }
    if (event.kind == EVENT_BEGIN) {
        event.seconds = (double)(now - event.since_ns) / NS_PER_SECOND;
    }
    return Py_BuildValue("OKKkdd", event.kind == EVENT_END ? Py_True : Py_False,
                         (unsigned long long)event.number,
                         (unsigned long long)event.run, event.thread, event.seconds,
                         (double)(now - asked) / NS_PER_SECOND);
}

static PyObject *
watcher_wake(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WatcherObject *self = (WatcherObject *)op;
    FIRST_USE(op);
    RunningLoops *running = self->state->running;
    running_lock(running);
    self->woken = true;
    uv_cond_broadcast(&running->changed);
    running_unlock(running);
    Py_RETURN_NONE;
}

static PyObject *
watcher_goes_on(PyObject *op, PyObject *arg)
{
    WatcherObject *self = (WatcherObject *)op;
    FIRST_USE(op);
    unsigned long long number = PyLong_AsUnsignedLongLong(arg);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    const Watch *watch = NULL;
    bool stuck = false;
    running_lock(self->state->running);
    for (size_t i = 0; i < self->count && number != 0; i++) {
        if (self->watches[i].number == number) {
            watch = &self->watches[i];
        }
    }
    const LoopObject *loop = watch != NULL ? self->state->running->first : NULL;
    for (; loop != NULL; loop = loop->run_next) {
        stuck |= loop->run_number == watch->run && watch_is_stuck(watch, loop);
    }
    running_unlock(self->state->running);
    return PyBool_FromLong(stuck);
}

#ifdef Py_GIL_DISABLED
/* Only this function of sys stops the other threads while it looks. */
static PyObject *
watcher_thread_frame(unsigned long ident)
{
    PyObject *function = PySys_GetObject("_current_frames"); /* borrowed */
    PyObject *frames = function != NULL ? call_no_args(function) : NULL;
    PyObject *key = PyLong_FromUnsignedLong(ident);
    PyObject *frame = NULL;
    if (frames != NULL && key != NULL) {
        (void)PyDict_GetItemRef(frames, key, &frame); /* an error stays raised */
    }
    Py_XDECREF(frames);
    Py_XDECREF(key);
    return frame;
}
#else
/* sys._current_frames() makes frame objects for the threads of all interpreters, and those
 * of one with a GIL of its own are not for this one to make: that crashes. */
static PyObject *
watcher_thread_frame(unsigned long ident)
{
    PyThreadState *thread = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    while (thread != NULL && thread->thread_id != ident) {
        thread = PyThreadState_Next(thread);
    }
    return thread != NULL ? (PyObject *)PyThreadState_GetFrame(thread) : NULL;
}
#endif

static PyObject *
watcher_frame(PyObject *Py_UNUSED(type), PyObject *arg)
{
    unsigned long ident = PyLong_AsUnsignedLong(arg);
    if (ident == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *frame = watcher_thread_frame(ident);
    return frame != NULL || PyErr_Occurred() ? frame : Py_NewRef(Py_None);
}

static int
watcher_call_pending(void *arg)
{
    PyObject *function = arg;
    PyObject *result = call_no_args(function);
    Py_DECREF(function);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* The function is self. */
static PyObject *
watcher_call_deferred(PyObject *function, PyObject *Py_UNUSED(ignored))
{
    if (Py_AddPendingCall(watcher_call_pending, Py_NewRef(function)) < 0) {
        Py_DECREF(function); /* there is room for a few only */
        return call_no_args(function);
    }
    Py_RETURN_NONE;
}

static PyObject *
watcher_deferred(PyObject *Py_UNUSED(type), PyObject *function)
{
    static PyMethodDef definition = {"deferred", watcher_call_deferred, METH_NOARGS,
                                     NULL};
    return PyCFunction_New(&definition, function);
}

/* The highest real-time signal that has its default action: the C library's own, and what
 * programs take, begin with the lowest. */
static PyObject *
watcher_free_signal(PyObject *Py_UNUSED(type), PyObject *Py_UNUSED(ignored))
{
#if HAVE_THREAD_TIMERS
    for (int signum = SIGRTMAX; signum > SIGRTMIN; signum--) {
        if (alarm_handler(signum) == SIG_DFL) {
            return PyLong_FromLong(signum);
        }
    }
#endif
    return PyLong_FromLong(0);
}

/* Seconds of a double that Python code has looked at, as nanoseconds. */
static uint64_t
watcher_ns(double seconds)
{
    double ns = seconds * NS_PER_SECOND;
    return ns < 9e18 ? (uint64_t)ns : UINT64_C(9000000000000000000);
}

static PyObject *
watcher_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    double threshold, gil_threshold;
    int signum;
    if (!PyArg_ParseTuple(args, "ddi:Watcher", &threshold, &gil_threshold, &signum)) {
        return NULL;
    }
    if (!(threshold > 0) || !(gil_threshold >= 0 && gil_threshold < 1e9) ||
        signum < 0) {
        PyErr_SetString(PyExc_ValueError, "Watcher: seconds that are none");
        return NULL;
    }
    PyObject *module = PyType_GetModule(type);
    WatcherObject *self =
        module != NULL ? (WatcherObject *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        return NULL;
    }
    MEMORY_BEGINS(self);
    self->module = Py_NewRef(module);
    self->state = state_of_module(module);
    self->threshold_ns = watcher_ns(threshold);
    self->tick_ns = self->threshold_ns / LOOKS;
    if (self->tick_ns < TICK_MIN_NS) {
        self->tick_ns = TICK_MIN_NS;
    }
    self->gil_threshold = gil_threshold;
    self->signum = gil_threshold > 0 ? signum : 0;
    self->handler = self->signum != 0 ? alarm_handler(self->signum) : SIG_ERR;
    if (self->handler == SIG_ERR || self->handler == SIG_DFL ||
        self->handler == SIG_IGN) {
        self->signum = 0;
    }
    self->looked_ns = uv_hrtime();
    running_lock(self->state->running); /* in a child: before it has a second thread */
    running_unlock(self->state->running);
    RACY_ADD(self->state->live_watchers, 1);
    MADE(self);
    return (PyObject *)self;
}

static int
watcher_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((WatcherObject *)op)->module);
    return 0;
}

static void
watcher_dealloc(PyObject *op)
{
    WatcherObject *self = (WatcherObject *)op;
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyMem_RawFree(self->watches);
    RACY_ADD(self->state->live_watchers, -1);
    PyObject *module = self->module;
    MEMORY_ENDS(op);
    tp->tp_free(op);
    Py_DECREF(tp);
    Py_DECREF(module);
}

static PyMethodDef watcher_methods[] = {
    {"next", watcher_next, METH_O,
     "next($self, dump, /)\n--\n\n"
     "Wait, without the GIL, until a callback blocks its loop or no longer does.\n\n"
     "Returns (ended, number, run, thread, seconds, gil_seconds): the block's number,\n"
     "the Loop._run_number of the run, its thread's identifier, for how long, and how\n"
     "long it took to get the GIL. Or None, after wake(). dump: whether the GIL alarm\n"
     "is to be set while waiting for the GIL."},
    {"wake", watcher_wake, METH_NOARGS,
     "wake($self, /)\n--\n\nHave next() return None, now or when it is called."},
    {"goes_on", watcher_goes_on, METH_O,
     "goes_on($self, number, /)\n--\n\n"
     "Whether the block of that number is the same callback still."},
    {"frame", watcher_frame, METH_O | METH_STATIC,
     "frame(ident, /)\n--\n\n"
     "Return the current frame of a thread of this interpreter, or None."},
    {"deferred", watcher_deferred, METH_O | METH_STATIC,
     "deferred(function, /)\n--\n\n"
     "Return a function that has the main thread call function(), when it next runs\n"
     "Python code. It holds nothing else, this module neither."},
    {"free_signal", watcher_free_signal, METH_NOARGS | METH_STATIC,
     "free_signal()\n--\n\n"
     "Return the number of a signal that nothing in the process uses, or 0."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot watcher_slots[] = {
    {Py_tp_doc, "Watcher(threshold, gil_threshold, signum, /)\n--\n\n"
                "What a thread of pyloop.watchdog looks with; times in seconds."},
    {Py_tp_new, watcher_new},
    {Py_tp_methods, watcher_methods},
    {Py_tp_traverse, watcher_traverse},
    {Py_tp_dealloc, watcher_dealloc},
    {0, NULL},
};

static PyType_Spec watcher_spec = {
    .name = "pyloop._core.Watcher",
    .basicsize = sizeof(WatcherObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = watcher_slots,
};

PyTypeObject *
watcher_type_create(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &watcher_spec, NULL);
}
