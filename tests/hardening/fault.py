"""make fault: every system call of the core fails, with every errno that it documents.

For each scenario, the calls that the core makes in its armed part are counted; then
each of the first few (--calls) of a kind fails, once with each errno, and every read
and write is cut to a few bytes. Calls inside libuv and the interpreter are left alone.
Expected is a right result, or that errno in an OSError, raised, reported or given to
connection_lost. What EINTR and EAGAIN interrupt, and what is cut short, has to come to
the right result. No descriptor and no object of the core may be left; nothing spins.

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

ARMED, FUNCTION, NUMBER, ERROR, LIMIT, FIRED, COUNTS = range(7)

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
    "setsockopt": "EBADF EINVAL ENOPROTOOPT",
    "getsockname": "EBADF EINVAL ENOBUFS",
    "getpeername": "EBADF EINVAL ENOBUFS ENOTCONN",
    "shutdown": "EBADF EINVAL ENOTCONN",
    "close": "EINTR EIO ENOSPC",
    "read": FILE,
    "write": FILE,
    "writev": FILE,
    "sendfile64": "EAGAIN EBADF EINVAL EIO ENOMEM EOVERFLOW ESPIPE",
}

#: After these nothing may be lost: the call is to be made again.
TRANSIENT = {"EAGAIN", "EINTR"}

#: What is believed of the kernel, and acted on, so that another error may come of it:
#: that a descriptor is registered already, or was closed and so is not registered.
BELIEVED = {("epoll_ctl", "EEXIST"), ("epoll_ctl", "ENOENT")}

#: Those that move bytes or messages, and may move fewer than asked.
CUT = ("recv", "recvmmsg", "send", "sendmsg", "sendmmsg", "read", "write", "writev")

#: What these say can be of no use to anybody: the connection's next call tells.
IGNORED = {"setsockopt", "close", "getsockname", "getpeername", "shutdown"}


class FailingCalls(Hooks):
    """Armed, call `number` of `function` fails with `error`, or is cut to `limit`."""

    patience = 0.7

    def __init__(self):
        library = ctypes.CDLL(None)
        for low, high in shims.code_of_core():
            library.failcall_add_range(ctypes.c_size_t(low), ctypes.c_size_t(high))
        self.control = shims.control("failcall_control", 64)
        self.choose(-1, 0, 0, 0)

    def choose(self, function, number, error, limit):
        self.chosen = (function, number, error, limit)

    def arm(self, world):
        for place in range(FIRED, FIRED + 1 + len(ERRORS)):
            self.control[place] = 0
        for place, value in enumerate(self.chosen, FUNCTION):
            self.control[place] = value
        self.control[ARMED] = 1

    def disarm(self, world):
        self.control[ARMED] = 0

    def counts(self):
        """How often each function was called: {its name: how often}."""
        return {name: self.control[COUNTS + place] for place, name in enumerate(ERRORS)}


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
        if outcome == "GaveUp: spins":
            faults.append(outcome)
        return outcome, names + world.seen.names, faults

    def left(self):
        gc.collect()
        counts = {f"live {key}": n for key, n in support.core_stats().items()}
        counts["descriptors"] = descriptors()
        return counts

    def case(self, function, number, error, limit):
        """One failing call; prints its result."""
        code = getattr(errno, error) if error else 0
        what = f"{function} {number} {error or 'short'}"
        driver.say(begin=self.case_number, what=what)
        self.hooks.choose(list(ERRORS).index(function), number, code, limit)
        before = self.left()
        outcome, names, faults = self.once()
        if self.hooks.control[FIRED] and outcome != "right":
            if error in TRANSIENT or limit:
                faults.append(f"{outcome}, although nothing was lost")
            elif (
                f"errno {code}" not in names
                and "ConnectionResetError"
                not in names  # what streams and TLS make of it
                and function not in IGNORED
                and (function, error) not in BELIEVED
            ):
                faults.append(f"{outcome}, and nobody heard of {error}: {names}")
        grown = {
            key: n - before[key] for key, n in self.left().items() if n > before[key]
        }
        faults += [f"leaves {n} {key}" for key, n in grown.items()]
        if self.hooks.control[FIRED] or faults:
            faults = [f"{what}: {fault}" for fault in faults]
            driver.say(n=self.case_number, outcome=outcome, faults=faults)

    def cases(self, most):
        """(function, number, errno or None, limit) of each case of the scenario."""
        for function, count in self.hooks.counts().items():
            for number in range(1, min(count, most) + 1):
                for error in ERRORS[function].split():
                    yield function, number, error, 0
            if count and function in CUT:
                # These send a queue's hundred thousand bytes, the others little.
                yield function, 0, None, 50 if function in ("sendmsg", "writev") else 2
                yield function, 0, None, 1000

    def run(self, first, most):
        for _ in range(3):
            outcome, _, faults = self.once()
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
