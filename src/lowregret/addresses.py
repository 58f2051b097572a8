"""Where a server listens, and by which name it is asked."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from lowregret.errors import SpecError

BACKLOG = 2048
"""Connections that may wait to be accepted."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, so that no key is needed."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_key(host: str, key: str | None) -> None:
    """SpecError for an address that others reach, without a key."""
    if key is None and not is_loopback(host):
        raise SpecError(
            f"--host {host}: others reach this address, and there is no key. Give --api-key, or set LOWREGRET_API_KEY."
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; SpecError when it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise SpecError(f"--host {host} --port {port}: cannot be listened at ({said}). Give others.") from None


def address_of(listening: socket.socket) -> str:
    """`http://HOST:PORT` of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def host_name(header: str) -> str:
    """A Host header without its port."""
    name, _, port = header.rpartition(":")
    return (name if name and port.isdecimal() else header).strip("[]").lower()
