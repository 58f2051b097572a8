"""Who reaches an address."""

from __future__ import annotations

from ipaddress import ip_address

from lowregret.errors import SpecError


def require_key(host: str, key: str | None) -> None:
    """SpecError for an address that others reach, without a key."""
    if key is None and not _loopback(host):
        raise SpecError(
            f"--host {host}: others reach this address, and there is no key. Give --api-key, or set LOWREGRET_API_KEY."
        )


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
