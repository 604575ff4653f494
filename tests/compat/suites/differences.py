"""Tests that pass on asyncio and not on pyloop, and why that is right.

{suite: {node id, with or without its [parameters]: the reason}}. An entry of KNOWN that
does not differ any more is an error; those of SOMETIMES depend on the moment.
"""

KNOWN = {
    "uvicorn": {
        # What they test is which class the configuration chooses.
        "tests/test_auto_detection.py::test_loop_auto": (
            "asks for a loop of a module named uvloop; python -m pyloop gives pyloop's"
        ),
        "tests/test_compat.py::test_asyncio_run__default_loop_factory": (
            "asks whether asyncio.run() makes a loop of asyncio's own class"
        ),
        "tests/test_config.py::test_get_loop_factory[asyncio-_UnixSelectorEventLoop]": (
            "asks whether loop='asyncio' makes a loop of asyncio's own class"
        ),
    },
}

SOMETIMES = {
    "httpx": {
        "tests/test_timeouts.py::test_write_timeout[trio]": (
            "on trio, without asyncio: if the headers are written in the timeout of "
            "1 us, what is late is the body, whose generator trio warns of, an error "
            "here; fails on asyncio too, as it happens"
        ),
    },
}
