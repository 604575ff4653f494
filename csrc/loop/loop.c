/* loop.c - the Loop type: making, closing, attributes, the table of methods.
 *
 * pyloop.Loop (pyloop/_loop.py) is class Loop(_core.Loop, asyncio.BaseEventLoop): what is
 * not here is asyncio's own code, which reads the attributes below.
 * The module is held strongly until dealloc because self->state lives in it.
 */
#include "loop/loop.h"

#include "base/call.h"
#include "base/errors.h"
#include "base/forks.h"
#include "loop/docstrings.h"
#include "loop/handle.h"
#include "loop/methods.h"
#include "loop/outbox.h"
#include "loop/running.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- checks and overrides ------------------------------------------------ */

int
loop_check_closed(LoopObject *self)
{
    if (!RACY_LOAD(self->closed) && RACY_LOAD(self->phase) == LOOP_OPEN) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    return -1;
}

int
loop_check_thread(LoopObject *self)
{
    unsigned long ident = RACY_LOAD(self->thread_ident);
    if (ident == 0 || ident == PyThread_get_thread_ident()) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "Non-thread-safe operation invoked on an event loop other than the "
                    "current one");
    return -1;
}

int
loop_check_call(LoopObject *loop, PyObject *callback, const char *method,
                bool any_thread)
{
    if (loop_check_closed(loop) < 0) {
        return -1;
    }
    if (!RACY_LOAD(loop->debug)) {
        return 0;
    }
    if (!any_thread && loop_check_thread(loop) < 0) {
        return -1;
    }
    PyObject *name = PyUnicode_FromString(method);
    if (name == NULL) {
        return -1;
    }
    PyObject *checked = call_method2((PyObject *)loop, loop->state->str__check_callback,
                                     callback, name);
    Py_DECREF(name);
    Py_XDECREF(checked);
    return checked != NULL ? 0 : -1;
}

enum { OVERRIDE_COUNT = 5 };

/* The names, in the order of the OVERRIDE_* bits. */
static void
loop_override_names(PyloopState *state, PyObject *names[OVERRIDE_COUNT])
{
    names[0] = state->str_time;
    names[1] = state->str_call_soon;
    names[2] = state->str_call_at;
    names[3] = state->str_create_future;
    names[4] = state->str_call_later;
}

/* Coroutines and hooks of asyncio's that C code does the work of, unless they were
 * replaced. */
enum { HOOK_COUNT = 4 };

static void
loop_hook_names(PyloopState *state, PyObject *names[HOOK_COUNT])
{
    names[0] = state->str_sock_connect;
    names[1] = state->str__ensure_resolved;
    names[2] = state->str__create_connection_transport;
    names[3] = state->str__make_socket_transport;
}

/* Compares what the type has under each name with what this file put there. */
void
loop_refresh_overrides(LoopObject *self)
{
    PyObject *names[OVERRIDE_COUNT];
    uint8_t found = 0;
    loop_override_names(self->state, names);
    for (unsigned int bit = 0; bit < OVERRIDE_COUNT; bit++) {
        PyObject *ours =
            PyObject_GetAttr((PyObject *)self->state->LoopType, names[bit]);
        PyObject *theirs = PyObject_GetAttr((PyObject *)Py_TYPE(self), names[bit]);
        if (ours == NULL || theirs == NULL || !methods_same(ours, theirs)) {
            found |= (uint8_t)(1u << bit);
        }
        if (ours == NULL || theirs == NULL) {
            PyErr_Clear(); /* a name taken away is an override too */
        }
        Py_XDECREF(ours);
        Py_XDECREF(theirs);
    }
    self->type_overrides = found;
}

/* setattr() interns names, and so does the compiler. */
static bool
loop_is_name(PyObject *name, PyObject *known)
{
    return name == known || (PyUnicode_Check(name) && !PyUnicode_CHECK_INTERNED(name) &&
                             PyUnicode_Compare(name, known) == 0);
}

