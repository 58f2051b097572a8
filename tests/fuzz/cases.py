"""One input of each kind: a copy of a seed that is spoilt, and a command that reads it."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import mutations as m


@dataclass(frozen=True)
class Case:
    """An input and how it is read."""

    said: str
    """What was spoilt."""
    arguments: list[str]


Make = Callable[[random.Random, Path, Path], Case]
"""From a source of random numbers, the folder of the seeds and an empty one."""
_TRAIN = ["--method", "lora:2", "--learning-rate", "1e-3", "--steps", "1", "--batch-size", "2", "--quiet"]


def gguf(draw: random.Random, seeds: Path, here: Path) -> Case:
    """A .gguf file."""
    path = _copy(seeds / "model.gguf", here)

    def header(draw: random.Random, content: bytes) -> tuple[bytes, str]:
        made, said = m.spoil_bytes(draw, content[:30_000])
        return made + content[30_000:], said

    said = m.spoil_file(draw, path, draw.choice((header, header, header, m.spoil_bytes)))
    if draw.random() < 0.5:
        return Case(said, ["plan", str(path)])
    data = ["--data", str(seeds / "rows.jsonl")]
    if draw.random() < 0.5:
        return Case(said, ["eval", "--model", str(path), *data])
    return Case(said, ["train", "--model", str(path), *data, *_TRAIN, "--out", str(here / "out")])


def safetensors(draw: random.Random, seeds: Path, here: Path) -> Case:
    """The weights of a model, or the index of their files."""
    folder = _link(seeds / "model", here / "model")
    if draw.random() < 0.25:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        maps = (
            {"a": "../../../../etc/passwd"}, {"model.norm.weight": "part.safetensors"}, [], {"a": 5}, None,
            {"a": "nowhere.safetensors"}, {"a": "/dev/zero"}, {}, {"a": "part.safetensors"}, {"a": ""}, {"a": "."},
        )  # fmt: skip
        whole = draw.choice(
            ([], {}, None, 5, *({"weight_map": value, "metadata": draw.choice(({}, 5))} for value in maps))
        )
        (folder / "model.safetensors.index.json").write_text(json.dumps(whole))
        said = f"index {whole!r:.60}"
    else:
        said = m.spoil_file(draw, folder / "model.safetensors", m.spoil_safetensors)
    return Case(said, ["eval", "--model", str(folder), "--data", str(seeds / "rows.jsonl")])


def config(draw: random.Random, seeds: Path, here: Path) -> Case:
    """config.json and generation_config.json of a model."""
    folder = _link(seeds / "model", here / "model")
    name = draw.choice(("config.json", "config.json", "config.json", "generation_config.json"))
    said = m.spoil_file(draw, folder / name, m.spoil_json)
    return Case(said, _use_model(draw, seeds, folder))


def tokenizer(draw: random.Random, seeds: Path, here: Path) -> Case:
    """tokenizer.json and tokenizer_config.json."""
    folder = _link(seeds / "model", here / "model")
    said = m.spoil_file(draw, folder / draw.choice(("tokenizer.json", "tokenizer_config.json")), m.spoil_json)
    return Case(said, _use_model(draw, seeds, folder))


def template(draw: random.Random, seeds: Path, here: Path) -> Case:
    """A chat template: statements put together, or bytes spoilt."""
    folder = _link(seeds / "model", here / "model")
    path = folder / "chat_template.jinja"
    if draw.random() < 0.3:
        said = m.spoil_file(draw, path, m.spoil_bytes)
    else:
        said = "".join(draw.choice(_PIECES) for _ in range(draw.randrange(1, 6)))
        path.unlink()
        path.write_text(said)
    return Case(said[:80], _use_model(draw, seeds, folder))


_PIECES = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "{{ 'x' * 10**10 }}",
    "{{ 9**9**9 }}", "{{ [0] * 10**10 }}",
    "{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ 'x'|center(10**10) }}", "{{ '%9999999999d' % 1 }}",
    "{{ '{:9999999999}'.format(1) }}", "{{ 'x'.ljust(10**10) }}", "{{ ''.__class__.__mro__ }}", "{{ cycler.__init__ }}",
    "{% set n = namespace(l=[0]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "{% set n = namespace(l=[0]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l|tojson }}",
    "{{ range(99999)|map('string')|join('x' * 99999) }}",
    "{{ ('x' * 99999).replace('x', 'x' * 99999) }}",
    "{% include 'x' %}", "{% extends '/etc/passwd' %}", "{{ raise_exception('no') }}", "{{ raise_exception(5) }}",
    "{{ messages[9].content }}", "{% generation %}{{ 1 }}{% endgeneration %}", "{% if %}", "{{ ( " * 300, "{{ 1 / 0 }}",
    "{{ messages|tojson(indent=10**9) }}", "{{ lipsum(n=10**6) }}", "{{ 'a\u0000\x1b[31m' }}", "{% break %}",
    "{{ '\\ud800' }}", "{{ messages|map(attribute='content')|join|list|batch(10**9, 'x')|list }}",
    "{{ strftime_now('%Y' * 99999) }}", "{{ dict(a=1)|pprint }}", "{{ undefined.x.y }}",
)  # fmt: skip


def adapter(draw: random.Random, seeds: Path, here: Path) -> Case:
    """An adapter in PEFT's format."""
    folder = _link(seeds / "run" / "adapter", here / "adapter")
    if draw.random() < 0.5:
        said = m.spoil_file(draw, folder / "adapter_config.json", m.spoil_json)
    elif draw.random() < 0.4:
        path = folder / "adapter_config.json"
        fields = json.loads(path.read_bytes())
        name = draw.choice(_FIELDS)
        fields[name] = draw.choice((*m.VALUES, {"(a+)+$": 2}, {"model.*": 2}, "(([a-z])+.)+[A-Z]([a-z])+$", ["("]))
        path.unlink()
        path.write_text(json.dumps(fields))
        said = f"{name}={fields[name]!r:.40}"
    else:
        said = m.spoil_file(draw, folder / "adapter_model.safetensors", m.spoil_safetensors)
    if draw.random() < 0.3:
        return Case(said, ["export", str(folder), "--model", "tiny-32", "--out", str(here / "out")])
    data = ["--data", str(seeds / "rows.jsonl")]
    return Case(said, ["eval", "--model", "tiny-32", "--adapter", str(folder), *data])


