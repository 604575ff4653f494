/* flow.h - flow control that is the same for every transport with a write queue. */
#ifndef PYLOOP_TRANSPORT_FLOW_H
#define PYLOOP_TRANSPORT_FLOW_H

#include "base/compat.h"

#include "loop/loop.h"

enum { FLOW_HIGH_WATER = 64 * 1024, FLOW_LOW_WATER = FLOW_HIGH_WATER / 4 };

/* asyncio's max_size: what one event receives at most, bytes. */
enum { FLOW_MAX_SIZE = 256 * 1024 };

/* Getter of a size_t of a transport's, whose offset is the closure. */
PyObject *flow_get_size(PyObject *op, void *closure);
/* Setter of max_size, likewise: TypeError or ValueError unless it is a positive int. */
int flow_set_max_size(PyObject *op, PyObject *value, void *closure);

/* The arguments (high=None, low=None) of set_write_buffer_limits(), in bytes, with
 * asyncio's defaults. 0, or -1 with TypeError, or ValueError unless high >= low >= 0. */
int flow_parse_limits(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                      size_t *high, size_t *low);

/* Calls protocol.name(), which is pause_writing or resume_writing; what it raises is
 * reported with the message `failed`. 0, or -1 with what must leave run. */
int flow_notify(LoopObject *loop, PyObject *transport, PyObject *protocol,
                PyObject *name, const char *failed);

/* A write to a lost connection: *lost (asyncio's _conn_lost) grows; asyncio logs a warning
 * once it is beyond LOG_THRESHOLD_FOR_CONNLOST_WRITES. 0, or -1 with what the logger
 * raised. */
int flow_write_lost(LoopObject *loop, const char *warning, unsigned int *lost);

#endif
