"""Whether bytes that are not UTF-8 are Windows-1252, judged by the words they would make.

Nearly all bytes are letters or signs in Windows-1252, so that they can be decoded proves nothing: Polish, Czech,
Russian, Greek or Chinese text in an encoding of its own would come out as other letters, and be trained on. Words tell.
In the languages that Windows-1252 was made for, accented letters stand among plain ones, no sign stands inside of a
word, no capital follows a small letter, and `š`, `ž`, `ð` and `þ` are rare, but for the last two in Icelandic. In text
of another encoding that happens all the time. tests/unit/data/test_encoding.py has both kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SMALL = "àáâãäåæçèéêëìíîïñòóôõöøùúûüÿßœ"
_LARGE = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŸŒ"
_RARE = "šžŠŽðþýÐÞÝ"
_ACCENTED = _SMALL + _LARGE + _RARE
_LETTER = f"[A-Za-z{_ACCENTED}]"
_WORD = re.compile(f"{_LETTER}+")
_FOREIGN = re.compile(
    "|".join(
        [
            f"[a-z{_SMALL}][{_LARGE}ÐÞÝŠŽ]",
            f"{_LETTER}[¡¢£¥§¨¬¯±²³¶¹º¼½¾¿‚„ˆ‰‹›“‘†‡˜÷]{_LETTER}",
            f"º{_LETTER}",
            f"{_LETTER}¹",
            f"(?!m){_LETTER}³",  # not the cubic metre
            f"{_LETTER}€",
            "[ìù][a-z]",  # they end a word in Italian and French; ě and ů of Windows-1250 do not
            "[‚„†‡ˆ‰‹˜][^\x00-\x7f]",
            "[¤ƒ]",
        ]
    )
)
_ACUTE = frozenset("áéíóúÁÉÍÓÚ")
_ICELANDIC = frozenset("áéíóúýæöðþÁÉÍÓÚÝÆÖÐÞ")
_HUNGARIAN = re.compile("[õÕ](?![eE])")
"""Before other letters than e Portuguese has none, and Estonian has no acute accents; Hungarian's ő comes with them."""
_TOLERATED = 0.2
"""How many times as many foreign marks as likely words there may be, for names and for `ÄÖÜ`: in the texts of the test
Western ones have at most 0.13, those of other encodings at least 0.25."""


def is_western(lines: Iterable[bytes]) -> bool:
    """Whether these lines, all of them not UTF-8, make sense as Windows-1252."""
    likely = foreign = icelandic = accented = rare = acute = tilde = 0
    for line in lines:
        try:
            text = line.decode("cp1252")
        except UnicodeDecodeError:  # five bytes are no character
            return False
        foreign += len(_FOREIGN.findall(text))
        tilde += len(_HUNGARIAN.findall(text))
        for word in _WORD.findall(text):
            marks = [letter for letter in word if not letter.isascii()]
            if not marks:
                continue
            accented += len(marks)
            icelandic += sum(letter in _ICELANDIC for letter in marks)
            rare += sum(letter in _RARE for letter in marks)
            acute += sum(letter in _ACUTE for letter in marks)
            if len(marks) == len(word) > 1:
                foreign += 1
            elif len(marks) < len(word):
                likely += 1
    if icelandic < (1 - _TOLERATED) * accented:
        foreign += rare
    if acute > tilde > 0.02 * accented:
        return False
    return foreign <= _TOLERATED * likely
