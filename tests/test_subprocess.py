"""Child processes: starting, talking to them, signals, how they end."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest
import streamkit
import support
from streamkit import on_loop, pattern, until

PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT


def sh(script, *args, **kwargs):
    """A coroutine: start /bin/sh with a script of one argument."""
    return asyncio.create_subprocess_exec("/bin/sh", "-c", script, *args, **kwargs)


async def output(script, *args, **kwargs):
    """What a script prints; it has to succeed."""
    process = await sh(script, *args, stdout=PIPE, **kwargs)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


def assert_reaped(pid):
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


class Recorder(asyncio.SubprocessProtocol):
    """Records the calls in `calls` as tuples."""

    def __init__(self):
        self.calls = []
        self.data = {1: bytearray(), 2: bytearray()}
        self.lost = asyncio.get_running_loop().create_future()

    @property
    def names(self):
        return [call[0] for call in self.calls]

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append(("connection_made",))

    def pipe_data_received(self, fd, data):
        self.data[fd] += data
        self.calls.append(("pipe_data_received", fd))

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(("pipe_connection_lost", fd, exc))

    def process_exited(self):
        self.calls.append(("process_exited",))

    def connection_lost(self, exc):
        self.calls.append(("connection_lost", exc))
        self.lost.set_result(None)


def plain(loop, *args, **kwargs):
    """loop.subprocess_exec without pipes, unless asked for."""
    kwargs = {"stdin": None, "stdout": None, "stderr": None, **kwargs}
    return loop.subprocess_exec(Recorder, *args, **kwargs)


# --- how it ends ------------------------------------------------------------------


@on_loop
async def test_exit_codes(loop):
    for code in (0, 1, 127, 255):
        process = await sh(f"exit {code}")
        assert await process.wait() == code
        assert process.returncode == code
        assert await process.wait() == code
        assert_reaped(process.pid)


@on_loop
async def test_exit_by_a_signal(loop):
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1):
        process = await sh(f"kill -{int(number)} $$")
        assert await process.wait() == -number
        assert_reaped(process.pid)


@pytest.mark.parametrize(
    "send, number",
    [
        (lambda process: process.kill(), signal.SIGKILL),
        (lambda process: process.terminate(), signal.SIGTERM),
        (lambda process: process.send_signal(signal.SIGINT), signal.SIGINT),
    ],
)
@on_loop
async def test_sending_signals(loop, send, number):
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    send(process)
    assert await process.wait() == -number
    with pytest.raises(ProcessLookupError):
        send(process)


@on_loop
async def test_a_signal_that_is_handled(loop):
    process = await sh(
        "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.01; done",
        stdout=PIPE,
    )
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert await process.stdout.readline() == b"got it\n"
    assert await process.wait() == 3


@on_loop
async def test_many_waiters(loop):
    process = await sh("read line; exit 7", stdin=PIPE)
    waiting = [loop.create_task(process.wait()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    process.stdin.write(b"\n")
    assert await asyncio.gather(*waiting) == [7] * 4


@on_loop
async def test_a_hundred_at_once(loop):
    processes = await asyncio.gather(
        *(sh(f"read x; exit $((x + {i}))", stdin=PIPE) for i in range(100))
    )
    assert len({process.pid for process in processes}) == 100
    for process in processes:
        process.stdin.write(b"100\n")
    codes = await asyncio.gather(*(process.wait() for process in processes))
    assert codes == [100 + i for i in range(100)]
    for process in processes:
        assert_reaped(process.pid)


@on_loop
async def test_a_shell(loop):
    process = await asyncio.create_subprocess_shell(
        "read line; echo $line; exit 5", stdin=PIPE, stdout=PIPE
    )
    assert await process.communicate(b"hello\n") == (b"hello\n", None)
    assert process.returncode == 5


@on_loop
async def test_the_user_s_sigchld_handler(loop):
    """It is called, and not replaced."""
    seen = []
    old = signal.signal(signal.SIGCHLD, lambda *args: seen.append(args[0]))
    try:
        handler = signal.getsignal(signal.SIGCHLD)
        process = await sh("exit 4")
        assert await process.wait() == 4
        await until(lambda: seen)
        assert seen == [signal.SIGCHLD]
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, old)


@on_loop
async def test_a_sigchld_handler_of_the_loop(loop):
    seen = loop.create_future()
    loop.add_signal_handler(signal.SIGCHLD, seen.set_result, 1)
    try:
        process = await sh("exit 4")
        assert await process.wait() == 4
        await seen
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)


@on_loop
async def test_other_children_are_left_alone(loop):
    other = subprocess.Popen(["sh", "-c", "exit 9"])
    process = await sh("exit 1")
    assert await process.wait() == 1
    assert other.wait() == 9


@pytest.mark.parametrize("count", [1, 4])
def test_loops_of_other_threads(new_loop, loop_kind, count):
    support.oracle_bug(
        loop_kind,
        count > 1 and (3, 12) <= sys.version_info < (3, 14),
        "changes the process's filters of warnings as it starts a child",
    )

    def run():
        async def main():
            process = await sh("read x; echo $x; exit 3", stdin=PIPE, stdout=PIPE)
            assert await process.communicate(b"data\n") == (b"data\n", None)
            return await process.wait()

        loop = new_loop()
        try:
            return support.run(loop, main())
        finally:
            loop.close()

    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(run())) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(support.PATIENCE)
    assert codes == [3] * count


# --- pipes ------------------------------------------------------------------------


@on_loop
async def test_megabytes(loop):
    data = pattern(5_000_000)
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    out, err = await process.communicate(data)
    assert out == data
    assert err is None
    assert process.returncode == 0


@on_loop
async def test_both_outputs(loop):
    process = await sh("echo out; echo err >&2", stdout=PIPE, stderr=PIPE)
    assert await process.communicate() == (b"out\n", b"err\n")


@on_loop
async def test_stderr_to_stdout(loop):
    process = await sh("echo out; echo err >&2", stdout=PIPE, stderr=STDOUT)
    assert await process.communicate() == (b"out\nerr\n", None)
    assert process.stderr is None


@on_loop
async def test_devnull(loop):
    process = await sh(
        "cat; echo out; echo err >&2", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    )
    assert process.stdin is process.stdout is process.stderr is None
    assert await process.wait() == 0


@on_loop
async def test_files_and_descriptors(loop, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"from a file")
    with open(source, "rb") as stdin, open(target, "wb") as stdout:
        process = await sh("cat; echo err >&2", stdin=stdin, stdout=stdout.fileno())
        assert await process.wait() == 0
    assert target.read_bytes() == b"from a file"


@on_loop
async def test_a_pipe_of_two_children(loop):
    reading, writing = os.pipe()
    first = await sh("echo through", stdout=writing)
    os.close(writing)
    second = await asyncio.create_subprocess_exec("cat", stdin=reading, stdout=PIPE)
    os.close(reading)
    assert await second.communicate() == (b"through\n", None)
    assert await first.wait() == 0


@on_loop
async def test_a_conversation(loop):
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    for i in range(20):
        process.stdin.write(b"%d\n" % i)
        await process.stdin.drain()
        assert await process.stdout.readline() == b"%d\n" % i
    process.stdin.close()
    await process.stdin.wait_closed()
    assert await process.stdout.read() == b""
    assert await process.wait() == 0


@on_loop
async def test_stdin_that_nobody_reads_fills_up(loop):
    process = await sh("read line; cat >/dev/null", stdin=PIPE)
    process.stdin.write(b"x" * 1_000_000)
    draining = loop.create_task(process.stdin.drain())
    await streamkit.settle(loop)
    assert not draining.done()
    process.stdin.write(b"\n")
    await draining
    process.stdin.close()
    assert await process.wait() == 0


@on_loop
async def test_a_child_that_does_not_read(loop, asyncio_log):
    """communicate() does not mind that the other end is closed."""
    process = await sh("exec <&-; echo done", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(b"x" * 1_000_000) == (b"done\n", None)
    assert process.returncode == 0
    del process
    support.collect()
    lines = asyncio_log.take()  # of a future that the streams of 3.10 forget
    assert all(line.exception_type is BrokenPipeError for line in lines)


@on_loop
async def test_output_before_a_kill_is_read(loop):
    process = await sh("echo before; kill -9 $$", stdout=PIPE)
    assert await process.communicate() == (b"before\n", None)
    assert process.returncode == -9


# --- arguments of Popen -----------------------------------------------------------


@on_loop
async def test_cwd_env_and_executable(loop, tmp_path):
    out = await output("pwd; echo $A", cwd=tmp_path, env={"A": "b"})
    assert out.decode().split() == [os.path.realpath(tmp_path), "b"]
    process = await asyncio.create_subprocess_exec(
        "a name", "-c", "echo $0", executable="/bin/sh", stdout=PIPE
    )
    assert await process.communicate() == (b"a name\n", None)


@on_loop
async def test_umask(loop):
    assert int(await output("umask", umask=0o123), 8) == 0o123


@on_loop
async def test_start_new_session(loop):
    process = await sh("read line", stdin=PIPE, start_new_session=True)
    assert os.getsid(process.pid) == process.pid
    await process.communicate(b"")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="process_group is of 3.11")
@on_loop
async def test_process_group(loop):
    process = await sh("read line", stdin=PIPE, process_group=0)
    assert os.getpgid(process.pid) == process.pid
    await process.communicate(b"")


@on_loop
async def test_pass_fds(loop):
    with support.pipe_pair() as (reading, writing):
        script = f"echo through >/proc/self/fd/{writing}"
        with pytest.raises(AssertionError):
            await output(script, stderr=DEVNULL)
        await output(script, pass_fds=[writing])
        assert os.read(reading, 100) == b"through\n"
        os.set_inheritable(writing, True)
        await output(script, close_fds=False)
        assert os.read(reading, 100) == b"through\n"


@on_loop
async def test_preexec_fn(loop):
    assert await output("umask", preexec_fn=lambda: os.umask(0o111)) == b"0111\n"
    with pytest.raises(subprocess.SubprocessError):
        await output("exit", preexec_fn=lambda: 1 / 0)


@on_loop
async def test_user_and_group(loop):
    out = await output("id -u; id -g", user=os.getuid(), group=os.getgid())
    assert out.split() == [b"%d" % os.getuid(), b"%d" % os.getgid()]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
@on_loop
async def test_another_user(loop):
    out = await output("id -u; id -g; id -G", user=12, group=34, extra_groups=[56, 78])
    assert out.split() == [b"12", b"34", b"34", b"56", b"78"]


@on_loop
async def test_a_child_s_descriptors_are_its_own(loop):
    """Neither the loop's nor the other children's are there."""
    other = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    out = await output("ls /proc/self/fd")
    assert len(out.split()) == 4  # the last is ls's own, of the directory
    await other.communicate(b"")  # None leaves stdin open, on 3.10


@pytest.mark.parametrize(
    "wrong",
    [
        {"universal_newlines": True},
        {"text": True},
        {"encoding": "utf-8"},
        {"errors": "strict"},
        {"bufsize": 4096},
        {"shell": True},
    ],
)
@on_loop
async def test_what_asyncio_does_not_take(loop, wrong):
    with pytest.raises(ValueError):
        await plain(loop, "true", **wrong)


@on_loop
async def test_wrong_arguments(loop):
    with pytest.raises(TypeError, match="PathLike"):
        await plain(loop, "true", 1)
    with pytest.raises(TypeError, match="no_such"):
        await plain(loop, "true", no_such=1)
    with pytest.raises(ValueError, match="cmd must be"):
        await loop.subprocess_shell(Recorder, 1)


@pytest.mark.parametrize(
    "program, cwd, error",
    [
        ("/no/such/program", None, FileNotFoundError),
        ("no-such-program", None, FileNotFoundError),
        ("/etc/passwd", None, PermissionError),
        ("true", "/no/such/folder", FileNotFoundError),
        ("true", "/etc/passwd", NotADirectoryError),
    ],
)
@on_loop
async def test_a_failing_exec(loop, program, cwd, error):
    with pytest.raises(error) as caught:
        await asyncio.create_subprocess_exec(
            program, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=cwd
        )
    assert caught.value.filename == (cwd or program)


# --- transports -------------------------------------------------------------------


@on_loop
async def test_the_caller_goes_on_as_connection_made_returns(loop):
    """In the same iteration, so before what connection_made has scheduled."""
    order = []

    class Made(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            order.append("made")
            loop.call_soon(order.append, "scheduled")

    transport, protocol = await loop.subprocess_exec(Made, "cat")
    order.append("caller")
    transport.get_pipe_transport(0).close()
    await protocol.lost
    transport.close()
    assert order == ["made", "caller", "scheduled"]


@on_loop
async def test_the_order_of_calls(loop):
    transport, protocol = await loop.subprocess_exec(
        Recorder, "/bin/sh", "-c", "echo out; echo err >&2; cat; exit 3"
    )
    assert isinstance(transport, asyncio.SubprocessTransport)
    stdin = transport.get_pipe_transport(0)
    assert isinstance(stdin, asyncio.WriteTransport)
    assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
    assert transport.get_pipe_transport(3) is None
    assert transport.get_returncode() is None
    assert transport.get_extra_info("subprocess").pid == transport.get_pid()
    stdin.write(b"in")
    stdin.write_eof()
    await protocol.lost
    assert protocol.data == {1: b"out\nin", 2: b"err\n"}
    names = protocol.names
    assert names[0] == "connection_made"
    assert names[-1] == "connection_lost"
    assert names.count("process_exited") == 1
    assert protocol.calls[-1] == ("connection_lost", None)
    for fd in (0, 1, 2):
        assert protocol.calls.count(("pipe_connection_lost", fd, None)) == 1
    assert transport.get_returncode() == 3
    transport.close()
    assert transport.is_closing()


@on_loop
async def test_set_protocol(loop):
    transport, first = await plain(loop, "sh", "-c", "read x; echo $x", stdin=PIPE)
    second = Recorder()
    assert transport.get_protocol() is first
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    transport.get_pipe_transport(0).write(b"\n")
    await second.lost
    assert "connection_lost" not in first.names
    transport.close()


@on_loop
async def test_close_kills(loop, asyncio_log):
    transport, protocol = await plain(loop, "sleep", "1000", stdout=PIPE)
    pid = transport.get_pid()
    transport.close()
    transport.close()
    await protocol.lost
    assert transport.get_returncode() == -signal.SIGKILL
    assert_reaped(pid)
    assert asyncio_log.take() == []


@on_loop
async def test_repr_says_how_it_is(loop):
    transport, protocol = await plain(loop, "cat", stdin=PIPE)
    assert f"pid={transport.get_pid()} running" in repr(transport)
    transport.get_pipe_transport(0).close()
    await protocol.lost
    assert "returncode=0" in repr(transport)
    transport.close()


@on_loop
async def test_debug_mode(loop, asyncio_log):
    loop.set_debug(True)
    loop.slow_callback_duration = support.PATIENCE
    transport, protocol = await plain(loop, "sleep", "1000")
    transport.close()
    await protocol.lost
    (text,) = asyncio_log.take_texts()
    assert text.startswith("Close running child process: kill")


@on_loop
async def test_a_protocol_factory_that_raises(loop):
    def fail():
        raise KeyError("factory")

    with pytest.raises(KeyError, match="factory"):
        await loop.subprocess_exec(fail, "true")
