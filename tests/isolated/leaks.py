"""Do one kind of work again and again: neither Python's nor C's heap may grow.

Arguments: the kind of loop, the name of the work.
"""

import asyncio
import contextlib
import gc
import os
import socket
import sys

import support

ROUNDS = 8
REPEATS = 300

#: Bytes, and blocks of Python's allocator, that a round may leave: no work here leaves
#: less than one per repeat if it leaves any.
ALLOWED_BYTES = 100 * REPEATS // 10
ALLOWED_BLOCKS = REPEATS // 10


def target(*args):
    pass


def fail(*args):
    raise LookupError


def callbacks(loop):
    loop.call_soon(target)
    loop.call_soon(target, 1, 2, 3)
    loop.call_soon(target, *range(20))
    loop.call_soon(target).cancel()
    loop.call_soon_threadsafe(target, 1)
    loop.call_soon_threadsafe(target, 1).cancel()
    support.run_once(loop)


def timers(loop):
    loop.call_later(0, target, 1)
    loop.call_at(0, target)
    loop.call_later(1000, target).cancel()
    repr(loop.call_later(1000, target, 1))
    for handle in loop._scheduled:
        handle.cancel()
    support.run_once(loop)


def handles(loop):
    for handle in (loop.call_soon(target, 1), loop.call_at(0, target, 1)):
        for name in ("_callback", "_args", "_context", "_loop", "_repr"):
            getattr(handle, name)
        repr(handle)
        hash(handle)
        handle == handle  # noqa: B015
        handle.cancelled()
    list(loop._ready)
    list(loop._scheduled)
    support.run_once(loop)


def errors(loop):
    for function, *args in (
        (loop.call_soon,),
        (loop.call_later, None, target),
        (loop.call_later, "x", target),
        (loop.call_later, 10**400, target),
        (loop.add_reader, -1, target),
        (loop.add_reader, "x", target),
        (loop.add_reader, 9999, target),
        (loop.set_exception_handler, 1),
        (loop.set_task_factory, 1),
        (loop.create_task, 1),
    ):
        with contextlib.suppress(Exception):
            function(*args)
    loop.set_exception_handler(target)
    loop.call_soon(fail)
    loop.call_at(0, fail)
    support.run_once(loop)
    loop.set_exception_handler(fail)
    loop.default_exception_handler = target
    loop.call_soon(fail)
    support.run_once(loop)
    del loop.default_exception_handler
    for exception_type in (KeyboardInterrupt, SystemExit):

        def leave(exception_type=exception_type):
            raise exception_type

        loop.call_soon(leave)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            loop.run_forever()


def descriptors(loop):
    with support.socket_pair() as (left, right):
        right.send(b"x")
        loop.add_reader(left, target, 1)
        loop.add_reader(left, target, 2)
        loop.add_writer(left, target, 3)
        support.run_once(loop)
        loop.remove_reader(left)
        loop.remove_writer(left)
        loop.add_writer(right, target, 4)
        support.run_once(loop)
        loop.remove_writer(right)


def tasks(loop):
    async def child(i):
        await asyncio.sleep(0)
        return i

    async def main():
        await asyncio.gather(*(child(i) for i in range(5)))
        task = asyncio.create_task(asyncio.sleep(1000))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(1000), 0)

    loop.run_until_complete(main())


def debug(loop):
    loop.set_debug(True)
    loop.slow_callback_duration = 1000
    callbacks(loop)
    timers(loop)
    with contextlib.suppress(TypeError):
        loop.call_soon(None)
    loop.set_debug(False)


def clocks(loop):
    loop.time = lambda: 5.0
    loop.call_later(0, target)
    support.run_once(loop)
    del loop.time
    loop.attribute = object()
    loop._run_once_result = loop.call_soon(loop.stop)
    loop.run_forever()


