"""Ports: one to listen on that a user named, and free ones for our own processes."""

from __future__ import annotations

import random
import socket

from zj_ray.errors import ConfigError, ZjError

# Above Ray's worker ports; below those that Linux gives to outgoing connections: one of these could take a port that is
# free now before it is used.
PORTS = range(20000, 32768)
TRIES = 200


def listen(host: str, port: int, *, where: str) -> socket.socket:
    """A socket that listens on the port, or for 0 on any free one; close it. What connects from now on waits for an
    answer, and is not refused. Raises ConfigError at `where` if the port can't be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        what = f"can't listen on {host}:{port} ({error.strerror})"
        raise ConfigError(what, where=where, remedy="choose another port, or 0 for any free one") from error
    return listener


def free_port() -> int:
    """A port that nobody listens on, and that nobody will be given by chance before it is used.

    It is free at this moment, on this node; drawn at random, as others may ask at the same time. Raises ZjError where
    no port is free.
    """
    for port in random.SystemRandom().sample(PORTS, TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    what = f"no free port among {TRIES} between {PORTS.start} and {PORTS.stop - 1}"
    raise ZjError(what, where="this node", remedy="end what listens on so many")
