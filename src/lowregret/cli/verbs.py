"""The verbs of the command line, from which the program, its help and its laws are made. A leaf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lowregret.runs.files import REPORT


@dataclass(frozen=True)
class Verb:
    """One verb: the module of its name, in this package, holds it."""

    name: str
    summary: str
    """The first line of its help."""
    function: str = ""
    """In the module; the verb's name when not given."""
    resumable: bool = False
    """Whether the same command goes on where it was stopped."""
    ends_in_a_result: bool = True
    """Whether there is something to print as JSON."""

    @property
    def module(self) -> str:
        return f"lowregret.cli.{self.name}"

    @property
    def import_path(self) -> str:
        """MODULE:FUNCTION."""
        return f"{self.module}:{self.function or self.name}"


_ALL = (
    Verb(
        "plan",
        "LoRA or full fine-tuning, which rank and rate, how much memory, time and money: before anything is spent.",
    ),
    Verb(
        "data", "What a source holds, as the base would see it: one row with its supervised tokens, and all in numbers."
    ),
    Verb("forecast", "The regret, before it is paid for: from pilots of a fifth of each trial.", resumable=True),
    Verb("bank", "The finished comparisons that forecasts are made from: list them, or add your own."),
    Verb("compare", "LoRA or full fine-tuning, for this base and this data?", resumable=True),
    Verb(
        "train",
        "Train one adapter, or the whole base, and measure its held-out loss, or its held-out reward.",
        resumable=True,
    ),
    Verb(
        "eval",
        "The held-out loss of a base or an adapter, in nats per supervised token; with --task, its reward and pass "
        "rate.",
        function="evaluate",
    ),
    Verb("chat", "Talk with a base and with what was trained on it, side by side."),
    Verb(
        "serve",
        "Answer over HTTP, by OpenAI's protocol: a base and many adapters on it, in one batch.",
        ends_in_a_result=False,
    ),
    Verb(
        "watch",
        "A page in the browser on what trains: curves, rates, the regret's interval, workers; and its controls.",
        ends_in_a_result=False,
    ),
    Verb("report", f"Write {REPORT} again from records; nothing is trained."),
    Verb(
        "study",
        "Answer one question of the post, or all, on this base and these data, and judge its claims.",
        resumable=True,
    ),
    Verb(
        "verify", "Compute every claim and verdict again from the raw records alone, and compare with what is stored."
    ),
    Verb(
        "ship",
        "Take a run's winner to where it is served (PEFT, one merged model, GGUF, Ollama), proved on what was written.",
    ),
    Verb(
        "export",
        "Write the trials, curves or claims of studies for other programs, or any adapter in another program's format.",
    ),
    Verb("merge", "Add adapters to their base's weights, in a folder that transformers, vLLM and the hub take."),
    Verb("doctor", "Check the installation, and print what a bug report needs."),
    Verb("recipes", "List the recipes that come with lowregret: commented TOML files to start from."),
)
VERBS: Mapping[str, Verb] = MappingProxyType({verb.name: verb for verb in _ALL})
"""By name, in the order of the help."""
