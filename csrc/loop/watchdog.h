/* watchdog.h - sees that a callback of a running loop has not returned for too long.
 *
 * A Watcher is one watchdog of pyloop.watchdog. Its thread, a Python thread, spends its
 * life in Watcher.next(), which needs no GIL until there is something to tell.
 */
#ifndef PYLOOP_LOOP_WATCHDOG_H
#define PYLOOP_LOOP_WATCHDOG_H

#include "base/state.h"

PyTypeObject *watcher_type_create(PyObject *module);

#endif
