"""make oom: every allocation of every scenario fails, one at a time.

For each scenario and each n, the n-th allocation of its armed part fails: Python's and
the core's own, not those inside libuv and OpenSSL. Expected is a MemoryError, raised or
reported, or a right result without it; and afterwards nothing may be left: no loop,
handle, transport or descriptor, no block of memory, no reference to one of the core's
types. A scenario runs in a process of its own, so that a crash or a hang is a finding.

Only what the core asks for fails, itself or through the interpreter's C functions. With
--everybody 1 so does what Python code and other extension modules ask for; CPython does
not survive that everywhere (a MemoryError while a coroutine is made, for one, crashes
3.13.0, whatever the loop), so that what is found then has to be judged.

Before 3.13, where the interpreter's symbols were taken away, what Python code asks for
cannot always be told from what the core asks for, and fails too: that has to be judged
likewise.

    python tests/hardening/oom.py [--burst N] [--everybody 1] [SCENARIO ...]
"""

import ctypes
import faulthandler
import gc
import json
import os
import sys
import tempfile

import driver
import scenarios
import shims
import support
from world import Hooks, World, clear_caches, descriptors, exception_names

COUNTDOWN, BURST, FIRED, LIVE, TRACE, OWNER, EVERYBODY, OF_TASK = range(8)
OWNERS = ("nobody", "core", "module", "python")

#: Runs of a scenario before allocations fail: caches fill, code is specialised.
WARM_UP = 12

#: How often a failure that left something is repeated, to tell a leak from a cache that
#: fills: each time in turn, the last because some caches take hundreds.
WINDOWS = (30, 30, 400)


#: Seconds after which a scenario that waits is taken to wait for ever; and those that
#: one gets that would be a finding then: the machine may have been busy.
SHORT, LONG = 0.15, 5.0

#: Before 3.11, CPython does not take a MemoryError that dies from the collector before
#: it lets go of its traceback. A collection that this leads to, as by the warning of a
#: coroutine that was never awaited, finds an object without references, and crashes.
SURVIVES_COLLECTIONS = sys.version_info >= (3, 11)


class FailingAllocations(Hooks):
    """Armed, allocation `number` fails, and burst - 1 behind it."""

    patience = SHORT

    def __init__(self):
        library = ctypes.CDLL(None)
        library.failalloc_use_this_thread()
        places = (  # in the order of failalloc.c's OF_*
            shims.code_of_python(),
            shims.code_of_core(),
            shims.code_of_evaluation(),
            shims.code_of_tasks(),
        )
        for whose, ranges in enumerate(places):
            for low, high in ranges:
                library.failalloc_add_range(
                    whose, ctypes.c_size_t(low), ctypes.c_size_t(high)
                )
        self.unused = 0
        self.control = shims.control("failalloc_control", OF_TASK + 1)
        self.number = 0
        self.burst = 1

    def arm(self, world):
        for place in (FIRED, OWNER, OF_TASK):
            self.control[place] = 0
        self.control[BURST] = self.burst
        self.control[COUNTDOWN] = self.number

    def disarm(self, world):
        self.unused = self.control[COUNTDOWN]
        self.control[COUNTDOWN] = 0

    def pretend_fork(self):
        shims.pretend_fork()

    def lost_a_step(self):
        return self.control[OF_TASK] > 0

    def stack(self):
        """Where the allocation that failed last was asked for, the innermost first."""
        with tempfile.TemporaryFile() as file:
            ctypes.CDLL(None).failalloc_write_stack(file.fileno())
            file.seek(0)
            return file.read().decode(errors="replace").splitlines()


