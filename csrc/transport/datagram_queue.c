/* datagram_queue.c - the queues of DatagramTransport; see datagram.h. */
#include "transport/datagram.h"

#include <string.h>

enum { QUEUE_KEPT_CAPACITY = 8 }; /* an empty queue that was longer gives it back */

static size_t
queue_index(const DatagramQueue *queue, size_t i)
{
    return (queue->head + i) & (queue->capacity - 1);
}

int
datagram_queue_reserve(DatagramQueue *queue, size_t n)
{
    size_t capacity = queue->capacity > 0 ? queue->capacity : QUEUE_KEPT_CAPACITY;
    while (capacity < queue->count + n) {
        capacity *= 2;
    }
    if (capacity == queue->capacity) {
        return 0;
    }
    Datagram *items = PyMem_RawMalloc(capacity * sizeof(*items));
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < queue->count; i++) {
        items[i] = queue->items[queue_index(queue, i)];
    }
    PyMem_RawFree(queue->items);
    queue->items = items;
    queue->head = 0;
    queue->capacity = capacity;
    return 0;
}

void
datagram_queue_push_steal(DatagramQueue *queue, Datagram datagram)
{
    assert(queue->count < queue->capacity);
    queue->items[queue_index(queue, queue->count)] = datagram;
    queue->count++;
}

void
datagram_queue_unpop_steal(DatagramQueue *queue, Datagram datagram)
{
    assert(queue->count < queue->capacity);
    queue->head = queue_index(queue, queue->capacity - 1);
    queue->items[queue->head] = datagram;
    queue->count++;
}

Datagram
datagram_queue_at(const DatagramQueue *queue, size_t i)
{
    assert(i < queue->count);
    return queue->items[queue_index(queue, i)];
}

Datagram
datagram_queue_pop(DatagramQueue *queue)
{
    assert(queue->count > 0);
    Datagram datagram = queue->items[queue->head];
    queue->head = queue_index(queue, 1);
    queue->count--;
    return datagram;
}

void
datagram_queue_clear(DatagramQueue *queue)
{
    DatagramQueue old = *queue; /* dropping an address may push to the queue again */
    memset(queue, 0, sizeof(*queue));
    while (old.count > 0) {
        datagram_release(datagram_queue_pop(&old));
    }
    PyMem_RawFree(old.items);
}

void
datagram_queue_trim(DatagramQueue *queue)
{
    if (queue->count == 0 && queue->capacity > QUEUE_KEPT_CAPACITY) {
        PyMem_RawFree(queue->items);
        memset(queue, 0, sizeof(*queue));
    }
}

int
datagram_queue_visit(const DatagramQueue *queue, visitproc visit, void *arg)
{
    for (size_t i = 0; i < queue->count; i++) {
        Py_VISIT(datagram_queue_at(queue, i).address);
    }
    return 0; /* data are exact bytes */
}
