/* state.h - the module's state: one X-macro table each for types, names and imports.
 *
 * The struct, its traverse and its clear all come from these tables, so they cannot
 * disagree. Who may use it: any object that holds the module strongly, or holds a Loop
 * (which does); see docs/internals/ownership.md. After module_clear every member is
 * NULL although the memory lives: dealloc paths use none of them.
 */
#ifndef PYLOOP_BASE_STATE_H
#define PYLOOP_BASE_STATE_H

#include "base/compat.h"

#include "base/watched.h"

/* Creation order: bases first. */
#define PYLOOP_TYPES(X)                                                                \
    X(Handle, handle)                                                                  \
    X(ThreadSafeHandle, threadsafehandle)                                              \
    X(TimerHandle, timerhandle)                                                        \
    X(Loop, loop)                                                                      \
    X(SocketTransport, socket)                                                         \
    X(ReadPipeTransport, pipe_reader)                                                  \
    X(WritePipeTransport, pipe_writer)                                                 \
    X(DatagramTransport, datagram)                                                     \
    X(Listener, listener)                                                              \
    X(SockOp, sockop)                                                                  \
    X(ConnectOp, connectop)                                                            \
    X(TransportOp, transportop)                                                        \
    X(StreamReader, streamreader)                                                      \
    X(TLSTransport, tlstransport)                                                      \
    X(TLSFacts, tlsfacts)                                                              \
    X(ReadOp, readop)                                                                  \
    X(NameQuery, namequery)                                                            \
    X(Watcher, watcher)                                                                \
    X(AccelFunction, accelfunction)                                                    \
    X(AccelCoro, accelcoro)                                                            \
    X(AccelGather, accelgather)