static int
loop_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    LoopObject *self = (LoopObject *)op;
    PyObject *names[OVERRIDE_COUNT], *hooks[HOOK_COUNT];
    if (PyObject_GenericSetAttr(op, name, value) < 0) {
        return -1;
    }
    loop_override_names(self->state, names);
    loop_hook_names(self->state, hooks);
    LockHold hold;
    lock_enter(&self->lock, &hold);
    for (unsigned int bit = 0; bit < OVERRIDE_COUNT; bit++) {
        if (loop_is_name(name, names[bit])) {
            uint8_t flag = (uint8_t)(1u << bit);
            self->instance_overrides =
                (uint8_t)(value != NULL ? self->instance_overrides | flag
                                        : self->instance_overrides & (uint8_t)~flag);
        }
    }
    for (size_t i = 0; i < HOOK_COUNT; i++) {
        if (loop_is_name(name, hooks[i])) {
            self->instance_overrides |= OVERRIDE_HOOK;
        }
    }
    lock_exit(&hold);
    return 0;
}

int
loop_check_fork(LoopObject *self)
{
    unsigned int noted = self->forks, forks = forks_count();
    if (forks == noted || self->fds.poller == NULL) {
        return 0;
    }
    self->forks = forks; /* first: what follows comes back here */
    self->polling =
        false; /* forked by another thread: no thread of this process polls */
    metrics_check_fork(self);
    int rc = self->fds.poller->after_fork(self);
    if (rc < 0) {
        self->forks = noted;
    }
    return rc;
}

char *
loop_scratch(LoopObject *self)
{
    if (self->scratch == NULL) {
        self->scratch = PyMem_RawMalloc(SCRATCH_SIZE);
        if (self->scratch == NULL) {
            PyErr_NoMemory();
        }
    }
    return self->scratch;
}

/* ---- making and closing -------------------------------------------------- */

static bool
loop_env_flag(const char *name, bool fallback)
{
    const char *value = getenv(name);
    if (value == NULL || *value == '\0') {
        return fallback;
    }
    return strcmp(value, "0") != 0;
}

static int
loop_open(LoopObject *self)
{
    self->forks = forks_count();
    if (fds_init(self) < 0) {
        return -1;
    }
    self->inbox_open = true;
    self->phase = LOOP_OPEN;
    return 0;
}

/* They live until dealloc: threads may wait for them while the loop is closed. */
static int
loop_make_locks(LoopObject *self)
{
    int err = lock_init(&self->lock);
    if (err == 0) {
        err = uv_mutex_init(&self->inbox_lock);
        if (err < 0) {
            lock_destroy(&self->lock);
        }
    }
    self->inbox_lock_made = err == 0;
    return err < 0 ? errors_raise_uv(err) : 0;
}

