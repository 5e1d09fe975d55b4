"""TCP ports of 127.0.0.1: which are free, and who holds one that is not."""

from __future__ import annotations

import socket
from contextlib import closing

import psutil

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now (one that lingers in TIME_WAIT counts as free)."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as client:
        # Where a listener on all addresses does not keep others from 127.0.0.1 (macOS), it still answers.
        client.settimeout(1.0)
        if client.connect_ex((HOST, port)) == 0:
            return False
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def find_free() -> int:
    """A port that nobody listens on; another program may still take it before its user does."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def describe_holder(port: int) -> str:
    """Who listens on the port, such as "gunicorn (process 4711)"; "another program" when we may not see."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == port:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass  # another user's process: its name is not ours to see
    return "another program"
