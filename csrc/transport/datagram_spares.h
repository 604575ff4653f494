/* datagram_spares.h - what all datagram transports of a loop share, made at first use.
 *
 * A cache of addresses, because peers come again: the tuple of an address that was seen
 * is given out again (it is immutable), and a tuple that is given back is recognised by
 * its identity. And the room into which the kernel writes what is received.
 */
#ifndef PYLOOP_TRANSPORT_DATAGRAM_SPARES_H
#define PYLOOP_TRANSPORT_DATAGRAM_SPARES_H

#include "base/compat.h"

#include "loop/loop.h"
#include "transport/datagram.h"

#include <sys/socket.h>

/* The socket module's form of an address of the family (one that sockaddr_knows). As for
 * sockaddr_to_python, storage must have been zero before the kernel filled it. */
PyObject *addresses_to_python(LoopObject *loop, const struct sockaddr_storage *storage,
                              socklen_t length);

/* As sockaddr_from_python: false, with nothing raised, when the socket's own method has
 * to be asked. *name points into the cache, until the next call, or to storage. */
bool addresses_from_python(LoopObject *loop, int family, PyObject *address,
                           struct sockaddr_storage *storage,
                           const struct sockaddr **name, socklen_t *length);

/* Room for a batch of datagrams. Whoever receives takes it out of the loop until he has
 * made Python objects of them all, so nobody else (in a nested run, say) overwrites it. */
typedef struct DatagramRoom DatagramRoom;

DatagramRoom *room_take(LoopObject *loop); /* NULL with MemoryError */
void room_give_back(LoopObject *loop, DatagramRoom *room);

/* Receives without waiting, once between room_take and room_give_back. long_ones: a
 * datagram may be longer than IP's 64 KiB, so fewer are received at once. The number of
 * datagrams, or -1 with errno. */
int room_receive(DatagramRoom *room, int fd, bool long_ones);

/* The i-th that was received, as Python objects, up to max_size bytes of it. 0, or -1 with
 * an exception. */
int room_make_datagram(LoopObject *loop, const DatagramRoom *room, int i,
                       size_t max_size, Datagram *datagram);

#endif
