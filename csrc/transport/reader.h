/* reader.h - asyncio.StreamReader, fed and read by C code where nobody can tell.
 *
 * asyncio's reader keeps all that it knows in its instance dict: _buffer, _waiter, _eof,
 * _paused and so on. reader.c and readops.c work on that very dict, so that asyncio's own
 * methods (feed_eof, at_eof, set_exception, ...) and these take turns at will; and where
 * anything is out of the ordinary, asyncio's function is called instead.
 *
 *   a transport reads --reader_feed()--> _buffer, _waiter   (not StreamReaderProtocol's
 *                                                            data_received, feed_data)
 *   await reader.readline() ---ReadOp---> _buffer, or _waiter = a future
 *
 * The methods come with a class: at its first data a reader becomes a _core.StreamReader,
 * a subclass without fields. That is done to instances of exactly asyncio.StreamReader
 * behind exactly asyncio.StreamReaderProtocol, as long as the functions of both classes
 * are asyncio's: reader_functions_unchanged().
 */
#ifndef PYLOOP_TRANSPORT_READER_H
#define PYLOOP_TRANSPORT_READER_H

#include "base/compat.h"

#include "loop/loop.h"

/* reader.c */
PyTypeObject *streamreader_type_create(PyObject *module);
static inline bool
reader_functions_unchanged(PyloopState *state)
{
    return watched_is_unchanged(&state->watched[WATCHED_STREAM_READER]) &&
           watched_is_unchanged(&state->watched[WATCHED_STREAM_PROTOCOL]);
}

/* An attribute that is in the instance's dict. 1 and a new reference, 0 absent, -1. */
static inline int
reader_get(PyObject *dict, PyObject *name, PyObject **value)
{
    return PyDict_GetItemRef(dict, name, value);
}
/* Whether the attribute is there and true. Anything but True is false. */
bool reader_flag(PyObject *dict, PyObject *name);
/* reader._limit; -1 where it is no int. */
Py_ssize_t reader_limit(PyloopState *state, PyObject *dict);
/* Gives size bytes to the reader behind protocol, as protocol.data_received() does. 1:
 * done. 0: not done, the protocol has to be called. -1: what data_received() would have
 * raised. */
int reader_feed(LoopObject *loop, PyObject *protocol, const char *data, size_t size);

/* readops.c: the methods of _core.StreamReader */
PyTypeObject *readop_type_create(PyObject *module);
PyObject *readop_read(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                      Py_ssize_t nargs, PyObject *kwnames);
PyObject *readop_readline(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames);
PyObject *readop_readexactly(PyObject *op, PyTypeObject *defining,
                             PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames);
PyObject *readop_readuntil(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *readop_anext(PyObject *op);

#endif
