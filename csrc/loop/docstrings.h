/* The docstrings of Loop's public methods, for its method table in loop.c alone.
 *
 * A first line with the signature, as inspect.signature() reads it; then what is taken,
 * with units, what is returned, and what is raised. The API reference is made of them.
 */
#ifndef PYLOOP_LOOP_DOCSTRINGS_H
#define PYLOOP_LOOP_DOCSTRINGS_H

static const char doc_call_soon[] =
    "call_soon($self, callback, *args, context=None)\n--\n\n"
    "Schedule callback(*args) for the next iteration; return its Handle.\n\n"
    "context: the contextvars.Context to run it in; a copy of the current one by\n"
    "default. Raises RuntimeError when the loop is closed. As asyncio's\n"
    "loop.call_soon().";

static const char doc_call_later[] =
    "call_later($self, delay, callback, *args, context=None)\n--\n\n"
    "Schedule callback(*args) in delay seconds; return its TimerHandle.\n\n"
    "delay: an int or a float; it runs never earlier. context: as call_soon()'s.\n"
    "Raises TypeError for a delay that is no number, ValueError for NaN, and\n"
    "RuntimeError when the loop is closed. As asyncio's loop.call_later().";

static const char doc_call_at[] =
    "call_at($self, when, callback, *args, context=None)\n--\n\n"
    "Schedule callback(*args) at a time; return its TimerHandle.\n\n"
    "when: in seconds of time(), an int or a float. context: as call_soon()'s. Raises\n"
    "what call_later() raises. As asyncio's loop.call_at().";

static const char doc_call_soon_threadsafe[] =
    "call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n"
    "Schedule callback(*args) from any thread, and wake the loop; return its "
    "Handle.\n\n"
    "context: as call_soon()'s. Raises RuntimeError when the loop is closed. As\n"
    "asyncio's loop.call_soon_threadsafe().";

static const char doc_time[] =
    "time($self, /)\n--\n\n"
    "Return the loop's monotonic clock in seconds; the same as time.monotonic().";

static const char doc_stop[] = "stop($self, /)\n--\n\n"
                               "End run_forever() after the current iteration.";

static const char doc_is_running[] =
    "is_running($self, /)\n--\n\nReturn True while the loop runs.";

static const char doc_is_closed[] =
    "is_closed($self, /)\n--\n\nReturn True after close().";

static const char doc_get_debug[] =
    "get_debug($self, /)\n--\n\nReturn True in debug mode.";

static const char doc_create_future[] =
    "create_future($self, /)\n--\n\nReturn a new asyncio.Future of this loop.";

static const char doc_create_task[] =
    "create_task($self, coro, **kwargs)\n--\n\n"
    "Schedule a coroutine; return its asyncio.Task.\n\n"
    "coro: the coroutine. Keyword arguments are those of this Python's asyncio (name,\n"
    "context, ...). Raises TypeError for what is no coroutine and RuntimeError when\n"
    "the loop is closed. As asyncio's loop.create_task().";

static const char doc_add_reader[] =
    "add_reader($self, fd, callback, *args)\n--\n\n"
    "Call callback(*args) whenever a descriptor is readable.\n\n"
    "fd: a descriptor, or an object with fileno(); its former callback is replaced.\n"
    "Raises ValueError for an invalid descriptor, RuntimeError for one that a\n"
    "transport uses, OSError for one that cannot be watched. As asyncio's\n"
    "loop.add_reader().";

static const char doc_add_writer[] =
    "add_writer($self, fd, callback, *args)\n--\n\n"
    "Call callback(*args) whenever a descriptor is writable.\n\n"
    "fd: a descriptor, or an object with fileno(). Raises what add_reader() raises.\n"
    "As asyncio's loop.add_writer().";

static const char doc_remove_reader[] =
    "remove_reader($self, fd)\n--\n\n"
    "Stop watching fd for reading; return True if it was watched.\n\n"
    "fd: a descriptor, or an object with fileno(). Raises ValueError for an invalid\n"
    "descriptor and RuntimeError for one that a transport uses.";

