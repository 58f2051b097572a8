"""What a text is written in: its words, letters and marks by script, which is what tokens can be estimated from.

Torch-free. A script is a set of Unicode blocks; within the Latin, Cyrillic and Arabic scripts languages differ by a
factor of two in tokens a letter, so there the commonest words, or the letters that a language has or lacks, decide.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

_BLOCKS = {
    "latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff",
    "cyrillic": "\u0400-\u052f",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "arabic": "\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff"
    "\ufe70-\ufefc",
    "hebrew": "\u0591-\u05f4",
    "armenian": "\u0531-\u0587",
    "georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "ethiopic": "\u1200-\u139f",
    "devanagari": "\u0900-\u0963\u0970-\u097f",
    "bengali": "\u0980-\u09e3\u09f0-\u09ff",
    "gurmukhi": "\u0a00-\u0a65\u0a70-\u0a7f",
    "gujarati": "\u0a80-\u0ae3\u0af0-\u0aff",
    "odia": "\u0b00-\u0b63\u0b70-\u0b7f",
    "tamil": "\u0b80-\u0be5\u0bf0-\u0bff",
    "telugu": "\u0c00-\u0c63\u0c70-\u0c7f",
    "kannada": "\u0c80-\u0ce3\u0cf0-\u0cff",
    "malayalam": "\u0d00-\u0d63\u0d70-\u0d7f",
    "sinhala": "\u0d80-\u0ddf",
    "thai": "\u0e00-\u0e4f",
    "lao": "\u0e80-\u0ecf\u0edc-\u0eff",
    "tibetan": "\u0f00\u0f0b\u0f18-\u0f1f\u0f35-\u0fbc",
    "myanmar": "\u1000-\u103f\u104c-\u108f",
    "khmer": "\u1780-\u17d3\u17d7-\u17dd",
    "hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "kana": "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff",
    "han": "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "digit": "0-9",
    "symbol": "\u00a1-\u00a9\u00ab-\u00b9\u00bb-\u00bf\u00d7\u00f7\u060c\u061b\u061f\u066a-\u066d\u06d4\u0964\u0965"
    "\u2010-\u2027\u2030-\u205e\u20a0-\u20cf\u2100-\u25ff\u3001-\u3003\u3008-\u3020\u30fb\uff01-\uff0f\uff1a-\uff20"
    "\uff3b-\uff40\uff5b-\uff65",
    "emoji": "\u2600-\u27bf\u2b00-\u2bff\ufe0f\u200d\U0001f000-\U0001faff",
}
RUN = re.compile("|".join(f"(?P<{name}>[{block}]+)" for name, block in _BLOCKS.items()) + r"|(?P<other>[^\s\x21-\x7e])")
_MARK = re.compile(r"[\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e]|[\r\n]+")
_ASCII_RUN = re.compile(r"(?P<latin>[A-Za-z]+)|(?P<digit>[0-9]+)")
_ACCENTED = re.compile(r"[^\x00-\x7f]")

ENGLISH_WORDS = frozenset(
    "the of and to a in is that it for as with was on be by at are this from or have an they which you not had but "
    "we all were can there if he his her she i my your their has will would do".split()
)
"""The commonest words of English; about two in five of a prose text."""
MAJOR_WORDS = frozenset(
    # Spanish, Portuguese, French, Italian
    "de la que el en los se del las un por con no una su para es al lo como más pero sus le ya este "
    "da em os não uma dos com ao ele das à seu sua ou quando muito nos já eu também só pelo pela "
    "et les des est pour qui dans par plus pas au sur ne ce il sont avec son ses ont cette nous vous je "
    "di che è per della non sono gli nel alla più anche si ha dei delle come questo "
    # German, Dutch
    "der die und den von zu das mit sich des auf für ist im dem nicht ein eine auch werden aus er hat dass sie nach "
    "wird bei einer um noch wie einem über wir ich "
    "het een van op te dat zijn voor met niet aan ook maar bij uit door naar wordt heeft deze als "
    # Indonesian, Malay
    "yang dan ini itu dengan untuk tidak dari pada dalam akan adalah atau oleh kami anda".split()
)
"""The commonest words of the languages in Latin letters of which vocabularies have seen most, English aside."""
OTHER_WORDS = frozenset(
    # Danish, Swedish, Norwegian, Icelandic
    "og det at som er på til av jag ikke inte den det ett att har för med om var kan skal ska när eller vi og að "
    # Polish, Czech, Slovak, Slovene, Croatian, Bosnian, Serbian
    "nie się jest że na do od przez jak tak lub je že se ve ze pro jako nebo sa je ktorý si za ali kot da bi ki ne u "
    "iz koji ili što sve "
    # Finnish, Estonian, Hungarian
    "ja ei että oli mutta joka ovat kun kuin ole see mis või kui az és hogy nem meg egy csak vagy is van ez "
    # Romanian, Albanian, Turkish, Azerbaijani, Uzbek, Turkmen
    "și în este nu care din mai sunt pentru cu dhe të në për është ve bir bu için ile da ne çok olarak və bu üçün va "
    "bilan uchun ham bu we üçin bilen "
    # Lithuanian, Latvian, Basque, Welsh, Irish, Scots Gaelic, Breton, Afrikaans, Luxembourgish
    "ir yra kad ne su bei iš un ar no ka kas par eta ez du da edo yn y yr ac ar gan mae agus an na ar go bha ann ha en "
    "die het nie vir wat an déi dat vun "
    # Swahili, Tagalog, Esperanto, Hausa, Yoruba, Zulu, Somali
    "ya na kwa wa ni katika la za ang ng sa mga ay kaj la de estas kiu da na ga don ti ni si iyo waa oo ka ku".split()
)
"""The commonest words of other languages in Latin letters."""
_VIETNAMESE = re.compile("[\u01a0\u01a1\u01af\u01b0\u0110\u0111\u1eda-\u1ee3\u1ee8-\u1ef1]")
_RUSSIAN = re.compile("[\u044b\u042b\u044d\u042d]")
_NOT_RUSSIAN = re.compile("[^\u0410-\u044f\u0401\u0451]")
_ASIAN = re.compile("[\u0492-\u04ba\u04bb\u04d8\u04d9\u04e2\u04e3\u04e8\u04e9\u04ee\u04ef]")
_PERSIAN = re.compile("[\u067e\u0686\u0698\u06a9\u06af\u06cc]")
_NOT_PERSIAN = re.compile(
    "[\u0679\u067c\u0681\u0685\u0688\u0689\u0691\u0693\u0696\u069a\u06ab\u06ad\u06ba\u06bc-\u06c8\u06cb\u06cd\u06d0-\u06d3\u06d5]"
)

_HITS = {"english": (0.1, 0.25), "major": (0.1, 0.25), "other": (0.03, 0.1)}
"""Of the words, those that are among the commonest of a language: up to the first by chance (in, on, is and de are
words of many languages); from the second on all of the text is in it. Where endings do the work, as in Finnish or
Croatian, the commonest words are fewer."""
_VIETNAMESE_SHARE = 0.03
"""Of the letters those with a horn, and đ: about 0.08 in Vietnamese, under 0.01 elsewhere."""
_RARE_LETTERS = 0.005
"""Of the letters of a script: fewer are names and loans."""
_PERSIAN_SHARE = 0.02
_KANA_SHARE = 0.05
"""For each Chinese character: Japanese has more kana than characters, Chinese has none."""
_MANY_ACCENTS = 0.08
"""Of the letters: Czech, Hungarian, Latvian, Turkish; French has 0.04, and 0.06 in a list of its words."""
CODE_MARKS, _FEW_ACCENTS = 0.6, 0.02
"""Marks and accents a Latin word: many and few are code, a table or formulas, of which the words are English or short;
prose has 0.1 to 0.3 marks."""


def count_runs(texts: Iterable[str]) -> Counter[str]:
    """Words, letters and marks of some texts, before it is known which languages they are in.

    Letters are counted under the name of their script (combining marks among them); `digit` counts digits and `group`
    groups of three; `mark` (of ASCII; line ends too), `symbol`, `emoji` and `other` count characters. Beside them
    stand what the choice of language needs.
    """
    found: Counter[str] = Counter()
    for text in texts:
        found["mark"] += len(_MARK.findall(text))
        for run in (_ASCII_RUN if text.isascii() else RUN).finditer(text):
            name, letters = run.lastgroup or "other", run.group()
            found[name] += len(letters)
            if name == "latin":
                _count_word(letters, found)
            elif name == "digit":
                found["group"] += -(-len(letters) // 3)
            elif name == "cyrillic":
                found["cyrillic russian"] += len(_RUSSIAN.findall(letters))
                found["cyrillic extra"] += len(_NOT_RUSSIAN.findall(letters))
                found["cyrillic asian"] += len(_ASIAN.findall(letters))
            elif name == "arabic":
                found["arabic persian"] += len(_PERSIAN.findall(letters))
                found["arabic extra"] += len(_NOT_PERSIAN.findall(letters))
    return found


def _count_word(letters: str, found: Counter[str]) -> None:
    word = letters.lower()
    found["words"] += 1
    if not letters.isascii():
        found["accents"] += len(_ACCENTED.findall(letters))
        found["vietnamese letters"] += len(_VIETNAMESE.findall(letters))
    if word in ENGLISH_WORDS:
        found["english hits"] += 1
    if word in MAJOR_WORDS:
        found["major hits"] += 1
    if word in OTHER_WORDS:
        found["other hits"] += 1


def units(found: Mapping[str, int], evidence: Mapping[str, int] | None = None) -> dict[str, float]:
    """What `token_factors.json` has factors for: English words, letters by script and group of languages, marks.

    Args:
        found: of `count_runs`.
        evidence: counts of a longer text that says which languages these are, where `found` is short.
    """
    seen = found if evidence is None else evidence
    counts: dict[str, float] = {name: found[name] for name in (*_BLOCKS, "group", "mark", "other") if found.get(name)}
    letters = counts.pop("latin", 0)
    if letters:
        if _share(seen, "vietnamese letters", "latin") >= _VIETNAMESE_SHARE:
            counts["vietnamese"] = letters
        else:
            english, major, other = _latin_shares(seen)
            counts["english word"] = english * found["words"]
            counts["latin major"] = major * letters
            counts["latin other"] = other * letters
            counts["accent"] = other * found.get("accents", 0)
            counts["latin unknown"] = max(1 - english - major - other, 0.0) * letters
    letters = counts.pop("han", 0)
    if letters:
        counts["japanese" if _share(seen, "kana", "han") >= _KANA_SHARE else "chinese"] = letters
    letters = counts.pop("cyrillic", 0)
    if letters:
        counts[_cyrillic(seen)] = letters
    letters = counts.pop("arabic", 0)
    if letters:
        counts[_arabic(seen)] = letters
    return {name: count for name, count in counts.items() if count}


def _latin_shares(seen: Mapping[str, int]) -> tuple[float, float, float]:
    """(English, major other languages, others) among Latin words; of what is left nothing is known: lists of words."""
    words = max(seen.get("words", 0), 1)
    code = seen.get("mark", 0) / words > CODE_MARKS and seen.get("accents", 0) / words < _FEW_ACCENTS
    if code and seen.get("major hits", 0) / words < _HITS["major"][0]:
        return 1.0, 0.0, 0.0
    hits = {name: seen.get(f"{name} hits", 0) / words for name in ("english", "major", "other")}
    if max(hits["english"], hits["major"]) >= hits["other"]:  # of words that are common in both
        hits["other"] = 0.0
    english, major, other = (
        min(max((hits[name] - stray) / (usual - stray), 0.0), 1.0) for name, (stray, usual) in _HITS.items()
    )
    total = max(english + major + other, 1.0)
    english, major, other = english / total, major / total, other / total
    if _share(seen, "accents", "latin") >= _MANY_ACCENTS:
        other = 1 - english - major
    return english, major, other


def _cyrillic(seen: Mapping[str, int]) -> str:
    """Russian has ы and э and no letters of its neighbours; Kazakh, Tatar, Mongolian and others have letters more."""
    if _share(seen, "cyrillic asian", "cyrillic") >= _RARE_LETTERS:
        return "cyrillic asian"
    russian = _share(seen, "cyrillic russian", "cyrillic") >= _RARE_LETTERS
    plain = _share(seen, "cyrillic extra", "cyrillic") < _RARE_LETTERS
    return "russian" if russian and plain else "cyrillic other"


def _arabic(seen: Mapping[str, int]) -> str:
    """Persian has letters that Arabic has not; Urdu, Pashto, Uyghur and others have more of them."""
    if _share(seen, "arabic extra", "arabic") >= _RARE_LETTERS:
        return "arabic other"
    return "persian" if _share(seen, "arabic persian", "arabic") >= _PERSIAN_SHARE else "arabic"


def _share(seen: Mapping[str, int], part: str, whole: str) -> float:
    return seen.get(part, 0) / max(seen.get(whole, 0), 1)
