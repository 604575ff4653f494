"""Build of the C extension; everything that is plain metadata is in pyproject.toml.

Switches, all environment variables:

PYLOOP_DEBUG=1                      asserts on, -O1 -g
PYLOOP_SANITIZE=address,undefined   compile and link with these sanitizers, or with
PYLOOP_SANITIZE=thread              ThreadSanitizer, for a free-threaded Python
PYLOOP_STATIC_LIBUV=1               link libuv's static archive instead of the library;
                                    scripts/wheels/libuv.sh makes one that links
PYLOOP_WERROR=1                     a compiler warning is an error (CI)
PKG_CONFIG=...                      the pkg-config to ask (default: pkg-config)
"""

import glob
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import LinkError

SOURCES = (
    "csrc/module.c",
    "csrc/base/build.c",
    "csrc/base/state.c",
    "csrc/base/watched.c",
    "csrc/base/errors.c",
    "csrc/base/args.c",
    "csrc/base/forks.c",
    "csrc/base/lock.c",
    "csrc/base/referrers.c",
    "csrc/ds/heap.c",
    "csrc/ds/ring.c",
    "csrc/loop/loop.c",
    "csrc/loop/methods.c",
    "csrc/loop/metrics.c",
    "csrc/loop/report.c",
    "csrc/loop/tasks.c",
    "csrc/loop/fdmethods.c",
    "csrc/loop/run.c",
    "csrc/loop/running.c",
    "csrc/loop/watchdog.c",
    "csrc/loop/handle.c",
    "csrc/loop/handle_type.c",
    "csrc/loop/libuv.c",
    "csrc/loop/timers.c",
    "csrc/loop/threadsafe.c",
    "csrc/loop/fds.c",
    "csrc/loop/fds_epoll.c",
    "csrc/loop/fds_uvpoll.c",
    "csrc/loop/sendfile.c",
    "csrc/loop/sockaddr.c",
    "csrc/loop/sockets.c",
    "csrc/loop/coro.c",
    "csrc/loop/connect.c",
    "csrc/loop/sockcalls.c",
    "csrc/loop/sockops.c",
    "csrc/loop/names.c",
    "csrc/loop/outbox.c",
    "csrc/loop/outside.c",
    "csrc/accel/function.c",
    "csrc/accel/coros.c",
    "csrc/accel/sleep.c",
    "csrc/accel/waits.c",
    "csrc/accel/timeouts.c",
    "csrc/accel/gather.c",
    "csrc/accel/attributes.c",
    "csrc/accel/queue.c",
    "csrc/accel/locks.c",
    "csrc/transport/stream.c",
    "csrc/transport/make.c",
    "csrc/transport/extra.c",
    "csrc/transport/read.c",
    "csrc/transport/reader.c",
    "csrc/transport/readops.c",
    "csrc/transport/tls.c",
    "csrc/transport/tls_facts.c",
    "csrc/transport/tls_write.c",
    "csrc/transport/write.c",
    "csrc/transport/lend.c",
    "csrc/transport/flow.c",
    "csrc/transport/socket.c",
    "csrc/transport/pipe.c",
    "csrc/transport/server.c",
    "csrc/transport/datagram.c",
    "csrc/transport/datagram_queue.c",
    "csrc/transport/datagram_read.c",
    "csrc/transport/datagram_spares.c",
    "csrc/transport/datagram_write.c",
)

LIBUV_MINIMUM = "1.44"
SETUPTOOLS_MINIMUM = 77  # the first that reads `license = "MIT"` in pyproject.toml

WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wvla",
)

HOW_TO_INSTALL = """\
    Debian, Ubuntu:  apt-get install libuv1-dev pkg-config
    Fedora:          dnf install libuv-devel pkgconf
    Alpine:          apk add libuv-dev pkgconf
    macOS:           brew install libuv pkg-config"""


def fail(problem, hint=""):
    """End the build with a message instead of a traceback."""
    raise SystemExit(f"\npyloop cannot be built: {problem}\n{hint}".rstrip() + "\n")


def switch(name):
    """Whether the environment variable `name` is set to something but 0."""
    return os.environ.get(name, "0") not in ("", "0")


def pkg_config(*arguments):
    """The words that `pkg-config ARGUMENTS libuv` prints; None if it says no."""
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), *arguments, "libuv"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        fail(
            f"{command[0]} was not found, and it is how libuv is found. Install both:",
            HOW_TO_INSTALL,
        )
    return shlex.split(done.stdout) if done.returncode == 0 else None


def require_libuv():
    """End the build unless a libuv that is new enough can be compiled against."""
    version = pkg_config("--modversion")
    if version is None:
        fail("libuv's headers were not found. Install them:", HOW_TO_INSTALL)
    if pkg_config(f"--atleast-version={LIBUV_MINIMUM}") is None:
        fail(
            f"libuv {version[0]} is too old, {LIBUV_MINIMUM} or later is needed:",
            HOW_TO_INSTALL,
        )


def static_libuv():
    """The static archive's path, and the libraries and options it needs itself."""
    folders = pkg_config("--variable=libdir")
    for folder in folders or ():
        # CMake builds named it libuv_a.a until 1.45; autotools and later ones libuv.a.
        for name in ("libuv_a.a", "libuv.a"):
            path = os.path.join(folder, name)
            if os.path.exists(path):
                needs = pkg_config("--static", "--libs") or []
                return path, [word for word in needs if word not in ("-luv", "-luv_a")]
    fail(
        f"PYLOOP_STATIC_LIBUV is set, and no libuv_a.a or libuv.a is in {folders}.",
        "On Alpine it is in libuv-static; on Fedora in libuv-static.",
    )


