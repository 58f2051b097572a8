"""Text that came from elsewhere, before it is printed or kept: without secrets, without orders to a terminal, a
spreadsheet or a reader of Markdown.

Names of files and columns, completions, addresses and the words of libraries are such text. HTML has `html.escape`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

HIDDEN = "***"
"""What stands where a secret stood."""
_SHORTEST = 8
"""Characters of an environment variable that is looked for: a shorter one is a word, and is everywhere."""

# RFC 3986, 3.2.1: what stands before @ in an authority is the user's. The second way takes a password with a slash in
# it, which is no address but is typed; a port is none, and a revision (hf://datasets/a/b@main) has no colon.
_USER = re.compile(r"(?<=://)(?:[^\s/?#\"'<>\\]*|[^\s/:@?#\"'<>\\]+:(?!\d+(?:[/?#]|$))[^\s\"'<>\\]*)@")
_WORD = (
    r"(?:access|api|auth|private|refresh|secret|session|x-amz|x-goog)?[_-]?"
    r"(?:token|key|secret|passw(?:or)?d|pwd|credentials?|signature|sig|bearer)"
)
_PARAMETER = re.compile(rf"(?i)(?<![\w-])((?:[a-z0-9]+[_-])*{_WORD})=(?!\*)([^\s&;#,\"'<>()\\]+)")
_HEADER = re.compile(r"(?i)\b(bearer|basic)(\s+)[\w.~+/-]{8,}=*")
# The prefixes that makers of tokens document: Hugging Face, OpenAI and Anthropic, GitHub, AWS.
_KNOWN = re.compile(r"\b(?:hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|AKIA[A-Z0-9]{16})\b")
_VARIABLE = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL)S?$")

# C0 but tab and newline, DEL, C1; line and paragraph separators; the orders of bidirectional text (Unicode TR 9, 2);
# halves of surrogate pairs, by which Python holds file names that are no UTF-8.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_MARKDOWN = re.compile(r"([\\`*_\[\]|<>#~&])")

# What begins as no word does: at the root, at home, here or above, at a drive, at a server, or as a file's address.
_PLACE = re.compile(
    r"""(?<![\w.:/\\~-])(?:file:///?|~[\w.-]*/|\.{0,2}/|[A-Za-z]:[\\/]|\\\\)(?=[\w.@+~-])[^\s"'`,;()<>|]*"""
)


def redacted(text: str) -> str:
    """Without the secrets of addresses, parameters and headers, known tokens, and what the environment keeps."""
    return _redacted(text, _kept())


def _redacted(text: str, kept: Sequence[str]) -> str:
    if "@" in text:
        text = _USER.sub(f"{HIDDEN}@", text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\1={HIDDEN}", text)
    text = _KNOWN.sub(HIDDEN, _HEADER.sub(rf"\1\2{HIDDEN}", text))
    for value in kept:
        text = text.replace(value, HIDDEN)
    return text


def _kept() -> list[str]:
    """The secrets of the environment, the longest first: one may be part of another."""
    named = [name for name in list(os.environ) if _VARIABLE.search(name.upper())]  # another thread may set some
    found = {value for name in named if len(value := os.environ.get(name, "")) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)


def without_secrets(value: Any) -> Any:
    """The same of every text in a value of JSON; keys stay."""
    return _without(value, _kept())


def _without(value: Any, kept: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _redacted(value, kept)
    if isinstance(value, dict):
        return {key: _without(item, kept) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, kept) for item in value]
    return value


def without_paths(value: Any, known: Iterable[str] = ()) -> Any:
    """A value of JSON whose texts name files and folders by their last part alone: those at an absolute or a relative
    path that begins as one, and the `known` ones, whatever they look like."""
    places = sorted({place for place in known if re.search(r"[/\\]", place)}, key=len, reverse=True)

    def plain(text: str) -> str:
        for place in places:
            text = text.replace(place, last_part(place))
        return _PLACE.sub(lambda found: last_part(found[0]), text)

    def clean(item: Any) -> Any:
        if isinstance(item, str):
            return plain(item)
        if isinstance(item, dict):
            return {plain(key) if isinstance(key, str) else key: clean(inner) for key, inner in item.items()}
        return [clean(inner) for inner in item] if isinstance(item, list | tuple) else item

    return clean(value)


def last_part(place: str) -> str:
    """What a file or folder is called, whatever stands before it; a folder's slash at the end is left out."""
    return next((part for part in reversed(re.split(r"[/\\]", place)) if part not in ("", ".", "..", "~")), "")


def printable(text: str) -> str:
    """With characters that would move a cursor, colour or reorder what is shown spelled out; tabs and newlines stay."""
    return _CONTROL.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown(text: str) -> str:
    """As a person may see it."""
    return printable(redacted(text))


def cell(value: Any) -> Any:
    """A value of a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe (OWASP, CSV
    injection: https://owasp.org/www-community/attacks/CSV_Injection). Numbers stay numbers.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def markdown(text: str) -> str:
    """Text in a line or a cell of Markdown that means nothing but itself."""
    return _MARKDOWN.sub(r"\\\1", shown(" ".join(text.split())))
