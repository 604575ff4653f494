"""Control a motor a thousand times a second, and say how punctual that was.

    python control.py --seconds 10
    python control.py --seconds 10 --compare --plot jitter.svg
    python control.py --demo

The motor is simulated, in a process of its own, and reached by UDP as many drives are:
each period its voltage is sent, and its speed comes back. How late each period began is
kept; --compare runs the same on asyncio's loop and on pyloop's. A plot needs
matplotlib. SIGINT and SIGTERM stop the motor, and the figures so far are printed.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import struct
import subprocess
import sys

COMMAND = struct.Struct("<Id")  # number of the period, volts
READING = struct.Struct("<Id")  # the same number, radians a second
SPEED = 100.0  # radians a second, which the motor is to have
HERE = os.path.abspath(__file__)
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


class Motor:
    """A DC motor with its load: a first-order lag, which is stepped by each command."""

    GAIN = 12.0  # radians a second for a volt
    LAG = 0.05  # seconds

    def __init__(self, period):
        self.share = 1 - math.exp(-period / self.LAG)
        self.speed = 0.0

    def step(self, volts):
        """Let one period go by."""
        self.speed += (self.GAIN * volts - self.speed) * self.share
        return self.speed


class Drive(asyncio.DatagramProtocol):
    """The motor's end: takes a voltage, answers with the speed."""

    def __init__(self, period):
        self.motor = Motor(period)

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        number, volts = COMMAND.unpack(data)
        self.transport.sendto(READING.pack(number, self.motor.step(volts)), address)


class Controller(asyncio.DatagramProtocol):
    """Proportional and integral control, at fixed times.

    The times are multiples of the period from the start, so that a late period does not
    make all that follow late. Each is done, be it late; `lateness` has by how much.
    """

    FOR_ERROR = 0.05  # volts for a radian a second
    FOR_SUM = 1.0  # volts for a radian
    LAST = 1.0  # seconds to wait for the last readings

    def __init__(self, loop, period, periods):
        self.loop = loop
        self.period = period
        self.periods = periods
        self.done = loop.create_future()
        self.lateness = []
        self.readings = 0
        self.speed = self.integral = 0.0
        self.handle = None

    def connection_made(self, transport):
        self.transport = transport
        self.first = self.loop.time() + self.period
        self.handle = self.loop.call_at(self.first, self.step)

    def datagram_received(self, data, address):
        _, self.speed = READING.unpack(data)
        self.readings += 1
        if self.readings == self.periods:
            self.finish()

    def error_received(self, error):
        if not self.done.done():
            self.done.set_exception(error)  # nobody is there: the motor has gone

    def step(self):
        """One period: note how late it is, send a voltage, wait for the next one."""
        number = len(self.lateness)
        self.lateness.append(self.loop.time() - (self.first + number * self.period))
        error = SPEED - self.speed
        self.integral += error * self.period
        volts = self.FOR_ERROR * error + self.FOR_SUM * self.integral
        self.transport.sendto(COMMAND.pack(number, volts))
        if number + 1 < self.periods:
            due = self.first + (number + 1) * self.period
            self.handle = self.loop.call_at(due, self.step)
        else:
            self.handle = self.loop.call_later(self.LAST, self.finish)

    def finish(self):
        """The last period is over, though a reading may have been lost."""
        if not self.done.done():
            self.done.set_result(None)

    def stop(self):
        """End: no more periods, and no voltage."""
        self.handle.cancel()
        self.transport.sendto(COMMAND.pack(0xFFFFFFFF, 0.0))
        self.transport.close()


# -- the two programs --------------------------------------------------------------


async def be_the_motor(period):
    """Answer commands until stdin ends; the port is the first line of stdout."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Drive(period), local_addr=("127.0.0.1", 0)
    )
    print(transport.get_extra_info("sockname")[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    transport.close()


@contextlib.asynccontextmanager
async def motor(options):
    """A motor, in a process of its own; gives its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, HERE, "--be-the-motor", "--rate", str(options.rate),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # SIGINT of a terminal is not for it
    )  # fmt: skip
    try:
        yield int(await process.stdout.readline())
    finally:
        process.stdin.close()  # by which it ends
        await process.communicate()


