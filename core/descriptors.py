"""Shares out this process's file descriptors: most to connections, and three quarters of those to the stream's sockets.

A process without a free descriptor can neither accept a connection nor open a file, and says nothing about it.
"""

import functools
import resource

KEPT = 96  # for the database, Redis, files and logs
MOST = 65_536


@functools.cache
def limit() -> int:
    """Raise this process's limit as far as it may, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has a second limit below the first
            return soft
    return wanted


def connections() -> int:
    """How many connections this process may hold, of HTTP and sockets together."""
    return max(limit() - KEPT, limit() // 2)


def sockets() -> int:
    """How many of its connections may be sockets of the stream: the others are kept for HTTP, closes above all."""
    return connections() * 3 // 4


def shares() -> dict[str, int]:
    return {"limit": limit(), "connections": connections(), "sockets": sockets()}
