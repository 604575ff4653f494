/* datagram_spares.c - see datagram_spares.h.
 *
 * Owns: LoopObject.datagrams, freed when the loop closes.
 */
#include "transport/datagram_spares.h"

#include "loop/sockaddr.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

/* ---- addresses -------------------------------------------------------------- */

enum { ADDRESS_ENTRIES = 256 }; /* of each table; a power of two */

typedef struct {
    struct sockaddr_in6 name; /* or a sockaddr_in: of an IP family */
    socklen_t length;         /* 0: an empty entry */
    PyObject *object;         /* strong: a tuple of exact str and int */
} AddressEntry;

struct DatagramSpares {
    DatagramRoom *room;                     /* NULL: not made yet, or taken */
    AddressEntry received[ADDRESS_ENTRIES]; /* by the name's bytes */
    AddressEntry given[ADDRESS_ENTRIES];    /* by the tuple's identity */
};

/* NULL without an exception when there is none: the loop is closed, or no memory. */
static DatagramSpares *
spares_of(LoopObject *loop)
{
    if (loop->datagrams == NULL && loop->phase == LOOP_OPEN) {
        loop->datagrams = PyMem_RawCalloc(1, sizeof(*loop->datagrams));
    }
    return loop->datagrams;
}

static void
entry_set(AddressEntry *entry, const void *name, socklen_t length, PyObject *object)
{
    PyObject *old = entry->object;
    memset(&entry->name, 0, sizeof(entry->name));
    memcpy(&entry->name, name, length);
    entry->length = length;
    entry->object = Py_NewRef(object);
    Py_XDECREF(old); /* exact types only: runs no code */
}

static size_t
index_by_name(const void *name, socklen_t length)
{
    uint32_t hash = 0;
    for (size_t i = 0; i + sizeof(hash) <= length; i += sizeof(hash)) {
        uint32_t word;
        memcpy(&word, (const char *)name + i, sizeof(word));
        hash = (hash ^ word) * 0x9E3779B1u; /* Fibonacci hashing: 2^32 / golden ratio */
        hash ^= hash >> 15;
    }
    return hash & (ADDRESS_ENTRIES - 1);
}

static size_t
index_by_identity(PyObject *object)
{
    uint64_t hash = (uint64_t)(uintptr_t)object * 0x9E3779B97F4A7C15u;
    return (size_t)(hash >> 32) & (ADDRESS_ENTRIES - 1);
}

PyObject *
addresses_to_python(LoopObject *loop, const struct sockaddr_storage *storage,
                    socklen_t length)
{
    DatagramSpares *spares = NULL;
    if (length > 0 && length <= sizeof(struct sockaddr_in6) &&
        storage->ss_family != AF_UNIX) {
        spares = spares_of(loop);
    }
    if (spares == NULL) {
        return sockaddr_to_python(storage, length);
    }
    AddressEntry *entry = &spares->received[index_by_name(storage, length)];
    if (entry->length == length && memcmp(&entry->name, storage, length) == 0) {
        return Py_NewRef(entry->object);
    }
    PyObject *object = sockaddr_to_python(storage, length);
    if (object != NULL &&
        loop->datagrams == spares) { /* making it may collect garbage */
        entry_set(entry, storage, length, object);
    }
    return object;
}

bool
addresses_from_python(LoopObject *loop, int family, PyObject *address,
                      struct sockaddr_storage *storage, const struct sockaddr **name,
                      socklen_t *length)
{
    DatagramSpares *spares = PyTuple_CheckExact(address) ? spares_of(loop) : NULL;
    AddressEntry *entry =
        spares != NULL ? &spares->given[index_by_identity(address)] : NULL;
    if (entry != NULL && entry->object == address &&
        entry->name.sin6_family == family) {
        *name = (const struct sockaddr *)&entry->name;
        *length = entry->length;
        return true;
    }
    if (!sockaddr_from_python(family, address, storage, length)) {
        return false;
    }
    if (entry != NULL && *length <= sizeof(entry->name)) {
        entry_set(entry, storage, *length, address);
    }
    *name = (const struct sockaddr *)storage;
    return true;
}

/* ---- the room ----------------------------------------------------------------- */

enum {
    SHORT_SIZE = 64 * 1024, /* no IP packet is longer */
    /* Between two buffers: else the same bytes of all of them would compete for the same
     * lines of the processor's first cache, which repeat every 4 KiB. */
    SLOT_GAP = 256,
    SLOT_SIZE = SHORT_SIZE + SLOT_GAP,
    SHORT_SLOTS = DATAGRAM_BATCH,
    LONG_SLOTS = SHORT_SLOTS * SLOT_SIZE / (DATAGRAM_MAX_SIZE + SLOT_GAP),
};

