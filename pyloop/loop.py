"""The names of ``uvloop.loop``, for programs written for uvloop.

After ``import pyloop as uvloop`` a program finds ``uvloop.loop.Loop`` and the classes
that it tells objects by here: isinstance() says of pyloop's objects what it says of
uvloop's. A program written for pyloop has no use for this module.
"""

from __future__ import annotations

import asyncio
from asyncio import base_subprocess, sslproto, trsock
from typing import NoReturn

from pyloop import _core, _loop, _subprocess

__all__ = [
    "Handle",
    "Loop",
    "PseudoSocket",
    "ReadSubprocessPipeProto",
    "ReadUnixTransport",
    "SSLProtocol",
    "Server",
    "TCPTransport",
    "TimerHandle",
    "UDPTransport",
    "UVProcessTransport",
    "UnixTransport",
    "WriteSubprocessPipeProto",
    "WriteUnixTransport",
    "libuv_get_version",
]

Loop = _loop.Loop
Handle = _core.Handle
TimerHandle = _core.TimerHandle
Server = asyncio.Server
TCPTransport = _core.SocketTransport
UnixTransport = _core.SocketTransport
UDPTransport = _core.DatagramTransport
ReadUnixTransport = _core.ReadPipeTransport
WriteUnixTransport = _core.WritePipeTransport
UVProcessTransport = _subprocess.SubprocessTransport
ReadSubprocessPipeProto = base_subprocess.ReadSubprocessPipeProto
WriteSubprocessPipeProto = base_subprocess.WriteSubprocessPipeProto
SSLProtocol = sslproto.SSLProtocol
PseudoSocket = trsock.TransportSocket

#: Names of uvloop.loop for which there is nothing, and why.
_WHY_NOT = {
    "libuv_get_loop_t_ptr": (
        "what others put into the libuv loop would wait: pyloop enters it to wait only"
    ),
    **dict.fromkeys(
        ("AddrInfo", "AddrInfoRequest", "NameInfoRequest", "SockAddrHolder"),
        "asyncio's executor looks up names, not libuv",
    ),
    **dict.fromkeys(
        (
            "FileSystemEvent",
            "LruCache",
            "TCPServer",
            "UVAsync",
            "UVBaseTransport",
            "UVCheck",
            "UVFSEvent",
            "UVHandle",
            "UVIdle",
            "UVPoll",
            "UVProcess",
            "UVRequest",
            "UVSocketHandle",
            "UVStream",
            "UVStreamServer",
            "UVTimer",
            "UnixServer",
        ),
        "it is about how uvloop is made inside",
    ),
}


def libuv_get_version() -> int:
    """Return the version of libuv as a number: 1.44.2 is 0x012c02.

    As uvloop's function of that name; ``pyloop.libuv_version`` is the text.
    """
    major, minor, patch = _core.libuv_version.partition("-")[0].split(".")
    return int(major) << 16 | int(minor) << 8 | int(patch)


def __getattr__(name: str) -> NoReturn:
    why = _WHY_NOT.get(name)
    reason = f", unlike uvloop.loop: {why}" if why else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{reason}")
