"""The suites that `make compat` runs: what they are, and how each is started."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

import servicekit


@dataclasses.dataclass(frozen=True)
class Suite:
    """A project whose tests are run; requirements/NAME.txt has what they need."""

    name: str
    version: str
    sha256: str  # of the sdist
    tests: tuple = ("tests",)  # what pytest is given, below the project's folder
    arguments: tuple = ()  # options of pytest's
    environment: dict = dataclasses.field(default_factory=dict)
    # What the sdist has besides the tests and would be imported in the place of the
    # installed package.
    package: str = ""
    # A context manager that starts what the tests talk to: gives a Setting.
    setting: object = None
    limit: int = 1800  # seconds for a run of all tests on one loop
    # Classes of loops that the tests make on purpose, and that are not pyloop's.
    own_loops: tuple = ()
    repository: str = ""  # where the tests are that the sdist has not
    commit: str = ""  # of the version's tag there


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a run needs besides the suite's own: options, environment, a command."""

    arguments: tuple = ()
    environment: dict = dataclasses.field(default_factory=dict)
    prefix: tuple = ()  # the command that runs the interpreter
    note: str = ""


@contextlib.contextmanager
def nothing():
    yield Setting()


@contextlib.contextmanager
def redis():
    """A Redis for redis-py's tests, and a Sentinel of it.

    Some tests take Redis's own port for granted, and a command that is off by default.
    """
    with (
        servicekit.redis(port=6379, settings={"enable-debug-command": "yes"}) as server,
        servicekit.sentinel(server, "redis-py-test") as sentinel,
    ):
        yield Setting(
            (
                f"--redis-url=redis://localhost:{server.port}/0",
                f"--sentinels=localhost:{sentinel.port}",
            ),
            note="" if server.port == 6379 else "port 6379 is taken: some tests fail",
        )


@contextlib.contextmanager
def postgres():
    """PostgreSQL for asyncpg's tests.

    They start and configure clusters of their own, which PostgreSQL refuses to root. So
    root's run is in a user namespace, where it has another number; where there are
    none, the tests get a running server, and leave out what configures it.
    """
    programs = servicekit.postgres_folder()
    own = {"PGINSTALLATION": str(programs)}
    if os.getuid() != 0:
        yield Setting(environment=own)
        return
    prefix = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    if shutil.which("unshare") and not subprocess.run([*prefix, "true"]).returncode:
        yield Setting(environment=own, prefix=prefix)
        return
    with servicekit.postgres() as server:
        environment = {
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
        }
        yield Setting(
            environment=environment,
            note="no user namespaces here: tests that configure a server are skipped",
        )


def lacks_ipv6_name():
    """Whether there is ::1, and localhost is not a name of it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    try:
        return not socket.getaddrinfo("localhost", None, socket.AF_INET6)
    except socket.gaierror:
        return True


@contextlib.contextmanager
def ipv6_name():
    """A localhost with an IPv6 address, for anyio's tests.

    Where ::1 can be bound they take that for granted, and hundreds of them fail where
    the machine's list of names has 127.0.0.1 only. Theirs is in a mount namespace then;
    for another user than root in one of a user namespace, where that user is itself.
    """
    if not lacks_ipv6_name():
        yield Setting()
        return
    with tempfile.TemporaryDirectory() as folder:
        hosts = pathlib.Path(folder, "hosts")
        hosts.write_text(pathlib.Path("/etc/hosts").read_text() + "\n::1 localhost\n")
        space, back = ["unshare", "--mount"], ""
        if os.getuid() != 0:
            space.append("--map-root-user")
            back = f"unshare --map-user={os.getuid()} --map-group={os.getgid()}"
        script = f'mount --bind "$0" /etc/hosts && exec {back} "$@"'
        prefix = (*space, "sh", "-c", script, str(hosts))
        if shutil.which("unshare") and not subprocess.run([*prefix, "true"]).returncode:
            yield Setting(prefix=prefix)
        else:
            yield Setting(
                note="localhost is no name of ::1, and there are no mount namespaces "
                "here: most tests of IPv6 fail"
            )


SUITES = (
    Suite(
        "aiofiles",
        "25.1.0",
        "a8d728f0a29de45dc521f18f07297428d56992a742f0cd2701ba86e44d23d5b2",
    ),
    Suite(
        "pytest-asyncio",
        "1.5.0",
        "92c8fa83ca419fd0d4bd6a34df6520dae435841d3733c319343249492adf37f7",
        tests=("docs", "tests"),
        package="pytest_asyncio",
        own_loops=(
            "conftest.AlternativeCustomEventLoop",
            "conftest.CustomEventLoop",
            "conftest.CustomEventLoopA",
            "conftest.CustomEventLoopB",
            "conftest.CustomLoopA",
            "conftest.CustomLoopB",
            "conftest.RootCustomEventLoop",
            "conftest.SubCustomEventLoop",
            "plugin_loop.SecondaryCustomEventLoop",
        ),
    ),
    Suite(
        "websockets",
        "16.1.1",
        "db234eda965dcce15df96bb9709f587cd87d4d52aaf0e80e2f34ec04c7670c57",
        # It says nothing of pytest, which would look further up for who does.
        arguments=("-c", "pyproject.toml"),
        repository="https://github.com/python-websockets/websockets",
        commit="01df1e4e4d482cc70dfcd4a13c7bac1e956d4b9a",
    ),
    Suite(
        "httpcore",
        "1.0.9",
        "6e34463af53fd2ab5d807f399a9b45ea31c3dfa2276f15a2c3f00afff6e176e8",
        package="httpcore",
    ),
    Suite(
        "httpx",
        "0.28.1",
        "75e98c5f16b0f35b567856f597f06ff2270a374470a5c2392242528e3e3e42fc",
        package="httpx",
    ),
    Suite(
        "uvicorn",
        "0.54.0",
        "a2e33cbfaa0306f8e6b0c13e0cb89d7d7a2da3e62b90c66e18c33d9807b28620",
        # Its own configuration starts workers, which are new interpreters.
        arguments=("-n", "0", "--ignore=tests/benchmarks"),
        package="uvicorn",
        own_loops=("tests.custom_loop_utils.CustomLoop",),
    ),
    Suite(
        "anyio",
        "4.16.0",
        "59bb03251907983d1603d27c3087ddb1e93299ea2163adcdba37899a4fb12ffb",
        setting=ipv6_name,
    ),
    Suite(
        "redis",
        "8.1.0",
        "6e1a19beef9225c83efd689c7e6b7da2d5215b1f42cd13b7fc3714d0a09c7b25",
        tests=("tests/test_asyncio",),
        # What is left out wants servers of Redis's own containers: clusters, replicas,
        # its modules, its certificates.
        arguments=(
            "-m",
            "not redismod and not onlycluster and not ssl and not replica"
            " and not cp_integration and not multidb_integration",
        ),
        package="redis",
        setting=redis,
    ),
    Suite(
        "asyncpg",
        "0.32.0",
        "45e64e56714d888330b884aad1dfb363d0bf43fb343e3d1a8968525f3bade478",
        package="asyncpg",
        setting=postgres,
    ),
    Suite(
        "aiohttp",
        "3.14.5",
        "5558a7f5a05af9ecf744af91e5baefc436f93c9333e656c27ec253f9a6bbe178",
        # Its own options measure coverage and start workers: these are the others.
        arguments=(
            "--override-ini=addopts=",
            "--strict-markers",
            "-m",
            "not dev_mode and not autobahn and not internal",
            "--ignore-glob=tests/test_benchmarks_*",
        ),
        package="aiohttp",
        limit=7200,
    ),
)