static PyObject *
loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PyObject *module = PyType_GetModuleByDef(type, &pyloop_module_def);
    if (module == NULL) {
        return NULL;
    }
    LoopObject *self = (LoopObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    MEMORY_BEGINS(self);
    self->module = Py_NewRef(module);
    self->state = state_of_module(module);
    self->closed = true; /* until BaseEventLoop.__init__ says otherwise: one whose
                          * __init__ failed is nobody's to close */
    self->poll_every_tick = loop_env_flag("PYLOOP_POLL_EVERY_TICK", false);
    self->hold_writes = loop_env_flag("PYLOOP_HOLD_WRITES", true);
    if (loop_make_locks(self) < 0 || loop_open(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    RACY_ADD(self->state->live_loops, 1);
    self->counted = true;
    metrics_init(self);
    loop_refresh_overrides(self);
    MADE(self);
    return (PyObject *)self;
}

/* Drops what is queued, timed and watched, and refuses more. Idempotent. Runs Python (what
 * it drops may have finalizers), which finds a closed loop. */
static void
loop_drop_work(LoopObject *self)
{
    RACY_STORE(self->closed, true);
    RACY_STORE(self->phase, LOOP_CLOSED);
    Ring ready = self->ready;
    self->ready = (Ring){0};
    loop_drop_words(&ready);
    ring_free(&ready);
    timers_drop_all(self);
    threadsafe_drop_inbox(self);
    fds_drop_all(self);
    Py_CLEAR(self->task_keywords);
    loop_drop_futures(self);
}

void
loop_close_core(LoopObject *self)
{
    if (self->fds.poller != NULL) {
        if (loop_check_fork(self) < 0) {
            PyErr_WriteUnraisable(NULL); /* out of descriptors, in a child */
        }
        outbox_rest(self);
        loop_drop_work(self);
        outbox_close(self);
        fds_close(self);
        handle_free_spares(self);
        coro_free_spares(self);
        datagram_free_spares(self);
        PyMem_RawFree(self->scratch);
        self->scratch = NULL;
    }
}

static int
loop_traverse(PyObject *op, visitproc visit, void *arg)
{
    LoopObject *self = (LoopObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->module);
    Py_VISIT(self->thread_id);
    Py_VISIT(self->task_factory);
    Py_VISIT(self->task_keywords);
    Py_VISIT(self->spent_futures[0]);
    Py_VISIT(self->spent_futures[1]);
    Py_VISIT(self->current_handle);
    const Ring *rings[2] = {&self->ready, &self->inbox};
    for (size_t r = 0; r < Py_ARRAY_LENGTH(rings); r++) {
        for (size_t i = 0; i < rings[r]->count; i++) {
            uint64_t word = ring_at(rings[r], i);
            if (!ready_word_is_fd(word)) {
                Py_VISIT((PyObject *)(uintptr_t)word);
            }
        }
    }
    for (size_t i = 0; i < self->timers.count; i++) {
        Py_VISIT((PyObject *)timerhandle_from_node(self->timers.items[i].node));
    }
    for (unsigned int i = 0; i < self->spare_handles.count; i++) {
        Py_VISIT((PyObject *)self->state->HandleType); /* a spare keeps its type */
    }
    for (unsigned int i = 0; i < self->spare_timers.count; i++) {
        Py_VISIT((PyObject *)self->state->TimerHandleType);
    }
    int rc = metrics_traverse(&self->metrics, visit, arg);
    return rc != 0 ? rc : fds_visit(&self->fds, visit, arg);
}

static int
loop_clear(PyObject *op)
{
    LoopObject *self = (LoopObject *)op;
    LAST_USE(op, &self->lock);
    /* Abandoned with work queued: what the collector found may hold us in a cycle. */
    if (self->phase == LOOP_OPEN) {
        loop_drop_work(self);
    }
    Py_CLEAR(self->thread_id);
    Py_CLEAR(self->task_factory);
    Py_CLEAR(self->task_keywords);
    loop_drop_futures(self);
    Py_CLEAR(self->current_handle);
    metrics_clear(&self->metrics);
    return 0; /* module stays until dealloc: it owns *state */
}

static void
loop_dealloc(PyObject *op)
{
    LoopObject *self = (LoopObject *)op;
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    LAST_USE(op, &self->lock);
    if (self->run_place != NULL) { /* its _thread_id was set by hand */
        running_leave(self);
    }
    (void)loop_clear(op);
    loop_close_core(self);
    if (self->counted) {
        RACY_ADD(self->state->live_loops, -1);
    }
    if (self->inbox_lock_made) {
        uv_mutex_destroy(&self->inbox_lock);
        lock_destroy(&self->lock);
    }
    PyObject *module = self->module;
    MEMORY_ENDS(op);
    tp->tp_free(op);
    Py_DECREF(tp);
    Py_XDECREF(module);
}

/* ---- methods ------------------------------------------------------------- */

static PyObject *
loop_close_core_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = (LoopObject *)op;
    if (self->polling && self->forks == forks_count()) {
        /* Another thread began to run it when close() had asked is_running() already.
         * The poller is that one's now: it is woken, closes, and raises. */
        self->close_due = true;
        threadsafe_wake(self);
    }
    else {
        loop_close_core(self);
    }
    Py_RETURN_NONE;
}

static PyObject *
loop_run_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = (LoopObject *)op;
    if (loop_check_closed(self) < 0 || loop_run(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
loop_run_once_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = (LoopObject *)op;
    if (loop_check_closed(self) < 0 || loop_run_once(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* What is held would be sent by both processes; and Python warns of forks beside threads,
 * of which the outbox's guard is one, which no program knows of. A loop that another thread
 * runs, or of which it may have the lock, is not waited for. */
static PyObject *
loop_before_fork(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = (LoopObject *)op;
    unsigned long runner = RACY_LOAD(self->thread_ident);
    if (runner == PyThread_get_thread_ident() ||
        (runner == 0 && RACY_LOAD(self->guarded))) {
        LockHold hold;
        lock_enter(&self->lock, &hold);
        outbox_rest(self);
        lock_exit(&hold);
    }
    Py_RETURN_NONE;
}

static PyObject *
loop_time(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(loop_clock());
}

static PyObject *
loop_stop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RACY_STORE(((LoopObject *)op)->stopping, true);
    Py_RETURN_NONE;
}

static PyObject *
loop_is_running(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(RACY_LOAD(((LoopObject *)op)->thread_id) != NULL);
}

static PyObject *
loop_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(RACY_LOAD(((LoopObject *)op)->closed));
}

static PyObject *
loop_get_debug(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(RACY_LOAD(((LoopObject *)op)->debug));
}

static PyObject *
loop_write_to_self(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = (LoopObject *)op;
    if (RACY_LOAD(self->phase) == LOOP_OPEN) {
        threadsafe_wake(self);
    }
    Py_RETURN_NONE;
}

/* asyncio's private _add_callback(handle): a Handle of ours, or one of asyncio's own, as
 * borrowed code makes them (signal handlers): the loop's _run_handle(handle) runs it. */
static PyObject *
loop_add_callback(PyObject *op, PyObject *handle)
{
    LoopObject *self = (LoopObject *)op;
    if (loop_check_closed(self) < 0) {
        return NULL;
    }
    if (handle_check(self->state, handle)) {
        if (!((HandleObject *)handle)->cancelled) {
            Py_INCREF(handle);
            timers_unqueue(self, handle);
            if (loop_ready_push_steal(self, (HandleObject *)handle) < 0) {
                return NULL;
            }
        }
        Py_RETURN_NONE;
    }
    PyObject *cancelled = PyObject_GetAttr(handle, self->state->str__cancelled);
    int is_cancelled = cancelled != NULL ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    if (is_cancelled < 0) {
        return NULL;
    }
    if (is_cancelled) {
        Py_RETURN_NONE;
    }
    PyObject *run = PyObject_GetAttr(op, self->state->str__run_handle);
    if (run == NULL) {
        return NULL;
    }
    HandleObject *wrapper = handle_new(self, run, &handle, 1, NULL);
    Py_DECREF(run);
    if (wrapper == NULL || loop_ready_push_steal(self, wrapper) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
loop_add_callback_signalsafe(PyObject *op, PyObject *handle)
{
    PyObject *added = loop_add_callback(op, handle);
    if (added != NULL) {
        threadsafe_wake((LoopObject *)op);
    }
    return added;
}

static PyObject *
loop_poller_name(PyObject *op, void *Py_UNUSED(closure))
{
    const FdPoller *poller = ((LoopObject *)op)->fds.poller;
    return PyUnicode_FromString(poller != NULL ? poller->name : "closed");
}

/* ---- attributes that asyncio's code reads and writes ---------------------- */

static PyObject *
loop_get_flag(PyObject *op, void *closure)
{
    bool *flag = (bool *)((char *)op + (size_t)(uintptr_t)closure);
    return PyBool_FromLong(RACY_LOAD(*flag));
}

static int
loop_set_flag(PyObject *op, PyObject *value, void *closure)
{
    int truth = value != NULL ? PyObject_IsTrue(value) : 0;
    if (truth < 0) {
        return -1;
    }
    bool *flag = (bool *)((char *)op + (size_t)(uintptr_t)closure);
    RACY_STORE(*flag, truth != 0);
    return 0;
}

static PyObject *
loop_get_optional(PyObject *op, void *closure)
{
    LockHold hold;
    lock_enter(&((LoopObject *)op)->lock, &hold);
    PyObject *value = *(PyObject **)((char *)op + (size_t)(uintptr_t)closure);
    value = Py_NewRef(value != NULL ? value : Py_None);
    lock_exit(&hold);
    return value;
}

static int
loop_set_optional(PyObject *op, PyObject *value, void *closure)
{
    LockHold hold;
    PyObject **place = (PyObject **)((char *)op + (size_t)(uintptr_t)closure);
    lock_enter(&((LoopObject *)op)->lock, &hold);
    PyObject *old = *place;
    RACY_STORE(*place, value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    lock_exit(&hold);
    Py_XDECREF(old);
    return 0;
}

static int
loop_set_thread_id(PyObject *op, PyObject *value, void *closure)
{
    LoopObject *self = (LoopObject *)op;
    unsigned long ident = 0;
    if (value != NULL && value != Py_None) {
        ident = PyLong_AsUnsignedLong(value);
        if (ident == (unsigned long)-1 && PyErr_Occurred()) {
            return -1;
        }
    }
    /* With the lock: who found no thread running, and has it, may use the ready queue. */
    LockHold hold;
    lock_enter(&self->lock, &hold);
    int rc = -1;
    if (ident != 0 && self->thread_ident != 0 && ident != self->thread_ident) {
        /* Free-threaded: both found that no thread runs it. */
        PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
    }
    else {
        RACY_STORE(self->thread_ident, ident);
        rc = loop_set_optional(op, value, closure);
        if (ident != 0 && ident == PyThread_get_thread_ident()) {
            running_enter(self);
        }
        else {
            running_leave(self);
        }
    }
    lock_exit(&hold);
    return rc;
}

/* Loop._ready_handles: the handles that are ready, oldest first, as a new collection. */
static PyObject *
loop_get_ready(PyObject *op, void *Py_UNUSED(closure))
{
    LoopObject *self = (LoopObject *)op;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < self->ready.count; i++) {
        uint64_t word = ring_at(&self->ready, i);
        if (!ready_word_is_fd(word) &&
            PyList_Append(list, (PyObject *)(uintptr_t)word) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

static PyObject *
loop_get_ready_count(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(((LoopObject *)op)->ready.count);
}

static PyObject *
loop_get_run_number(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(RACY_LOAD(((LoopObject *)op)->run_number));
}

static PyObject *
loop_get_scheduled(PyObject *op, void *Py_UNUSED(closure))
{
    return timers_snapshot((LoopObject *)op);
}

/* BaseEventLoop.__init__ assigns an empty list; nothing else can be put in. */
static int
loop_set_snapshot(PyObject *Py_UNUSED(op), PyObject *value, void *Py_UNUSED(closure))
{
    Py_ssize_t size = value != NULL ? PyObject_Size(value) : 1;
    if (size < 0) {
        return -1;
    }
    if (size > 0) {
        PyErr_SetString(PyExc_AttributeError,
                        "_scheduled is a read-only snapshot in pyloop");
        return -1;
    }
    return 0;
}

#define FLAG(name, field, doc)                                                         \
    {name, loop_get_flag, loop_set_flag, doc, (void *)offsetof(LoopObject, field)}
#define OPTIONAL(name, field, setter, doc)                                             \
    {name, loop_get_optional, setter, doc, (void *)offsetof(LoopObject, field)}

#define LOCK_OF(op) (&((LoopObject *)(op))->lock)

LOCKED_KEYWORDS(handle_call_soon)
LOCKED_KEYWORDS(timers_call_later)
LOCKED_KEYWORDS(timers_call_at)
LOCKED_KEYWORDS(fd_add_reader)
LOCKED_KEYWORDS(fd_add_writer)
LOCKED_KEYWORDS(fd_remove_reader)
LOCKED_KEYWORDS(fd_remove_writer)
LOCKED_KEYWORDS(fd_private_add_reader)
LOCKED_KEYWORDS(fd_private_add_writer)
LOCKED_O(fd_private_remove_reader)
LOCKED_O(fd_private_remove_writer)
LOCKED_O(fd_ensure_no_transport)
LOCKED_O(fd_claim)
LOCKED_O(fd_watched)
LOCKED_NOARGS(fd_users)
LOCKED_KEYWORDS(socket_make_transport)
LOCKED_KEYWORDS(pipe_make_reader)
LOCKED_KEYWORDS(pipe_make_writer)
LOCKED_KEYWORDS(datagram_make_transport)
LOCKED_KEYWORDS(listener_start_serving)
LOCKED_O(listener_stop_serving)
LOCKED_NOARGS(loop_run_method)
LOCKED_NOARGS(loop_run_once_method)
LOCKED_NOARGS(loop_close_core_method)
LOCKED_O(outside_poll)
LOCKED_NOARGS(outside_pop_ready)
LOCKED_O(outside_dispatch)
LOCKED_O(loop_add_callback)
LOCKED_NOARGS(metrics_read)
LOCKED_O(loop_add_callback_signalsafe)
LOCKED_GETTER(loop_poller_name)
LOCKED_GETTER(loop_get_ready)
LOCKED_GETTER(loop_get_ready_count)
LOCKED_GETTER(loop_get_scheduled)

static PyGetSetDef loop_getsets[] = {
    FLAG("_stopping", stopping, "stop() was called."),
    FLAG("_debug", debug, "Debug mode is on."),
    FLAG("_closed", closed, "close() was called."),
    FLAG("_poll_every_tick", poll_every_tick, "Poll skipping is off."),
    FLAG("_hold_writes", hold_writes, "Writes may be held for a moment."),
    {"_guarded", loop_get_flag, NULL,
     "What is held may stay so until the batch ends: its guard is there.",
     (void *)offsetof(LoopObject, guarded)},
    {"_inbox_waiting", loop_get_flag, NULL,
     "Another thread has called it since it looked.",
     (void *)offsetof(LoopObject, inbox_waiting)},
    OPTIONAL("_thread_id", thread_id, loop_set_thread_id,
             "The running thread's identifier, or None."),
    OPTIONAL("_task_factory", task_factory, loop_set_optional,
             "The task factory, or None."),
    OPTIONAL("_current_handle", current_handle, loop_set_optional,
             "Debug mode: what runs now, or None."),
    {"_ready_count", LOCKED(loop_get_ready_count), NULL,
     "How many handles and descriptors are ready.", NULL},
    {"_ready_handles", LOCKED(loop_get_ready), NULL, "The ready handles: a copy.",
     NULL},
    {"_scheduled", LOCKED(loop_get_scheduled), loop_set_snapshot,
     "The timers, earliest first: a copy.", NULL},
    {"_run_number", loop_get_run_number, NULL,
     "Which run of the interpreter's loops this is; 0 while not running.", NULL},
    {"_poller", LOCKED(loop_poller_name), NULL, "How descriptors are watched.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))
#define KEYWORDS (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef loop_methods[] = {
    {"call_soon", FASTCALL(LOCKED(handle_call_soon)), KEYWORDS, doc_call_soon},
    {"call_later", FASTCALL(LOCKED(timers_call_later)), KEYWORDS, doc_call_later},
    {"call_at", FASTCALL(LOCKED(timers_call_at)), KEYWORDS, doc_call_at},
    {"call_soon_threadsafe", FASTCALL(threadsafe_call_soon), KEYWORDS,
     doc_call_soon_threadsafe},
    {"time", loop_time, METH_NOARGS, doc_time},
    {"stop", loop_stop, METH_NOARGS, doc_stop},
    {"is_running", loop_is_running, METH_NOARGS, doc_is_running},
    {"is_closed", loop_is_closed, METH_NOARGS, doc_is_closed},
    {"get_debug", loop_get_debug, METH_NOARGS, doc_get_debug},
    {"create_future", tasks_create_future, METH_NOARGS, doc_create_future},
    {"create_task", FASTCALL(tasks_create_task), KEYWORDS, doc_create_task},
    {"add_reader", FASTCALL(LOCKED(fd_add_reader)), KEYWORDS, doc_add_reader},
    {"add_writer", FASTCALL(LOCKED(fd_add_writer)), KEYWORDS, doc_add_writer},
    {"remove_reader", FASTCALL(LOCKED(fd_remove_reader)), KEYWORDS, doc_remove_reader},
    {"remove_writer", FASTCALL(LOCKED(fd_remove_writer)), KEYWORDS, doc_remove_writer},
    {"_add_reader", FASTCALL(LOCKED(fd_private_add_reader)), KEYWORDS, NULL},
    {"_add_writer", FASTCALL(LOCKED(fd_private_add_writer)), KEYWORDS, NULL},
    {"_remove_reader", LOCKED(fd_private_remove_reader), METH_O, NULL},
    {"_remove_writer", LOCKED(fd_private_remove_writer), METH_O, NULL},
    {"_ensure_fd_no_transport", LOCKED(fd_ensure_no_transport), METH_O, NULL},
    {"_claim", LOCKED(fd_claim), METH_O,
     "_claim($self, fd, /)\n--\n\n"
     "From now on _find_transport() knows the transport of a descriptor."},
    {"_watched", LOCKED(fd_watched), METH_O,
     "_watched($self, fd, /)\n--\n\n"
     "What of a descriptor is watched: selectors' EVENT_READ, EVENT_WRITE, or 0."},
    {"_users", LOCKED(fd_users), METH_NOARGS,
     "_users($self)\n--\n\n"
     "The transports of descriptors, and what waits for descriptors, as a list."},
    {"sock_recv", FASTCALL(sockop_recv), KEYWORDS, doc_sock_recv},
    {"sock_recv_into", FASTCALL(sockop_recv_into), KEYWORDS, doc_sock_recv_into},
    {"sock_recvfrom", FASTCALL(sockop_recvfrom), KEYWORDS, doc_sock_recvfrom},
    {"sock_recvfrom_into", FASTCALL(sockop_recvfrom_into), KEYWORDS,
     doc_sock_recvfrom_into},
    {"sock_sendall", FASTCALL(sockop_sendall), KEYWORDS, doc_sock_sendall},
    {"sock_sendto", FASTCALL(sockop_sendto), KEYWORDS, doc_sock_sendto},
    {"sock_accept", FASTCALL(sockop_accept), KEYWORDS, doc_sock_accept},
    {"sock_connect", FASTCALL(sockop_connect), KEYWORDS, doc_sock_connect},
    {"_ensure_resolved", FASTCALL(names_ensure_resolved), KEYWORDS, NULL},
    {"_connect_sock", FASTCALL(connect_open), KEYWORDS, NULL},
    {"_sock_sendfile", FASTCALL(sockop_sendfile), KEYWORDS,
     "_sock_sendfile($self, sock, file, offset, count)\n--\n\n"
     "Coroutine: sendfile(2) from offset, count bytes or all (None); how many."},
    {"getaddrinfo", FASTCALL(names_getaddrinfo), KEYWORDS, doc_getaddrinfo},
    {"getnameinfo", FASTCALL(names_getnameinfo), KEYWORDS, doc_getnameinfo},
    {"_make_socket_transport", FASTCALL(LOCKED(socket_make_transport)), KEYWORDS,
     "_make_socket_transport($self, sock, protocol, waiter=None, *, extra=None,\n"
     "                       server=None, context=None)\n--\n\n"
     "The transport of a connected stream socket; connection_made() comes later."},
    {"_create_connection_transport", FASTCALL(transportop_new), KEYWORDS, NULL},
    {"_make_read_pipe_transport", FASTCALL(LOCKED(pipe_make_reader)), KEYWORDS,
     "_make_read_pipe_transport($self, pipe, protocol, waiter=None, extra=None)\n--\n\n"
     "The transport of what a pipe, socket or character device has to be read."},
    {"_make_write_pipe_transport", FASTCALL(LOCKED(pipe_make_writer)), KEYWORDS,
     "_make_write_pipe_transport($self, pipe, protocol, waiter=None, "
     "extra=None)\n--\n\n"
     "The transport of what is written to a pipe, socket or character device."},
    {"_make_datagram_transport", FASTCALL(LOCKED(datagram_make_transport)), KEYWORDS,
     "_make_datagram_transport($self, sock, protocol, address=None, waiter=None,\n"
     "                         extra=None)\n--\n\n"
     "The transport of a datagram socket; connection_made() comes later."},
    {"_start_serving", FASTCALL(LOCKED(listener_start_serving)), KEYWORDS, NULL},
    {"_stop_serving", LOCKED(listener_stop_serving), METH_O, NULL},
    {"_run", LOCKED(loop_run_method), METH_NOARGS,
     "_run($self, /)\n--\n\nIterate until stop(); run_forever() without its set-up."},
    {"_run_once", LOCKED(loop_run_once_method), METH_NOARGS,
     "_run_once($self, /)\n--\n\nOne iteration, which polls, and may block."},
    {"_before_fork", loop_before_fork, METH_NOARGS,
     "_before_fork($self, /)\n--\n\nLeave nothing to be sent by two processes."},
    {"_poll", LOCKED(outside_poll), METH_O,
     "_poll($self, timeout, /)\n--\n\n"
     "Wait, timeout seconds or (None) without a limit, unless something is ready."},
    {"_pop_ready", LOCKED(outside_pop_ready), METH_NOARGS,
     "_pop_ready($self, /)\n--\n\n"
     "Take the oldest ready handle; IndexError without one."},
    {"_dispatch", LOCKED(outside_dispatch), METH_O, NULL},
    {"_close_core", LOCKED(loop_close_core_method), METH_NOARGS,
     "_close_core($self, /)\n--\n\nDrop all that the loop holds; the end of close()."},
    {"_read_metrics", LOCKED(metrics_read), METH_NOARGS,
     "_read_metrics($self, /)\n--\n\nWhat pyloop.metrics makes a Metrics of."},
    {"_executor_job", metrics_executor_job, METH_O,
     "_executor_job($self, function, /)\n--\n\n"
     "A callable that does what function does, and counts it as an executor's job."},
    {"_write_to_self", loop_write_to_self, METH_NOARGS, NULL},
    {"_add_callback", LOCKED(loop_add_callback), METH_O, NULL},
    {"_add_callback_signalsafe", LOCKED(loop_add_callback_signalsafe), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, "The C half of pyloop.Loop, which adds asyncio.BaseEventLoop to it."},
    {Py_tp_new, loop_new},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getsets},
    {Py_tp_setattro, loop_setattro},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},
    {Py_tp_dealloc, loop_dealloc},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "pyloop._core.Loop",
    .basicsize = sizeof(LoopObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_slots,
};

PyTypeObject *
loop_type_create(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &loop_spec, NULL);
}
