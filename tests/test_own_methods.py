"""The class's own descriptors of the core's methods: the same methods, found sooner."""

import asyncio

import pytest

pytestmark = pytest.mark.pyloop_only

pytestmark = pytest.mark.pyloop_only

OWN = (
    "call_at",
    "call_later",
    "call_soon",
    "call_soon_threadsafe",
    "create_future",
    "create_task",
    "get_debug",
    "time",
)


@pytest.fixture
def core():
    return pytest.importorskip("pyloop._core", reason="pyloop is not built")


@pytest.mark.parametrize("name", OWN)
def test_loop_has_descriptors_of_its_own(core, loop, name):
    cls = type(loop)
    assert name in vars(cls)
    assert vars(cls)[name].__objclass__ is cls
    inherited = getattr(core.Loop, name)
    assert inherited.__objclass__ is core.Loop
    assert vars(cls)[name].__doc__ == inherited.__doc__
    assert vars(cls)[name].__text_signature__ == inherited.__text_signature__


def test_an_override_is_still_seen(loop):
    class Counting(type(loop)):
        calls = 0

        def call_soon(self, *args, **kwargs):
            self.calls += 1
            return super().call_soon(*args, **kwargs)

    async def main():
        await asyncio.sleep(0)

    counting = Counting()
    try:
        counting.run_until_complete(main())
        assert counting.calls > 0
    finally:
        counting.close()


def test_a_subclass_of_a_subclass_uses_them(loop):
    cls = type("Further", (type(loop),), {})
    further = cls()
    try:
        seen = []
        further.call_soon(seen.append, 1)
        further.call_soon(further.stop)
        further.run_forever()
        assert seen == [1]
    finally:
        further.close()


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((int, ("time",)), "cls: .* is not a subclass"),
        (("Loop", ("time",)), "must be type, not str"),
    ],
)
def test_only_for_classes_of_loops(core, args, error):
    with pytest.raises(TypeError, match=error):
        core.own_methods(*args)


def test_only_methods_of_the_core(core, loop):
    cls = type("Further", (type(loop),), {})
    with pytest.raises(AttributeError, match="nothing_there"):
        core.own_methods(cls, ("nothing_there",))
    with pytest.raises(TypeError, match="names: '__class__' is not a method"):
        core.own_methods(cls, ("__class__",))