/* Interned names. */
#define PYLOOP_STRINGS(X)                                                              \
    X(_about_to_block)                                                                 \
    X(accept)                                                                          \
    X(_accept_in_task)                                                                 \
    X(acquire)                                                                         \
    X(add_done_callback)                                                               \
    X(ag_code)                                                                         \
    X(__anext__)                                                                       \
    X(_app_protocol)                                                                   \
    X(_app_protocol_is_buffer)                                                         \
    X(_app_reading_paused)                                                             \
    X(_app_transport)                                                                  \
    X(_app_writing_paused)                                                             \
    X(append)                                                                          \
    X(_asyncio_future_blocking)                                                        \
    X(_attach)                                                                         \
    X(_buffer)                                                                         \
    X(buffer_updated)                                                                  \
    X(call_at)                                                                         \
    X(_call_connection_lost)                                                           \
    X(_call_eof_received)                                                              \
    X(call_exception_handler)                                                          \
    X(call_later)                                                                      \
    X(call_soon)                                                                       \
    X(cancel)                                                                          \
    X(_cancel_message)                                                                 \
    X(_cancel_requested)                                                               \
    X(_cancelled)                                                                      \
    X(cancelled)                                                                       \
    X(cancelling)                                                                      \
    X(_check_callback)                                                                 \
    X(__class__)                                                                       \
    X(clear)                                                                           \
    X(close)                                                                           \
    X(_closed)                                                                         \
    X(connect)                                                                         \
    X(_connect_sock)                                                                   \
    X(connection_lost)                                                                 \
    X(connection_made)                                                                 \
    X(context)                                                                         \
    X(_control_app_writing)                                                            \
    X(_control_ssl_reading)                                                            \
    X(_coro)                                                                           \
    X(cr_await)                                                                        \
    X(cr_code)                                                                         \
    X(create_connection)                                                               \
    X(_create_connection_transport)                                                    \
    X(_created_at)                                                                     \
    X(create_future)                                                                   \
    X(create_task)                                                                     \
    X(data_received)                                                                   \
    X(datagram_received)                                                               \
    X(debug)                                                                           \
    X(_detach)                                                                         \
    X(_dispatch)                                                                       \
    X(_do_flush)                                                                       \
    X(_do_handshake)                                                                   \
    X(_do_read)                                                                        \
    X(_do_shutdown)                                                                    \
    X(_do_write)                                                                       \
    X(done)                                                                            \
    X(_ensure_resolved)                                                                \
    X(_eof)                                                                            \
    X(eof_received)                                                                    \
    X(error_received)                                                                  \
    X(_exception)                                                                      \
    X(exception)                                                                       \
    X(family)                                                                          \
    X(_fatal_error)                                                                    \
    X(feed_data)                                                                       \
    X(fileno)                                                                          \
    X(_finished)                                                                       \
    X(_find_transport)                                                                 \
    X(flags)                                                                           \
    X(Future)                                                                          \
    X(func)                                                                            \
    X(_get)                                                                            \
    X(get_buffer)                                                                      \
    X(_get_loop)                                                                       \
    X(get_loop)                                                                        \
    X(get_write_buffer_size)                                                           \
    X(getaddrinfo)                                                                     \
    X(getnameinfo)                                                                     \
    X(getpeername)                                                                     \
    X(getsockname)                                                                     \
    X(getsockopt)                                                                      \
    X(_getters)                                                                        \
    X(gettimeout)                                                                      \
    X(gi_code)                                                                         \
    X(handle)                                                                          \
    X(_incoming)                                                                       \
    X(_incoming_high_water)                                                            \
    X(_ipaddr_info)                                                                    \
    X(is_closing)                                                                      \
    X(_is_shutdown)                                                                    \
    X(_limit)                                                                          \
    X(_locked)                                                                         \
    X(_log_destroy_pending)                                                            \
    X(_log_slow_callback)                                                              \
    X(_loop)                                                                           \
    X(loop)                                                                            \
    X(_make_cancelled_error)                                                           \
    X(_make_selector_datagram)                                                         \
    X(_make_selector_socket)                                                           \
    X(_make_socket_transport)                                                          \
    X(_maxsize)                                                                        \
    X(message)                                                                         \
    X(name)                                                                            \
    X(_outgoing)                                                                       \
    X(_outgoing_high_water)                                                            \
    X(pause_reading)                                                                   \
    X(pause_writing)                                                                   \
    X(_paused)                                                                         \
    X(peername)                                                                        \
    X(pending)                                                                         \
    X(pipe)                                                                            \
    X(popleft)                                                                         \
    X(_process_outgoing)                                                               \
    X(proto)                                                                           \
    X(protocol)                                                                        \
    X(_protocol)                                                                       \
    X(_put)                                                                            \
    X(_pyloop_facts)                                                                   \
    X(_putters)                                                                        \
    X(__qualname__)                                                                    \
    X(_queue)                                                                          \
    X(read)                                                                            \
    X(_read_inbox)                                                                     \
    X(readexactly)                                                                     \
    X(readline)                                                                        \
    X(readuntil)                                                                       \
    X(recv)                                                                            \
    X(recv_into)                                                                       \
    X(recvfrom)                                                                        \
    X(recvfrom_into)                                                                   \
    X(release)                                                                         \
    X(remove)                                                                          \
    X(_report_callback_error)                                                          \
    X(result)                                                                          \
    X(_resume)                                                                         \
    X(resume_reading)                                                                  \
    X(resume_writing)                                                                  \
    X(_run_handle)                                                                     \
    X(__self__)                                                                        \
    X(send)                                                                            \
    X(sendto)                                                                          \
    X(set_exception)                                                                   \
    X(set_result)                                                                      \
    X(set_write_buffer_limits)                                                         \
    X(setblocking)                                                                     \
    X(slow_callback_duration)                                                          \
    X(sock_connect)                                                                    \
    X(socket)                                                                          \
    X(sockname)                                                                        \
    X(source_traceback)                                                                \
    X(_source_traceback)                                                               \
    X(_ssl_protocol)                                                                   \
    X(_ssl_reading_paused)                                                             \
    X(_ssl_writing_paused)                                                             \
    X(_sslobj)                                                                         \
    X(_start)                                                                          \
    X(_start_reading)                                                                  \
    X(_start_selector_serving)                                                         \
    X(_start_shutdown)                                                                 \
    X(_state)                                                                          \
    X(_step_aside)                                                                     \
    X(_stream_reader_wr)                                                               \
    X(Task)                                                                            \
    X(_task_created)                                                                   \
    X(throw)                                                                           \
    X(Timeout)                                                                         \
    X(time)                                                                            \
    X(_transport)                                                                      \
    X(transport)                                                                       \
    X(type)                                                                            \
    X(uncancel)                                                                        \
    X(_unfinished_tasks)                                                               \
    X(_value)                                                                          \
    X(_waiter)                                                                         \
    X(_waiters)                                                                        \
    X(_wake_up_next)                                                                   \
    X(warning)                                                                         \
    X(write)                                                                           \
    X(_write_appdata)                                                                  \
    X(_write_backlog)                                                                  \
    X(_write_buffer_size)

