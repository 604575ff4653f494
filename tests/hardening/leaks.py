"""make leaks: every scenario again and again; nothing may grow.

Each scenario runs --repeat times, in rounds. What is counted after each round: the
core's live objects, the collector's objects, references to the core's types and to
singletons, blocks of Python's allocator, bytes of the C heap, descriptors and threads.
What grows in every round by one or more per repetition is a finding; a cache fills in
some round.

With --collect 1 the collector runs at every call of a Python function, callbacks and
protocol methods among them, with a threshold of 1 for what is allocated between; the
scenario has to come to the right result.

    python tests/hardening/leaks.py [--repeat 1000] [--collect 1] [SCENARIO ...]
"""

import faulthandler
import gc
import sys

import driver
import scenarios
import support
from world import Hooks, World, clear_caches, descriptors, exception_names

ROUNDS = 5

#: A repetition that leaves a block of the C heap leaves 32 bytes at least. What its
#: own lists hold back is more than that for each of few repetitions.
BYTES_LEAST = 32
BYTES_REPETITIONS = 200


def freeze():
    """The collector leaves alone what there is now, and is fast."""
    gc.collect()
    gc.freeze()


class Collecting(Hooks):
    """Armed, the collector runs at every call."""

    def arm(self, world):
        self.thresholds = gc.get_threshold()
        gc.set_threshold(1, 1, 1)
        sys.setprofile(self.collect)

    def disarm(self, world):
        sys.setprofile(None)
        gc.set_threshold(*self.thresholds)

    def collect(self, frame, event, argument):
        if event == "call":
            gc.collect()


class Runner:
    """Runs one scenario many times."""

    def __init__(self, name, kind, hooks):
        self.function = scenarios.SCENARIOS[name]
        self.kind = kind
        self.hooks = hooks
        self.certificates = driver.certificates()
        self.watched = [None, True, (), b"", "", type, object, int]

    def once(self):
        """What is wrong with one run."""
        world = World(self.kind, self.hooks, self.certificates)
        faults = []
        try:
            self.function(world)
        except BaseException as exc:
            faults.append(f"{exception_names(exc)} {exc}")
        world.finish()
        return faults + world.faults

    def counts(self):
        gc.collect()
        clear_caches()
        found = {f"live {key}": n for key, n in support.core_stats().items()}
        found["descriptors"] = descriptors()
        found["threads"] = len(support.native_threads())
        found["objects of the collector"] = len(gc.get_objects())
        found["blocks of Python's allocator"] = sys.getallocatedblocks()
        found["bytes of the C heap"] = support.malloc_bytes()
        for place in range(len(self.watched)):
            found[f"references to {self.watched[place]!r}"] = sys.getrefcount(
                self.watched[place]
            )
        return found

    def growth(self, number, faults):
        """What grows in every one of ROUNDS rounds of so many repetitions, {what: how
        much at least}; faults gets what is wrong with single runs."""
        least = None
        for turn in range(ROUNDS):
            driver.say(begin=turn)
            before = self.counts()
            for _ in range(number):
                faults += self.once()
            after = self.counts()
            grown = {key: n - before[key] for key, n in after.items()}
            least = {
                key: min(n, least[key] if least else n) for key, n in grown.items()
            }
        if number < BYTES_REPETITIONS:
            del least["bytes of the C heap"]
        if number < 20:
            return {}  # so few say nothing
        return {
            what: n
            for what, n in least.items()
            if n >= number * (BYTES_LEAST if what.startswith("bytes") else 1)
        }

    def run(self, repeat):
        freeze()
        faults = self.once()
        freeze()
        core = sys.modules.get("pyloop._core")
        self.watched += [v for v in vars(core).values() if isinstance(v, type)]
        number = repeat // ROUNDS
        growth = self.growth(number, faults)
        if growth:  # the C heap may take long to find its size
            again = self.growth(number, faults)
            growth = {what: again[what] for what in growth if what in again}
        faults += [
            f"{n / number:.1f} {what} more in every repetition"
            for what, n in growth.items()
        ]
        driver.say(n=repeat, outcome="wrong" if faults else "right", faults=faults[:5])
        driver.say(end=True)


def main():
    options = driver.options(__doc__, repeat=1000, collect=0)
    names = scenarios.names_of(options.scenarios)
    if options.child:
        faulthandler.enable()
        hooks = Collecting() if options.collect else Hooks()
        Runner(names[0], options.loop, hooks).run(options.repeat)
        return 0
    with driver.folder():
        extra = ["--repeat", str(options.repeat), "--collect", str(options.collect)]
        return driver.run_all(__file__, names, options, {}, extra)


if __name__ == "__main__":
    sys.exit(main())
