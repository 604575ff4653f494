"""nest_asyncio, which patches the class of a loop for runs inside runs."""

import importlib.util
import sys

import pytest
import support

PROGRAM = """
import asyncio, sys
import nest_asyncio

if sys.argv[1] == "pyloop":
    import pyloop
    pyloop.install()

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
WHEN


async def value(number):
    await asyncio.sleep(0.001)
    return number


async def deep(levels):
    if levels == 0:
        return await value(0)
    return 1 + loop.run_until_complete(deep(levels - 1))


async def echo():
    async def answer(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello" + bytes([10]))
    data = await reader.readline()
    writer.close()
    server.close()
    return data


async def main():
    nest_asyncio.apply()
    assert loop.run_until_complete(value(1)) == 1
    assert asyncio.run(value(2)) == 2
    assert loop.run_until_complete(deep(5)) == 5
    assert loop.run_until_complete(echo()) == b"hello" + bytes([10])
    assert await loop.run_in_executor(None, int, "3") == 3
    assert await asyncio.gather(*map(value, range(4))) == [0, 1, 2, 3]
    return "done"


print(loop.run_until_complete(main()))
loop.close()
"""


@pytest.mark.skipif(
    importlib.util.find_spec("nest_asyncio") is None,
    reason="nest_asyncio is not installed; tests/compat/requirements.txt has it",
)
@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="nest_asyncio is not made for Python 3.14"
)
@pytest.mark.parametrize("when", ["nest_asyncio.apply(loop)", "pass"])
def test_runs_inside_runs(loop_kind, tmp_path, when):
    """Applied before the run, and, as a notebook's cell would, inside it."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace("WHEN", when))
    process = support.run_script(str(script), loop_kind)
    assert (process.stdout, process.stderr) == ("done\n", "")
