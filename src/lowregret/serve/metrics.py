"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from lowregret.serve.worker import Worker

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@final
class Metrics:
    """Counters of one server."""

    def __init__(self, worker: Worker, adapters: Callable[[], int]) -> None:
        """`adapters`: how many are loaded."""
        own = self._registry = CollectorRegistry()
        self.requests = Counter("lowregret_requests", "Requests that were answered.", ("route", "status"), registry=own)
        self.seconds = Histogram(
            "lowregret_request_seconds",
            "From a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=own,
        )
        self.first = Histogram(
            "lowregret_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, registry=own
        )
        for name, about, value in (
            ("rows_running", "Completions that are being drawn.", lambda: worker.running),
            ("rows_waiting", "Completions that wait for a place.", lambda: worker.waiting),
            ("drawn_tokens", "Tokens drawn since the start.", lambda: worker.drawn),
            ("prompt_tokens", "Tokens of prompts since the start.", lambda: worker.read),
            ("adapters", "Adapters that are loaded.", adapters),
            ("prefix_bytes", "Memory of what conversations have in common.", lambda: _prefix_bytes(worker)),
        ):
            Gauge(f"lowregret_{name}", about, registry=own).set_function(value)

    def text(self) -> tuple[bytes, str]:
        """All of them, and the type of that text."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


def _prefix_bytes(worker: Worker) -> int:
    return 0 if worker.sampler.prefixes is None else worker.sampler.prefixes.bytes
