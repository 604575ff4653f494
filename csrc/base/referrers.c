/* referrers.c - see referrers.h.
 *
 * gc.get_referrers() compares each reference with all the objects in turn, which takes
 * too long for many. gc.get_objects() is no help from Python code: while other threads
 * run, somebody has a reference to everything, to tuples that are being made as well, and
 * making one of a generator fails then.
 *
 * So nothing here runs Python code while it looks, and no other thread runs meanwhile.
 */
#include "base/referrers.h"

#include <stdint.h>

typedef struct {
    PyObject **set; /* open addressing, NULL: free; borrowed from the caller's list */
    size_t mask;
    PyObject **found; /* PyMem_Raw; strong */
    size_t count, room;
    bool failed; /* memory was short */
} Referrers;

static size_t
referrers_place(const Referrers *self, const PyObject *object)
{
    size_t place =
        (size_t)(((uintptr_t)object >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 32);
    place &= self->mask;
    while (self->set[place] != NULL && self->set[place] != object) {
        place = (place + 1) & self->mask;
    }
    return place;
}

/* 0, or -1 when memory is short. */
static int
referrers_init(Referrers *self, PyObject *objects)
{
    size_t size = (size_t)PyList_GET_SIZE(objects), room = 8;
    while (room < 2 * size) {
        room *= 2;
    }
    *self = (Referrers){.mask = room - 1};
    self->set = PyMem_RawCalloc(room, sizeof(PyObject *));
    if (self->set == NULL) {
        return -1;
    }
    for (size_t i = 0; i < size; i++) {
        PyObject *object = PyList_GET_ITEM(objects, (Py_ssize_t)i);
        self->set[referrers_place(self, object)] = object;
    }
    return 0;
}

static void
referrers_clear(Referrers *self)
{
    for (size_t i = 0; i < self->count; i++) {
        Py_DECREF(self->found[i]);
    }
    PyMem_RawFree(self->found);
    PyMem_RawFree(self->set);
}

/* A visitproc: ends the visit when it is one of the objects. */
static int
referrers_is_one(PyObject *object, void *arg)
{
    const Referrers *self = arg;
    return self->set[referrers_place(self, object)] != NULL;
}

/* A gcvisitobjects_t: 0 ends it. Of objects, it makes and frees none. */
static int
referrers_look_at(PyObject *object, void *arg)
{
    Referrers *self = arg;
    traverseproc traverse = Py_TYPE(object)->tp_traverse;
    if (traverse == NULL || traverse(object, referrers_is_one, self) == 0) {
        return 1;
    }
    if (self->count == self->room) {
        size_t room = self->room * 2 + 64;
        PyObject **grown = PyMem_RawRealloc(self->found, room * sizeof(PyObject *));
        if (grown == NULL) {
            self->failed = true;
            return 0;
        }
        self->found = grown;
        self->room = room;
    }
    self->found[self->count++] = Py_NewRef(object);
    return 1;
}

#if PY_VERSION_HEX >= 0x030C0000
static int
referrers_look(Referrers *self)
{
    PyUnstable_GC_VisitObjects(referrers_look_at, self); /* stops other threads */
    return 0;
}
#else
/* The list has all objects until it goes, and the GIL is kept for that long. */
static int
referrers_look(Referrers *self)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *all = gc != NULL ? PyObject_CallMethod(gc, "get_objects", NULL) : NULL;
    Py_XDECREF(gc);
    if (all == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(all); i++) {
        if (referrers_look_at(PyList_GET_ITEM(all, i), self) == 0) {
            break;
        }
    }
    Py_DECREF(all);
    return 0;
}
#endif

static PyObject *
referrers_as_list(const Referrers *self)
{
    PyObject *list = PyList_New((Py_ssize_t)self->count);
    for (size_t i = 0; list != NULL && i < self->count; i++) {
        PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(self->found[i]));
    }
    return list;
}

PyObject *
referrers_of(PyObject *Py_UNUSED(module), PyObject *objects)
{
    Referrers self;
    PyObject *list = NULL;
    if (!PyList_CheckExact(objects)) {
        PyErr_Format(PyExc_TypeError, "referrers() needs a list, not %.200s",
                     Py_TYPE(objects)->tp_name);
        return NULL;
    }
    if (referrers_init(&self, objects) < 0) {
        return PyErr_NoMemory();
    }
    if (referrers_look(&self) == 0) {
        list = self.failed ? PyErr_NoMemory() : referrers_as_list(&self);
    }
    referrers_clear(&self);
    return list;
}