class Runner:
    """Runs one scenario with chosen allocations failing."""

    def __init__(self, name, kind, burst):
        self.function = scenarios.SCENARIOS[name]
        self.kind = kind
        self.hooks = FailingAllocations()
        self.hooks.burst = burst
        self.certificates = driver.certificates()

    def patient(self, number):
        """once(), and again with patience: the machine may have been busy."""
        outcome, seen, faults = self.once(number)
        if faults and "GaveUp" in outcome:
            self.hooks.patience = LONG
            outcome, seen, faults = self.once(number)
            self.hooks.patience = SHORT
        return outcome, seen, faults

    def once(self, number):
        """(what the scenario came to, whether the failure was seen, what is wrong)."""
        self.hooks.number = number
        world = World(self.kind, self.hooks, self.certificates)
        names = []
        outcome = "right"
        try:
            self.function(world)
        except BaseException as exc:
            names = exception_names(exc)
            outcome = f"{type(exc).__name__}: {exc}"[:200]
        world.finish()
        seen = "MemoryError" in names + world.seen.names or any(
            "MemoryError" in text for text in world.seen.texts
        )
        faults = list(world.faults)
        if "SystemError" in names:
            faults.append(outcome)
        fired = self.hooks.control[FIRED]
        if fired and outcome != "right" and not seen:
            faults.append(f"without a MemoryError: {outcome} {world.seen.texts}")
        if outcome == "GaveUp: spins":
            faults.append(f"{outcome} {world.seen.texts}")
        if not fired and outcome != "right":
            faults.append(f"without any failure: {outcome} {world.seen.texts}")
        return outcome, seen, faults

    def left(self):
        """What must not grow: {what: how many}."""
        gc.collect()
        clear_caches()
        counts = {f"live {key}": n for key, n in support.core_stats().items()}
        counts["descriptors"] = descriptors()
        for number, kind in enumerate(self.types):
            counts[f"references to {kind.__name__}"] = sys.getrefcount(
                self.types[number]
            )
        counts["blocks of memory"] = self.hooks.control[LIVE]
        return counts

    def run(self, first):
        """Go through the allocations from `first` on; print a line for each."""
        core = sys.modules["pyloop._core"]
        self.types = [value for value in vars(core).values() if isinstance(value, type)]
        for _ in range(WARM_UP):
            outcome, _, faults = self.patient(0)
            if outcome != "right" or faults:
                driver.say(n=0, faults=[f"without any failure: {outcome} {faults}"])
                return
        gc.collect()
        gc.freeze()
        if self.function in scenarios.OWN_PROCESS:
            self.run_children(first)
            return
        number = first
        unreached = 0
        while unreached < 3:  # a free list may have served the one before
            driver.say(begin=number)
            before = self.left()
            outcome, seen, faults = self.patient(number)
            owner = OWNERS[self.hooks.control[OWNER]]
            fired = self.hooks.control[FIRED]
            unreached = unreached + 1 if self.hooks.unused else 0
            result = json.dumps(dict(n=number, outcome=outcome, owner=owner))
            outcome = None
            grown = self.grown(before) if fired else None
            if grown:
                faults += [
                    f"leaves {n} {what}"
                    for what, n in self.confirmed_growth(number).items()
                ]
            if fired or faults:
                stack = self.hooks.stack() if faults else []
                driver.say(**json.loads(result), faults=faults, stack=stack)
            number += 1
        driver.say(end=True)

    def grown(self, before):
        return {
            key: n - before[key] for key, n in self.left().items() if n > before[key]
        }

    def repeated(self, number, times):
        """What so many repetitions leave, {what: how many more}."""
        before = self.left()
        for _ in range(times):
            self.once(number)
        return self.grown(before)

    def confirmed_growth(self, number):
        """What every repetition leaves and does not leave without the failure, which
        may be a cache that fills: {what: how many more}."""
        found = None
        for times in WINDOWS:
            failing, right = self.repeated(number, times), self.repeated(0, times)
            window = {
                what: (n - right.get(what, 0)) // times
                for what, n in failing.items()
                if n - right.get(what, 0) >= times and (found is None or what in found)
            }
            if not window:
                return {}
            found = window
        return found

    def once_in_a_child(self, number):
        """once() in a copy of this process: what is wrong with how that ends."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            outcome, _, faults = self.once(number)
            os.write(writing, json.dumps([outcome, faults]).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if status:
            return "", [f"exit status {os.waitstatus_to_exitcode(status)}"]
        return json.loads(text)

    def run_children(self, first):
        """For what the interpreter does not survive unhurt: a process for each."""
        self.once(10**9)
        for number in range(first, 10**9 - self.hooks.unused):
            driver.say(begin=number)
            outcome, faults = self.once_in_a_child(number)
            driver.say(n=number, outcome=outcome, owner="core", faults=faults)
        driver.say(end=True)


def main():
    options = driver.options(__doc__, burst=1, everybody=0, only=0)
    names = scenarios.names_of(options.scenarios)
    if not options.everybody and not options.child:
        unfit = [function.__name__ for function in scenarios.OWN_PROCESS]
        names = [name for name in names if name not in unfit]
    if options.child:
        faulthandler.enable()
        if not SURVIVES_COLLECTIONS:
            gc.disable()
        runner = Runner(names[0], options.loop, options.burst)
        runner.hooks.control[EVERYBODY] = options.everybody
        if options.only:  # to look at one: where it failed
            runner.run(10**9)
            runner.hooks.control[TRACE] = 1
            print(runner.once(options.only))
        else:
            runner.run(options.first)
        return 0
    reason = shims.missing()
    if reason:
        sys.exit(f"not here: {reason}")
    with driver.folder() as folder:
        preload = shims.build("failalloc", folder)
        environment = {"PYTHONMALLOC": "malloc", "LD_PRELOAD": preload}
        extra = ["--burst", str(options.burst), "--everybody", str(options.everybody)]
        return driver.run_all(__file__, names, options, environment, extra)


if __name__ == "__main__":
    sys.exit(main())