_FIELDS = (
    "rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters", "use_dora", "use_rslora", "bias", "r",
    "init_lora_weights", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "peft_type",
    "target_modules", "lora_alpha", "lora_dropout", "trainable_token_indices", "lora_bias", "base_model_name_or_path",
)  # fmt: skip


def records(draw: random.Random, seeds: Path, here: Path) -> Case:
    """A file of a run's folder."""
    commands = json.loads((seeds / "commands.json").read_bytes())
    name = draw.choice([name for name in ("run", "compare", "compare", "rl", "stopped") if name in commands])
    folder = _link(seeds / name, here / name)
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".safetensors"))
    path = draw.choice([path for path in files if "model" not in path.parts and "best" not in path.parts])
    spoil = {".json": m.spoil_json, ".jsonl": m.spoil_lines, ".safetensors": m.spoil_safetensors}[path.suffix]
    if draw.random() < 0.05:
        path.unlink()
        said = f"{path.relative_to(folder)} is gone"
    else:
        said = f"{path.parent.relative_to(folder)}/{m.spoil_file(draw, path, spoil)}"
    again = [word.replace(str(seeds / name), str(folder)) for word in commands[name]]
    table = ["export", str(folder), "--out", str(here / "t.csv")]
    reading = {
        "compare": (["report", str(folder)], ["verify", str(folder)], table),
        "rl": (["verify", str(folder)], ["report", str(folder)]),
    }.get(name, (["eval", str(folder)], ["verify", str(folder)]))  # fmt: skip
    return Case(said, draw.choice((again, *reading)))


def json_lines(draw: random.Random, seeds: Path, here: Path) -> Case:
    """Rows as text: JSON Lines, a list, CSV, compressed."""
    name = draw.choice(("rows.jsonl", "rows.jsonl", "rows.json", "rows.csv", "rows.jsonl.gz"))
    path = _copy(seeds / name, here)
    if draw.random() < 0.08:
        said = _bomb(draw, path)
    elif name == "rows.jsonl":
        said = m.spoil_file(draw, path, m.spoil_lines)
    elif name == "rows.json":
        said = m.spoil_file(draw, path, m.spoil_json)
    else:
        said = m.spoil_file(draw, path, m.spoil_bytes)
    return Case(said, _use_data(draw, seeds, path, here))


