/* metrics.c - reading what metrics.h counts, and naming what was slow.
 *
 * Owns: LoopMetrics.slowest[].key. They are what tells callbacks apart and outlives them
 * without keeping what they work with: the code of a function or coroutine, the class of a
 * protocol or of another callable, the name of a function in C. pyloop/metrics.py turns
 * them into words.
 */
#include "loop/metrics.h"

#include "base/call.h"
#include "base/forks.h"
#include "loop/handle.h"

#include <math.h>
#include <string.h>

/* ---- both clocks ----------------------------------------------------------------- */

/* A moment as both clocks tell it. Another process may run between two readings, so the
 * best of a few tries counts. */
static void
metrics_both_clocks(uint64_t *ticks, uint64_t *ns)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 4 && best > 500; i++) {
        uint64_t before = clock_ticks();
        uint64_t now = clock_ns();
        uint64_t gap = metrics_between(before, clock_ticks());
        if (gap < best) {
            best = gap;
            *ticks = before + gap / 2;
            *ns = now;
        }
    }
}

/* Converts what was counted in ticks since the last time. Neither sum ever decreases, and
 * both together are never more than the time that passed. */
static void
metrics_settle(LoopMetrics *self, bool waiting, uint64_t ticks, uint64_t ns)
{
    if (self->mark != 0 && ticks > self->mark) {
        *(waiting ? &self->idle_ticks : &self->busy_ticks) += ticks - self->mark;
        self->mark = ticks;
    }
    double passed = (double)metrics_between(self->settled_ns, ns);
    double counted = (double)self->busy_ticks + (double)self->idle_ticks;
    double all = (double)metrics_between(self->settled_ticks, ticks);
    double per_tick = passed / fmax(fmax(all, counted), 1);
    self->busy_ns += (double)self->busy_ticks * per_tick;
    self->idle_ns += (double)self->idle_ticks * per_tick;
    self->busy_ticks = self->idle_ticks = 0;
    self->settled_ticks = ticks;
    self->settled_ns = ns;
}

/* ---- life ------------------------------------------------------------------------ */

void
metrics_init(LoopObject *loop)
{
    LoopMetrics *self = &loop->metrics;
    self->slow_ticks = METRICS_SLOW_TICKS;
    self->times_each = true;
    self->forks = forks_count();
    self->serial = loop->callback_serial;
    metrics_both_clocks(&self->born_ticks, &self->born_ns);
    self->settled_ticks = self->born_ticks;
    self->settled_ns = self->born_ns;
}

void
metrics_clear(LoopMetrics *self)
{
    for (size_t i = 0; i < METRICS_SLOWEST; i++) {
        self->slowest[i].ticks = 0;
        Py_CLEAR(self->slowest[i].key);
    }
}

int
metrics_traverse(LoopMetrics *self, visitproc visit, void *arg)
{
    for (size_t i = 0; i < METRICS_SLOWEST; i++) {
        Py_VISIT(self->slowest[i].key);
    }
    return 0;
}

void
metrics_check_fork(LoopObject *loop)
{
    LoopMetrics *self = &loop->metrics;
    if (self->forks == forks_count()) {
        return;
    }
    bool runs = self->mark != 0;
    size_t transports = self->transports; /* the child's, too */
    metrics_clear(self);
    memset(self, 0, sizeof(*self));
    self->transports = transports;
    metrics_init(loop);
    if (runs) {
        (void)metrics_enter(self);
    }
}

/* ---- naming what was slow ---------------------------------------------------------- */

/* An attribute, or NULL without an exception. Of such objects and names whose attributes
 * are plain fields: one that runs more might handle a signal, and what that raises would
 * be lost here. The names are the module's: the interpreter's cache of types' attributes
 * keeps each string that it is asked for, and drops what others asked for instead. */
static PyObject *
metrics_look_up(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL) {
        PyErr_Clear(); /* it is named by something else then */
    }
    return value;
}

/* Its name as an interned string. Not __qualname__, which is put together by code that
 * handles signals. */
static PyObject *
metrics_key_of_c_function(PyObject *function)
{
    PyObject *name =
        PyUnicode_InternFromString(((PyCFunctionObject *)function)->m_ml->ml_name);
    if (name == NULL) {
        PyErr_Clear(); /* out of memory: its class will do */
        name = Py_NewRef((PyObject *)Py_TYPE(function));
    }
    return name;
}

/* A coroutine's __qualname__ as an interned string, or its class. */
static PyObject *
metrics_key_of_named(PyloopState *state, PyObject *object)
{
    PyObject *name = metrics_look_up(object, state->str___qualname__);
    if (name != NULL && PyUnicode_CheckExact(name)) {
        PyUnicode_InternInPlace(&name);
        return name;
    }
    Py_XDECREF(name);
    return Py_NewRef((PyObject *)Py_TYPE(object));
}