async def control(options):
    """Control until the time is over or a signal comes; return what came of it."""
    loop = asyncio.get_running_loop()
    period = 1 / options.rate
    periods = max(1, round(options.seconds * options.rate))
    async with motor(options) as port:
        transport, controller = await loop.create_datagram_endpoint(
            lambda: Controller(loop, period, periods), remote_addr=("127.0.0.1", port)
        )

        def interrupt(number):
            if not controller.done.done():
                controller.done.set_result(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt, number)
        try:
            stopped_by = await controller.done
        finally:
            controller.stop()
    return {
        "loop": type(loop).__module__.partition(".")[0],
        "periods": len(controller.lateness),
        "readings": controller.readings,
        "speed": controller.speed,
        "stopped by": stopped_by and signal.Signals(stopped_by).name,
        "lateness": controller.lateness,
    }


def compare(options):
    """Run this program on asyncio's loop and on pyloop's; return both results."""
    arguments = [HERE, "--json", "--seconds", str(options.seconds)]
    arguments += ["--rate", str(options.rate)]
    results = []
    for before in [], ["-m", "pyloop"]:
        done = subprocess.run(
            [sys.executable, *before, *arguments], stdout=subprocess.PIPE, check=True
        )
        results.append(json.loads(done.stdout))
    return results


# -- showing it --------------------------------------------------------------------


def quantile(values, share):
    """The value that so many of the sorted values are not above."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def show(result):
    """Print the figures of a run, and how its lateness is spread."""
    microseconds = sorted(late * 1e6 for late in result["lateness"])
    counts = f"{result['periods']} periods, {result['readings']} readings"
    print(f"{result['loop']}: {counts}, speed {result['speed']:.1f}")
    if result["stopped by"]:
        print(f"  stopped by {result['stopped by']}")
    if not microseconds:
        return
    print(f"  begun too early: {sum(late < -0.01 for late in microseconds)}")
    figures = (f"p{q * 100:g} {quantile(microseconds, q):.0f}" for q in QUANTILES)
    print(f"  late, in microseconds: {', '.join(figures)}")
    below = 0
    for edge in (10, 20, 50, 100, 200, 500, 1000, 2000, math.inf):
        count = sum(late < edge for late in microseconds) - below
        below += count
        bar = "#" * math.ceil(50 * count / len(microseconds))
        print(f"  below {edge:>5} us: {count:>8} {bar}".rstrip())


def plot(results, path):
    """Draw how many periods were how late, a line for a loop."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for result in results:
        late = sorted(max(0.1, late * 1e6) for late in result["lateness"])
        above = [1 - at / len(late) for at in range(len(late))]
        axes.step(late, above, label=result["loop"])
    axes.set(xscale="log", yscale="log", xlabel="late by more than (microseconds)",
             ylabel="share of the periods", title="how late periods begin")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


# -- the program -------------------------------------------------------------------


def above_0(text):
    """A type of argument: a number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def arguments():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rate", type=above_0, default=1000.0, help="periods a second")
    add("--seconds", type=above_0, default=10.0)
    add("--compare", action="store_true", help="on asyncio's loop and on pyloop's")
    add("--plot", metavar="FILE", help="draw the lateness, as SVG")
    add("--json", action="store_true", help="print all of it as JSON")
    add("--demo", action="store_true", help="two seconds of it, checked")
    add("--be-the-motor", action="store_true", help=argparse.SUPPRESS)
    return parser


def main():
    """Read the arguments, control, show; return the exit status."""
    parser = arguments()
    options = parser.parse_args()
    if options.rate > 100_000:
        parser.error(f"argument --rate: {options.rate:g} is above 100000")
    if options.be_the_motor:
        asyncio.run(be_the_motor(1 / options.rate))
        return 0
    if options.plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            parser.error("--plot needs matplotlib, which is not installed")
    if options.demo:
        options.seconds = 2.0
    results = compare(options) if options.compare else [asyncio.run(control(options))]
    for result in results:
        if options.json:
            json.dump(result, sys.stdout)
        else:
            show(result)
    if options.plot is not None:
        plot(results, options.plot)
    if not options.demo:
        return 0
    well = all(
        result["periods"] == result["readings"] == round(2 * options.rate)
        and abs(result["speed"] - SPEED) < 1
        for result in results
    )
    print("the motor has its speed" if well else "the motor has NOT its speed")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
