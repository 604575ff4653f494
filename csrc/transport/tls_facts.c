/* tls_facts.c - what is in an SSLProtocol's dict, looked up once and not for each record.
 *
 * A record takes some twenty attributes, a fifth of what TLS adds to a request when each is
 * looked up; hardly one changes while a connection goes on. So they are remembered in an
 * object that is in the dict itself, under a name of its own, until the dict changes: then
 * it tells (compat.h, PYLOOP_DICTS_TELL). The one attribute that changes for each record,
 * _write_buffer_size, is not among them, and its changes are none.
 *
 * Invariant F1: values[item] is in dict, or NULL when nothing is, for each item in known,
 *               or else the dict's version is another one. So the references are borrowed.
 *
 * Where dicts do not tell there are no facts, and each attribute is looked up.
 */
#include "transport/tls_parts.h"

#include "base/lock.h"

static const size_t tls_names[TLS_ITEMS] = {
#define X(name, attribute) offsetof(PyloopState, str_##attribute),
    PYLOOP_TLS_ITEMS(X)
#undef X
};

static void
facts_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    MEMORY_ENDS(op);
    tp->tp_free(op);
    Py_DECREF(tp);
}

/* ---- changes ------------------------------------------------------------------------ */

/* A watched dict is about to change. It may be of another instance of this module: so its
 * facts are found by what deallocates them, and no state is used. */
static int
facts_on_change(PyDict_WatchEvent Py_UNUSED(event), PyObject *dict, PyObject *key,
                PyObject *Py_UNUSED(value))
{
    if (key != NULL && PyUnicode_CheckExact(key) &&
        PyUnicode_CompareWithASCIIString(key, "_write_buffer_size") == 0) {
        return 0;
    }
    PyObject *name, *found;
    for (Py_ssize_t at = 0; PyDict_Next(dict, &at, &name, &found);) {
        if (Py_TYPE(found)->tp_dealloc == facts_dealloc) {
            ((TlsFacts *)found)->known = 0;
            ((TlsFacts *)found)->changes++;
        }
    }
    return 0;
}

void
tls_init(PyloopState *state)
{
    if (!PYLOOP_DICTS_TELL) {
        return;
    }
    int watcher = PyDict_AddWatcher(facts_on_change);
    if (watcher < 0) { /* others have them all: it works without */
        PyErr_Clear();
    }
    state->tls_watcher = watcher + 1;
}

void
tls_clear(PyloopState *state)
{
    if (state->tls_watcher > 0 && PyDict_ClearWatcher(state->tls_watcher - 1) < 0) {
        PyErr_Clear(); /* an interpreter that ends has cleared them */
    }
    state->tls_watcher = 0;
}

/* ---- the object ----------------------------------------------------------------------- */

TlsFacts *
tls_facts_of(PyloopState *state, PyObject *dict)
{
    PyObject *found;
    if (state->tls_watcher == 0 ||
        reader_get(dict, state->str__pyloop_facts, &found) <= 0) {
        PyErr_Clear(); /* without facts each attribute is looked up, and may say it too */
        return NULL;
    }
    if (Py_IS_TYPE(found, state->TLSFactsType) && ((TlsFacts *)found)->dict == dict) {
        return (TlsFacts *)found;
    }
    Py_DECREF(found); /* this dict is a copy of the other */
    return NULL;
}

void
tls_facts_begin(TlsView *view)
{
    PyloopState *state = view->state;
    if (state->tls_watcher == 0 || view->facts != NULL) {
        return;
    }
    PyTypeObject *type = state->TLSFactsType;
    TlsFacts *facts = (TlsFacts *)type->tp_alloc(type, 0);
    if (facts != NULL &&
        PyDict_SetItem(view->dict, state->str__pyloop_facts, (PyObject *)facts) == 0 &&
        PyDict_Watch(state->tls_watcher - 1, view->dict) == 0) {
        facts->dict = view->dict;
    }
    Py_XDECREF(facts);
    PyErr_Clear(); /* without facts each attribute is looked up */
}

/* ---- attributes ----------------------------------------------------------------------- */

int
tls_look_up(TlsView *view, TlsItem item, PyObject **value)
{
    TlsFacts *facts = view->facts;
    PyObject *name = *(PyObject **)((char *)view->state + tls_names[item]);
    if (facts == NULL) {
        return reader_get(view->dict, name, value);
    }
    uint64_t version = PYLOOP_DICT_VERSION(view->dict);
    if (facts->version != version) {
        facts->version = version;
        facts->known = 0;
    }
    uint32_t changes = facts->changes;
    int rc = reader_get(view->dict, name, value);
    if (rc >= 0 && facts->changes == changes) {
        facts->values[item] = *value;
        facts->known |= (uint32_t)1 << item;
    }
    return rc;
}

bool
tls_look_up_flag(TlsView *view, TlsItem item)
{
    PyObject *value;
    bool is_true = tls_look_up(view, item, &value) > 0 && value == Py_True;
    Py_XDECREF(value);
    PyErr_Clear(); /* a dict with keys that cannot be compared has no such flag */
    return is_true;
}

/* value (stolen, or NULL) as an int, or -1. */
static Py_ssize_t
tls_int_steal(PyObject *value)
{
    Py_ssize_t number = -1;
    if (value != NULL && PyLong_CheckExact(value)) {
        number = PyLong_AsSsize_t(value);
    }
    Py_XDECREF(value);
    PyErr_Clear(); /* asyncio's function compares it, whatever it is */
    return number;
}

Py_ssize_t
tls_number(TlsView *view, TlsItem item)
{
    PyObject *value;
    (void)tls_get(view, item, &value);
    return tls_int_steal(value);
}

Py_ssize_t
tls_size(TlsView *view)
{
    PyObject *value;
    (void)reader_get(view->dict, view->state->str__write_buffer_size, &value);
    return tls_int_steal(value);
}

int
tls_set_size(TlsView *view, PyObject *size)
{
    TlsFacts *facts = view->facts;
    uint64_t version = PYLOOP_DICT_VERSION(view->dict);
    int rc = PyDict_SetItem(view->dict, view->state->str__write_buffer_size, size);
    if (facts != NULL && facts->version == version) {
        facts->version = PYLOOP_DICT_VERSION(view->dict);
    }
    return rc;
}

static PyType_Slot facts_slots[] = {
    {Py_tp_doc, "What pyloop remembers of an SSLProtocol."},
    {Py_tp_dealloc, (void *)facts_dealloc},
    {0, NULL},
};

static PyType_Spec facts_spec = {
    .name = "pyloop._core.TLSFacts",
    .basicsize = sizeof(TlsFacts),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = facts_slots,
};

PyTypeObject *
tlsfacts_type_create(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &facts_spec, NULL);
}
