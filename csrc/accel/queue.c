/* queue.c - asyncio.Queue's get() and put(), for its PriorityQueue and LifoQueue too. */
#include "accel/accel.h"

#include "base/call.h"

enum { QUEUE_SELF, QUEUE_ITEM }; /* AccelCoro.args */

/* The order in which Queue.__init__() makes them. */
enum {
    PLACE_MAXSIZE,
    PLACE_GETTERS,
    PLACE_PUTTERS,
    PLACE_UNFINISHED,
    PLACE_FINISHED,
    PLACE_ITEMS,
    PLACE_SHUT, /* where there is shutdown() */
};

typedef struct {
    PyObject *object; /* borrowed */
    PyObject *dict;   /* strong: the object's */
    PyObject *loop;   /* strong or NULL: its _loop */
    PyObject *items;  /* strong: its _queue */
    Py_ssize_t size;  /* of items */
    bool is_plain;    /* a Queue itself: _get() and _put() are known */
} Queue;

static void
queue_drop(Queue *queue)
{
    Py_CLEAR(queue->items);
    Py_CLEAR(queue->loop);
    Py_CLEAR(queue->dict);
}

/* What an object's class was at import, if it is one of asyncio's queues. */
static Watched *
queue_class(PyloopState *state, PyObject *object)
{
    for (int i = WATCHED_QUEUE; i <= WATCHED_LIFO_QUEUE; i++) {
        if (Py_IS_TYPE(object, state->watched[i].type)) {
            return &state->watched[i];
        }
    }
    return NULL;
}

/* 1, 0: it is asyncio's to do, -1. */
static int
queue_look(PyloopState *state, PyObject *object, Queue *queue)
{
    Watched *watched = queue_class(state, object);
    if (watched == NULL || !watched_is_unchanged(watched)) {
        return 0;
    }
    queue->is_plain = watched == &state->watched[WATCHED_QUEUE];
    queue->object = object;
    queue->items = NULL;
    queue->dict = accel_dict(state, object, PYLOOP_QUEUE_ATTRIBUTES, &queue->loop);
    if (queue->dict != NULL) {
        queue->items = accel_item_at(queue->dict, PLACE_ITEMS, state->str__queue);
    }
    queue->size = queue->items != NULL ? PyObject_Size(queue->items) : -1;
    if (queue->size >= 0) {
        return 1;
    }
    queue_drop(queue);
    return PyErr_Occurred() ? -1 : 0;
}

/* A small int of the queue's; -1 without an exception if it has none. */
static Py_ssize_t
queue_number(Queue *queue, Py_ssize_t place, PyObject *name)
{
    PyObject *value = accel_item_at(queue->dict, place, name);
    int overflow = 1;
    long number = -1;
    if (value != NULL && PyLong_CheckExact(value)) {
        number = PyLong_AsLongAndOverflow(value, &overflow);
    }
    Py_XDECREF(value);
    return overflow == 0 && number > 0 ? (Py_ssize_t)number : overflow == 0 ? 0 : -1;
}

static bool
queue_is_open(PyloopState *state, Queue *queue)
{
    if (!PYLOOP_QUEUE_SHUTS_DOWN) {
        return true;
    }
    PyObject *shut = accel_item_at(queue->dict, PLACE_SHUT, state->str__is_shutdown);
    Py_XDECREF(shut);
    return shut == Py_False;
}

/* Waits among the queue's waiters of that name. */
static CoroStatus
queue_wait(AccelCoro *self, Queue *queue, Py_ssize_t place, PyObject *name,
           PyObject **result)
{
    PyObject *waiters = accel_item_at(queue->dict, place, name);
    if (waiters == NULL) {
        return PyErr_Occurred() ? CORO_ERROR : accel_delegate(self);
    }
    CoroStatus status =
        accel_wait_in(self, queue->object, queue->loop, waiters, result);
    Py_DECREF(waiters);
    return status;
}

/* self._wakeup_next(self.<name>) */
static int
queue_wake(PyloopState *state, Queue *queue, Py_ssize_t place, PyObject *name)
{
    PyObject *waiters = accel_item_at(queue->dict, place, name);
    if (waiters == NULL) {
        waiters = PyObject_GetAttr(queue->object, name); /* says that it is missing */
    }
    int rc = waiters != NULL ? accel_wake_next(state, waiters) : -1;
    Py_XDECREF(waiters);
    return rc;
}

/* ---- get ----------------------------------------------------------------------- */

/* get_nowait() of what is not empty. */
static CoroStatus
queue_take(PyloopState *state, Queue *queue, PyObject **result)
{
    PyObject *item = queue->is_plain ? accel_popleft(state, queue->items)
                                     : call_method0(queue->object, state->str__get);
    if (item == NULL ||
        queue_wake(state, queue, PLACE_PUTTERS, state->str__putters) < 0) {
        Py_XDECREF(item);
        return CORO_ERROR;
    }
    *result = item;
    return CORO_RETURN;
}

