"""The fields of adapter_config.json: those that say nothing about what the weights compute, and those that are read.

A field that is in neither list and is set to something is refused by its name: PEFT gains variants with every release,
and one that is not known here would be read as the plain LoRA that it is not. The lists are of PEFT 0.21.2's LoraConfig
and of what older releases and ms-swift wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lowregret.errors import ModelError
from lowregret.limits import FACTOR
from lowregret.lora.init import INITIALISATIONS

RESIDUAL_INITS = {entry.peft: name for name, entry in INITIALISATIONS.items() if entry.residual and entry.peft}
"""PEFT's `init_lora_weights` that take their first product off the base, and our names of them."""
_INITS = {"true", "false", "gaussian", "eva", "orthogonal", "mica", *map(str, RESIDUAL_INITS)}
"""Those that leave the base as it is, so that A and B are all there is to know, and those that are repeated here."""
_CHANGED_BASE = ("pissa_niter", "corda", "loftq", "lora_ga")
"""Beginnings of those that change the base in a way that cannot be repeated here."""

_READ = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "bias",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters",
    "rank_pattern", "alpha_pattern", "base_model_name_or_path",
)  # fmt: skip
_HARMLESS = (
    # where it comes from and what it was made with
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode",
    # how the base stores its matrices; A and B are the same either way
    "fan_in_fan_out", "megatron_config", "megatron_core",
    # how A and B began; what `init_lora_weights` says of the base is looked at by itself
    "eva_config", "corda_config", "loftq_config", "lora_ga_config",
    # how they were trained: memory, gradients, rates
    "runtime_config", "velora_config", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "merge_weights",
    # of no meaning without the switch beside it
    "qalora_group_size",
)  # fmt: skip
_BASE = "Merge the adapter into its base with PEFT (merge_and_unload) and give the merged model as --model."
_REMEDIES: Mapping[str, str] = {
    "alora_invocation_tokens": "Its weights act from these tokens on only (aLoRA), which is not supported here; such "
    "an adapter cannot be merged either. Give a plain LoRA.",
    "layer_replication": f"Its base is a stack of repeated layers. {_BASE}",
    "modules_to_save": f"It holds whole matrices beside the LoRA. {_BASE}",
    "trainable_token_indices": f"It holds rows of the embedding beside the LoRA. {_BASE}",
    "lora_bias": f"It holds biases beside the LoRA. {_BASE}",
    "ensure_weight_tying": f"Its embedding and unembedding are adapted together. {_BASE}",
    "use_qalora": "Its A is applied to averages of the inputs. Give a plain LoRA.",
    "kasa_config": f"Its base has lost its smallest singular values. {_BASE}",
    "use_bdlora": f"Its A or B is block-diagonal. {_BASE}",
    "arrow_config": "It chooses among several adapters for each token. Give one plain LoRA.",
    "monteclora_config": "It draws its weights at random. Give a plain LoRA.",
}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FACTOR


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _layers(value: Any) -> bool:
    return all(isinstance(item, int) for item in (value if isinstance(value, list) else [value]))


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_number, value.values()))


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("r", "lora_alpha", "lora_dropout"), (_number, "a number")),
    **dict.fromkeys(
        ("target_modules", "exclude_modules", "layers_pattern", "target_parameters"),
        (_texts, "a text or a list of texts"),
    ),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), (_numbers, "a table of numbers")),
    "layers_to_transform": (_layers, "a number or a list of numbers"),
    "base_model_name_or_path": (lambda value: isinstance(value, str), "a text"),
}
"""Of the fields that are read, what they hold."""


def check_fields(file: Path, config: Mapping[str, Any]) -> None:
    """ModelError when a field of adapter_config.json says that the weights are not a LoRA as it is read here."""
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{file}: peft_type is {_short(config.get('peft_type'))}; only LORA can be read.")
    for field, (is_so, what) in _KINDS.items():
        if config.get(field) is not None and not is_so(config[field]):
            raise ModelError(
                f"{file}: {field} is {_short(config[field])}, and {what} is needed. Save the adapter again."
            )
    for field, value in config.items():
        if field not in (*_READ, *_HARMLESS) and value not in (None, False, "", [], {}):
            remedy = _REMEDIES.get(
                field, f"This field is not known here, and may change what the adapter computes. {_BASE}"
            )
            raise ModelError(f"{file}: {field} is {_short(value)}, which is not supported. {remedy}")
    if config.get("bias") not in (None, "none"):
        raise ModelError(f"{file}: bias is {config['bias']!r}; only none is supported here. {_BASE}")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_CHANGED_BASE):
        raise ModelError(
            f"{file}: init_lora_weights is {init!r}: these weights belong to a changed base. Save them with PEFT's "
            "path_initial_model_for_weight_conversion, which makes them a plain LoRA."
        )
    if init not in _INITS and init != "none":
        raise ModelError(
            f"{file}: init_lora_weights is {init!r}, which is not known here; it may belong to a changed base. {_BASE}"
        )


def method_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our LoRA that adapter_config.json names, `targets` left out."""
    fields: dict[str, Any] = {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config.get("lora_dropout", 0.0),
        "dora": bool(config.get("use_dora")),
    }
    if config.get("use_rslora"):
        fields["scaling"] = "alpha/sqrt(r)"
    init = str(config.get("init_lora_weights")).lower()
    if init in RESIDUAL_INITS:
        fields["init"] = RESIDUAL_INITS[init]
    return fields


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
