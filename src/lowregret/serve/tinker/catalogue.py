"""What there is: the base, sessions, models, samplers and checkpoints, as Tinker's clients list them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lowregret.runs.atomic import remove_file
from lowregret.serve.guard import Told
from lowregret.serve.problems import Problem, json_response
from lowregret.serve.tinker.bodies import asked_of
from lowregret.serve.tinker.forms import WeightsInfo
from lowregret.serve.tinker.ledger import CHECKPOINTS, Ledger
from lowregret.spec import LoRA

PAGE = 100
SCHEME = "tinker://"


def checkpoint_path(model: str, kind: Literal["weights", "sampler_weights"], name: str) -> str:
    """What a checkpoint is known by."""
    return f"{SCHEME}{model}/{kind}/{name}"


@final
class Catalogue:
    """Endpoints that change nothing but the list of checkpoints."""

    def __init__(self, ledger: Ledger, base: str, positions: int | None) -> None:
        self._ledger, self._base, self._positions = ledger, base, positions

    def routes(self, prefix: str) -> list[Route]:
        """What is answered."""
        gets = {
            "healthz": self.healthz,
            "get_server_capabilities": self.capabilities,
            "sessions": self.sessions,
            "sessions/{session}": self.session,
            "samplers/{sampler}": self.sampler,
            "training_runs": self.runs,
            "training_runs/{run}": self.run,
            "training_runs/{run}/checkpoints": self.checkpoints,
            "checkpoints": self.all_checkpoints,
        }
        one = f"{prefix}/training_runs/{{run}}/checkpoints/{{kind}}/{{name}}"
        return [
            *(Route(f"{prefix}/{path}", endpoint, methods=["GET"]) for path, endpoint in gets.items()),
            Route(f"{prefix}/weights_info", self.weights_info, methods=["POST"]),
            Route(f"{prefix}/sessions/{{session}}/finish", self.finish, methods=["POST"]),
            Route(one, self.delete, methods=["DELETE"]),
        ]

    async def healthz(self, request: Request) -> Response:
        """It answers."""
        return _told(request, "healthz", {"status": "ok"})

    async def capabilities(self, request: Request) -> Response:
        """The base."""
        own = {"model_name": self._base, "max_context_length": self._positions, "trainable": True, "sampleable": True}
        return _told(request, "get_server_capabilities", {"supported_models": [own]})

    async def sessions(self, request: Request) -> Response:
        """All, the newest first."""
        page, cursor = _page(request, self._ledger.sessions())
        return _told(request, "sessions", {"sessions": page, "cursor": cursor})

    async def session(self, request: Request) -> Response:
        """One, with its models and samplers."""
        name, about = self._session(request)
        return _told(
            request,
            "session",
            {
                "training_run_ids": self._ledger.models(name),
                "sampler_ids": self._ledger.samplers(name),
                "user_metadata": about["user_metadata"],
                "display_name": about["display_name"],
            },
        )

    async def finish(self, request: Request) -> Response:
        """A client ends; what it has made stays."""
        self._session(request)
        return _told(request, "finish", {})

    def _session(self, request: Request) -> tuple[str, dict[str, Any]]:
        name = request.path_params["session"]
        found = self._ledger.session(name)
        if found is None:
            raise Problem(404, "There is no such session.")
        return name, found["about"]

    async def sampler(self, request: Request) -> Response:
        """What a sampler draws by."""
        found = self._ledger.sampler(request.path_params["sampler"])
        if found is None:
            raise Problem(404, "There is no such sampler.")
        about = {"sampler_id": found["id"], "base_model": self._base, "model_path": found["path"]}
        return _told(request, "sampler", about)

    async def runs(self, request: Request) -> Response:
        """All models, the newest first."""
        page, cursor = _page(request, self._ledger.models())
        return _told(request, "training_runs", {"training_runs": [self._run(run) for run in page], "cursor": cursor})

    async def run(self, request: Request) -> Response:
        """One model."""
        return _told(request, "training_run", self._run(request.path_params["run"]))

    def _run(self, model: str) -> dict[str, Any]:
        row = self._ledger.model(model)
        if row is None:
            raise Problem(404, "There is no such training run.")
        own = self._ledger.checkpoints(model)
        last = {kind: next((_checkpoint(each) for each in own if each["kind"] == kind), None) for kind in _KINDS}
        return {
            "training_run_id": model,
            "base_model": self._base,
            "model_owner": "local",
            "is_lora": True,
            "lora_rank": LoRA.model_validate_json(row["method"]).rank,
            "last_request_time": _time(row["used"]),
            "last_checkpoint": last["weights"],
            "last_sampler_checkpoint": last["sampler_weights"],
            "user_metadata": row["about"]["user_metadata"],
        }

    async def checkpoints(self, request: Request) -> Response:
        """A model's."""
        self._run(request.path_params["run"])
        own = self._ledger.checkpoints(request.path_params["run"])
        return _told(request, "checkpoints", {"checkpoints": [_checkpoint(each) for each in own]})

    async def all_checkpoints(self, request: Request) -> Response:
        """All, the newest first."""
        page, cursor = _page(request, self._ledger.checkpoints())
        return _told(request, "checkpoints", {"checkpoints": [_checkpoint(each) for each in page], "cursor": cursor})

    async def delete(self, request: Request) -> Response:
        """Take a checkpoint off the list."""
        given = request.path_params
        path = f"{SCHEME}{given['run']}/{given['kind']}/{given['name']}"
        known = self._ledger.checkpoint(path)
        if known is None:
            raise Problem(404, "There is no such checkpoint.")
        self.remove(known)
        return _told(request, "delete_checkpoint", {})

    def remove(self, known: dict[str, Any]) -> None:
        """Let go of a checkpoint. One to draw by goes when the server starts again: samplers may have its folder."""
        self._ledger.remove_checkpoint(known["path"], known["file"])
        if known["kind"] == "weights":
            remove_file(self._ledger.folder / CHECKPOINTS / known["file"])

    async def weights_info(self, request: Request) -> Response:
        """What a checkpoint of weights is loaded into."""
        path = (await asked_of(WeightsInfo, request)).tinker_path
        known = self._ledger.checkpoint(path)
        row = None if known is None else self._ledger.model(known["model"])
        if row is None:
            raise Problem(404, f"tinker_path: {path[:200]} is no checkpoint here.")
        config = row["about"]["config"]
        wanted = ("train_unembed", "train_mlp", "train_attn")
        about = {"base_model": self._base, "is_lora": True, "lora_rank": config["rank"]}
        return _told(request, "weights_info", {**about, **{name: config[name] for name in wanted}})


