"""A port for the processes of a job to meet at."""

import socket


def free_port() -> int:
    """One that nothing uses now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
