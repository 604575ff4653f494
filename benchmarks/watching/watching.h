/* watching.h - what the programs of this experiment share.
 *
 * A Poller is one way of watching descriptors.  All ways have the interface that the
 * loop needs (watch, change the mask, unwatch, wait and collect), so that the server
 * on top is the same code and only the way differs.
 *
 * Events are copied into poller->events while waiting and handed out afterwards, as
 * the loop does it: nothing is dispatched from inside libuv.  An event carries the
 * generation of its watch, because a descriptor's number may be reused meanwhile.
 */
#ifndef WATCHING_H
#define WATCHING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum { WATCH_READ = 1, WATCH_WRITE = 2 };
enum { MAX_EVENTS = 1024, MAX_FDS = 4096 };

typedef struct {
    int fd;
    uint32_t generation;
    unsigned mask; /* WATCH_*; on an error both */
} Event;

typedef struct Poller Poller;

typedef struct {
    const char *name;
    /* Each returns 0, or a negative errno. */
    int (*open)(Poller *self);
    void (*close)(Poller *self);
    int (*watch)(Poller *self, int fd, unsigned mask);
    int (*change)(Poller *self, int fd, unsigned mask);
    int (*unwatch)(Poller *self, int fd);
    /* Blocks until something happened; fills events and events_len (may be 0). */
    int (*wait)(Poller *self);
} PollerWay;

struct Poller {
    const PollerWay *way;
    uv_loop_t uv;
    uv_async_t
        waker; /* as every loop has one; never unreferenced, see poller_epoll.c */
    Event events[MAX_EVENTS];
    size_t events_len;
    uint64_t waits;                /* calls of wait */
    uint32_t generations[MAX_FDS]; /* by descriptor; 0 = not watched */
    uint32_t last_generation;
    /* uv_poll */
    uv_poll_t *handles[MAX_FDS]; /* by descriptor; owned, or NULL */
    /* the ways with an epoll descriptor of their own */
    int epfd;
    uv_poll_t nested;
    bool nested_ready;
    bool was_busy; /* nested_first: the last wait found something */
};

/* pollers.c */
const PollerWay *poller_way_find(const char *name); /* NULL: no such way */
/* Exits on failure.  on_wake: the callback of poller->waker. */
Poller *poller_new(const char *name, uv_async_cb on_wake);
void poller_free(Poller *self);
void poller_record(Poller *self, int fd, uint32_t generation, unsigned mask);
uint32_t poller_next_generation(Poller *self);
_Noreturn void die(const char *what, int err); /* err: errno, either sign */
void pin_to_core(int core);
uint64_t now_ns(void);

/* poller_uv_poll.c, poller_epoll.c */
extern const PollerWay way_uv_poll;
extern const PollerWay way_nested;
extern const PollerWay way_nested_first;
extern const PollerWay way_inverted;

/* What the server and the load generator, a process each, tell one another. */
typedef enum {
    PHASE_WARM_UP,
    PHASE_MEASURE,
    PHASE_COOL_DOWN, /* still the same traffic: the end is measured inside it */
    PHASE_END,
} Phase;

typedef struct {
    _Atomic int phase; /* set by the load generator only */
} Shared;

typedef enum {
    WORK_ECHO,  /* each message is sent back at once */
    WORK_MASK,  /* each message is sent back when write interest reports */
    WORK_CHURN, /* a connection per message */
} Work;

typedef struct {
    const char *way;
    Work work;
    int connections;
    size_t size;    /* bytes of a message */
    double seconds; /* of the measured phase */
    int port;
    int listener; /* non-blocking, owned by the server */
    Shared *shared;
} Job;

/* The server's side of the measurement: what had been used when a phase began. */
typedef struct {
    uint64_t wall_ns;
    uint64_t cpu_ns;
    uint64_t user_us;
    uint64_t system_us;
    uint64_t bytes;
    uint64_t waits;
    uint64_t syscalls;
    uint64_t epoll_ctls;
} Snapshot;

typedef struct {
    Phase seen;
    Snapshot begin, end;
} Meter;

/* echo.c */
void meter_look(Meter *self, const Shared *shared, uint64_t bytes, uint64_t waits);

/* server.c, server_uv_tcp.c, load.c */
void serve_with_poller(const Job *job, Meter *meter);
void serve_with_uv_tcp(const Job *job, Meter *meter);
void load_run(const Job *job);

/* count.c, linked into echo-count only (weak elsewhere: zero). */
extern uint64_t counted_syscalls, counted_epoll_ctls;

#endif
