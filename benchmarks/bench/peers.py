"""Contenders from PEFT, TRL and transformers, as their users would write them; nothing of lowregret is imported.

All of them: float32, AdamW (fused) with betas 0.9 and 0.95, no decay, no clipping, a constant rate, no checkpointing of
activations, no worker processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bench.prepare import ROWS, read_prompts, read_rows
from benchmarks.bench.worker import clock

if TYPE_CHECKING:
    from benchmarks.bench.worker import Channel

IGNORED = -100
BETAS = (0.9, 0.95)


TRL_COMMON: Mapping[str, Any] = {
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch_fused",
    "adam_beta1": BETAS[0],
    "adam_beta2": BETAS[1],
    "weight_decay": 0.0,
    "max_grad_norm": 0,
    "gradient_checkpointing": False,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}
"""What TRL's trainers are told alike."""


class Enough(Exception):
    """The runner wants no further step."""


def train_on_request(trainer: Any, channel: Channel) -> None:
    """A trainer's own loop, which a callback halts between steps, until the runner has had enough."""
    channel.ready()
    try:
        trainer.train()
    except Enough:
        return
    channel.wait()


def trl(
    channel: Channel,
    *,
    model: str,
    folder: str,
    scratch: str,
    adapter: str | None,
    learning_rate: float,
    batch: int,
    steps: int,
    padding_free: bool,
    attention: str = "sdpa",
    logging_steps: int = 1,
) -> None:
    """TRL's SFTTrainer on a PEFT model (or, without adapter, on all weights), its own loop halted between steps."""
    import trl as library
    from datasets import Dataset
    from transformers import AutoTokenizer

    network = peer_model(model, folder, adapter, attention)
    rows = read_rows(folder)[: steps * batch]
    config = library.SFTConfig(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=learning_rate,
        train_sampling_strategy="sequential",
        completion_only_loss=True,
        max_length=None,
        padding_free=padding_free,
        logging_steps=logging_steps,
        **TRL_COMMON,
    )
    trainer = library.SFTTrainer(
        model=network,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[_turns(channel, rows, batch)],
    )
    train_on_request(trainer, channel)


def _turns(channel: Channel, rows: Sequence[dict[str, Any]], batch: int) -> Any:
    """A callback that waits for a request before a step, times the steps it asks for, and answers with their loss."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        left = 0
        steps = 0
        began = ended = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.left == 0:
                request = channel.wait()
                if request is None:
                    raise Enough
                self.left = self.steps = request.get("steps", 1)
                self.began = clock()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ended = clock()
            self.left -= 1

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs: dict[str, float] = kwargs["logs"]
            if self.left == 0 and "loss" in logs:
                done = rows[(state.global_step - self.steps) * batch : state.global_step * batch]
                supervised = sum(sum(row["completion_mask"]) for row in done)
                channel.answer(seconds=self.ended - self.began, loss=logs["loss"], supervised=supervised)

    return Turns()


def peft_loop(
    channel: Channel,
    *,
    model: str,
    folder: str,
    adapter: str,
    learning_rate: float,
    batch: int,
    padding_free: bool,
    attention: str,
) -> None:
    """The loop that a PEFT user writes by hand: rows padded or end to end, -100 labels, the model's own loss."""
    import torch

    network = peer_model(model, folder, adapter, attention).train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=BETAS, weight_decay=0.0, fused=True)
    rows = read_rows(folder, ROWS)
    channel.ready()
    start = 0
    while channel.wait() is not None:
        chosen = rows[start : start + batch]
        start += batch
        inputs = end_to_end(chosen) if padding_free else padded(chosen)
        began = clock()
        loss = network(**inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        channel.answer(seconds=clock() - began, loss=value, supervised=int((inputs["labels"] != IGNORED).sum()))


def generate(channel: Channel, *, model: str, folder: str, policies: Sequence[str], form: str) -> None:
    """transformers' generate, greedy and to the last token, for the same prompts under every policy.

    `form`: `adapter_names` mixes the policies in one batch; `adapter` has one; `merged` has one, added to the weights.
    """
    import torch
    from peft import PeftModel

    network: Any = PeftModel.from_pretrained(
        peer_model(model, folder, None, "sdpa"), str(Path(folder) / policies[0]), adapter_name=policies[0]
    )
    for name in policies[1:]:
        network.load_adapter(str(Path(folder) / name), adapter_name=name)
    if form == "merged":
        network = network.merge_and_unload()
    network.eval()
    network.generation_config.eos_token_id = None  # no row ends early
    prompts = read_prompts(folder) * len(policies)
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    extra: dict[str, Any] = {}
    if form == "adapter_names":
        extra["adapter_names"] = [name for name in policies for _ in read_prompts(folder)]
    channel.ready()
    while (request := channel.wait()) is not None:
        began = clock()
        with torch.no_grad():
            found = network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=request["max_tokens"],
                do_sample=False,
                pad_token_id=0,
                **extra,
            )
        seconds = clock() - began
        drawn = found[:, longest:].tolist()
        channel.answer(seconds=seconds, tokens=sum(map(len, drawn)), ids=drawn)


def peer_model(model: str, folder: str, adapter: str | None, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation=attention)
    if adapter is None:
        return network
    from peft import PeftModel

    return PeftModel.from_pretrained(network, str(Path(folder) / adapter), is_trainable=True)


def padded(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Token ids, attention mask and labels, each [rows, longest]; labels are -100 where the loss counts nothing."""
    import torch

    shape = len(rows), max(len(row["input_ids"]) for row in rows)
    ids, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED, dtype=torch.int64)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[number, :length] = torch.tensor(row["input_ids"])
        mask[number, :length] = 1
        counted = torch.tensor(row["completion_mask"], dtype=torch.bool)
        labels[number, :length][counted] = ids[number, :length][counted]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def end_to_end(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Token ids, position ids that start again at each row, and labels, each [1, tokens]: transformers tells the rows
    apart by their positions. No row's first token is counted, so that none is predicted from the row before."""
    import torch

    ids = torch.tensor([token for row in rows for token in row["input_ids"]])
    counted = torch.tensor([bool(on) for row in rows for on in row["completion_mask"]])
    places = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])
    labels = ids.masked_fill(~counted | (places == 0), IGNORED)
    return {"input_ids": ids[None], "position_ids": places[None], "labels": labels[None]}
