"""The weights of a base that was built without them (`models.bare`), each process's own part of each.

transformers reads what a weight of several processes (a DTensor) has on this one, by slices of the safetensors files,
and puts together what a file holds apart, such as the experts of a layer. So no process ever holds the whole base,
but where matrices or experts are cut too: they are cut of what was read whole (`engine.placing`).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.modeling_utils import LoadStateDictConfig

from lowregret.errors import ModelError
from lowregret.models.files import folder_of, weights_used
from lowregret.models.load import Source, check_loaded, explaining, quiet


def is_bare(model: PreTrainedModel) -> bool:
    """Whether a model has no weights yet."""
    return any(parameter.is_meta for parameter in model.parameters())


def can_fill(source: Source) -> bool:
    """Whether a base is read by slices: a folder, or a hub id on this machine, with safetensors files."""
    folder = None if source.gguf_file else folder_of(source.path)
    files = [] if folder is None else [file for file in weights_used(folder) if file.suffix != ".json"]
    return bool(files) and all(file.suffix == ".safetensors" for file in files)


def fill_weights(model: PreTrainedModel, source: Source, device: torch.device) -> None:
    """Read a bare model's weights, in the types that they have there; it is in eval mode then.

    ModelError for a base that is not read by slices, and for what `load_base` refuses.
    """
    files = _safetensors(source)
    settings = LoadStateDictConfig(
        pretrained_model_name_or_path=source.path,
        ignore_mismatched_sizes=True,  # they are refused here, by name
        device_map={"": device},
        dtype=torch.float32,
        weight_mapping=get_model_conversion_mapping(model),  # type: ignore[arg-type]
    )
    with explaining(source), quiet():
        loading, _ = model._load_pretrained_model(model, None, files, settings)
        # Buffers that no file holds, and weights that are tied.
        found = model._finalize_model_loading(model, settings, loading).to_dict()
    check_loaded(source, model, found)
    model.eval()


def _safetensors(source: Source) -> list[str]:
    """The files of a folder that hold weights; ModelError for a base of another kind."""
    folder = None if source.gguf_file else folder_of(source.path)
    files = [] if folder is None else [file for file in weights_used(folder) if file.suffix != ".json"]
    if not files or any(file.suffix != ".safetensors" for file in files):
        what = "a .gguf file" if source.gguf_file else "not on this machine" if folder is None else "not in safetensors"
        raise ModelError(
            f"{source.asked}: is {what}, and cannot be read part by part. Give a folder with the base's safetensors "
            "files: load it once where there is room, and save it by save_pretrained."
        )
    return [str(file) for file in files]
