"""What transformers' reader of .gguf files leaves out: scalings of positions, sizes of heads, tensors it drops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig, PreTrainedModel

from lowregret.errors import ModelError
from lowregret.models.gguf.header import read_header
from lowregret.models.gguf.scaling import READ_HERE, rope_parameters

_library: Any = gguf
_theirs: Any = import_module("transformers.modeling_gguf_pytorch_utils")


@contextmanager
def without_bar() -> Iterator[None]:
    """transformers shows no bar of its own for tensors that it converts."""
    bar = _theirs.tqdm
    _theirs.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        _theirs.tqdm = bar


def complete(config: PretrainedConfig, folder: str, file: str, name: str) -> None:
    """Put into a base's configuration what the file says and transformers does not read.

    ModelError for a scaling that is not known.
    """
    path = Path(folder) / file
    header = read_header(path, name)
    text = config.get_text_config(decoder=True)
    size = header.fields.get("attention.key_length")
    if isinstance(size, int) and getattr(text, "head_dim", size) != size:
        text.head_dim = size
    present = dict(getattr(text, "rope_parameters", None) or {})
    if present.get("rope_type", "default") != "default":
        return
    held = {tensor.name for tensor in header.tensors} & READ_HERE
    base = float(present.get("rope_theta", 10000.0))
    scaling = rope_parameters(name, header.fields, _read([part.path for part in header.parts], held), base)
    if scaling is not None:
        text.rope_parameters = {**present, **scaling}
        if scaling["rope_type"] == "longrope":
            text.original_max_position_embeddings = scaling["original_max_position_embeddings"]


def _read(paths: Iterable[Path], names: set[str]) -> dict[str, NDArray[np.float32]]:
    """These tensors of some files, in float32."""
    if not names:
        return {}
    tensors = (tensor for path in paths for tensor in _library.GGUFReader(path).tensors if tensor.name in names)
    return {t.name: np.asarray(_library.dequantize(t.data, t.tensor_type), dtype=np.float32) for t in tensors}


def refuse_unread(model: PreTrainedModel, unexpected: Iterable[str], folder: str, file: str, name: str) -> None:
    """ModelError for tensors of the file that neither transformers nor we have put into the model.

    `unexpected`: those that transformers says it did not know what to do with. For families that it reads by its older
    code it says nothing; then its map of names tells. Experts lie in one tensor a layer there, under names of its own.
    """
    header = read_header(Path(folder) / file, name)
    names = [tensor.name for tensor in header.tensors]
    left = set(unexpected)
    if not _reads_anew(header.architecture):
        processors = _theirs.TENSOR_PROCESSORS
        processor = processors.get(header.architecture, _theirs.TensorProcessor)(config=model.config.to_dict())
        known = _theirs.get_gguf_hf_weights_map(model, processor)
        left |= {tensor for tensor in names if tensor not in known and "_exps." not in tensor}
    dropped = [tensor for tensor in names if tensor in left and tensor not in READ_HERE]
    if dropped:
        raise ModelError(
            f"{name}: holds {dropped[0]}, which nothing here makes use of ({len(dropped)} such tensors): the base "
            "would be another than its file says. Use the Hugging Face folder that the file was made from."
        )


def _reads_anew(architecture: str) -> bool:
    """Whether transformers has its newer reader for this family."""
    try:
        utils: Any = import_module("transformers.integrations.gguf.utils")
    except ImportError:
        return False
    return bool(utils.is_gguf_arch_supported(architecture))
