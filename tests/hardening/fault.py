"""make fault: every system call of the core fails, with every errno that it documents.

For each scenario, the calls that the core makes in its armed part are counted; then
each of the first few (--calls) of a kind fails, once with each errno, and every read
and write is cut to a few bytes. So do those of libuv's calls whose failure libuv hands
to its caller; what the interpreter and its modules call is left alone. Expected is a
right result, or that errno in an OSError, raised, reported or given to connection_lost.
What EINTR and EAGAIN interrupt, and what is cut short, has to come to the right result.
No descriptor and no object of the core may be left; nothing spins.

    python tests/hardening/fault.py [--calls N] [SCENARIO ...]
"""

import ctypes
import errno
import faulthandler
import gc
import sys

import driver
import scenarios
import shims
import support
from world import Hooks, World, descriptors, exception_names

ARMED, CALLER, FUNCTION, NUMBER, ERROR, LIMIT, FIRED, COUNTS = range(8)
CALLERS = ("core", "libuv")

RECEIVING = "EAGAIN EINTR ECONNREFUSED ECONNRESET ENOMEM ENOTCONN EBADF EFAULT EINVAL"
SENDING = (
    "EAGAIN EINTR EACCES ECONNRESET EDESTADDRREQ EMSGSIZE ENOBUFS ENOMEM ENOTCONN "
    "EPIPE EBADF EINVAL"
)
FILE = "EAGAIN EINTR EIO EPIPE ENOSPC EBADF EINVAL"

#: What may fail and how, in the order of failcall.c's list: the manual pages' errors.
ERRORS = {
    "epoll_create1": "EMFILE ENFILE ENOMEM",
    "epoll_ctl": "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM",
    "epoll_wait": "EINTR EBADF EFAULT EINVAL",
    "eventfd": "EMFILE ENFILE ENODEV ENOMEM",
    "timerfd_create": "EMFILE ENFILE ENODEV ENOMEM",
    "timerfd_settime": "EBADF ECANCELED EINVAL",
    "recv": RECEIVING,
    "recvfrom": RECEIVING,
    "recvmmsg": RECEIVING,
    "send": SENDING,
    "sendto": SENDING,
    "sendmsg": SENDING,
    "sendmmsg": SENDING,
    "accept4": "EAGAIN EINTR ECONNABORTED EBADF EINVAL EMFILE ENFILE ENOBUFS ENOMEM "
    "EOPNOTSUPP EPERM EPROTO",
    "socket": "EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM",
    "connect": "EACCES EADDRINUSE EADDRNOTAVAIL EBADF ECONNREFUSED ENETUNREACH "
    "ETIMEDOUT",
    "getsockopt": "EBADF EINVAL ENOPROTOOPT",
    "setsockopt": "EBADF EINVAL ENOPROTOOPT",
    "getsockname": "EBADF EINVAL ENOBUFS",
    "getpeername": "EBADF EINVAL ENOBUFS ENOTCONN",
    "shutdown": "EBADF EINVAL ENOTCONN",
    "close": "EINTR EIO ENOSPC",
    "read": FILE,
    "write": FILE,
    "writev": FILE,
    "sendfile64": "EAGAIN EBADF EINVAL EIO ENOMEM EOVERFLOW ESPIPE",
    "fcntl64": "EBADF EINVAL EPERM",
    "fstat64": "EBADF ENOMEM EOVERFLOW",
    "ioctl": "EBADF EINVAL ENOTTY",
    "lseek64": "EBADF EINVAL ENXIO EOVERFLOW ESPIPE",
    "epoll_pwait": "",
    "pipe2": "",
}

#: The same for libuv's calls. What is not here it acts on itself: it aborts the process
#: if epoll_ctl, or reading or writing its eventfd, fails for another reason; 1.53 also
#: for a write's EINTR, which an eventfd that does not block never says.
ERRORS_OF_LIBUV = {
    "epoll_create1": "EMFILE ENFILE ENOMEM",
    "epoll_wait": "EINTR",
    "epoll_pwait": "EINTR",
    "read": "EAGAIN EINTR",
    "write": "EINTR",
    "fcntl64": "EBADF EINVAL",
    "ioctl": "EBADF EINVAL",
    "eventfd": "EMFILE ENFILE ENODEV ENOMEM",
    "pipe2": "EMFILE ENFILE",
}


