"""Windows-1252 is read as what it is, and no other encoding as Windows-1252: wrong letters would be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowregret.data.readers.encoding import look_at_text
from lowregret.data.readers.western import is_western
from lowregret.data.sources import read_rows
from lowregret.errors import DataError

WESTERN = {
    "english": "“Don’t worry,” she said – it’s only €5… or £4, at the café.",
    "french": "L’été où mon père a créé son œuvre, ça n’était qu’à côté : « État », “forêt”, naïf, 20 °C, n° 3, 5 m².",
    "german": "Die Füße schmerzten, drum aß er süße Äpfel und übte „Grüße“ in Köln für 5 €; ÄÖÜ sind Umlaute.",
    "spanish": "¿Qué pasó mañana? ¡Nada! El niño pidió años de lección, la 1ª y el 2º, según José.",
    "portuguese": "Não há razão: as lições e os corações são vossos, à mãe e ao avô também, às três.",
    "italian": "Perché è così? La città è più bella di là, però la virtù no: “già”.",
    "dutch": "De geïnteresseerde coëfficiënt van één reünie in België, zo’n ruïne.",
    "swedish": "Några små älvor åt blåbär på ön, då sjöng räven för björnen.",
    "danish": "Blåbærgrød på en ø: æblet får køerne til at løbe, Århus og Ærø.",
    "norwegian": "Være så god, vi går på tur når sjøen blåser; kjære fjærekrøll, òg.",
    "finnish": "Hän söi äidin tekemää hyvää näkkileipää työpäivän jälkeen yöllä.",
    "icelandic": "Það er gott að búa á Íslandi, þótt veðrið sé ekki alltaf hlýtt; þú ert góður maður.",
    "estonian": "Õhtul sõitis külm põhjatuul üle mõisa õue, kõik jäi vait ja öö tõi täna lõõgastust.",
    "albanian": "Është një ditë e bukur, çdo gjë është në rregull këtu.",
    "catalan": "La col·lecció d’anècdotes és força útil, però avui plou a Àger i això és així.",
}
OTHER = {
    "cp1250 polish": "Zażółć gęślą jaźń, proszę, że był już wieczór i mógł się śmiać, coś można.",
    "cp1250 czech": "Příliš mnoho lidí věří, že kůň řehtá a děti můžou běžet.",
    "cp1250 slovak": "Kŕdeľ vtákov učí koňa, môže to byt pekný večer, áno, ľan.",
    "cp1250 hungarian": "A nő és a férfi az erdőben sétált, később leültek a fűre és beszélgettek az időről.",
    "cp1250 slovenian": "Žena in mož čakata, da šola začne učiti še češčino.",
    "cp1250 croatian": "Čovjek će doći kući, žena šeće uz more, đak uči već.",
    "cp1250 romanian": "Şi noi ştim că ţara aceasta îşi aşteaptă fraţii în piaţă.",
    "iso8859-2 polish": "Zażółć gęślą jaźń, proszę, że był już wieczór i mógł się śmiać.",
    "cp1251 russian": "Привет, как дела? Сегодня хорошая погода.",
    "koi8-r russian": "Привет, как дела? Сегодня хорошая погода.",
    "cp866 russian": "Дела мои, да, такие дела.",
    "cp1253 greek": "Καλημέρα κόσμε, τι κάνεις σήμερα;",
    "cp1254 turkish": "Bugün hava çok güzel, ağaçların altında oturup şarkı söylüyoruz, ışık.",
    "cp1255 hebrew": "שלום עולם, מה שלומך היום?",
    "cp1256 arabic": "مرحبا بالعالم كيف حالك",
    "cp1257 lithuanian": "Šiandien gražus oras, žmonės vaikščioja ąžuolų šešėlyje, ėjo.",
    "cp874 thai": "สวัสดีชาวโลก วันนี้อากาศดี",
    "cp850 german": "Das schöne Mädchen aus Köln hört große Vögel und mäht das Gras.",
    "cp437 french": "L'été où mon père a créé son école, ça n'était qu'à côté, naïf, Noël.",
    "mac-roman french": "L’été dernier, mon bébé a créé son école, ça n’était qu’à côté, naïf.",
    "mac-roman english": "“Don’t worry,” she said, “it’s only a café.”",
    "shift-jis japanese": "こんにちは",
    "shift-jis japanese katakana": "テスト",
    "euc-jp japanese": "こんにちは世界、今日はいい天気です。",
    "gb18030 chinese": "你好，世界。今天天气很好。",
    "big5 chinese": "你好，世界。今天天氣很好。",
    "euc-kr korean": "안녕하세요 세계, 오늘 날씨가 좋습니다.",
}


def rows(tmp_path: Path, texts: list[str], codec: str) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(json.dumps({"text": text}, ensure_ascii=False).encode(codec) + b"\n" for text in texts))
    return str(path)


@pytest.mark.parametrize("language", WESTERN)
def test_a_western_language_in_windows_1252_is_read_and_said(tmp_path: Path, language: str) -> None:
    found, report = read_rows(rows(tmp_path, [WESTERN[language], "plain"], "cp1252"))
    assert [row.text for row in found] == [WESTERN[language], "plain"]
    assert report.notes == ("read as Windows-1252, not UTF-8",)


def test_a_single_accent_is_enough(tmp_path: Path) -> None:
    found, _ = read_rows(rows(tmp_path, ["caf\xe9"], "cp1252"))
    assert found[0].text == "café"


@pytest.mark.parametrize("kind", OTHER)
def test_another_encoding_is_not_taken_for_windows_1252(tmp_path: Path, kind: str) -> None:
    codec = kind.split()[0]
    source = rows(tmp_path, ["plain", OTHER[kind]], codec)
    with pytest.raises(DataError, match=r"rows\.jsonl:2: not UTF-8: .*not Windows-1252.*iconv"):
        read_rows(source)
    assert look_at_text(source).notes == ()


def test_names_from_elsewhere_do_not_make_a_western_text_foreign() -> None:
    lines = [WESTERN[name].encode("cp1252") for name in ("english", "french", "german", "spanish", "danish")]
    lines.append("Slavoj Žižek and Þórður".encode("cp1252"))
    assert is_western(lines)


def test_a_file_that_mixes_stays_utf8_with_bad_rows(tmp_path: Path) -> None:
    path = Path(rows(tmp_path, ["été"], "utf-8"))
    path.write_bytes(path.read_bytes() + '{"text": "déjà"}\n'.encode("cp1252"))
    with pytest.raises(DataError, match=r"rows\.jsonl:2: not UTF-8: byte 0xe9 at byte 12, though others .* are"):
        read_rows(str(path))
    found, report = read_rows(str(path), skip_bad_rows=True)
    assert ([row.text for row in found], [line for line, _ in report.bad_rows], report.notes) == (["été"], [2], ())


@pytest.mark.parametrize("cut", [b"caf\xc3", b"quote \xe2\x80", b"\xf0\x9f\x98"])
def test_utf8_that_was_cut_within_a_character_is_a_bad_row(tmp_path: Path, cut: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "plain"}\n{"text": "' + cut + b'"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: not UTF-8"):
        read_rows(str(tmp_path / "rows.jsonl"))
