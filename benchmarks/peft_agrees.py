"""The held-out loss of an adapter, as `lowregret eval` gives it, and by PEFT one example at a time.

python benchmarks/peft_agrees.py --model FOLDER --adapter runs/gsm8k/best/lora --data test.jsonl --max-eval 64
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import PeftModel

from lowregret.data.prepare import prepare_held_out
from lowregret.models.load import load_base, resolve
from lowregret.spec import DataSpec, TrainingSpec
from lowregret.train.job import evaluate_model


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--max-eval", type=int)
    asked = parser.parse_args()
    spec = TrainingSpec(
        model=asked.model, data=DataSpec(train=asked.data, max_eval=asked.max_eval), device="cpu", precision="float32"
    )
    ours = evaluate_model(spec, asked.adapter)

    base = load_base(resolve(asked.model))
    model = PeftModel.from_pretrained(base.model, str(asked.adapter)).eval()
    nats, tokens = 0.0, 0
    for example in prepare_held_out(spec.data, base.tokenizer)[0]:
        ids = torch.tensor([example.token_ids])
        labels = torch.tensor(
            [t if counted else -100 for t, counted in zip(example.token_ids, example.supervised, strict=True)]
        )
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].double()
        nats += float(F.cross_entropy(logits, labels[1:], reduction="sum", ignore_index=-100))
        tokens += example.supervised_tokens
    theirs = nats / tokens
    print(f"lowregret {ours['nll']:.7f}, PEFT {theirs:.7f}, difference {theirs - ours['nll']:+.1e} ({tokens:,} tokens)")


if __name__ == "__main__":
    main()
