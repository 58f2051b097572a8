"""Which encoding a text file has: UTF-8, UTF-16, UTF-32 or Windows-1252, and its lines.

The order of trust: a byte order mark; the zeros that UTF-16 and UTF-32 put beside the plain characters a data file
begins with (RFC 4627, section 3); whether all bytes are UTF-8; and only when not one row beyond ASCII is UTF-8, whether
the words make sense as Windows-1252 (`western`). What is none of these stays undecoded, and each such row is a bad row.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass

from lowregret import limits
from lowregret.data.readers.compression import open_bytes
from lowregret.data.readers.western import is_western
from lowregret.errors import DataError

_CHUNK = 1 << 20
_ESCAPED = 12
"""Characters for one, in JSON that escapes all beyond ASCII: two of \\uXXXX."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),  # before UTF-16, of whose mark it is an extension
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_ZEROS = (
    ((True, False, False, False) * 2, "utf-32-le", "UTF-32"),
    ((False, False, False, True) * 2, "utf-32-be", "UTF-32"),
    ((True, False) * 4, "utf-16-le", "UTF-16"),
    ((False, True) * 4, "utf-16-be", "UTF-16"),
)
"""Which of the first eight bytes are not zero."""
_NO_OTHER = (
    ", and not Windows-1252, by its letters: save the whole file as UTF-8, as `iconv -f ITS_ENCODING -t UTF-8` does"
)
_MIXED = ", though others of its rows are"


@dataclass(frozen=True)
class TextFile:
    """A text file and how its bytes become characters."""

    source: str
    codec: str
    """As Python names it."""
    encoding: str
    """As people do."""
    otherwise: str = ""
    """What is to be said of a row that is not in this encoding, after that it is not."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth saying: an encoding other than UTF-8."""
        return () if self.encoding == "UTF-8" else (f"read as {self.encoding}, not UTF-8",)

    def lines(self, newline: str, most: int | None = None) -> Iterator[str]:
        """The lines with their ends, which `newline` says as in `open`. Bytes that are not UTF-8 become surrogates.

        `most`: characters of a line; enough for a row and its escapes when not given. Raises DataError, at any line,
        for a file that is damaged and for a longer line.
        """
        most = most or _ESCAPED * limits.ROW_CHARACTERS.value
        with open_bytes(self.source) as stream:
            text = io.TextIOWrapper(stream, self.codec, errors="surrogateescape", newline=newline)
            number = 0
            while line := text.readline(most + 1):
                number += 1
                if len(line) > most:
                    said = f"has more than {most:,} characters in one line. {limits.ROW_CHARACTERS.raised}."
                    raise DataError(said, source=self.source, line=number)
                yield line
            text.detach()

    def whole(self) -> str:
        """All of it. Raises DataError when that is too much to hold in memory."""
        most = limits.JSON_LIST_BYTES
        with open_bytes(self.source) as stream:
            text = io.TextIOWrapper(stream, self.codec, errors="surrogateescape", newline="\n")
            found = text.read(most.value + 1)
            text.detach()
        if len(found) > most.value:
            raise DataError(
                f"is one list of more than {most.value:,} characters, which is held in memory whole. Write it as JSON "
                f"Lines, an object a line, which are not. {most.raised}.",
                source=self.source,
            )
        return found

    def undecoded(self, text: str) -> str | None:
        """What is wrong with a row that holds bytes of another encoding; None when it holds none."""
        if text.isascii():
            return None
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            byte = ord(text[error.start]) - 0xDC00
            place = len(text[: error.start].encode("utf-8")) + 1
            return f"not UTF-8: byte 0x{byte:02x} at byte {place}{self.otherwise}"
        return None


def look_at_text(source: str) -> TextFile:
    """Find out the encoding, for which all of the file is read once. Raises DataError for a damaged file."""
    with open_bytes(source) as stream:
        start = stream.read(8)
    for mark, codec, encoding in _MARKS:
        if start.startswith(mark):
            if encoding != "UTF-8":
                _require(source, codec, encoding)
            return TextFile(source, codec, encoding, _MIXED)
    pattern = tuple(byte != 0 for byte in start)
    for zeros, codec, encoding in _ZEROS:
        if len(pattern) >= 4 and pattern == zeros[: len(pattern)] and _fault(source, codec) is None:
            return TextFile(source, codec, encoding)
    if _fault(source, "utf-8") is None:
        return TextFile(source, "utf-8", "UTF-8")
    if _holds_utf8(source):
        return TextFile(source, "utf-8", "UTF-8", _MIXED)
    if is_western(line for line in _binary_lines(source) if not line.isascii()):
        return TextFile(source, "cp1252", "Windows-1252")
    return TextFile(source, "utf-8", "UTF-8", _NO_OTHER)


def _require(source: str, codec: str, encoding: str) -> None:
    fault = _fault(source, codec)
    if fault is not None:
        raise DataError(f"begins as {encoding}, but is none: {fault}. Save it as UTF-8.", source=source)


def _fault(source: str, codec: str) -> str | None:
    """Why a file is not of this encoding; None when it is. Without a mark, wide characters are never NUL."""
    decoder = codecs.getincrementaldecoder(codec)()
    with open_bytes(source) as stream:
        try:
            while chunk := stream.read(_CHUNK):
                if "\0" in decoder.decode(chunk) and codec.endswith(("-le", "-be")):
                    return "NUL"
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            return error.reason
    return None


def _binary_lines(source: str) -> Iterator[bytes]:
    with open_bytes(source) as stream:
        while line := stream.readline(_CHUNK):
            yield line


def _holds_utf8(source: str) -> bool:
    """Whether any line beyond ASCII is UTF-8."""
    for line in _binary_lines(source):
        if not line.isascii():
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                continue
            return True
    return False