static PyObject *
metrics_key_of_coroutine(PyloopState *state, PyObject *coroutine)
{
    PyObject *const names[] = {state->str_cr_code, state->str_gi_code,
                               state->str_ag_code};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(names); i++) {
        PyObject *code = metrics_look_up(coroutine, names[i]);
        if (code != NULL && PyCode_Check(code)) {
            return code;
        }
        Py_XDECREF(code);
    }
    return metrics_key_of_named(state, coroutine);
}

/* What a method is bound to, or NULL: of methods, functions in C and asyncio's own steps of
 * a task, which have __self__ without being either. New reference. */
static PyObject *
metrics_self_of(PyloopState *state, PyObject *callback)
{
    if (PyMethod_Check(callback)) {
        return Py_NewRef(PyMethod_GET_SELF(callback));
    }
    if (PyCFunction_Check(callback)) {
        return Py_XNewRef(PyCFunction_GET_SELF(callback));
    }
    return Py_TYPE(callback)->tp_getattro == PyObject_GenericGetAttr
               ? metrics_look_up(callback, state->str___self__)
               : NULL;
}

/* For a step of a task: its coroutine; a new reference, or NULL. */
static PyObject *
metrics_coroutine_of(PyloopState *state, PyObject *callback)
{
    PyObject *coroutine = NULL;
    PyObject *self = metrics_self_of(state, callback);
    if (self != NULL && PyType_Check(state->TaskClass) &&
        PyObject_TypeCheck(self, (PyTypeObject *)state->TaskClass)) {
        coroutine = metrics_look_up(self, state->str__coro);
    }
    Py_XDECREF(self);
    if (coroutine == Py_None) {
        Py_CLEAR(coroutine);
    }
    return coroutine;
}

/* Steals callback. */
static PyObject *
metrics_key_of_callable(PyloopState *state, PyObject *callback)
{
    PyObject *key;
    while (strcmp(Py_TYPE(callback)->tp_name, "functools.partial") == 0) {
        PyObject *inner = metrics_look_up(callback, state->str_func);
        if (inner == NULL) {
            break;
        }
        Py_SETREF(callback, inner);
    }
    PyObject *coroutine = metrics_coroutine_of(state, callback);
    PyObject *function =
        PyMethod_Check(callback) ? PyMethod_GET_FUNCTION(callback) : callback;
    if (coroutine != NULL) {
        key = metrics_key_of_coroutine(state, coroutine);
        Py_DECREF(coroutine);
    }
    else if (PyFunction_Check(function)) {
        key = Py_NewRef(PyFunction_GET_CODE(function));
    }
    else if (PyCFunction_Check(function)) {
        key = metrics_key_of_c_function(function);
    }
    else {
        key = Py_NewRef((PyObject *)Py_TYPE(function));
    }
    Py_DECREF(callback);
    return key;
}

/* A transport is told by its protocol; over TLS, by the protocol that this has. */
static PyObject *
metrics_key_of_owner(PyloopState *state, PyObject *owner)
{
    PyObject *protocol = metrics_look_up(owner, state->str__protocol);
    if (protocol != NULL &&
        Py_IS_TYPE(protocol, state->watched[WATCHED_SSL_PROTOCOL].type)) {
        Py_SETREF(protocol, metrics_look_up(protocol, state->str__app_protocol));
    }
    if (protocol == NULL || protocol == Py_None) {
        Py_XDECREF(protocol);
        protocol = Py_NewRef(owner);
    }
    PyObject *key = Py_NewRef((PyObject *)Py_TYPE(protocol));
    Py_DECREF(protocol);
    return key;
}

static PyObject *
metrics_key_of(PyloopState *state, PyObject *what)
{
    if (!handle_check(state, what)) {
        return metrics_key_of_owner(state, what);
    }
    PyObject *callback = ((HandleObject *)what)->callback;
    if (callback == NULL) { /* it has cancelled itself */
        return Py_NewRef((PyObject *)Py_TYPE(what));
    }
    return metrics_key_of_callable(state, Py_NewRef(callback));
}

/* The entry with this key, else the one that it would replace. */
static MetricsSlow *
metrics_slow_entry(LoopMetrics *self, PyObject *key)
{
    MetricsSlow *least = &self->slowest[0];
    for (size_t i = 0; i < METRICS_SLOWEST; i++) {
        MetricsSlow *entry = &self->slowest[i];
        if (entry->key == key) {
            return entry;
        }
        if (entry->ticks < least->ticks) {
            least = entry;
        }
    }
    return least;
}