static const char doc_remove_writer[] =
    "remove_writer($self, fd)\n--\n\n"
    "Stop watching fd for writing; return True if it was watched.\n\n"
    "fd: a descriptor, or an object with fileno(). Raises ValueError for an invalid\n"
    "descriptor and RuntimeError for one that a transport uses.";

/* What every sock_* takes is said by the first. */
static const char doc_sock_recv[] =
    "sock_recv($self, sock, n)\n--\n\n"
    "Coroutine: receive up to n bytes; return them, b\"\" at the end.\n\n"
    "sock: a socket that does not block; that is asked for in debug mode only, where\n"
    "ValueError is raised for another. Raises OSError as socket.recv() does, and\n"
    "TypeError for an SSLSocket. As asyncio's loop.sock_recv().";

static const char doc_sock_recv_into[] =
    "sock_recv_into($self, sock, buf)\n--\n\n"
    "Coroutine: receive into a buffer; return the number of bytes, 0 at the end.\n\n"
    "sock: as sock_recv()'s. buf: a writable buffer. Raises OSError as\n"
    "socket.recv_into() does. As asyncio's loop.sock_recv_into().";

static const char doc_sock_recvfrom[] =
    "sock_recvfrom($self, sock, bufsize)\n--\n\n"
    "Coroutine: receive a datagram; return (bytes, address).\n\n"
    "sock: as sock_recv()'s. bufsize: bytes at most; what is longer is cut. Raises\n"
    "OSError as socket.recvfrom() does. As asyncio's loop.sock_recvfrom().";

static const char doc_sock_recvfrom_into[] =
    "sock_recvfrom_into($self, sock, buf, nbytes=0)\n--\n\n"
    "Coroutine: receive a datagram into a buffer; return (number of bytes, "
    "address).\n\n"
    "sock: as sock_recv()'s. buf: a writable buffer. nbytes: bytes at most; 0 means\n"
    "the buffer's size. Raises ValueError for a buffer that is smaller, and OSError\n"
    "as socket.recvfrom_into() does. As asyncio's loop.sock_recvfrom_into().";

static const char doc_sock_sendall[] =
    "sock_sendall($self, sock, data)\n--\n\n"
    "Coroutine: send all of data.\n\n"
    "sock: as sock_recv()'s. data: bytes or another buffer. Raises OSError as\n"
    "socket.send() does; how much was sent is not known then. As asyncio's\n"
    "loop.sock_sendall().";

static const char doc_sock_sendto[] =
    "sock_sendto($self, sock, data, address)\n--\n\n"
    "Coroutine: send a datagram; return the number of bytes sent.\n\n"
    "sock: as sock_recv()'s. data: bytes or another buffer. address: as\n"
    "socket.sendto() takes it. Raises OSError as that does. As asyncio's\n"
    "loop.sock_sendto().";

static const char doc_sock_accept[] =
    "sock_accept($self, sock)\n--\n\n"
    "Coroutine: accept a connection; return (socket, address).\n\n"
    "sock: a listening socket that does not block; the new one does not either.\n"
    "Raises OSError as socket.accept() does. As asyncio's loop.sock_accept().";

static const char doc_sock_connect[] =
    "sock_connect($self, sock, address)\n--\n\n"
    "Coroutine: connect a socket.\n\n"
    "sock: as sock_recv()'s. address: as socket.connect() takes it; a host's name is\n"
    "looked up first. Raises OSError as that does. As asyncio's loop.sock_connect().";

static const char doc_getaddrinfo[] =
    "getaddrinfo($self, host, port, *, family=0, type=0, proto=0, flags=0)\n--\n\n"
    "Coroutine: socket.getaddrinfo() without blocking; return what that returns.\n\n"
    "host, port, family, type, proto, flags: as there. An address and a number are\n"
    "answered at once, names by the default executor. Raises socket.gaierror. As\n"
    "asyncio's loop.getaddrinfo().";

static const char doc_getnameinfo[] =
    "getnameinfo($self, sockaddr, flags=0)\n--\n\n"
    "Coroutine: socket.getnameinfo() without blocking; return (host, port).\n\n"
    "sockaddr, flags: as there. Raises socket.gaierror. As asyncio's\n"
    "loop.getnameinfo().";

#endif