def configure(extension):
    """Fill in the options of the compiler and of the linker."""
    compile_args = ["-std=c11", "-fvisibility=hidden", *WARNINGS]
    link_args = []
    if switch("PYLOOP_WERROR"):
        compile_args.append("-Werror")

    # These come after the interpreter's own flags, so they win over them.
    if switch("PYLOOP_DEBUG"):
        compile_args += ["-O1", "-g", "-UNDEBUG", "-DPYLOOP_DEBUG=1"]
    else:
        compile_args += ["-O3", "-DNDEBUG"]
    if sanitizers := os.environ.get("PYLOOP_SANITIZE"):
        flag = f"-fsanitize={sanitizers}"
        compile_args += [flag, "-fno-omit-frame-pointer", "-g"]
        compile_args.append(f'-DPYLOOP_SANITIZERS="{sanitizers}"')
        link_args.append(flag)

    # System headers, so that the warnings are about our code only.
    paths = sysconfig.get_paths()
    for folder in dict.fromkeys((paths["include"], paths["platinclude"])):
        compile_args += ["-isystem", folder]
    for word in pkg_config("--cflags") or []:
        compile_args += ["-isystem", word[2:]] if word.startswith("-I") else [word]

    if switch("PYLOOP_STATIC_LIBUV"):
        archive, needs = static_libuv()
        extension.extra_objects.append(archive)
        link_args += needs
        # Another libuv in the process (uvloop has one) must not meet ours.
        if sys.platform == "darwin":
            link_args.append("-Wl,-exported_symbol,_PyInit__core")
        else:
            link_args.append("-Wl,--exclude-libs,ALL")
    else:
        link_args += pkg_config("--libs") or []
    extension.extra_compile_args += compile_args
    extension.extra_link_args += link_args


class BuildExt(build_ext):
    """build_ext that knows libuv and the switches."""

    def run(self):
        if sys.platform == "win32":
            fail("Windows is not supported; Linux is, and macOS should work.")
        require_libuv()
        for extension in self.extensions:
            configure(extension)
        self.drop_python_includes()
        record = self.configuration_record()
        wanted = repr([vars(extension) for extension in self.extensions])
        self.force = self.force or not record.is_file() or record.read_text() != wanted
        record.unlink(missing_ok=True)
        super().run()
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(wanted)

    def build_extensions(self):
        """As always, but no module says where an interpreter that it never links is."""
        self.compiler.linker_so = [
            word
            for word in self.compiler.linker_so
            if not word.startswith("-Wl,-rpath")
        ]
        super().build_extensions()

    def build_extension(self, extension):
        """As always, with a hint where a static libuv is what does not link."""
        try:
            super().build_extension(extension)
        except LinkError:
            if not switch("PYLOOP_STATIC_LIBUV"):
                raise
            fail(
                f"{extension.extra_objects[0]} does not link (the reason is above).",
                "It has to be compiled with -fPIC, which Debian's is not. This makes\n"
                "a copy of it that links, for PKG_CONFIG_PATH=build/libuv:\n"
                "    sh scripts/wheels/libuv.sh build/libuv",
            )

    def drop_python_includes(self):
        """Take Python's headers off -I; configure() gives them as -isystem."""
        paths = sysconfig.get_paths()
        own = {paths["include"], paths["platinclude"]}
        self.include_dirs = [path for path in self.include_dirs if path not in own]

    def configuration_record(self):
        """Where the last build's configuration is kept.

        build_ext compares times of files only, so it would take a build without
        asserts for one with them: a changed configuration forces a rebuild.
        """
        kind = "inplace" if self.inplace else "build"
        return pathlib.Path(self.build_temp, f"configuration-{kind}.txt")


def wheel_command():
    """bdist_wheel, which adds libuv's licence to a wheel that libuv is in.

    Made here because a setuptools that main() refuses has no such module.
    """
    from setuptools.command.bdist_wheel import bdist_wheel

    class BdistWheel(bdist_wheel):
        def egg2dist(self, egginfo_path, distinfo_path):
            super().egg2dist(egginfo_path, distinfo_path)
            if switch("PYLOOP_STATIC_LIBUV"):
                for licence in pkg_config("--variable=licence") or ():
                    shutil.copy(licence, os.path.join(distinfo_path, "licenses"))

    return BdistWheel


def main():
    """Run setuptools."""
    if int(setuptools.__version__.partition(".")[0]) < SETUPTOOLS_MINIMUM:
        fail(
            f"setuptools {setuptools.__version__} is too old:",
            f"    python -m pip install 'setuptools>={SETUPTOOLS_MINIMUM}'",
        )
    setup(
        ext_modules=[
            Extension(
                "pyloop._core",
                sources=list(SOURCES),
                depends=sorted(glob.glob("csrc/**/*.h", recursive=True)),
                include_dirs=["csrc"],
            )
        ],
        cmdclass={"build_ext": BuildExt, "bdist_wheel": wheel_command()},
    )


# Build front ends run this file as __main__; the tests import it for SOURCES.
if __name__ == "__main__":
    main()