def errors_of_libuv():
    """ERRORS_OF_LIBUV, for the version that is loaded."""
    from pyloop import _core

    version = tuple(int(part) for part in _core.libuv_version.split(".")[:2])
    left_out = () if version < (1, 45) else ("write",)
    return {name: e for name, e in ERRORS_OF_LIBUV.items() if name not in left_out}


#: What else the core asks of the C library, and why none of it is made to fail: regular
#: expressions for names, as nm prints them. test_hardening.py looks at the rest.
NOT_FAILED = {
    r"_?Py\w+": "the interpreter's",
    r"uv_\w+": "libuv's: what they call fails instead, where it can",
    r"mem\w+|str\w+|__(mem|str)\w+_chk|ceil|floor|fmax|ldexp|__ctype_\w+": "computes",
    r"malloc|calloc|realloc|free": "make oom has the allocations",
    r"getenv|getpid|inet_ntop|inet_pton|__errno_location": "no error is possible",
    r"clock_gettime": "there is a monotonic clock, or there is no Python",
    r"eventfd_write": "fails for an eventfd only that is full or closed",
    r"usleep": "a pause between two looks, which a signal may shorten",
    r"__assert_fail|__stack_chk_fail|__tls_get_addr": "the compiler's",
    r"__cxa_finalize|__gmon_start__|_ITM_\w+": "the linker's",
    r"pthread_once|__register_atfork": "once, before there is a loop",
    r"pthread_sigmask|sig(fill|empty|add)set|sigaction": "fail for bad arguments only",
    r"__libc_current_sigrt(min|max)|pthread_self": "no error is possible",
    r"syscall": "the watchdog's timer, without which a block is told later",
}

#: After these nothing may be lost: the call is to be made again.
TRANSIENT = {"EAGAIN", "EINTR"}

#: What is believed of the kernel, and acted on, so that another error may come of it:
#: that a descriptor is registered already, or was closed and so is not registered.
BELIEVED = {("epoll_ctl", "EEXIST"), ("epoll_ctl", "ENOENT"), ("fstat64", "EBADF")}

#: The same in single scenarios: of what is registered anew after a fork; and asyncio's
#: communicate() says nothing of a child that does not take its input.
BELIEVED_IN = {
    ("forked", "epoll_ctl"): "EBADF EPERM",
    ("child_of_streams", "write"): ERRORS["write"],
}

#: Those that move bytes or messages, and may move fewer than asked.
CUT = (
    *("recv", "recvmmsg", "send", "sendmsg", "sendmmsg"),
    *("read", "write", "writev", "sendfile64"),
)

#: What these say can be of no use to anybody: the connection's next call tells; and a
#: file that could be sent from can be positioned.
IGNORED = {"setsockopt", "close", "getsockname", "getpeername", "shutdown", "lseek64"}


#: Seconds after which a scenario that waits is taken to wait for ever; and those that
#: one gets that would be a finding then: the machine may have been busy.
SHORT, LONG = 0.5, 20.0


class FailingCalls(Hooks):
    """Armed, the chosen call fails with an errno, or is cut to `limit` bytes."""

    patience = SHORT

    def __init__(self):
        library = ctypes.CDLL(None)
        for caller, code in enumerate((shims.code_of_core(), shims.code_of_libuv())):
            for low, high in code:
                library.failcall_add_range(
                    caller, ctypes.c_size_t(low), ctypes.c_size_t(high)
                )
        self.size = COUNTS + len(CALLERS) * len(ERRORS)
        self.control = shims.control("failcall_control", self.size)
        self.chosen = (0, -1, 0, 0, 0)

    def choose(self, caller, function, number, error, limit):
        """Which fails: the core's or libuv's calls of a function, by their names; the
        number of the call, 0 for all; its errno, or 0 and the limit."""
        place = list(ERRORS).index(function)
        self.chosen = (CALLERS.index(caller), place, number, error, limit)

    def arm(self, world):
        for place in range(FIRED, self.size):
            self.control[place] = 0
        for place, value in enumerate(self.chosen, CALLER):
            self.control[place] = value
        self.control[ARMED] = 1

    def disarm(self, world):
        self.control[ARMED] = 0

    def pretend_fork(self):
        shims.pretend_fork()

    def counts(self):
        """How often which was called: {(caller, function): how often}."""
        keys = [(caller, name) for caller in CALLERS for name in ERRORS]
        return {key: self.control[COUNTS + place] for place, key in enumerate(keys)}