/* From the start of asyncio's `while` on, where its coroutine can take over at any time. */
static CoroStatus
queue_get_step(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    Queue queue;
    int known = queue_look(state, self->args[QUEUE_SELF], &queue);
    if (known <= 0) {
        return known < 0 ? CORO_ERROR : accel_delegate(self);
    }
    CoroStatus status;
    if (queue.size > 0) {
        status = queue_take(state, &queue, result);
    }
    else if (queue_is_open(state, &queue)) {
        status = queue_wait(self, &queue, PLACE_GETTERS, state->str__getters, result);
    }
    else {
        status = accel_delegate(self);
    }
    queue_drop(&queue);
    return status;
}

/* ---- put ----------------------------------------------------------------------- */

/* self._unfinished_tasks += 1; self._finished.clear() */
static int
queue_count(PyloopState *state, Queue *queue, Py_ssize_t unfinished)
{
    PyObject *count = PyLong_FromSsize_t(unfinished + 1);
    int rc = count != NULL
                 ? PyDict_SetItem(queue->dict, state->str__unfinished_tasks, count)
                 : -1;
    Py_XDECREF(count);
    if (rc < 0 || unfinished > 0) {
        return rc; /* it was cleared as the first of them came */
    }
    PyObject *finished = PyObject_GetAttr(queue->object, state->str__finished);
    PyObject *cleared =
        finished != NULL ? call_method0(finished, state->str_clear) : NULL;
    Py_XDECREF(finished);
    Py_XDECREF(cleared);
    return cleared != NULL ? 0 : -1;
}

/* put_nowait() into what is not full. */
static CoroStatus
queue_add(AccelCoro *self, Queue *queue, Py_ssize_t unfinished, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *item = self->args[QUEUE_ITEM];
    PyObject *added;
    if (queue->is_plain) {
        added = accel_append(state, queue->items, item);
    }
    else {
        added = call_method1(queue->object, state->str__put, item);
        unfinished =
            queue_number(queue, PLACE_UNFINISHED, state->str__unfinished_tasks);
    }
    Py_XDECREF(added);
    if (added == NULL) {
        return CORO_ERROR;
    }
    if (queue_count(state, queue, unfinished) < 0 ||
        queue_wake(state, queue, PLACE_GETTERS, state->str__getters) < 0) {
        return CORO_ERROR;
    }
    *result = Py_NewRef(Py_None);
    return CORO_RETURN;
}

static CoroStatus
queue_put_step(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    Queue queue;
    int known = queue_look(state, self->args[QUEUE_SELF], &queue);
    if (known <= 0) {
        return known < 0 ? CORO_ERROR : accel_delegate(self);
    }
    Py_ssize_t maxsize = queue_number(&queue, PLACE_MAXSIZE, state->str__maxsize);
    bool full = maxsize > 0 && queue.size >= maxsize;
    Py_ssize_t unfinished =
        full ? 0 : queue_number(&queue, PLACE_UNFINISHED, state->str__unfinished_tasks);
    CoroStatus status;
    if (maxsize < 0 || unfinished < 0 || !queue_is_open(state, &queue)) {
        status = accel_delegate(self);
    }
    else if (full) {
        status = queue_wait(self, &queue, PLACE_PUTTERS, state->str__putters, result);
    }
    else {
        status = queue_add(self, &queue, unfinished, result);
    }
    queue_drop(&queue);
    return status;
}

/* ---- the coroutines -------------------------------------------------------------- */

static CoroStatus
queue_get_start(AccelCoro *self, PyObject **result)
{
    return queue_get_step(self, result);
}

static CoroStatus
queue_get_go_on(AccelCoro *self, PyObject *Py_UNUSED(value), PyObject **result)
{
    return queue_get_step(self, result);
}

static CoroStatus
queue_put_start(AccelCoro *self, PyObject **result)
{
    return queue_put_step(self, result);
}

static CoroStatus
queue_put_go_on(AccelCoro *self, PyObject *Py_UNUSED(value), PyObject **result)
{
    return queue_put_step(self, result);
}

static CoroStatus
queue_caught(AccelCoro *self, PyObject **Py_UNUSED(result))
{
    return accel_interrupted(self);
}

static const AccelBody queue_get_body = {ACCEL_CORO("Queue.get"), queue_get_start,
                                         queue_get_go_on, queue_caught};
static const AccelBody queue_put_body = {ACCEL_CORO("Queue.put"), queue_put_start,
                                         queue_put_go_on, queue_caught};

static PyObject *
queue_get(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    if (kwnames != NULL || nargs != 1) {
        return NULL;
    }
    return accel_coro_new(self, &queue_get_body, args, nargs);
}

static PyObject *
queue_put(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    if (kwnames != NULL || nargs != 2) {
        return NULL;
    }
    return accel_coro_new(self, &queue_put_body, args, nargs);
}

const AccelKind accel_queue_get = {"Queue.get", queue_get, NULL};
const AccelKind accel_queue_put = {"Queue.put", queue_put, NULL};