_KINDS = {"weights": "training", "sampler_weights": "sampler"}


def _checkpoint(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "checkpoint_id": f"{row['kind']}/{Path(row['path']).name}",
        "checkpoint_type": _KINDS[row["kind"]],
        "time": _time(row["created"]),
        "tinker_path": row["path"],
        "size_bytes": row["bytes"],
        "public": False,
        "user_metadata": row["about"]["user_metadata"],
        "expires_at": None if row["about"]["expires"] is None else _time(row["about"]["expires"]),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _page(request: Request, every: list[Any]) -> tuple[list[Any], dict[str, int]]:
    """The part that is asked for by `offset` and `limit`."""
    numbers = []
    for name, default in (("offset", 0), ("limit", PAGE)):
        said = request.query_params.get(name, str(default))
        if not (said.isascii() and said.isdecimal() and len(said) < 10):
            raise Problem(400, f"{name}: a whole number is needed.")
        numbers.append(int(said))
    offset, limit = numbers[0], min(numbers[1], 1000)
    return every[offset : offset + limit], {"offset": offset, "limit": limit, "total_count": len(every)}


def _told(request: Request, route: str, value: dict[str, Any]) -> Response:
    told: Told = request.scope["told"]
    told.route = f"tinker/{route}"
    return json_response(value)
