"""tree() and find_deadlocks() where there are many tasks, or long chains of them."""

import asyncio
import gc

import pytest
import support

from pyloop import _core, _referrers, _waits, tasks

#: As many as it takes for what grows with the square to show.
MANY = 150


async def settle():
    for _ in range(4):
        await asyncio.sleep(0)


def find(loop, begin):
    """What is found when the coroutine function begin() has started tasks.

    What it returns is held by this function while it looks.
    """

    async def main():
        held = await begin()
        await settle()
        found = tasks.find_deadlocks()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return found, held

    found, _ = loop.run_until_complete(main())
    return sorted((each.kind, [node.name for node in each.tasks]) for each in found)


def orphans(names):
    return [("orphan", [name]) for name in sorted(names)]


async def waits_for_its_own():
    await asyncio.Event().wait()


async def waits_for(event, also=None):
    await event.wait()


async def awaits(task):
    await task


@pytest.fixture(autouse=True)
def kept():
    """Tasks of which nobody knows are collected: these are kept."""
    yield KEPT
    KEPT.clear()


KEPT = []


def start(loop, name, coro):
    KEPT.append(loop.create_task(coro, name=name))
    return KEPT[-1]


@pytest.mark.parametrize("count", [3, MANY])
def test_many_orphans_among_those_that_are_none(loop, count):
    async def begin():
        held = asyncio.Event()
        for number in range(count):
            start(loop, f"alone{number}", waits_for_its_own())
            start(loop, f"held{number}", waits_for(held))
        return held

    assert find(loop, begin) == orphans(f"alone{number}" for number in range(count))


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("count", [3, MANY])
def test_many_that_wait_for_one(loop, count, held):
    async def begin():
        event = asyncio.Event()
        for number in range(count):
            start(loop, f"t{number}", waits_for(event))
        return event if held else None

    names = [] if held else [f"t{number}" for number in range(count)]
    assert find(loop, begin) == orphans(names)


@pytest.mark.parametrize("held", [False, True])
def test_each_leads_to_the_next(loop, held):
    """A task has the event that the next one waits for: all may go on, or none."""

    async def begin():
        events = [asyncio.Event() for _ in range(MANY + 1)]
        for number in range(MANY):
            coro = waits_for(events[number], also=events[number + 1])
            start(loop, f"t{number}", coro)
        return events[0] if held else None

    names = [] if held else [f"t{number}" for number in range(MANY)]
    assert find(loop, begin) == orphans(names)


def test_passes_over_all_objects_do_not_grow_with_the_tasks(loop, monkeypatch):
    passes = []
    referrers = _core.referrers

    def counted(objects):
        passes.append(len(objects))
        return referrers(objects)

    async def many(count):
        for number in range(count):
            start(loop, f"t{number}", waits_for_its_own())

    monkeypatch.setattr(_core, "referrers", counted)
    figures = []
    for count in (1, MANY, 3 * MANY):
        passes.clear()
        assert len(find(loop, lambda: many(count))) == count  # noqa: B023
        figures.append(len(passes))
    assert 0 < max(figures) <= min(figures) + 1


def test_as_completed_of_many_is_one_pass(loop, monkeypatch):
    """Before Python 3.13 only the callbacks of the tasks tell what it waits for."""
    looks = []
    callbacks = _waits._callbacks

    def counted(future):
        looks.append(1)
        return callbacks(future)

    async def completes(task):
        for earliest in asyncio.as_completed([task]):
            await earliest

    async def main():
        count = 1000
        for number in range(count):
            task = start(loop, f"inner{number}", waits_for_its_own())
            start(loop, f"outer{number}", completes(task))
        await settle()
        tree = tasks.tree()
        names = {
            node.name: [inner.name for inner in node.awaits]
            for node in tree.nodes()
            if node.name.startswith("outer")
        }
        assert names == {f"outer{n}": [f"inner{n}"] for n in range(count)}
        assert len(looks) <= 5 * tree.count
        for task in KEPT:
            task.cancel()
        await asyncio.gather(*KEPT, return_exceptions=True)

    monkeypatch.setattr(_waits, "_callbacks", counted)
    loop.run_until_complete(main())


class Link:
    def __init__(self, following):
        self.following = following


def test_what_is_too_far_away_may_do_something(loop):
    """Nobody has the end of this list but who waits; that is not looked into."""

    async def waits_with(link):
        await asyncio.Event().wait()
        return link

    async def begin():
        for name, links in (("near", 5), ("far", _referrers._LEVELS)):
            event = last = asyncio.Event()
            for _ in range(links):
                last = Link(last)
            start(loop, f"{name} 1", waits_with(last))
            start(loop, f"{name} 2", waits_for(event))
            del event, last

    # Each of the first waits for its own; only what leads to the second is far.
    assert find(loop, begin) == orphans(["far 1", "near 1", "near 2"])


def test_what_has_too_many_referrers_may_do_something(loop, monkeypatch):
    async def begin():
        event = asyncio.Event()
        start(loop, "many", waits_for(event))
        start(loop, "few", waits_for_its_own())
        list_of_lists = [[event] for _ in range(30)]
        list_of_lists.append(list_of_lists)  # nobody else has it

    monkeypatch.setattr(_referrers, "_MOST", 20)
    monkeypatch.setattr(_referrers, "_MOST_EACH", 0)
    gc.disable()
    try:
        assert find(loop, begin) == orphans(["few"])
    finally:
        gc.enable()
        support.collect()


def test_long_chains(loop):
    """Longer than Python's limit of recursion."""

    async def begin():
        task = start(loop, "t0", waits_for_its_own())
        chain = [task]
        for number in range(1, 1500):
            task = start(loop, f"t{number}", awaits(task))
            chain.append(task)
        await settle()
        seen.extend([tasks.tree(), tasks.find_deadlocks()])
        chain[0].cancel()  # not the others: asyncio cancels by recursion
        await asyncio.wait(chain)

    seen = []
    loop.run_until_complete(begin())
    tree, found = seen
    assert [[node.name for node in each.tasks] for each in found] == [["t0"]]
    names = [node.name for node in tree.nodes() if node.name.startswith("t")]
    assert names == [f"t{number}" for number in reversed(range(1500))]
    lines = tree.format().splitlines()
    assert any(line.endswith("[1000] t499: awaits()") for line in lines)
    assert max(map(len, lines)) < 400


def test_what_refers_to_objects():
    first, second, third = [], {}, (object(),)
    holders = [[first], {"x": second}, (first, second), [[third]]]
    objects = [first, second, first]
    found = _core.referrers(objects)
    for holder in [*holders[:3], objects]:
        assert sum(each is holder for each in found) == 1
    assert not any(each is holders[3] for each in found)
    assert _core.referrers([]) == []
    with pytest.raises(TypeError, match="needs a list, not tuple"):
        _core.referrers((1,))


def test_a_large_circle(loop):
    async def begin():
        made = []

        async def awaits_number(number):
            await asyncio.sleep(0)
            await asyncio.wait([made[number % MANY]])

        for number in range(MANY):
            made.append(start(loop, f"t{number}", awaits_number(number + 1)))

    ((kind, names),) = find(loop, begin)
    assert kind == "cycle" and sorted(names) == sorted(f"t{i}" for i in range(MANY))
