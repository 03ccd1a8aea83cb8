"""Takes the address that the daemon listens on: before it starts anything, or to see whether it could."""

import errno
import socket

from preble.daemon.config import ServerConfig
from preble.daemon.errors import PrebleError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # as of ::1, where localhost has it and the kernel has no IPv6


def take_address(server: ServerConfig) -> list[socket.socket]:
    """Sockets bound to every address that the host's name stands for, not listening yet. Raises `PrebleError`."""
    taken: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, kind, protocol, _, address in _addresses(server):
            try:
                taken.append(_bound(socket.socket(family, kind, protocol), address))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                absent = error
        if not taken and absent is not None:
            raise absent
    except OSError as error:
        for each in taken:
            each.close()
        raise PrebleError(f"cannot listen on {server.host}:{server.port}: {error.strerror}") from error
    return taken


def _addresses(server: ServerConfig) -> list[tuple[int, int, int, str, tuple[str | int, ...]]]:
    found = socket.getaddrinfo(server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))  # type: ignore[arg-type]


def _bound(sock: socket.socket, address: tuple[str | int, ...]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a restart waits for old connections
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
