"""The preloaded libraries: compiling them, and steering them through memory."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import types

HERE = os.path.dirname(os.path.abspath(__file__))

WORD = ctypes.sizeof(ctypes.c_void_p)

#: Words of a PyDescrObject: its head, type, name and qualified name.
DESCRIPTOR_WORDS = object.__basicsize__ // WORD + 3

#: Bytes between functions of one module, mostly.
NEAR = 1 << 14


def missing():
    """Why the shims cannot be used here; empty when they can."""
    if sys.platform != "linux" or not os.path.exists("/proc/self/maps"):
        return "calls are made to fail with a preloaded library of Linux's"
    if b"GLIBC" not in os.confstr("CS_GNU_LIBC_VERSION").upper().encode():
        return "calls are made to fail with a preloaded library for glibc"
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        return "the sanitizers' runtime has the allocator"
    if compiler() is None:
        return "there is no C compiler"
    return ""


def compiler():
    return shutil.which(os.environ.get("CC", "cc").split()[0]) or shutil.which("gcc")


def build(name, folder):
    """Compile name.c of this folder into a library in `folder`; its path."""
    path = os.path.join(folder, f"{name}.so")
    command = [compiler(), "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", path]
    command += [f"-isystem{sysconfig.get_path('include')}"]
    subprocess.run([*command, os.path.join(HERE, f"{name}.c"), "-ldl"], check=True)
    return path


def code_of(wanted):
    """Address ranges (low, high) of the mapped files for whose path wanted() holds."""
    ranges = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split()
            if len(words) > 5 and "x" in words[1] and wanted(words[5]):
                low, high = words[0].split("-")
                ranges.append((int(low, 16), int(high, 16)))
    return ranges


def core_path():
    import pyloop._core

    return os.path.realpath(pyloop._core.__file__)


def code_of_core():
    core = core_path()  # first: importing it maps it
    return code_of(lambda path: path == core)


def pretend_fork():
    """From here on, the core takes this process for the child of a fork."""
    library = ctypes.CDLL(None)
    for low, high in code_of_core():
        library.shim_pretend_fork(ctypes.c_size_t(low), ctypes.c_size_t(high))


def code_of_libuv():
    core_path()  # loads it
    return code_of(lambda path: os.path.basename(path).startswith("libuv."))


def code_of_python():
    """The interpreter, its extension modules, pyloop's core: no library below them."""
    ours = {core_path(), os.path.realpath(sys.executable)}
    return code_of(
        lambda path: (
            path in ours
            or os.path.basename(path).startswith("libpython")
            or ".cpython-" in path
        )
    )


def code_of_tasks():
    """Where asyncio's C tasks and futures are, if they are part of the interpreter.

    Nothing says where static functions lie but the pointers to methods: what is close
    together there is taken as theirs. That may be too much, so that it serves only to
    explain what is seen of a task.
    """
    import _asyncio

    if _asyncio.__name__ not in sys.builtin_module_names:
        return []

    def word(address, index):
        return ctypes.c_size_t.from_address(address + index * WORD).value

    descriptors = (types.MethodDescriptorType, types.GetSetDescriptorType)
    known = set()
    for kind in (_asyncio.Task, _asyncio.Future):
        for member in vars(kind).values():
            # PyDescrObject, and behind it a PyMethodDef or PyGetSetDef: name, function.
            if isinstance(member, descriptors):
                known.add(word(word(id(member), DESCRIPTOR_WORDS), 1))
    ranges = []
    for address in sorted(known):
        if ranges and address - ranges[-1][1] < NEAR:
            ranges[-1][1] = address
        else:
            ranges.append([address, address])
    return [(low, high + NEAR) for low, high in ranges if low < high]


def code_of_evaluation():
    """Where the interpreter runs Python code, by its table of symbols if it has one.

    Before 3.13 only: from there on, its frames tell (failalloc.c).

    A compiler moves what is rare in a function to another place, ".cold", of which the
    dynamic symbols say nothing. And a frame that is left may outlive it as an object:
    out of memory there, CPython 3.11 loses the exception that is on its way.
    """
    if sys.version_info >= (3, 13):
        return []
    names = ("_PyEval_EvalFrameDefault", "_PyFrame_Clear")
    paths = {}
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split()
            if len(words) > 5 and int(words[2], 16) == 0:
                paths.setdefault(words[5], int(words[0].split("-")[0], 16))
    found = []
    nm = shutil.which("nm")
    for path, base in paths.items():
        name = os.path.basename(path)
        if nm is None or not name.startswith(("libpython", "python")):
            continue
        listed = subprocess.run([nm, "-S", path], capture_output=True, text=True)
        for line in listed.stdout.splitlines():
            words = line.split()
            if len(words) == 4 and words[3].startswith(names):
                low = int(words[0], 16) + (base if name.startswith("libpython") else 0)
                found.append((low, low + int(words[1], 16)))
    return found


def control(name, count):
    """The array of longs `name` of the preloaded library, as a memoryview.

    Storing into it allocates nothing and calls nothing.
    """
    array = (ctypes.c_long * count).in_dll(ctypes.CDLL(None), name)
    return memoryview(array).cast("B").cast("l")
