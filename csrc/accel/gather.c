/* gather.c - asyncio.gather() of coroutines, tasks and futures of the running loop.
 *
 * The future that it returns is asyncio's own _GatheringFuture. The callback that every
 * child gets, a closure in asyncio, is an AccelGather.
 */
#include "accel/accel.h"

#include "base/call.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    LoopObject *loop;   /* strong; dropped in dealloc only */
    PyObject *outer;    /* strong; NULL until there is one */
    PyObject *children; /* strong: a tuple, in order; filled as they are made */
    PyObject *task; /* strong: who awaits them, or NULL: this Python does not care */
    PyObject
        *context; /* strong: a copy of the current one, which asyncio makes for each
                        * child; what runs in it changes no variable */
    Py_ssize_t finished;
    bool return_exceptions;
} AccelGather;

/* ---- when a child is done --------------------------------------------------- */

/* Steals answer, which may be NULL with an exception. Its truth; -1 with an exception. */
static int
gather_truth(PyObject *answer)
{
    int truth = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return truth;
}

/* child.name(), where most children are tasks and `function` is what these have. */
static inline PyObject *
gather_call_child(PyloopState *state, PyObject *function, PyObject *child,
                  PyObject *name)
{
    return accel_call0((PyTypeObject *)state->TaskClass, function, child, name);
}

static int
gather_is_cancelled(PyloopState *state, PyObject *child)
{
    return gather_truth(
        gather_call_child(state, state->task_cancelled, child, state->str_cancelled));
}

static PyObject *
gather_exception(PyloopState *state, PyObject *child)
{
    return gather_call_child(state, state->task_exception, child, state->str_exception);
}

static PyObject *
gather_child_result(PyloopState *state, PyObject *child)
{
    return gather_call_child(state, state->task_result, child, state->str_result);
}

