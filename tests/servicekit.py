"""Servers from Debian's packages, started for who needs them: PostgreSQL and Redis.

    with servicekit.postgres() as server:
        ... server.host, server.port, server.unix_folder ...

Each runs on loopback, on a free port and on a Unix socket, in a folder of its own that
is removed afterwards, and is stopped by its process id. `make compat` and `make
services` use this; nothing here knows of a loop.  services/servers.py has more servers.
"""

import contextlib
import dataclasses
import glob
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

HOST = "127.0.0.1"

# Seconds until a server answers, and until it has ended: generous, on a busy machine.
START_SECONDS = 60
STOP_SECONDS = 30


class ServiceError(Exception):
    """A server cannot be had, or does not start; the message is for the user."""


@dataclasses.dataclass
class Service:
    """A running server."""

    name: str
    port: int  # on HOST
    folder: pathlib.Path  # its own; removed at the end
    process: subprocess.Popen
    host: str = HOST
    tls_port: int | None = None  # where TLS has a port of its own
    env: dict = dataclasses.field(default_factory=dict)  # of its own, and its tools'

    @property
    def unix_folder(self):
        """The folder of its Unix socket, as PostgreSQL's clients want it."""
        return str(self.folder)

    @property
    def unix_path(self):
        """Its Unix socket, as Redis's clients want it."""
        return str(self.folder / f"{self.name}.sock")

    def environment(self):
        """What its own tools run in."""
        return {**os.environ, **self.env}

    def log(self):
        """What it has printed so far."""
        return (self.folder / "log").read_text(errors="replace")


# --- what is installed ----------------------------------------------------------------


def install(*packages):
    """Install Debian packages, as root; ServiceError where that cannot be done."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None or os.getuid() != 0:
        raise ServiceError(f"missing: {names}; as root: apt-get install {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    )
    with _no_system_service_starts():
        for command in commands:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                output = done.stdout[-2000:]
                raise ServiceError(f"{' '.join(command)} failed:\n{output}")


@contextlib.contextmanager
def _no_system_service_starts():
    """Keep packages from starting what they bring: the machine's policy, for so long.

    A machine that has a policy (as containers have) keeps that one.
    """
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    try:
        with open(policy, "x") as file:
            file.write("#!/bin/sh\nexit 101\n")  # "action forbidden by policy"
    except OSError:
        yield
        return
    try:
        policy.chmod(0o755)
        yield
    finally:
        policy.unlink()


def program(name, package, folders=()):
    """Return the path of a program; its Debian package is installed if it is missing.

    folders: glob patterns of where else than on PATH it may be, the last match wins.
    """
    for attempt in range(2):
        found = shutil.which(name)
        for pattern in folders:
            for folder in sorted(glob.glob(pattern)):
                found = shutil.which(name, path=folder) or found
        if found:
            return found
        if attempt == 0:
            install(package)
    raise ServiceError(f"the package {package} has brought no {name}")


def postgres_folder():
    """Return the folder of PostgreSQL's programs, which Debian keeps off PATH."""
    found = program("initdb", "postgresql", ["/usr/lib/postgresql/*/bin"])
    return pathlib.Path(found).resolve().parent


def service_user():
    """Return the account that a server runs under when we are root, else None.

    PostgreSQL refuses to be root.
    """
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServiceError("there is no user postgres, and no nobody, to run servers as")


# --- running --------------------------------------------------------------------------


def free_port(wanted=0):
    """Return a port of HOST that was free a moment ago, the wanted one if it was."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, wanted))
        except OSError:
            sock.bind((HOST, 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def own_folder(name):
    """A new folder that the service's user owns, removed at the end."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        give(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def give(path):
    """Make a file or folder the service user's own."""
    if user := service_user():
        os.chown(path, user.pw_uid, user.pw_gid)


def as_user():
    """Popen's arguments for a process of the service's user."""
    user = service_user()
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def own_copy(folder, name, path):
    """Copy a certificate or key to where the server, and nobody else, reads it."""
    copy = folder / name
    shutil.copyfile(path, copy)
    copy.chmod(0o600)
    give(copy)
    return copy


