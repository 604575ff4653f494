"""A self-signed certificate for the rows over TLS, made once by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

DAYS = 30


def make(folder: Path) -> tuple[str, str]:
    """The paths of a certificate and its key in *folder*, made if they are not there.

    Raises FileNotFoundError without the openssl command.
    """
    certificate, key = folder / "server.pem", folder / "server-key.pem"
    if fresh(certificate) and key.exists():
        return str(certificate), str(key)
    openssl = shutil.which("openssl")
    if openssl is None:
        raise FileNotFoundError("the openssl command is not installed")
    argv = [openssl, "req", "-x509", "-nodes", "-days", str(DAYS)]
    argv += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    # Not every TLS library takes a server's certificate that may sign others.
    argv += ["-addext", "basicConstraints=critical,CA:FALSE"]
    argv += ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run(argv, check=True, capture_output=True)
    return str(certificate), str(key)


def fresh(certificate: Path) -> bool:
    """Whether it is there, and good for more than half of its days."""
    try:
        made = certificate.stat().st_mtime
    except FileNotFoundError:
        return False
    return time.time() - made < DAYS / 2 * 86400
