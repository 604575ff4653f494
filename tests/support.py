"""Helpers shared by the tests.

Nothing here knows which event loop is under test except `make_loop`.  The module
imports no test framework, so that the scripts under `isolated/` can use it too.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
import time

TESTS_DIR = os.path.dirname(os.path.abspath(__file__))
PROJECT_DIR = os.path.dirname(TESTS_DIR)

#: Seconds after which a helper gives up.  Reached only when something hangs.
PATIENCE = 30.0

LOOP_KINDS = ("asyncio", "pyloop", "uvloop")

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


# --- loops --------------------------------------------------------------------


def make_loop(kind):
    """Return a new, not yet running loop of a kind from LOOP_KINDS."""
    return loop_class(kind)()


def loop_class(kind):
    """Return the class of the loops that make_loop(kind) makes."""
    if kind == "asyncio":
        return asyncio.SelectorEventLoop
    if kind == "pyloop":
        import pyloop

        return pyloop.Loop
    if kind == "uvloop":
        import uvloop

        return uvloop.Loop
    raise ValueError(f"unknown kind of loop: {kind!r}")


def oracle_bug(kind, when, reason):
    """Skip the test on asyncio where asyncio itself has a known bug.

    when: whether this version of Python has it.  Other loops have to pass.
    """
    if kind == "asyncio" and when:
        import pytest

        pytest.skip(f"asyncio of this version of Python: {reason}")


def core_stats():
    """Return pyloop's counts of live objects, or {} when pyloop is not imported."""
    core = sys.modules.get("pyloop._core")
    return dict(core.debug_stats()) if core is not None else {}


# --- running ------------------------------------------------------------------


def run(loop, awaitable, timeout=PATIENCE):
    """Run an awaitable to its result; fail instead of hanging.

    The time limit is a timer of the loop itself.  Where timers or wake-ups are what
    is being tested, use loop.run_until_complete: the limit per test catches a hang.
    """

    async def limited():
        return await asyncio.wait_for(awaitable, timeout)

    try:
        return loop.run_until_complete(limited())
    except asyncio.TimeoutError:
        raise AssertionError(f"not done after {timeout} s: {awaitable!r}") from None


def run_until(loop, predicate, timeout=PATIENCE):
    """Run the loop until predicate() is true, asking it every millisecond.

    The timer that asks also wakes the loop, so this proves nothing about wake-ups.
    """

    async def wait():
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > deadline:
                raise AssertionError(f"still false after {timeout} s: {predicate!r}")
            await asyncio.sleep(0.001)

    loop.run_until_complete(wait())


def run_once(loop):
    """Run one iteration: the idiom that asyncio's documentation of stop() describes."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def spin(loop, iterations=5):
    """Run this many iterations of the loop."""
    for _ in range(iterations):
        run_once(loop)


def busy_wait(seconds):
    """Keep the thread busy until time.monotonic() has moved by so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def run_in_thread(function, *args, timeout=PATIENCE):
    """Call function(*args) in a new thread; return or raise what it did."""
    outcome = {}

    def body():
        try:
            outcome["result"] = function(*args)
        except BaseException as exc:
            outcome["error"] = exc

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), f"thread still runs after {timeout} s"
    try:
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]
    finally:
        outcome.clear()


def wait_for_condition(predicate, timeout=PATIENCE, what="condition"):
    """Block this thread until predicate() is true; for what other threads do."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: still false after {timeout} s")
        time.sleep(0.001)


def wait_until_asleep(thread, process="self"):
    """Block until the kernel says that a thread sleeps: the loop in it waits.

    thread: its native id (the process id is that of its main thread).  A signal sent
    before that may come between asyncio's last look at signals and its system call.
    """

    def asleep():
        with open(f"/proc/{process}/task/{thread}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "S"

    def asleep_for_a_while():
        if not asleep():
            return False
        time.sleep(0.01)
        return asleep()

    wait_for_condition(asleep_for_a_while, what=f"thread {thread} sleeps")


# --- what is reported ---------------------------------------------------------


class ErrorRecorder:
    """An exception handler that keeps the contexts it is called with.

    `contexts` holds the dictionaries in order.  As a context manager it is the
    loop's handler inside the block only, and forgets the contexts at its end.
    """

    def __init__(self, loop):
        self.loop = loop
        self.contexts = []
        self._previous = None

    def __call__(self, loop, context):
        assert loop is self.loop
        self.contexts.append(context)

    def __enter__(self):
        self._previous = self.loop.get_exception_handler()
        self.loop.set_exception_handler(self)
        return self

    def __exit__(self, *exc_info):
        self.loop.set_exception_handler(self._previous)
        self.contexts = []

    @property
    def messages(self):
        return [context["message"] for context in self.contexts]

    @property
    def exceptions(self):
        return [context.get("exception") for context in self.contexts]

    def only(self):
        """Return the one context there is."""
        assert len(self.contexts) == 1, self.contexts
        return self.contexts[0]


class LogLine:
    """What is kept of a log record: no reference to the objects it was about."""

    def __init__(self, record):
        self.level = record.levelno
        self.text = record.getMessage()
        exc_info = record.exc_info
        self.exception_type = exc_info[0] if exc_info else None
        self.exception_text = str(exc_info[1]) if exc_info else None

    def __repr__(self):
        return f"<{logging.getLevelName(self.level)} {self.text!r}>"


class AsyncioLog(logging.Filter):
    """Keeps what is logged to `asyncio`, and strips references from the records.

    A log record holds the exception and through it the loop; pytest keeps records
    until the test has ended, so without this nothing could be counted in teardown.
    """

    def __init__(self):
        super().__init__()
        self.lines = []

    def filter(self, record):
        if record.levelno >= logging.WARNING:
            self.lines.append(LogLine(record))
        record.msg = record.getMessage()
        record.args = None
        record.exc_info = None
        return True

    def take(self, level=logging.WARNING):
        """Return the lines of this level and above, and forget all lines."""
        lines = [line for line in self.lines if line.level >= level]
        self.lines.clear()
        return lines

    def take_texts(self, level=logging.WARNING):
        return [line.text for line in self.take(level)]


# --- descriptors and threads --------------------------------------------------


def open_descriptors():
    """Return {number: what it is} of this process's descriptors, {} without /proc."""
    try:
        numbers = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return {}
    found = {}
    for number in numbers:
        with contextlib.suppress(OSError):  # the one listdir used is closed by now
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