void
metrics_slow(LoopObject *loop, PyObject *what, uint64_t ticks)
{
    LoopMetrics *self = &loop->metrics;
    if (ticks > INT64_MAX) {
        return; /* see metrics_between() */
    }
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *key = metrics_key_of(loop->state, what); /* may run Python */
    MetricsSlow *entry = metrics_slow_entry(self, key);
    if (ticks > entry->ticks) {
        PyObject *old = entry->key;
        *entry = (MetricsSlow){Py_NewRef(key), ticks};
        uint64_t least = ticks;
        for (size_t i = 0; i < METRICS_SLOWEST; i++) {
            least = Py_MIN(least, self->slowest[i].ticks);
        }
        self->slow_ticks = Py_MAX(least, METRICS_SLOW_TICKS);
        Py_XDECREF(old);
    }
    Py_DECREF(key);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    self->last = clock_ticks();
}

/* ---- reading ------------------------------------------------------------------------ */

/* dict[name] = value, which is stolen. 0, or -1. */
static int
metrics_put_steal(PyObject *dict, const char *name, PyObject *value)
{
    int rc = value != NULL ? PyDict_SetItemString(dict, name, value) : -1;
    Py_XDECREF(value);
    return rc;
}

static int
metrics_put_numbers(PyObject *dict, LoopObject *loop)
{
    LoopMetrics *self = &loop->metrics;
    uv_mutex_lock(&loop->inbox_lock);
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        {"ticks", self->ticks},
        {"polls", self->polls},
        {"callbacks",
         self->callbacks + (uint32_t)(loop->callback_serial - self->serial)},
        {"ready", loop->ready.count + loop->inbox.count},
        {"ready_max", self->ready_max},
        {"timers", loop->timers.count},
        {"transports", self->transports},
        {"descriptors", loop->fds.watched},
        {"bytes_in", self->bytes_in},
        {"bytes_out", self->bytes_out},
        {"messages_in", self->messages_in},
        {"messages_out", self->messages_out},
        {"threadsafe_calls", self->threadsafe_calls},
        {"wakeups", self->wakeups},
        {"accept_pauses", self->accept_pauses},
        {"executor_jobs", self->jobs},
        {"executor_running", self->jobs_started - self->jobs_ended},
    };
    double waited = (double)self->jobs_waited_ns;
    double waited_max = (double)self->jobs_waited_max_ns;
    uv_mutex_unlock(&loop->inbox_lock);
    for (size_t i = 0; i < Py_ARRAY_LENGTH(numbers); i++) {
        if (metrics_put_steal(dict, numbers[i].name,
                              PyLong_FromUnsignedLongLong(numbers[i].value)) < 0) {
            return -1;
        }
    }
    if (metrics_put_steal(dict, "executor_wait_seconds",
                          PyFloat_FromDouble(waited / 1e9)) < 0 ||
        metrics_put_steal(dict, "executor_wait_max_seconds",
                          PyFloat_FromDouble(waited_max / 1e9)) < 0) {
        return -1;
    }
    return 0;
}

/* The middle of a bucket, in ticks. */
static double
metrics_bucket_middle(unsigned int bucket)
{
    const unsigned int subs = 1u << METRICS_SUB_BITS;
    double low = bucket, width = 1;
    if (bucket >= subs) {
        unsigned int octave = (bucket >> METRICS_SUB_BITS) - 1;
        low = ldexp((double)(bucket % subs + subs), (int)octave);
        width = ldexp(1, (int)octave);
    }
    return ldexp(low + width / 2, METRICS_UNIT_BITS);
}