/* Objects of Python's own library, looked up once at import: field, module, attribute. */
#define PYLOOP_IMPORTS(X)                                                              \
    X(AsyncioHandle, "asyncio.events", "Handle")                                       \
    X(AsyncioThreadSafeHandle, "asyncio.events", PYLOOP_THREADSAFE_HANDLE)             \
    X(AsyncioTimerHandle, "asyncio.events", "TimerHandle")                             \
    X(FlowControlMixin, "asyncio.transports", "_FlowControlMixin")                     \
    X(ReadTransport, "asyncio.transports", "ReadTransport")                            \
    X(DatagramTransportBase, "asyncio.transports", "DatagramTransport")                \
    X(BufferedProtocol, "asyncio.protocols", "BufferedProtocol")                       \
    X(BaseEventLoop, "asyncio.base_events", "BaseEventLoop")                           \
    X(base_events_module, "asyncio.base_events", "")                                   \
    X(create_connection, "asyncio.base_events", "BaseEventLoop.create_connection")     \
    X(create_connection_transport, "asyncio.base_events",                              \
      "BaseEventLoop._create_connection_transport")                                    \
    X(connect_sock, "asyncio.base_events", "BaseEventLoop._connect_sock")              \
    X(ensure_resolved, "asyncio.base_events", "BaseEventLoop._ensure_resolved")        \
    X(ipaddr_info, "asyncio.base_events", "_ipaddr_info")                              \
    X(TransportSocket, "asyncio.trsock", "TransportSocket")                            \
    X(futures_module, "asyncio.futures", "")                                           \
    X(tasks_module, "asyncio.tasks", "")                                               \
    X(set_result_unless_cancelled, "asyncio.futures", "_set_result_unless_cancelled")  \
    X(extract_stack, "asyncio.format_helpers", "extract_stack")                        \
    X(logger, "asyncio.log", "logger")                                                 \
    X(sendfile_try_native, "asyncio.constants", "_SendfileMode.TRY_NATIVE")            \
    X(SendfileNotAvailableError, "asyncio.exceptions", "SendfileNotAvailableError")    \
    X(socket_module, "socket", "")                                                     \
    X(SocketType, "socket", "socket")                                                  \
    X(BaseSocketType, "_socket", "socket")                                             \
    X(socket_family, "_socket", "socket.family")                                       \
    X(socket_type, "_socket", "socket.type")                                           \
    X(socket_proto, "_socket", "socket.proto")                                         \
    X(family_inet, "socket", "AF_INET")                                                \
    X(family_inet6, "socket", "AF_INET6")                                              \
    X(type_stream, "socket", "SOCK_STREAM")                                            \
    X(type_dgram, "socket", "SOCK_DGRAM")                                              \
    X(type_raw, "socket", "SOCK_RAW")                                                  \
    X(tls_handshake, "asyncio.sslproto", PYLOOP_TLS_HANDSHAKE)                         \
    X(tls_wrapped, "asyncio.sslproto", PYLOOP_TLS_WRAPPED)                             \
    X(tls_flushing, "asyncio.sslproto", PYLOOP_TLS_FLUSHING)                           \
    X(tls_shutdown, "asyncio.sslproto", PYLOOP_TLS_SHUTDOWN)                           \
    X(SSLWantReadError, "ssl", "SSLWantReadError")                                     \
    X(SSLSyscallError, "ssl", "SSLSyscallError")                                       \
    X(SSLSocket, "ssl", "SSLSocket")                                                   \
    X(get_running_loop, "asyncio.events", "_get_running_loop")                         \
    X(current_task, "asyncio.tasks", "current_task")                                   \
    X(awaited_by_add, PYLOOP_AWAITED_MODULE, PYLOOP_AWAITED_ADD)                       \
    X(awaited_by_discard, PYLOOP_AWAITED_MODULE, PYLOOP_AWAITED_DISCARD)               \
    X(FutureClass, "asyncio.futures", "Future")                                        \
    X(TaskClass, "asyncio.tasks", "Task")                                              \
    X(CancelledError, "asyncio.exceptions", "CancelledError")                          \
    X(Deque, "collections", "deque")                                                   \
    X(deque_append, "collections", "deque.append")                                     \
    X(deque_popleft, "collections", "deque.popleft")                                   \
    X(future_blocking, "asyncio.futures", "Future._asyncio_future_blocking")           \
    X(future_cancelled, "asyncio.futures", "Future.cancelled")                         \
    X(future_done, "asyncio.futures", "Future.done")                                   \
    X(future_exception, "asyncio.futures", "Future.exception")                         \
    X(future_result, "asyncio.futures", "Future.result")                               \
    X(future_set_result, "asyncio.futures", "Future.set_result")                       \
    X(task_add_done_callback, "asyncio.tasks", "Task.add_done_callback")               \
    X(task_cancelled, "asyncio.tasks", "Task.cancelled")                               \
    X(task_exception, "asyncio.tasks", "Task.exception")                               \
    X(task_log_destroy_pending, "asyncio.tasks", "Task._log_destroy_pending")          \
    X(task_result, "asyncio.tasks", "Task.result")                                     \
    X(timeouts_module, PYLOOP_TIMEOUTS, "")                                            \
    X(timeout_created, PYLOOP_TIMEOUTS, PYLOOP_IN_TIMEOUTS("_State.CREATED"))          \
    X(timeout_entered, PYLOOP_TIMEOUTS, PYLOOP_IN_TIMEOUTS("_State.ENTERED"))          \
    X(timeout_exited, PYLOOP_TIMEOUTS, PYLOOP_IN_TIMEOUTS("_State.EXITED"))            \
    X(timeout_on_timeout, PYLOOP_TIMEOUTS, PYLOOP_IN_TIMEOUTS("Timeout._on_timeout"))  \
    X(task_cancelling, PYLOOP_TIMEOUTS, PYLOOP_IN_TIMEOUTS("tasks.Task.cancelling"))

