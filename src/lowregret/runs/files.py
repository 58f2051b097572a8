"""The names of all files and folders that a run folder has. No other module spells one."""

from __future__ import annotations

from pathlib import Path

LOCK = ".lock"
"""Locked by the process that writes in the folder."""
SPEC = "spec.json"
"""What was asked for, with every default, and what the run resolved."""
MANIFEST = "manifest.json"
"""What its numbers depend on, by content: base, tokenizer, template, data, reward, versions."""
CHECKPOINT = "checkpoint.safetensors"
"""The trials in training, as they were at one round; gone when all have ended."""

TRIALS = "trials"
"""A folder a trial, named by its id."""
TRIAL = "trial.json"
METRICS = "metrics.jsonl"
EXAMPLES = "examples.json"
"""The last held-out evaluation, example by example."""
EXPERTS = "experts.json"
"""Of a mixture: {module: what its experts got in training}."""
AGAIN = "again"
"""The trials of a compare that are trained again for more held-out examples to judge them; gone when they have
ended."""
FORGETTING = "forgetting.json"
"""{"test_nll": …} on held-out text of what the base was trained on."""
TRANSCRIPTS = "transcripts.jsonl"
"""Completions of the first held-out problems at each evaluation: {"step", "prompt", "completion", "reward"}."""
FAILURES = "failures.jsonl"
"""Samples whose grading failed: {"step", "prompt", "completion", "reward", "error"}."""
ADAPTER = "adapter"
"""A trained LoRA, in PEFT's format."""
ADAPTER_CONFIG = "adapter_config.json"
"""In a folder with an adapter: PEFT's own name."""
MODEL = "model"
"""A trained base, as a Hugging Face folder."""

BASE = "base.json"
"""The base's held-out loss before any training."""
ENVIRONMENT = "environment.json"
"""Every distinct environment that has run trials of a study."""
VERDICT = "verdict.json"
FORECAST = "forecast.json"
"""What the regret was expected to be by pilots, before it was measured."""
DECISION = "decision.json"
"""Of a comparison that stops when it is decided: when its verdict was looked at, and what that found."""
BEST = "best"
"""The winners' weights, a folder for each kind of method."""
BEST_LORA = "lora"
BEST_FULL = "full"
REPLIES = "replies.json"
"""What the base and the winners say to the same held-out prompts."""
SHIPPED = "shipped"
"""What `lowregret ship` has made of the winners: a folder a form."""
REPORT = "report.html"
REQUESTS = "requests"
"""What is asked of a run while it runs, a file a request; gone once it is answered."""
ORDERS = "orders.jsonl"
"""The requests that were answered, in order: what a run that goes on obeys again at the same steps."""
PAUSED = "paused.json"
"""While it is there, the run waits between two steps."""
TRACKING = "tracking.json"
"""{"id": …}: by it a tracker finds the folder's runs again."""
TENSORBOARD = "tensorboard"
"""TensorBoard's events, a folder a trial, where --track names no other place."""
MLFLOW = "mlflow.db"
"""MLflow's runs, where neither --track nor the environment names another place."""

BANK = "bank.jsonl"
"""Finished comparisons, by which forecasts are made: in no run's folder, but where the user's data are."""

STUDY = "study.json"
"""The question with every default, and its claims as they were stated before the run."""
GROUPS = "groups"
"""A folder a group of trials that share base, data, batch and steps."""
PRIORS = "priors.json"
"""Method → the learning rate that its search started from."""
LOGS = "logs"
"""What the workers of a study said, a file a group; none where it was trained in one process."""
SLURM = "slurm"
"""What submitit keeps of a study's jobs."""
STORE = "store.json"
"""{"store": …}: the address of the store of which a study's folder is a copy."""
SENT = ".store"
"""In the folder of such a study's group: from which manifest of the store it goes on."""
STORES = "stores"
"""In the user's cache: what workers have of studies that are kept in stores, a folder a study."""
TIMINGS = "timings"
"""The question of compute: a file a width."""
CLAIMS = "claims.json"
"""What became of each claim; with it a study is finished."""


def timing_file(width: int) -> str:
    """In the folder of timings: what steps on a base of this hidden size took."""
    return f"width-{width:05}.json"


def group_log(study: Path, key: str) -> Path:
    """What the workers of a study's group said, whichever they were."""
    return study / LOGS / f"{key}.txt"


def adapter_in(folder: Path) -> Path | None:
    """The adapter that a folder is or has: of `train` its own, of `compare` the best LoRA's; else None."""
    places = (folder, folder / ADAPTER, folder / BEST / BEST_LORA)
    return next((place for place in places if (place / ADAPTER_CONFIG).is_file()), None)


def model_in(folder: Path) -> Path | None:
    """The trained base that a run's folder has; None where it has none."""
    places = (folder / MODEL, folder / BEST / BEST_FULL)
    return next((place for place in places if (place / "config.json").is_file()), None)
