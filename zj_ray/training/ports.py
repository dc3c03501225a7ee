"""A port that nobody listens on, and that nobody will be given by chance before it is used."""

from __future__ import annotations

import random
import socket

from zj_ray.errors import ZjError

# Above Ray's worker ports; below those that Linux gives to outgoing connections, which could take a free port between this and its use.
PORTS = range(20000, 32768)
TRIES = 200


def free_port() -> int:
    """Free at this moment, on this node; drawn at random, as others may ask at the same time. Raises ZjError if none is found."""
    for port in random.SystemRandom().sample(PORTS, TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise ZjError(f"no free port among {TRIES} between {PORTS.start} and {PORTS.stop - 1}", where="this node", remedy="end what listens on so many")