typedef struct RunningLoops RunningLoops;

/* Live objects, for tests: debug_stats() returns them. */
#define PYLOOP_COUNTERS(X)                                                             \
    X(loops)                                                                           \
    X(handles)                                                                         \
    X(transports)                                                                      \
    X(datagrams)                                                                       \
    X(servers)                                                                         \
    X(sock_ops)                                                                        \
    X(watches)                                                                         \
    X(watchers)

typedef struct {
#define X(N, f) PyTypeObject *N##Type;
    PYLOOP_TYPES(X)
#undef X
#define X(n) PyObject *str_##n;
    PYLOOP_STRINGS(X)
#undef X
#define X(f, module, attribute) PyObject *f;
    PYLOOP_IMPORTS(X)
#undef X
    PyObject *empty_tuple;
    PyObject *context_keyword;      /* ("context",) */
    PyObject *original_getaddrinfo; /* socket.getaddrinfo as it was at import */
    PyObject *original_getnameinfo;
    uint64_t loaded_ticks, loaded_ns; /* metrics.c: the clocks as it was loaded */
    bool trace_waits;                 /* _core.trace(): loops call _about_to_block() */
    bool trace_creation;              /* and _task_created() */
    bool future_inits_once;           /* tasks.c found out: Python 3.15's does */
    Watched watched[WATCHED_COUNT];
    RunningLoops *running; /* owned: loop/running.c */
    size_t held_plain;     /* the sum of all loops' of that name */
    int tls_watcher;       /* tls_facts.c: of dicts, plus one; 0: there is none */
    Py_ssize_t
        sock_fd_offset; /* sockets.c: of the descriptor in a socket object, or 0 */
#define X(n) Py_ssize_t live_##n;
    PYLOOP_COUNTERS(X)
#undef X
} PyloopState;

extern PyModuleDef pyloop_module_def; /* module.c */

/* Fills names and imports; the rest comes after (module.c). 0, or -1. */
int state_init(PyloopState *state);
int state_traverse(PyloopState *state, visitproc visit, void *arg);
void state_clear(PyloopState *state);

static inline PyloopState *
state_of_module(PyObject *module)
{
    return (PyloopState *)PyModule_GetState(module);
}

#endif