/* outer.name(value); steals value, which may be NULL with an exception. */
static int
gather_finish_steal(AccelGather *self, PyObject *name, PyObject *value)
{
    PyObject *done = value != NULL ? call_method1(self->outer, name, value) : NULL;
    Py_XDECREF(value);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* What child stands for in the list of results, an exception or its result. */
static PyObject *
gather_result_of(AccelGather *self, PyObject *child)
{
    PyloopState *state = self->loop->state;
    int cancelled = gather_is_cancelled(state, child);
    if (cancelled < 0) {
        return NULL;
    }
    if (cancelled) {
        /* Not _make_cancelled_error(), which is for one call. */
        PyObject *message = PyObject_GetAttr(child, state->str__cancel_message);
        if (message == Py_None) {
            Py_SETREF(message, PyUnicode_FromString(""));
        }
        PyObject *error = message != NULL
                              ? PyObject_CallOneArg(state->CancelledError, message)
                              : NULL;
        Py_XDECREF(message);
        return error;
    }
    PyObject *exc = gather_exception(state, child);
    if (exc != Py_None) {
        return exc;
    }
    Py_DECREF(exc);
    return gather_child_result(state, child);
}

static PyObject *
gather_results(AccelGather *self)
{
    Py_ssize_t count = PyTuple_GET_SIZE(self->children);
    PyObject *results = PyList_New(count);
    for (Py_ssize_t i = 0; results != NULL && i < count; i++) {
        PyObject *child = PyTuple_GET_ITEM(self->children, i);
        /* Without return_exceptions, each was looked at, and none has failed. */
        PyObject *result = self->return_exceptions
                               ? gather_result_of(self, child)
                               : gather_child_result(self->loop->state, child);
        if (result == NULL) {
            Py_CLEAR(results);
        }
        else {
            PyList_SET_ITEM(results, i, result);
        }
    }
    return results;
}

/* When all children are done. */
static int
gather_finish(AccelGather *self)
{
    PyloopState *state = self->loop->state;
    PyObject *results = gather_results(self);
    PyObject *requested =
        results != NULL ? PyObject_GetAttr(self->outer, state->str__cancel_requested)
                        : NULL;
    int cancelled = requested != NULL ? PyObject_IsTrue(requested) : -1;
    Py_XDECREF(requested);
    if (cancelled == 0) {
        return gather_finish_steal(self, state->str_set_result, results);
    }
    Py_XDECREF(results);
    /* asyncio asks the one that its loop over the children ended with. */
    PyObject *child =
        PyTuple_GET_ITEM(self->children, PyTuple_GET_SIZE(self->children) - 1);
    return cancelled < 0 ? -1
                         : gather_finish_steal(
                               self, state->str_set_exception,
                               call_method0(child, state->str__make_cancelled_error));
}

/* future_discard_from_awaited_by(child, task), where Python has that. */
static int
gather_leave(AccelGather *self, PyObject *child)
{
    if (self->task == NULL) {
        return 0;
    }
    PyObject *done =
        call_two_args(self->loop->state->awaited_by_discard, child, self->task);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

static int
gather_child_done(AccelGather *self, PyObject *child)
{
    PyloopState *state = self->loop->state;
    self->finished++;
    if (gather_leave(self, child) < 0) {
        return -1;
    }
    int over = self->outer == NULL
                   ? 1
                   : gather_truth(call_method0(self->outer, state->str_done));
    int cancelled = over < 0 ? -1 : gather_is_cancelled(state, child);
    if (cancelled < 0) {
        return -1;
    }
    if (cancelled) {
        if (over) {
            return 0;
        }
        if (!self->return_exceptions) {
            return gather_finish_steal(
                self, state->str_set_exception,
                call_method0(child, state->str__make_cancelled_error));
        }
    }
    else if (over || !self->return_exceptions) {
        /* Even if it is not told, it counts as retrieved. */
        PyObject *exc = gather_exception(state, child);
        if (exc != NULL && exc != Py_None && !over) {
            return gather_finish_steal(self, state->str_set_exception, exc);
        }
        Py_XDECREF(exc);
        if (exc == NULL || over) {
            return exc != NULL ? 0 : -1;
        }
    }
    if (self->finished < PyTuple_GET_SIZE(self->children)) {
        return 0;
    }
    return gather_finish(self);
}

/* Who awaits gather() gets it when there is no memory to count a child: asyncio's gather()
 * would wait for ever, and could not be cancelled. 0, or -1 with the exception. */
static int
gather_out_of_memory(AccelGather *self)
{
    if (self->outer == NULL || !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *told =
        call_method1(self->outer, self->loop->state->str_set_exception, exc);
    if (told == NULL) {
        PyErr_SetRaisedException(exc); /* it is done, or there is no memory at all */
        return -1;
    }
    Py_DECREF(told);
    Py_DECREF(exc);
    return 0;
}

static PyObject *
gather_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    AccelGather *self = (AccelGather *)op;
    if (PyVectorcall_NARGS(nargsf) != 1 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "_done_callback() takes one argument, 'fut'");
        return NULL;
    }
    LockHold hold;
    lock_enter(&self->loop->lock, &hold);
    int rc = gather_child_done(self, args[0]);
    if (rc < 0) {
        rc = gather_out_of_memory(self);
    }
    lock_exit(&hold);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- the call ----------------------------------------------------------------- */

/* Whether asyncio would take child as it is (1) or make a task of it (2); 0: asyncio is to
 * look at it, -1. */
static int
gather_sort(PyloopState *state, LoopObject *loop, PyObject *child)
{
    if (PyCoro_CheckExact(child) || Py_IS_TYPE(child, state->AccelCoroType)) {
        return 2;
    }
    if (!Py_IS_TYPE(child, (PyTypeObject *)state->FutureClass) &&
        !Py_IS_TYPE(child, (PyTypeObject *)state->TaskClass)) {
        return 0;
    }
    PyObject *its = call_method0(child, state->str_get_loop);
    Py_XDECREF(its);
    if (its != (PyObject *)loop) {
        return its == NULL ? -1 : 0;
    }
    int done = gather_truth(call_method0(child, state->str_done));
    return done < 0 ? -1 : !done;
}

/* Whether all arguments are what gather_sort() knows, and different: 1, 0, -1. */
static int
gather_knows(PyloopState *state, LoopObject *loop, PyObject *const *args,
             Py_ssize_t nargs)
{
    PyObject *seen = PySet_New(NULL);
    int known = seen != NULL ? 1 : -1;
    for (Py_ssize_t i = 0; known > 0 && i < nargs; i++) {
        known = gather_sort(state, loop, args[i]);
        if (known > 0 && PySet_Add(seen, args[i]) < 0) {
            known = -1;
        }
    }
    if (known > 0) {
        known = PySet_GET_SIZE(seen) == nargs;
    }
    Py_XDECREF(seen);
    return known;
}

/* create_task(coro), the loop's, whose end nobody else waits for: no word if it is pending
 * when it goes. */
static PyObject *
gather_make_task(AccelGather *self, PyObject *create_task, PyObject *coro)
{
    PyloopState *state = self->loop->state;
    PyObject *task = call_one_arg(create_task, coro);
    if (task == NULL) {
        if (PyErr_ExceptionMatches(PyExc_RuntimeError)) {
            (void)accel_finally(coro, state->str_close);
        }
        return NULL;
    }
    int rc = Py_IS_TYPE(task, (PyTypeObject *)state->TaskClass)
                 ? accel_set(state->task_log_destroy_pending, task,
                             state->str__log_destroy_pending, Py_False)
                 : PyObject_SetAttr(task, state->str__log_destroy_pending, Py_False);
    if (rc < 0) {
        Py_CLEAR(task);
    }
    return task;
}

/* child.add_done_callback(self, context=...) */
static int
gather_watch(AccelGather *self, PyObject *child)
{
    PyloopState *state = self->loop->state;
    PyObject *args[] = {child, (PyObject *)self, self->context};
    PyObject *done;
    if (Py_IS_TYPE(child, (PyTypeObject *)state->TaskClass)) {
        LockHold *held = lock_give_up();
        done = PyObject_Vectorcall(state->task_add_done_callback, args, 2,
                                   state->context_keyword);
        lock_take_back(held);
    }
    else {
        done = call_method_named(state->str_add_done_callback, args, 2,
                                 state->context_keyword);
    }
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* Makes what stands for one argument the child number `index`. 0, or -1. */
static int
gather_add(AccelGather *self, PyObject *create_task, Py_ssize_t index,
           PyObject *argument)
{
    PyloopState *state = self->loop->state;
    bool is_future = Py_IS_TYPE(argument, (PyTypeObject *)state->FutureClass) ||
                     Py_IS_TYPE(argument, (PyTypeObject *)state->TaskClass);
    PyObject *child =
        is_future ? Py_NewRef(argument) : gather_make_task(self, create_task, argument);
    if (child == NULL) {
        return -1;
    }
    PyTuple_SET_ITEM(self->children, index, child);
    PyObject *done = Py_None;
    if (self->task != NULL) {
        done = call_two_args(state->awaited_by_add, child, self->task);
        Py_XDECREF(done);
    }
    return done != NULL ? gather_watch(self, child) : -1;
}

static AccelGather *
gather_new(PyloopState *state, LoopObject *loop, Py_ssize_t count)
{
    PyObject *task = NULL;
    if (state->awaited_by_add != Py_None) {
        task = call_one_arg(state->current_task, (PyObject *)loop);
        if (task == NULL) {
            return NULL;
        }
        if (task == Py_None) {
            Py_CLEAR(task);
        }
    }
    PyObject *children = PyTuple_New(count);
    PyObject *context = PyContext_CopyCurrent();
    AccelGather *self = children != NULL && context != NULL
                            ? PyObject_GC_New(AccelGather, state->AccelGatherType)
                            : NULL;
    if (self == NULL) {
        Py_XDECREF(children);
        Py_XDECREF(context);
        Py_XDECREF(task);
        return NULL;
    }
    self->vectorcall = gather_vectorcall;
    self->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    self->outer = NULL;
    self->children = children;
    self->task = task;
    self->context = context;
    self->finished = 0;
    self->return_exceptions = false;
    MADE(self);
    PyObject_GC_Track(self);
    return self;
}

/* return_exceptions=... alone. 1, 0 for what asyncio has to look at, -1. */
static int
gather_keyword(PyObject *const *values, PyObject *kwnames, bool *return_exceptions)
{
    *return_exceptions = false;
    if (kwnames == NULL) {
        return 1;
    }
    if (PyTuple_GET_SIZE(kwnames) != 1 ||
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0),
                                         "return_exceptions") != 0) {
        return 0;
    }
    int truth = PyObject_IsTrue(values[0]);
    *return_exceptions = truth > 0;
    return truth < 0 ? -1 : 1;
}

static PyObject *
gather_call(AccelFunction *function, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyloopState *state = function->state;
    bool return_exceptions;
    LoopObject *loop = nargs > 0 ? accel_running_loop(state) : NULL;
    if (loop == NULL || loop->task_factory != NULL ||
        gather_keyword(args + nargs, kwnames, &return_exceptions) <= 0 ||
        gather_knows(state, loop, args, nargs) <= 0) {
        return NULL;
    }
    AccelGather *self = gather_new(state, loop, nargs);
    if (self == NULL) {
        return NULL;
    }
    self->return_exceptions = return_exceptions;
    PyObject *outer = NULL;
    PyObject *create_task = PyObject_GetAttr((PyObject *)loop, state->str_create_task);
    if (create_task == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        if (gather_add(self, create_task, i, args[i]) < 0) {
            goto done;
        }
    }
    PyObject *values[] = {NULL, self->children, (PyObject *)loop,
                          self->task != NULL ? self->task : Py_None};
    outer = call_vector(function->helper, values + 1, 3);
    self->outer = Py_XNewRef(outer);
done:
    Py_XDECREF(create_task);
    Py_DECREF(self);
    return outer;
}

const AccelKind accel_gather = {"gather", gather_call, NULL};

/* ---- the callback's type -------------------------------------------------------- */

static int
gather_traverse(PyObject *op, visitproc visit, void *arg)
{
    AccelGather *self = (AccelGather *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->outer);
    Py_VISIT(self->children);
    Py_VISIT(self->task);
    Py_VISIT(self->context);
    return 0;
}

static int
gather_clear(PyObject *op)
{
    AccelGather *self = (AccelGather *)op;
    LAST_USE(op, &self->loop->lock);
    Py_CLEAR(self->outer);
    Py_CLEAR(self->task);
    return 0; /* the children are in asyncio's hands */
}

static void
gather_dealloc(PyObject *op)
{
    AccelGather *self = (AccelGather *)op;
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)gather_clear(op);
    Py_DECREF(self->children);
    Py_DECREF(self->context);
    Py_DECREF(self->loop);
    MEMORY_ENDS(op);
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyObject *
gather_get_qualname(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
    return PyUnicode_FromString("gather.<locals>._done_callback");
}

static PyGetSetDef gather_getsets[] = {
    {"__qualname__", gather_get_qualname, NULL, "asyncio's, for reprs of tasks.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef gather_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(AccelGather, vectorcall),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot gather_slots[] = {
    {Py_tp_members, gather_members},
    {Py_tp_getset, gather_getsets},
    {Py_tp_call, (void *)PyVectorcall_Call},
    {Py_tp_traverse, (void *)gather_traverse},
    {Py_tp_clear, (void *)gather_clear},
    {Py_tp_dealloc, (void *)gather_dealloc},
    {0, NULL},
};

static PyType_Spec gather_spec = {
    .name = "pyloop._core.AccelGather",
    .basicsize = sizeof(AccelGather),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = gather_slots,
};

PyTypeObject *
accelgather_type_create(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &gather_spec, NULL);
}
