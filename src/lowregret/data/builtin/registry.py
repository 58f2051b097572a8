"""All built-in data by name.

A generator is a `GENERATOR` of this folder, listed here; tests/laws/test_builtin_data.py then runs over it.
"""

from __future__ import annotations

from lowregret.data.builtin import arithmetic, biographies, corpus, instructions
from lowregret.data.builtin.base import GeneratedData, Generator, Option
from lowregret.errors import DataError, did_you_mean

BUILTIN_PREFIX = "builtin:"
GENERATORS: dict[str, Generator] = {
    generator.name: generator
    for generator in (
        arithmetic.GENERATOR,
        biographies.GENERATOR,
        corpus.GENERATOR,
        instructions.GENERATOR,
    )
}


def load_builtin(source: str) -> GeneratedData:
    """Generate the data that `builtin:NAME[:key=value,…]` describes; the same source gives the same rows everywhere.

    Raises DataError for an unknown name or key, or a value out of its bounds.
    """
    _, _, rest = source.partition(":")
    name, _, text = rest.partition(":")
    if name not in GENERATORS:
        raise DataError(f"no built-in data named {name!r}. {did_you_mean(name, GENERATORS)}", source=source)
    generator = GENERATORS[name]
    try:
        return generator.generate(**read_options(generator, text, source))
    except ValueError as error:
        raise DataError(f"{error}.", source=source) from None


def known_fact_bits(source: str) -> float | None:
    """Bits of the new facts that a source tells; None for what is not built in, or tells none."""
    return load_builtin(source).facts.get("fact_bits") if source.startswith(BUILTIN_PREFIX) else None


def read_options(generator: Generator, text: str, source: str) -> dict[str, float]:
    """All options of a generator, those of `key=value,…` as given. Raises DataError, placed at `source`."""
    options = generator.options
    values: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in options or not equals:
            raise DataError(f"unknown option {part!r}; write key=value. {did_you_mean(key, options)}", source=source)
        if key in values:
            raise DataError(f"{key} is given twice. Give it once.", source=source)
        values[key] = _number(source, key, value, options[key])
    return {key: values.get(key, option.default) for key, option in options.items()}


def _number(source: str, key: str, text: str, option: Option) -> float:
    whole = isinstance(option.default, int)
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{key}={text!r} is not a number.", source=source) from None
    if not option.lowest <= value <= option.highest or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise DataError(
            f"{key} must be {kind} from {option.lowest:g} to {option.highest:g}, not {text}.", source=source
        )
    return int(value) if whole else value