def _bomb(draw: random.Random, path: Path) -> str:
    """A row, or a compressed file, far larger than what it stands for."""
    path.unlink()
    if path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(draw.choice((100, 1000))):
                file.write(b'{"text": "' + b"x" * 1_000_000 + b'"}\n')
        return "a compressed bomb"
    letters = draw.choice(("x", "x y ", "é", "1", "{", "\\n", "\\ud83d\\ude00"))
    row = {".csv": 'prompt,completion\nx,"%s"\n', ".json": '[{"text": "%s"}]'}.get(path.suffix, '{"text": "%s"}\n')
    path.write_text(row % (letters * draw.choice((100_000, 20_000_000 // len(letters)))))
    return f"a long row of {letters!r}"


def parquet(draw: random.Random, seeds: Path, here: Path) -> Case:
    """Rows as tables of Arrow."""
    path = _copy(seeds / draw.choice(("rows.parquet", "rows.parquet", "rows.arrow")), here)
    said = _table_bomb(draw, path) if draw.random() < 0.05 else m.spoil_file(draw, path, m.spoil_bytes)
    return Case(said, _use_data(draw, seeds, path, here))


def _table_bomb(draw: random.Random, path: Path) -> str:
    import pyarrow
    import pyarrow.parquet

    path.unlink()
    count, length = draw.choice(((5_000_000, 1), (1_000, 10_000_000), (1, 100_000_000)))
    values = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), ["x" * length])
    table = pyarrow.table({"text": values})
    if path.suffix == ".arrow":
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    else:
        pyarrow.parquet.write_table(table, path, compression=draw.choice(("snappy", "zstd")))
    return f"{count} rows of {length} letters"


def toml(draw: random.Random, seeds: Path, here: Path) -> Case:
    """A file of a spec's keys."""
    text = (
        f'model = "tiny-32"\nmethod = "lora:2"\nlearning_rate = 1e-3\nsteps = 1\nbatch_size = 2\nseed = 0\nevals = 1\n'
        f'[data]\ntrain = "{seeds / "rows.jsonl"}"\nmax_length = 64\nmax_train = 4\n[optimizer]\nbeta1 = 0.9\n'
        f"warmup_steps = 0\n"
    )
    path = here / "recipe.toml"
    path.write_text(text)
    if draw.random() < 0.4:
        said = m.spoil_file(draw, path, m.spoil_bytes)
    else:
        lines = text.splitlines()
        rank = draw.randrange(len(lines))
        key, equals, _ = lines[rank].partition(" = ")
        values = (
            "-1", "0", "1000000000000", "1" + "0" * 30, "inf", "nan", "1e400", "-1e400", '""', '"x"', "[]", "{}",
            "[[]]", "true", "1979-05-27", "[" * 3000 + "]" * 3000, '"../../x"', "9223372036854775808", "{a = 1}",
            '["full"]',
        )  # fmt: skip
        lines[rank] = (
            f"{key} = {draw.choice(values)}" if equals else draw.choice(("[x]", "[data]", "[[data]]", "[" * 5000))
        )
        said = lines[rank][:60]
        path.write_text("\n".join(lines) + "\n")
    return Case(said, ["train", "--config", str(path), "--quiet", "--out", str(here / "out")])


def flags(draw: random.Random, seeds: Path, here: Path) -> Case:
    """A number that is no number, or too large, behind a flag."""
    from lowregret.spec import TrainSpec
    from lowregret.spec.keys import keys

    numeric = [key for key in keys(TrainSpec) if key.flag and key.reads in ("int", "float")]
    key = draw.choice(numeric)
    value = draw.choice(
        ("-1", "1e400", "1" + "0" * 30, "nan", "inf", "9" * 5000, "1000000000000", "0x10", "1_0", "", "٣")
    )
    rl = ["--objective", "rl", "--task", "builtin:arithmetic"] if key.path.startswith("objective.") else []
    data = [] if rl else ["--data", str(seeds / "rows.jsonl")]
    fixed = [
        word
        for word in _fixed()
        if f"--{key.flag.replace('_', '-')}" != word[0] and not (key.flag == "epochs" and word[0] == "--steps")
    ]
    words = [part for word in fixed for part in word]
    said = f"{key.option} {value:.20}"
    return Case(
        said, ["train", "--model", "tiny-32", *data, *rl, *words, key.option, value, "--out", str(here / "out")]
    )


def _fixed() -> list[tuple[str, ...]]:
    return [
        ("--method", "lora:2"),
        ("--learning-rate", "1e-3"),
        ("--steps", "1"),
        ("--batch-size", "2"),
        ("--max-eval", "1"),
        ("--quiet",),
    ]


KINDS: dict[str, tuple[Make, int]] = {
    "gguf": (gguf, 14), "safetensors": (safetensors, 8), "config": (config, 14), "tokenizer": (tokenizer, 10),
    "template": (template, 8), "adapter": (adapter, 10), "records": (records, 14), "json_lines": (json_lines, 8),
    "parquet": (parquet, 6), "toml": (toml, 5), "flags": (flags, 3),
}  # fmt: skip
"""Name → what makes an input, and its share of a hundred."""


def _use_model(draw: random.Random, seeds: Path, folder: Path) -> list[str]:
    rows = str(seeds / "rows.jsonl")
    return draw.choice((
        ["eval", "--model", str(folder), "--data", rows],
        ["plan", str(folder), rows],
        ["data", rows, "--model", str(folder)],
    ))  # fmt: skip


def _use_data(draw: random.Random, seeds: Path, path: Path, here: Path) -> list[str]:
    train = [
        "train",
        "--model",
        "tiny-32",
        "--data",
        str(path),
        *_TRAIN,
        "--max-train",
        "2",
        "--out",
        str(here / "out"),
    ]
    return draw.choice((["data", str(path), "--model", "tiny-32"], ["plan", "tiny-32", str(path)], train))


def _copy(file: Path, here: Path) -> Path:
    shutil.copyfile(file, here / file.name)
    return here / file.name


def _link(folder: Path, here: Path) -> Path:
    """A copy of a folder: large files are hard links, for none is written in place."""
    for path in sorted(folder.rglob("*")):
        target = here / path.relative_to(folder)
        if path.name == "report.html":
            continue
        if path.is_dir():
            target.mkdir(parents=True)
        elif path.stat().st_size > 100_000:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return here