class Runner:
    """Runs one scenario with chosen calls failing."""

    def __init__(self, name, kind):
        self.function = scenarios.SCENARIOS[name]
        self.kind = kind
        self.hooks = FailingCalls()
        self.certificates = driver.certificates()

    def once(self):
        """(what the scenario came to, what was seen of exceptions, what is wrong)."""
        world = World(self.kind, self.hooks, self.certificates)
        outcome, names = "right", []
        try:
            self.function(world)
        except BaseException as exc:
            names = exception_names(exc)
            outcome = f"{type(exc).__name__}: {exc}"[:200]
        world.finish()
        faults = list(world.faults)
        if outcome == "GaveUp: spins" or "SystemError" in names:
            faults.append(outcome)
        return outcome, names + world.seen.names, faults

    def left(self):
        gc.collect()
        counts = {f"live {key}": n for key, n in support.core_stats().items()}
        counts["descriptors"] = descriptors()
        return counts

    def unharmed(self):
        """once() without a failure; again with patience: the machine may be busy."""
        outcome, _, faults = self.once()
        if outcome.startswith("GaveUp"):
            self.hooks.patience = LONG
            outcome, _, faults = self.once()
            self.hooks.patience = SHORT
        return outcome, faults

    def judged(self, function, error, limit):
        """once() with the chosen failure: (the outcome, what is wrong)."""
        outcome, names, faults = self.once()
        if not self.hooks.control[FIRED] or outcome == "right":
            return outcome, faults
        if error in TRANSIENT or limit:
            faults.append(f"{outcome}, although nothing was lost")
        elif (
            f"errno {self.hooks.chosen[3]}" not in names
            and "ConnectionResetError" not in names  # what streams and TLS make of it
            and function not in IGNORED
            and (function, error) not in BELIEVED
            and error
            not in BELIEVED_IN.get((self.function.__name__, function), "").split()
        ):
            faults.append(f"{outcome}, and nobody heard of {error}: {names}")
        return outcome, faults

    def case(self, caller, function, number, error, limit):
        """One failing call; prints its result."""
        code = getattr(errno, error) if error else 0
        what = f"{caller} {function} {number} {error or 'short'}"
        driver.say(begin=self.case_number, what=what)
        self.hooks.choose(caller, function, number, code, limit)
        before = self.left()
        outcome, faults = self.judged(function, error, limit)
        if faults and outcome.startswith("GaveUp"):
            self.hooks.patience = LONG
            outcome, faults = self.judged(function, error, limit)
            self.hooks.patience = SHORT
        grown = {
            key: n - before[key] for key, n in self.left().items() if n > before[key]
        }
        faults += [f"leaves {n} {key}" for key, n in grown.items()]
        if self.hooks.control[FIRED] or faults:
            faults = [f"{what}: {fault}" for fault in faults]
            result = dict(outcome=outcome, owner=f"{caller} {function}", faults=faults)
            driver.say(n=self.case_number, **result)

    def cases(self, most):
        """(caller, function, number, errno or None, limit) of each case."""
        for (caller, function), count in self.hooks.counts().items():
            errors = ERRORS if caller == "core" else errors_of_libuv()
            for number in range(1, min(count, most) + 1):
                for error in errors.get(function, "").split():
                    yield caller, function, number, error, 0
            if count and function in CUT and caller == "core":
                # These send a queue's hundred thousand bytes, the others little.
                limit = 50 if function in ("sendmsg", "writev", "sendfile64") else 2
                yield caller, function, 0, None, limit
                yield caller, function, 0, None, 1000

    def run(self, first, most):
        for _ in range(3):
            outcome, faults = self.unharmed()
            if outcome != "right" or faults:
                wrong = f"without any failure: {outcome} {faults}"
                driver.say(n=0, faults=[wrong])
                driver.say(end=True)
                return
        gc.collect()
        gc.freeze()
        for number, case in enumerate(list(self.cases(most)), 1):
            self.case_number = number
            if number >= first:
                self.case(*case)
        driver.say(end=True)


def main():
    options = driver.options(__doc__, calls=4)
    names = scenarios.names_of(options.scenarios)
    if options.child:
        faulthandler.enable()
        Runner(names[0], options.loop).run(options.first, options.calls)
        return 0
    reason = shims.missing()
    if reason:
        sys.exit(f"not here: {reason}")
    with driver.folder() as folder:
        environment = {"LD_PRELOAD": shims.build("failcall", folder)}
        extra = ["--calls", str(options.calls)]
        return driver.run_all(__file__, names, options, environment, extra)


if __name__ == "__main__":
    sys.exit(main())
