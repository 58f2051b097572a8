"""How large what is read and asked for may be: checked before the work. Torch-free.

A file by somebody else may say anything of itself. Each of these is far above what there is, and low enough that what
it lets through is done in seconds and in 2 GB. docs/limits.md lists them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from lowregret.errors import SpecError

MEGABYTE = 10**6


@dataclass(frozen=True)
class Limit:
    """The size of a file's content that is read; a variable of the environment raises it."""

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """In `unit`. SpecError when the variable is no whole number above zero."""
        said = os.environ.get(self.variable, "")
        if not said:
            return self.default
        if not said.isascii() or not said.isdecimal() or len(said) > 18 or int(said) < 1:
            raise SpecError(f"{self.variable} is {said[:40]!r}; a whole number of {self.unit} above zero is needed.")
        return int(said)

    @property
    def raised(self) -> str:
        """How a user lets more through, for messages."""
        return f"Set {self.variable} to more {self.unit} if it is right"


JSON_BYTES = Limit("LOWREGRET_MAX_JSON_BYTES", 64 * MEGABYTE, "bytes")
"""A configuration or a record. The largest that are known are examples.json, of some 30 bytes a held-out example."""
TOKENIZER_BYTES = Limit("LOWREGRET_MAX_TOKENIZER_BYTES", 256 * MEGABYTE, "bytes")
"""tokenizer.json. Gemma 3's, of 262,144 tokens, has 33 MB (huggingface.co/google/gemma-3-4b-it)."""
ROW_CHARACTERS = Limit("LOWREGRET_MAX_ROW_CHARACTERS", 1_000_000, "characters")
"""A row of data. It is some 250,000 tokens of English, twice the 131,072 positions of Llama 3.1 and Qwen 3."""
ROW_LEVELS = 100
"""Of lists and objects in each other in a row. The schemas of tools have some 10; at 500 what writes JSON gives up."""
JSON_LIST_BYTES = Limit("LOWREGRET_MAX_JSON_LIST_BYTES", 256 * MEGABYTE, "bytes")
"""A .json list of rows, which is held in memory whole. JSON Lines, which are not, have no such limit."""
EXPANSION = Limit("LOWREGRET_MAX_EXPANSION", 200, "times its size")
"""What a compressed file may become. gzip's bound is 1,032 (zlib.net/zlib_tech.html); text shrinks to a third or a
tenth, and rows that repeat a long prompt to a fiftieth."""
SMALL_BYTES = 64 * MEGABYTE
"""What a compressed file or a table may become in any case."""
BYTES_A_ROW = 8
"""Of the file of a table for each row beyond a million: rows of text that differ take more, compressed, too."""
FEW_ROWS = 1_000_000

TEMPLATE_BYTES = 200_000
"""A chat template. Llama 4's and Qwen 3's have 5 to 10 kB."""
WRITTEN = 2
"""Times a row's characters that its chat may have, as the template writes it."""
RENDER_SECONDS = 5.0
"""For a chat template to write a chat, and for an adapter's patterns to be matched. They take microseconds."""
RENDER_BYTES = 500 * MEGABYTE
"""Of new memory meanwhile."""
TOML_BYTES = 1_000_000
"""A file of a spec's keys."""
OBJECT_BYTES = 256 * MEGABYTE
"""Of an object store, what is read at once: a manifest, some 100 bytes a file; a lease; a log that is gone on with."""

LAYERS = 1000
"""Of a base. Llama 3.1 405B has 126."""
WIDTH = 2**18
"""Of its hidden states. Llama 3.1 405B has 16,384."""
COUNT = 2**27
"""Any other number of a configuration that something is built by, such as rows of the embedding or experts. The largest
vocabularies have 262,144 rows, the largest windows 10 million positions (Llama 4 Scout)."""
GGUF_KEYS = 10_000
"""Of a .gguf file; there are some 30."""
GGUF_TENSORS = 100_000
"""Experts of a layer are one tensor there: the largest models have some 1,500."""
GGUF_ITEMS = 4_000_000
"""Of an array in its keys: merges of a vocabulary of 262,144 are half a million."""
GGUF_DIMENSIONS = 4
"""Of a tensor (GGML_MAX_DIMS of ggml)."""

ROWS = 10**6
"""Examples, problems or completions at a time."""
TOKENS = 20 * 10**6
"""Of a row: above the 10 million positions of Llama 4 Scout."""
STEPS = 10**7
"""Of a training. Public pretrainings take some 2 million."""
EXAMPLES = 10**9
"""Rows that are used."""
SEED = 10**15
"""Below 2**53, up to which every reader of JSON has whole numbers exactly."""
EPOCHS = 10**5
"""Passes over the data: a row that is seen that often is known by heart."""
DEVICES = 10**5
"""Of a training."""
REPEATS = 1000
"""Seeds, updates for each batch, processes: what is done that often is a mistake."""
LISTED = 10_000
"""Things in a list or a table of a spec: each is a rate to try, a step to evaluate at, a base to load."""
REPLIES = 1000
"""Held-out prompts that are answered for a report, which is to be read."""
SECONDS = 10**9
"""Thirty years: for what is never to happen."""
FACTOR = 1e9
"""A weight, a norm, a price: a factor of 10⁹ above what is usual."""
