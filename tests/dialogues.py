"""What tests of builtin data share; imported by name, since tests/ is on the path (pyproject.toml)."""

from __future__ import annotations

from typing import Any


def turns(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(user, assistant) of each row, which has these two turns and nothing else."""
    found = []
    for row in rows:
        assert list(row) == ["messages"]
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        found.append((user["content"], assistant["content"]))
    return found
