"""More servers for `make services`: RabbitMQ, nginx, and a mock cluster of Kafka.

They are started and stopped as servicekit says.
"""

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys

import servicekit
from servicekit import HOST, ServiceError, free_port, own_copy, own_folder, running


def accepts(service):
    """Whether something listens at the service's port."""
    try:
        socket.create_connection((service.host, service.port), 1).close()
    except OSError:
        return False
    return True


# --- RabbitMQ -------------------------------------------------------------------------


def rabbitmq_folder():
    """Return the folder of RabbitMQ's own scripts.

    Those on PATH are Debian's: they change to the system's account and folders.
    """
    folder = pathlib.Path("/usr/lib/rabbitmq/bin")
    servicekit.program("rabbitmq-server", "rabbitmq-server", [str(folder)])
    return folder


@contextlib.contextmanager
def rabbitmq(*, tls):
    """Run a new RabbitMQ node, whose user and password are guest.

    tls: the paths of an authority's certificate, a certificate chain and its key, for
    `tls_port`.
    """
    scripts = rabbitmq_folder()
    with own_folder("rabbitmq") as folder, _epmd() as epmd:
        port, tls_port = free_port(), free_port()
        settings = {"listeners.tcp.1": f"{HOST}:{port}"}
        settings["listeners.ssl.1"] = f"{HOST}:{tls_port}"
        for name, path in zip(("cacertfile", "certfile", "keyfile"), tls, strict=True):
            settings[f"ssl_options.{name}"] = own_copy(folder, f"{name}.pem", path)
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (folder / "rabbitmq.conf").write_text("".join(lines))
        (folder / "enabled_plugins").write_text("[].\n")
        for name in ("rabbitmq.conf", "enabled_plugins"):
            servicekit.give(folder / name)
        env = {
            **epmd.env,
            # Where Erlang keeps its cookie, and looks for settings.
            "HOME": str(folder),
            "RABBITMQ_NODENAME": "pyloop-tests@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            # The script becomes the node, so the process id is the node's.
            "RABBITMQ_ALLOW_INPUT": "1",
            # Nothing is reached from outside, and no scheduler spins while it waits.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput -kernel inet_dist_use_interface {127,0,0,1} +sbwt none"
            ),
        }
        with running(
            "rabbitmq",
            [scripts / "rabbitmq-server"],
            folder,
            accepts,
            signal.SIGTERM,
            env=env,
            port=port,
            tls_port=tls_port,
        ) as service:
            yield service


@contextlib.contextmanager
def _epmd():
    """Erlang's port mapper, which a node would start as a daemon that outlives it."""
    port = free_port()
    env = {"ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": HOST}
    with (
        own_folder("epmd") as folder,
        running(
            "epmd", ["epmd"], folder, accepts, signal.SIGTERM, env=env, port=port
        ) as service,
    ):
        yield service


def rabbitmqctl(service, *words):
    """Run a command of RabbitMQ's command line tool."""
    done = subprocess.run(
        [rabbitmq_folder() / "rabbitmqctl", "--quiet", *words],
        env=service.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=servicekit.START_SECONDS,
        **servicekit.as_user(),
    )
    if done.returncode != 0:
        raise ServiceError(f"rabbitmqctl {' '.join(words)} failed:\n{done.stdout}")
    return done.stdout


# --- nginx ----------------------------------------------------------------------------

NGINX_CONF = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 256m;
    keepalive_requests 100000;

    map $http_upgrade $connection_or_upgrade {{
        default upgrade;
        '' '';
    }}
    upstream application {{
        server unix:{folder}/application.sock;
        keepalive 16;
    }}
    server {{
        listen {host}:{port};
        listen {host}:{tls_port} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};

        proxy_http_version 1.1;
        proxy_set_header Connection $connection_or_upgrade;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;

        # Which of nginx's connections with the client the answer came on.
        add_header X-Front-Connection $connection always;

        location / {{
            proxy_pass http://application;
        }}
        location /unbuffered/ {{
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_pass http://application;
        }}
        location /files/ {{
            alias {folder}/files/;
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(*, tls):
    """Run an nginx whose upstream listens, or will, at its folder's application.sock.

    tls: the paths of a certificate chain and its key, for `tls_port`, where HTTP/2 is
    spoken as well.  What is put into its folder `files` is at /files/.
    """
    program = servicekit.program("nginx", "nginx-light", ["/usr/sbin"])
    with own_folder("nginx") as folder:
        (folder / "files").mkdir()
        ports = {"port": free_port(), "tls_port": free_port()}
        configuration = folder / "nginx.conf"
        configuration.write_text(
            NGINX_CONF.format(
                folder=folder,
                host=HOST,
                certificate=own_copy(folder, "server.pem", tls[0]),
                key=own_copy(folder, "server.key", tls[1]),
                **ports,
            )
        )
        for path in (folder / "files", configuration):
            servicekit.give(path)
        command = [program, "-e", "stderr", "-c", configuration]
        with running(
            "nginx", command, folder, accepts, signal.SIGTERM, **ports
        ) as service:
            yield service


# --- Kafka ----------------------------------------------------------------------------

#: The brokers live in the library of Confluent's client, so the process is a client's.
KAFKA_PROGRAM = """
import signal
from confluent_kafka import Producer

client = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": "3"})
for broker in client.list_topics(timeout=30).brokers.values():
    print(f"broker at {broker.host}:{broker.port}", flush=True)
signal.pause()
"""


@contextlib.contextmanager
def kafka():
    """Run three brokers of librdkafka's mock cluster; `port` is the first one's.

    No Kafka is in Debian or on the package index: it is Confluent's stand-in, which
    speaks Kafka's protocol over TCP and keeps everything in memory.
    """
    with own_folder("kafka") as folder:

        def ready(service):
            ports = re.findall(r"^broker at 127\.0\.0\.1:(\d+)$", service.log(), re.M)
            if len(ports) == 3:
                service.port = int(ports[0])
            return len(ports) == 3

        with running(
            "kafka",
            [sys.executable, "-c", KAFKA_PROGRAM],
            folder,
            ready,
            signal.SIGTERM,
            user=False,  # another user may not see this interpreter
            port=0,
        ) as service:
            yield service
