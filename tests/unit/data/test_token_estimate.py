"""What a text is written in, and how many tokens that makes: beside counts of published vocabularies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lowregret.data.scan import scan
from lowregret.data.scripts import count_runs, units
from lowregret.data.token_estimate import describe, estimate, factors_of

VOCABULARIES = (151936, 128256, 262144)
# Sentences of our own, and their tokens by the vocabularies of Qwen 3, Llama 3.1 and Gemma 3.
SENTENCES = {
    "English or code": (
        "The weather was cold and the train was late, so we had "
        "to wait for an hour at the station.",
        (22, 22, 22),
    ),
    "German, French, Spanish and the like": (
        "Das Wetter war kalt und der Zug hatte Verspätung, so dass wir "
        "noch eine Stunde auf dem Bahnhof warten mussten.",
        (32, 32, 25),
    ),
    "other languages in Latin letters": (
        "Pogoda była zimna, a pociąg się spóźnił, więc "
        "musieliśmy czekać jeszcze godzinę przy dworcu.",
        (36, 37, 31),
    ),
    "Vietnamese": (
        "Thời tiết lạnh và tàu đến muộn nên chúng tôi phải đợi thêm một giờ nữa ở nhà ga.",
        (23, 23, 21),
    ),
    "Russian": (
        "Погода была холодной, поезд опоздал, и нам пришлось ещё целый "
        "час ждать на вокзале, где было очень тихо.",
        (36, 35, 29),
    ),
    "Slavic languages in Cyrillic": (
        "Погода була холодною, потяг запізнився, і нам довелося ще цілу годину чекати на вокзалі.",
        (43, 32, 33),
    ),
    "Greek": (
        "Ο καιρός ήταν κρύος και το τρένο άργησε, οπότε έπρεπε "
        "να περιμένουμε μια ώρα στον σταθμό.",
        (76, 35, 36),
    ),
    "Arabic": (
        "كان الطقس باردا وتأخر القطار فاضطررنا إلى الانتظار ساعة أخرى في المحطة.",
        (27, 28, 25),
    ),
    "Persian": (
        "هوا سرد بود و قطار دیر کرد، پس مجبور شدیم یک ساعت دیگر در ایستگاه منتظر بمانیم.",
        (45, 28, 26),
    ),
    "Hebrew": (
        "מזג האוויר היה קר והרכבת איחרה, ולכן נאלצנו לחכות עוד שעה בתחנה.",
        (24, 65, 31),
    ),
    "Devanagari": (
        "मौसम ठंडा था और ट्रेन देर से आई, इसलिए हमें स्टेशन पर एक घंटा और इंतज़ार करना पड़ा।",
        (79, 41, 21),
    ),
    "Thai": (
        "อากาศหนาวและรถไฟมาช้า เราจึงต้องรออีกหนึ่งชั่วโมงที่สถานี",
        (30, 26, 19),
    ),
    "Chinese": (
        "天气很冷，火车晚点了，所以我们不得不在车站再等一个小时。",
        (16, 22, 18),
    ),
    "Japanese": (
        "とてもさむくて、でんしゃがおくれたので、えきでもういちじかんまたなければならなかった。",
        (27, 28, 24),
    ),
    "Hangul": (
        "날씨가 추웠고 기차가 늦어서 우리는 역에서 한 시간을 더 기다려야 했다.",
        (27, 24, 22),
    ),
}  # fmt: skip
CODE = (
    "def add(first, second):\n    if first is None:\n        return [second]\n    return self.items[first] + second\n"
)


@pytest.mark.parametrize("language", SENTENCES)
def test_a_language_is_told_and_its_tokens_are_within_the_stated_range(language: str) -> None:
    text, counts = SENTENCES[language]
    found = units(count_runs([text]))
    assert describe(found, VOCABULARIES[0]).partition(" % ")[2].startswith(language)
    for vocabulary, count in zip(VOCABULARIES, counts, strict=True):
        held = estimate(found, vocabulary)
        assert held.low <= count <= held.high
        assert held.off < 0.6 or language.startswith("Slavic")


@pytest.mark.parametrize("language", SENTENCES)
def test_the_range_of_an_unknown_vocabulary_holds_the_known_ones(language: str) -> None:
    text, counts = SENTENCES[language]
    held = estimate(units(count_runs([text])), 99_999)
    assert not factors_of(99_999).known
    assert all(held.low <= count <= held.high for count in counts)


def test_code_is_no_foreign_language_and_a_mixture_is_both() -> None:
    assert set(units(count_runs([CODE]))) == {"english word", "mark"}
    english, german = (SENTENCES[name][0] for name in list(SENTENCES)[:2])
    mixed = units(count_runs([english, german]))
    assert min(mixed["english word"], mixed["latin major"] / 5) > 5


def test_a_list_of_words_tells_no_language_and_its_range_says_so() -> None:
    """Sixty English words, each one token in all three vocabularies, and nothing that says that they are English."""
    words = "house river stone green window market winter table mother school garden bridge doctor silver yellow"
    found = units(count_runs([" ".join([words] * 4)]))
    assert set(found) == {"latin unknown"}
    for vocabulary in VOCABULARIES:
        held = estimate(found, vocabulary)
        assert held.low <= 60 <= held.high
        assert held.off > 0.6


def test_a_short_text_is_read_by_what_all_texts_are_in() -> None:
    german = count_runs([SENTENCES["German, French, Spanish and the like"][0]])
    assert set(units(count_runs(["Bahnhof"]), german)) == {"latin major"}


@pytest.mark.parametrize("text", ["🙂🙂", "ᏣᎳᎩ", "𞤀𞤣𞤤", "١٢٣", "\u0000", "—", "", "１２", "e\u0301", "\r\n\n"])
def test_any_character_has_a_factor(text: str) -> None:
    for vocabulary in (*VOCABULARIES, 131072, 32000, 99_999, 50_257, None):
        held = estimate(units(count_runs([text])), vocabulary)
        assert 0 <= held.low <= held.tokens <= held.high


def test_a_file_says_what_it_is_in_and_states_its_range(tmp_path: Path) -> None:
    text, counts = SENTENCES["Russian"]
    rows = "".join(json.dumps({"prompt": f"{n}", "completion": text}) + "\n" for n in range(2000, 6000))
    (tmp_path / "rows.jsonl").write_text(rows)
    for vocabulary, count in zip(VOCABULARIES, counts, strict=True):
        found = scan(str(tmp_path / "rows.jsonl"), vocabulary=vocabulary)
        assert found.counted == "estimated"
        assert "Russian" in found.how
        stated = re.search(r"so ± (\d+) %", found.how)
        assert stated is not None
        truth = 3600 * (count + 1)
        assert abs(found.supervised_tokens / truth - 1) <= int(stated[1]) / 100
        assert found.supervised_tokens == pytest.approx(truth, rel=0.3)
    unknown = scan(str(tmp_path / "rows.jsonl"), vocabulary=99_999).how
    assert "vocabularies that are known" in unknown
    assert "so within a factor of" in unknown


def test_a_language_of_the_prompts_alone_is_not_that_of_the_completions(tmp_path: Path) -> None:
    names = list(SENTENCES)[:5:4]
    (english, counts), (russian, _) = (SENTENCES[name] for name in names)
    rows = "".join(json.dumps({"prompt": f"{n} {russian}", "completion": english}) + "\n" for n in range(100))
    (tmp_path / "rows.jsonl").write_text(rows)
    found = scan(str(tmp_path / "rows.jsonl"), vocabulary=VOCABULARIES[0])
    assert found.supervised_tokens == pytest.approx(90 * (counts[0] + 1), rel=0.1)