#ifdef __linux__
typedef struct mmsghdr RoomMessage;
#else
typedef struct {
    struct msghdr msg_hdr;
    unsigned int msg_len;
} RoomMessage;
#endif

/* The same memory, divided into short or into long buffers. */
typedef struct {
    RoomMessage messages[SHORT_SLOTS];
    struct iovec vectors[SHORT_SLOTS];
} RoomDivision;

struct DatagramRoom {
    RoomDivision short_ones, long_ones;
    RoomMessage *received; /* what room_receive filled, `count` of them */
    int count;
    struct sockaddr_storage names[SHORT_SLOTS]; /* zero beyond count */
    char
        memory[SHORT_SLOTS * SLOT_SIZE]; /* of which the system gives what is touched */
};

static void
room_divide(DatagramRoom *room, RoomDivision *division, size_t slots, size_t size)
{
    for (size_t i = 0; i < slots; i++) {
        division->vectors[i].iov_base = room->memory + i * (size + SLOT_GAP);
        division->vectors[i].iov_len = size;
        struct msghdr *header = &division->messages[i].msg_hdr;
        header->msg_name = &room->names[i];
        header->msg_namelen = sizeof(room->names[i]);
        header->msg_iov = &division->vectors[i];
        header->msg_iovlen = 1;
    }
}

DatagramRoom *
room_take(LoopObject *loop)
{
    DatagramSpares *spares = spares_of(loop);
    DatagramRoom *room = spares != NULL ? spares->room : NULL;
    if (room != NULL) {
        spares->room = NULL;
        return room;
    }
    room = PyMem_RawMalloc(sizeof(*room));
    if (room == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(room, 0, offsetof(DatagramRoom, memory));
    room_divide(room, &room->short_ones, SHORT_SLOTS, SHORT_SIZE);
    room_divide(room, &room->long_ones, LONG_SLOTS, DATAGRAM_MAX_SIZE);
    return room;
}

/* As before room_receive: the kernel needs the room for a name, and its end a zero. */
static void
room_reset(DatagramRoom *room)
{
    for (int i = 0; i < room->count; i++) {
        struct msghdr *header = &room->received[i].msg_hdr;
        memset(&room->names[i], 0,
               header->msg_namelen < sizeof(room->names[i]) ? header->msg_namelen
                                                            : sizeof(room->names[i]));
        header->msg_namelen = sizeof(room->names[i]);
    }
    room->count = 0;
}

void
room_give_back(LoopObject *loop, DatagramRoom *room)
{
    DatagramSpares *spares = spares_of(loop);
    if (spares == NULL || spares->room != NULL) {
        PyMem_RawFree(room);
        return;
    }
    room_reset(room);
    spares->room = room;
}

#ifdef __linux__
static int
receive_some(int fd, RoomMessage *messages, unsigned int count)
{
    return recvmmsg(fd, messages, count, MSG_DONTWAIT, NULL);
}
#else
static int
receive_some(int fd, RoomMessage *messages, unsigned int Py_UNUSED(count))
{
    /* One: an error that a second call met would have to be kept for later. */
    ssize_t n = recvmsg(fd, &messages->msg_hdr, MSG_DONTWAIT);
    messages->msg_len = n > 0 ? (unsigned int)n : 0;
    return n < 0 ? -1 : 1;
}
#endif

int
room_receive(DatagramRoom *room, int fd, bool long_ones)
{
    assert(room->count == 0);
    RoomDivision *division = long_ones ? &room->long_ones : &room->short_ones;
    int n = receive_some(fd, division->messages, long_ones ? LONG_SLOTS : SHORT_SLOTS);
    room->received = division->messages;
    room->count = n > 0 ? n : 0;
    return n;
}

int
room_make_datagram(LoopObject *loop, const DatagramRoom *room, int i, size_t max_size,
                   Datagram *datagram)
{
    assert(i < room->count);
    const RoomMessage *message = &room->received[i];
    size_t length = message->msg_len < max_size ? message->msg_len : max_size;
    datagram->data = PyBytes_FromStringAndSize(message->msg_hdr.msg_iov->iov_base,
                                               (Py_ssize_t)length);
    if (datagram->data == NULL) {
        return -1;
    }
    datagram->address =
        addresses_to_python(loop, &room->names[i], message->msg_hdr.msg_namelen);
    if (datagram->address == NULL) {
        Py_DECREF(datagram->data);
        return -1;
    }
    return 0;
}

void
datagram_free_spares(LoopObject *loop)
{
    DatagramSpares *spares = loop->datagrams;
    if (spares == NULL) {
        return;
    }
    loop->datagrams = NULL;
    for (size_t i = 0; i < ADDRESS_ENTRIES; i++) {
        Py_XDECREF(spares->received[i].object);
        Py_XDECREF(spares->given[i].object);
    }
    PyMem_RawFree(spares->room);
    PyMem_RawFree(spares);
}