def native_threads():
    """Return the ids of the threads the kernel sees, none without /proc.

    One that was joined may still be among them for a moment. When one ends while the
    kernel lists them, those after it are not listed: its own count tells.
    """
    try:
        while True:
            found = set(os.listdir("/proc/self/task"))
            with open("/proc/self/status") as status:
                (count,) = (line for line in status if line.startswith("Threads:"))
            if len(found) == int(count.split()[1]):
                return found
    except FileNotFoundError:
        return set()


class MallocInfo(ctypes.Structure):
    """What glibc's mallinfo2() returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena ordblks smblks hblks hblkhd usmblks fsmblks "
            "uordblks fordblks keepcost"
        ).split()
    ]


def malloc_bytes():
    """Return the bytes in use on the C heap, 0 where that cannot be asked."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return 0
    mallinfo2.restype = MallocInfo
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def collect():
    """Run the collector until finalizers have made nothing new to collect."""
    for _ in range(5):
        if not gc.collect():
            break


def is_descriptor_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# --- sockets ------------------------------------------------------------------


def free_port(host="127.0.0.1", kind=socket.SOCK_STREAM):
    """Return a port that was free a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def socket_pair(kind=socket.SOCK_STREAM):
    """Two connected non-blocking Unix sockets, closed at the end of the block."""
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


@contextlib.contextmanager
def tcp_pair():
    """Two connected non-blocking TCP sockets, closed at the end of the block."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


@contextlib.contextmanager
def pipe_pair():
    """Both ends of a pipe (read, write); ends the test closed stay closed."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


def fill(sock):
    """Write to a non-blocking socket until it takes no more; return the byte count."""
    total = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            total += sock.send(b"x" * 65536)
    return total


def drain(sock):
    """Read a non-blocking socket until it has no more; return the bytes."""
    chunks = []
    with contextlib.suppress(BlockingIOError):
        while True:
            chunk = sock.recv(65536)
            if not chunk:
                break
            chunks.append(chunk)
    return b"".join(chunks)


class Certificates:
    """A certificate authority and one server certificate, made with trustme, or with
    the openssl command where trustme cannot be installed (free-threaded 3.13).

    `ca_path`, `chain_path` and `key_path` are files; `server_context()` and
    `client_context()` make fresh contexts that trust each other.
    """

    def __init__(self, directory):
        self.ca_path = os.path.join(directory, "ca.pem")
        self.chain_path = os.path.join(directory, "chain.pem")
        self.key_path = os.path.join(directory, "key.pem")
        try:
            import trustme
        except ImportError:
            self._make_with_openssl(directory)
        else:
            self._make_with_trustme(trustme)

    def _make_with_openssl(self, directory):
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
        ca_key = os.path.join(directory, "ca-key.pem")
        signed_by = ["-CA", self.ca_path, "-CAkey", ca_key]
        for name, out, key, options in (
            ("ca", self.ca_path, ca_key, ["-addext", "keyUsage=critical,keyCertSign"]),
            ("leaf", self.chain_path, self.key_path, [*signed_by, "-addext", names]),
        ):
            is_ca = str(name == "ca").upper()
            command = ["openssl", "req", "-x509", "-nodes", "-days", "2"]
            command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            command += ["-subj", f"/CN=pyloop test {name}", "-out", out, "-keyout", key]
            command += ["-addext", f"basicConstraints=critical,CA:{is_ca}", *options]
            subprocess.run(command, check=True, capture_output=True)

    def _make_with_trustme(self, trustme):
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "127.0.0.1", "::1")
        authority.cert_pem.write_to_path(self.ca_path)
        leaf.private_key_pem.write_to_path(self.key_path)
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(self.chain_path, append=True)

    def server_context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain_path, self.key_path)
        return context

    def client_context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca_path)
        return context


# --- scripts in a process of their own ----------------------------------------


def run_script(script, *args, flags=(), env=None, timeout=2 * PATIENCE, check=True):
    """Run a Python script in a new interpreter; return the CompletedProcess.

    script: a path, or the source text if it contains a newline.  The script can
    import this module and the pyloop that this process would import.  With `check`
    it must exit with 0 and print nothing to stderr; stdout and stderr are text.
    """
    command = [sys.executable, *flags]
    command += ["-c", script] if "\n" in script else [script]
    command += [str(arg) for arg in args]
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env=script_environment(env),
    )
    if check:
        assert process.returncode == 0 and not process.stderr, (
            f"exit status {process.returncode}\n"
            f"--- stdout\n{process.stdout}\n--- stderr\n{process.stderr}"
        )
    return process


def script_environment(extra=None):
    """Return the environment that run_script gives to a script."""
    environment = dict(os.environ)
    search = [TESTS_DIR]
    if "pyloop" in sys.modules:
        package = os.path.dirname(os.path.abspath(sys.modules["pyloop"].__file__))
        search.append(os.path.dirname(package))
    if environment.get("PYTHONPATH"):
        search.append(environment["PYTHONPATH"])
    environment["PYTHONPATH"] = os.pathsep.join(search)
    environment.update(extra or {})
    return environment