/* [(seconds, how often)], shortest first. */
static PyObject *
metrics_stretches(LoopMetrics *self, double seconds_per_tick)
{
    PyObject *list = PyList_New(0);
    for (unsigned int i = 0; list != NULL && i < METRICS_BUCKETS; i++) {
        if (self->stretches[i] == 0) {
            continue;
        }
        PyObject *pair =
            Py_BuildValue("(dK)", metrics_bucket_middle(i) * seconds_per_tick,
                          (unsigned long long)self->stretches[i]);
        if (pair == NULL || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

/* [(key, seconds)], in no order. */
static PyObject *
metrics_slowest(LoopMetrics *self, double seconds_per_tick)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < METRICS_SLOWEST; i++) {
        MetricsSlow *entry = &self->slowest[i];
        if (entry->key == NULL) {
            continue;
        }
        PyObject *pair =
            Py_BuildValue("(Od)", entry->key, (double)entry->ticks * seconds_per_tick);
        if (pair == NULL || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

/* Loop._read_metrics(): pyloop.metrics makes a Metrics of it. */
PyObject *
metrics_read(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    LoopMetrics *self = &loop->metrics;
    uint64_t ticks = 0, ns = 0;
    metrics_check_fork(loop);
    metrics_both_clocks(&ticks, &ns);
    metrics_settle(self, loop->polling, ticks, ns);
    double per_tick = (double)metrics_between(self->born_ns, ns) / 1e9 /
                      fmax((double)metrics_between(self->born_ticks, ticks), 1);
    bool busy = self->mark != 0 && !loop->polling;
    double stretch =
        (double)(busy ? metrics_between(self->poll_end, ticks) : 0) * per_tick;
    PyObject *dict = PyDict_New();
    if (dict == NULL || metrics_put_numbers(dict, loop) < 0 ||
        metrics_put_steal(dict, "busy_seconds",
                          PyFloat_FromDouble(self->busy_ns / 1e9)) < 0 ||
        metrics_put_steal(dict, "idle_seconds",
                          PyFloat_FromDouble(self->idle_ns / 1e9)) < 0 ||
        metrics_put_steal(dict, "stretch", PyFloat_FromDouble(stretch)) < 0 ||
        metrics_put_steal(dict, "stretch_max",
                          PyFloat_FromDouble((double)self->stretch_max * per_tick)) <
            0 ||
        metrics_put_steal(dict, "stretches", metrics_stretches(self, per_tick)) < 0 ||
        metrics_put_steal(dict, "slowest", metrics_slowest(self, per_tick)) < 0) {
        Py_XDECREF(dict);
        return NULL;
    }
    return dict;
}

/* ---- how long ago -------------------------------------------------------------------- */

void
metrics_load(PyloopState *state)
{
    metrics_both_clocks(&state->loaded_ticks, &state->loaded_ns);
}

/* _core.ticks() */
PyObject *
metrics_ticks(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(clock_ticks());
}

/* _core.seconds_since(ticks): of any time since the module was loaded, so that what both
 * clocks have counted is never the shorter time. */
PyObject *
metrics_seconds_since(PyObject *module, PyObject *ticks)
{
    PyloopState *state = state_of_module(module);
    unsigned long long begin = PyLong_AsUnsignedLongLong(ticks);
    if (begin == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    uint64_t now = 0, ns = 0;
    metrics_both_clocks(&now, &ns);
    double all = fmax((double)metrics_between(state->loaded_ticks, now), 1);
    double share = Py_MIN((double)metrics_between(begin, now) / all, 1);
    return PyFloat_FromDouble((double)metrics_between(state->loaded_ns, ns) / 1e9 *
                              share);
}

/* ---- the executor --------------------------------------------------------------------- */

enum { JOB_LOOP, JOB_FUNCTION, JOB_SUBMITTED_NS };

/* In the executor's thread, which holds no loop's lock. */
static PyObject *
metrics_run_job(PyObject *job, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)PyTuple_GET_ITEM(job, JOB_LOOP);
    LoopMetrics *self = &loop->metrics;
    uint64_t submitted =
        PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(job, JOB_SUBMITTED_NS));
    uint64_t waited = metrics_between(submitted, clock_ns());
    uv_mutex_lock(&loop->inbox_lock);
    self->jobs_started++;
    self->jobs_waited_ns += waited;
    self->jobs_waited_max_ns = Py_MAX(self->jobs_waited_max_ns, waited);
    uv_mutex_unlock(&loop->inbox_lock);
    PyObject *result = PyObject_Vectorcall(PyTuple_GET_ITEM(job, JOB_FUNCTION), args,
                                           (size_t)nargs, kwnames);
    uv_mutex_lock(&loop->inbox_lock);
    self->jobs_ended++;
    uv_mutex_unlock(&loop->inbox_lock);
    return result;
}

static PyMethodDef metrics_job_def = {"job",
                                      (PyCFunction)(void (*)(void))metrics_run_job,
                                      METH_FASTCALL | METH_KEYWORDS, NULL};

/* Loop._executor_job(function): what the default executor is given in its place. */
PyObject *
metrics_executor_job(PyObject *op, PyObject *function)
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *job =
        Py_BuildValue("(OOK)", op, function, (unsigned long long)clock_ns());
    PyObject *callable = job != NULL ? PyCFunction_New(&metrics_job_def, job) : NULL;
    Py_XDECREF(job);
    if (callable != NULL) {
        uv_mutex_lock(&loop->inbox_lock);
        loop->metrics.jobs++;
        uv_mutex_unlock(&loop->inbox_lock);
    }
    return callable;
}
