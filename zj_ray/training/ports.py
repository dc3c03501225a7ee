"""A port that nobody listens on."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Free at this moment, on this node."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