@contextlib.contextmanager
def running(name, command, folder, ready, stop_signal, env=None, user=True, **ports):
    """Start a server, wait until ready(service); stop it at the end.

    env: added to its environment.  user: whether service_user() runs it, or we.
    """
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Control-C is for us; we stop it
            env={**os.environ, **(env or {})},
            **(as_user() if user else {}),
        )
    service = Service(name, folder=folder, process=process, env=env or {}, **ports)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready(service):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"{name} did not start:\n{service.log()[-2000:]}")
            time.sleep(0.05)
        yield service
    finally:
        _stop(process, stop_signal)


def _stop(process, stop_signal):
    if process.poll() is None:
        process.send_signal(stop_signal)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- PostgreSQL -----------------------------------------------------------------------


@contextlib.contextmanager
def postgres(*, tls=None, settings=None):
    """Run a new PostgreSQL cluster: user and database postgres, no password.

    tls: the paths of a certificate chain and its key, for clients that ask for TLS.
    settings: more of postgresql.conf, {name: value}.
    """
    programs = postgres_folder()
    with own_folder("postgres") as folder:
        data = folder / "data"
        _initdb(programs / "initdb", data)
        port = free_port()
        chosen = {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": folder,
            "fsync": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
            **(settings or {}),
        }
        if tls is not None:
            chosen["ssl"] = "on"
            chosen["ssl_cert_file"] = own_copy(folder, "server.pem", tls[0])
            chosen["ssl_key_file"] = own_copy(folder, "server.key", tls[1])
        command = [programs / "postgres", "-D", data]
        for name, value in chosen.items():
            command += ["-c", f"{name}={value}"]
        asks = [programs / "pg_isready", "-q", "-h", HOST, "-p", str(port)]

        def ready(service):
            return subprocess.run(asks).returncode == 0

        # SIGINT is its fast shutdown: it ends sessions, and does not wait for them.
        with running(
            "postgres", command, folder, ready, signal.SIGINT, port=port
        ) as service:
            yield service


def _initdb(initdb, data):
    done = subprocess.run(
        [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        + ["--locale=C.UTF-8", "--no-sync"],
        cwd=data.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **as_user(),
    )
    if done.returncode != 0:
        raise ServiceError(f"initdb failed:\n{done.stdout[-2000:]}")


# --- Redis ----------------------------------------------------------------------------


@contextlib.contextmanager
def redis(*, tls=None, settings=None, port=0):
    """Run a new Redis that keeps nothing on disk and wants no password.

    port: it has this one, if that is free.
    tls: the paths of an authority's certificate, a certificate chain and its key; then
    `tls_port` takes TLS, from clients with or without a certificate.
    settings: more of redis.conf, {name: value}.
    """
    server = program("redis-server", "redis-server")
    with own_folder("redis") as folder:
        ports = {"port": free_port(port)}
        chosen = {
            "bind": HOST,
            "port": ports["port"],
            "unixsocket": folder / "redis.sock",
            "unixsocketperm": 777,
            "dir": folder,
            "save": "",
            **(settings or {}),
        }
        if tls is not None:
            ports["tls_port"] = chosen["tls-port"] = free_port()
            chosen["tls-auth-clients"] = "optional"
            for name, path in zip(("ca-cert", "cert", "key"), tls, strict=True):
                chosen[f"tls-{name}-file"] = own_copy(folder, f"{name}.pem", path)
        command = [server]
        for name, value in chosen.items():
            command += [f"--{name}", str(value)]
        with running(
            "redis", command, folder, _redis_answers, signal.SIGTERM, **ports
        ) as service:
            yield service


@contextlib.contextmanager
def sentinel(master, name):
    """Run a Redis Sentinel that watches a Redis, a Service, by this name."""
    server = program("redis-server", "redis-server")
    with own_folder("sentinel") as folder:
        port = free_port()
        settings = folder / "sentinel.conf"  # which it writes to
        settings.write_text(
            f"bind {HOST}\nport {port}\ndir {folder}\n"
            f"sentinel monitor {name} {master.host} {master.port} 1\n"
        )
        give(settings)
        with running(
            "sentinel",
            [server, settings, "--sentinel"],
            folder,
            _redis_answers,
            signal.SIGTERM,
            port=port,
        ) as service:
            yield service


def _redis_answers(service):
    try:
        with socket.create_connection((service.host, service.port), 1) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(64).startswith(b"+PONG")
    except OSError:
        return False