def sockets(loop):
    async def main():
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            receiving = asyncio.ensure_future(loop.sock_recv(left, 100))
            await asyncio.sleep(0)
            await loop.sock_sendall(right, b"x" * 50)
            await receiving
            cancelled = asyncio.ensure_future(loop.sock_recv(left, 100))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])

    loop.run_until_complete(main())


def datagrams(loop):
    class Protocol(asyncio.DatagramProtocol):
        received = 0

        def datagram_received(self, data, addr):
            self.received += 1
            self.transport.sendto(data, addr)

        def connection_made(self, transport):
            self.transport = transport

    async def main():
        server, echo = await loop.create_datagram_endpoint(
            Protocol, local_addr=("127.0.0.1", 0)
        )
        client, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=server.get_extra_info("sockname")
        )
        for _ in range(3):
            client.sendto(b"x" * 50)
        while echo.received < 3:
            await asyncio.sleep(0)
        client.sendto(bytes(70_000))  # too long
        client.close()
        server.abort()
        await asyncio.sleep(0)

    async def queued(near, far):
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, sock=near
        )
        address = far.getsockname()
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"x" * 50, address)
        for _ in range(20):
            transport.sendto(bytearray(50), address)
        far.setblocking(False)
        for _ in range(5):
            far.recv(100)
        await asyncio.sleep(0)
        transport.abort()
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    if sys.platform == "linux":
        near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in "12")
        with near, far:
            far.bind("")  # the kernel chooses an abstract name
            loop.run_until_complete(queued(near, far))


def pipes(loop):
    class Protocol(asyncio.Protocol):
        lost = False

        def connection_lost(self, exc):
            self.lost = True

    async def connect():
        read, write = os.pipe()
        reader, _ = await loop.connect_read_pipe(Protocol, open(read, "rb", 0))
        writer, _ = await loop.connect_write_pipe(Protocol, open(write, "wb", 0))
        return reader, writer

    async def until_lost(*protocols):
        while not all(protocol.lost for protocol in protocols):
            await asyncio.sleep(0)

    async def main():
        reader, writer = await connect()
        ends = reader.get_protocol(), writer.get_protocol()
        repr(reader), repr(writer), reader.get_extra_info("pipe")
        reader.pause_reading()
        reader.resume_reading()
        writer.writelines([b"x" * 50, bytearray(50)])
        writer.write_eof()
        await until_lost(*ends)
        writer.write(b"late")
        reader, writer = await connect()
        ends = reader.get_protocol(), writer.get_protocol()
        writer.set_write_buffer_limits(high=100)
        writer.write(b"x" * 100_000)
        reader.close()
        await until_lost(*ends)
        with open(os.devnull, "rb") as file, contextlib.suppress(AttributeError):
            await loop.connect_read_pipe(object, file)

    loop.run_until_complete(main())


def loops(loop):
    other = support.make_loop(sys.argv[1])
    other.call_soon(target)
    other.call_later(1000, target, other)
    other.run_until_complete(asyncio.sleep(0))
    other.close()


def names(loop):
    async def main():
        await loop.getaddrinfo("127.0.0.1", 80)
        await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)

    loop.run_until_complete(main())


WORK = {
    function.__name__: function
    for function in (
        callbacks,
        clocks,
        datagrams,
        debug,
        descriptors,
        errors,
        handles,
        loops,
        names,
        pipes,
        sockets,
        tasks,
        timers,
    )
}


def main():
    kind, name = sys.argv[1:]
    work = WORK[name]
    loop = support.make_loop(kind)
    measured = []
    for _ in range(ROUNDS):
        for _ in range(REPEATS):
            work(loop)
        gc.collect()
        measured.append((sys.getallocatedblocks(), support.malloc_bytes()))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    # caches may fill in any round; a leak grows in every one
    growth = [
        (after[0] - before[0], after[1] - before[1])
        for before, after in zip(measured[1:], measured[2:], strict=False)
    ]
    assert min(blocks for blocks, _ in growth) < ALLOWED_BLOCKS, growth
    assert min(size for _, size in growth) < ALLOWED_BYTES, growth


if __name__ == "__main__":
    main()
