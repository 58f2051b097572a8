"""How `lowregret watch` answers: where."""

from __future__ import annotations

from pydantic import Field

from lowregret.spec.base import Spec


class WatchSpec(Spec):
    """A page that watches runs."""

    host: str = "127.0.0.1"
    """The address to listen at; at one that others reach, such as 0.0.0.0, the page asks for a token."""
    port: int = Field(default=8765, ge=0, le=65535)
    """The port to listen at; 0 takes a free one."""
