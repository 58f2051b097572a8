"""Writes the table of docs/guides/tinker.md: every public method of Tinker's SDK, and whether this server answers it.

    python tools/tinker_methods.py
    python tools/tinker_methods.py --list PYTHON PYTHON

The methods of each version are in docs/results/tinker_methods.json, which `--list` writes anew: each PYTHON is that of
an environment with a version of `tinker`. A test says when a method has no answer here, or the table is stale.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from lowregret.strict_json import to_json

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "tinker.md"
KNOWN = Path(__file__).parents[1] / "docs" / "results" / "tinker_methods.json"
BEGIN, END = "<!-- Made by `python tools/tinker_methods.py`: -->", "<!-- End of what is made. -->"
CLASSES = ("ServiceClient", "TrainingClient", "SamplingClient", "RestClient", "AdminClient")
YES = "yes"
_ONE_OWNER = "no: whoever has the key has everything; there are no accounts, projects or links"
_NO_BILLS = "no: nothing is billed"
ANSWERS: Mapping[str, Mapping[str, str]] = {
    "ServiceClient": {
        "close": YES,
        "copy_weights": _ONE_OWNER,
        "create_custom_loss": "yes; it runs at the client, as the SDK has it where a server does not take it",
        "create_lora_training_client": "yes, up to rank 512; the optimizer is AdamW",
        "create_rest_client": YES,
        "create_sampling_client": "yes, of the base and of what `save_weights_for_sampler` wrote",
        "create_training_client_from_state": YES,
        "create_training_client_from_state_with_optimizer": YES,
        "get_console_url": "an address of Tinker's own site, made by the SDK",
        "get_server_capabilities": YES,
        "get_telemetry": "the SDK's own; what it sends is dropped",
    },
    "TrainingClient": {
        "create_sampling_client": YES,
        "forward": YES,
        "forward_backward": "yes: `cross_entropy`, also with (N, K) targets, `importance_sampling`, `ppo`, `cispo`, "
        "`dro`; not `gspo`, `stable_reinforce` (their formulas are not published), no images, no audio",
        "forward_backward_custom": "yes; the loss runs at the client",
        "get_console_url": "an address of Tinker's own site, made by the SDK",
        "get_info": YES,
        "get_telemetry": "the SDK's own; what it sends is dropped",
        "get_tokenizer": "yes, where the base's name is a hub id or a folder at the client (`--name`)",
        "load_state": YES,
        "load_state_with_optimizer": YES,
        "optim_step": "yes: AdamW; not `dimuon`",
        "save_state": YES,
        "save_weights_and_get_sampling_client": "yes, as a snapshot; not `inflight`, nor with `record_stability_info`",
        "save_weights_external": "no: nothing is sent elsewhere",
        "save_weights_for_sampler": "yes; what is written is an adapter in PEFT's format",
    },
    "SamplingClient": {
        "compute_logprobs": YES,
        "create": YES,
        "from_sampler_handle": YES,
        "get_base_model": YES,
        "get_sampler_handle": YES,
        "get_telemetry": "the SDK's own; what it sends is dropped",
        "get_tokenizer": "yes, where the base's name is a hub id or a folder at the client (`--name`)",
        "on_queue_state_change": "the SDK's own",
        "sample": "yes, with prompt, top-k and target log-probabilities; not `prompt_alt_tokens_k`",
    },
    "RestClient": {
        "assign_session_project": _ONE_OWNER,
        "copy_weights": _ONE_OWNER,
        "delete_checkpoint": YES,
        "delete_checkpoint_from_tinker_path": YES,
        "export_session_trace": "no: no traces are kept",
        "get_audit_log": _ONE_OWNER,
        "get_billing_usage": _NO_BILLS,
        "get_checkpoint_archive_url": "no: the files lie in --tinker-dir",
        "get_checkpoint_archive_url_from_tinker_path": "no: the files lie in --tinker-dir",
        "get_current_checkpoint_storage_usage": _NO_BILLS,
        "get_external_weights_urls": "no: nothing is sent elsewhere",
        "get_sampler": YES,
        "get_server_capabilities": YES,
        "get_session": YES,
        "get_telemetry": "the SDK's own; what it sends is dropped",
        "get_training_run": YES,
        "get_training_run_by_tinker_path": YES,
        "get_weights_info_by_tinker_path": YES,
        "list_checkpoints": YES,
        "list_sessions": YES,
        "list_training_runs": YES,
        "list_user_checkpoints": YES,
        "publish_checkpoint_from_tinker_path": _ONE_OWNER,
        "search_sessions": "no: `list_sessions` has them all",
        "set_checkpoint_ttl_from_tinker_path": "no: give `ttl_seconds` when you save",
        "unpublish_checkpoint_from_tinker_path": _ONE_OWNER,
        "whoami": _ONE_OWNER,
    },
    "AdminClient": {
        "get_audit_log": _ONE_OWNER,
        "get_billing_usage": _NO_BILLS,
        "get_current_checkpoint_storage_usage": _NO_BILLS,
        "get_telemetry": "the SDK's own; what it sends is dropped",
    },
}
"""By class and method; `…_async` goes with the method without it."""

_ASK = f"""
import json, warnings
warnings.simplefilter("ignore")
import tinker
from tinker.lib.public_interfaces import rest_client
found = {{}}
for name in {CLASSES!r}:
    own = getattr(tinker, name, None) or getattr(rest_client, name, None)
    if own is not None:
        found[name] = [each for each in sorted(dir(own)) if each[0] != "_" and callable(getattr(own, each))]
print(json.dumps({{tinker.__version__: found}}))
"""


def methods() -> dict[str, dict[str, set[str]]]:
    """By version and class, the public methods, those with `_async` as the ones without."""
    known: dict[str, dict[str, list[str]]] = json.loads(KNOWN.read_text(encoding="utf-8"))
    return {
        version: {name: {each.removesuffix("_async") for each in own} for name, own in found.items()}
        for version, found in known.items()
    }


def made() -> str:
    """Everything between the marks."""
    return "\n".join(_rows())


def _rows() -> Iterator[str]:
    known = methods()
    yield f"| method | {' | '.join(known)} | answered |"
    yield "|---" * (len(known) + 2) + "|"
    for name in CLASSES:
        for method in sorted(set().union(*(own.get(name, set()) for own in known.values()))):
            has = ["✓" if method in own.get(name, set()) else "" for own in known.values()]
            yield f"| `{name}.{method}` | {' | '.join(has)} | {ANSWERS[name][method]} |"


def page(text: str) -> str:
    """The page with what is made as it is today."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{made()}\n\n{END}{rest.partition(END)[2]}"


def _list(pythons: list[str]) -> None:
    found: dict[str, object] = {}
    for python in pythons:
        found |= json.loads(subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True).stdout)
    KNOWN.write_text(to_json(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", nargs="+", metavar="PYTHON")
    asked = parser.parse_args()
    if asked.list:
        _list(asked.list)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
