"""How a verb's own options are told, and those that several verbs share, each defined once. Needs no spec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

OPTIONS = Group("Options", sort_key=0)
"""What is in no table: the first panel of a verb's help."""


def option(sentence: str, *names: str) -> Parameter:
    """How an option of a verb's own is told; its value may begin with a hyphen."""
    return Parameter(name=names or None, help=sentence, allow_leading_hyphen=True)


def positional(sentence: str, label: str, *, required: bool | None = None) -> Parameter:
    """How the words that stand alone are told."""
    return Parameter(name=label, help=sentence, required=required)


Config = Annotated[Path | None, option("A TOML file of the spec's keys; flags win over it.")]
Recipe = Annotated[str | None, option("A recipe by its name (`lowregret recipes` lists them), instead of --config.")]
Json = Annotated[bool, option("Print the result as JSON, and all else on standard error.", "--json")]
Rehash = Annotated[
    bool,
    option(
        "Read all of the base's files again to see that they are unchanged, whatever their size and times say.",
        "--rehash",
    ),
]
Track = Annotated[
    str | None,
    option("Send every trial, step by step, to mlflow, wandb, tensorboard, trackio or swanlab; TOOL:WHERE says where."),
]
Yes = Annotated[bool, option("Begin without asking, however long it takes; a pipe is never asked.", "--yes", "-y")]
ShowConfig = Annotated[
    bool,
    option(
        "Print the whole configuration as a file for --config, every default in it, and do nothing else.",
        "--show-config",
    ),
]
Watch = Annotated[
    bool, option("Show it in the browser while it lasts: a page on this machine, whose address is printed.", "--watch")
]
Quiet = Annotated[bool, option("Say nothing but the result.", "--quiet", "-q")]
Dtype = Annotated[
    str | None, option("Of a merged model: float32, bfloat16 or float16. (default: each weight as the base stores it)")
]
Kind = Annotated[
    str | None,
    option(
        "Of a GGUF file: F32, F16, BF16, Q8_0, Q5_0, Q4_0, or a K-quant (Q4_K_M, …), which the llama-quantize on the "
        "PATH makes. (default: F16; for Ollama Q8_0)"
    ),
]
BankFile = Annotated[
    Path | None,
    option(
        "Your bank of finished comparisons. (default: that in lowregret of XDG_DATA_HOME, or of ~/.local/share)",
        "--bank",
    ),
]
ShardSize = Annotated[float | None, option("Of a merged model: GB of the largest file of weights. (default: 5)")]
Adapters = Annotated[
    list[str] | None,
    option(
        "A folder with an adapter in PEFT's format, or of a run that has one; FOLDER:SHARE multiplies what it adds. "
        "Give it again for the sum of several; without any, the base is written as it is. (default share: 1)",
        "--adapter",
    ),
]
