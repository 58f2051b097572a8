"""A stand-in for the hub: what huggingface_hub asks of it to publish a model, over HTTP on this machine.

The requests are those of huggingface_hub 2.4 without xet: create, repository, tree, validate-yaml, preupload, LFS
batch, PUT and verify, commit, paths-info. It keeps the bytes that arrive, and fails where a test has it fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "a" * 34


@dataclass
class Repository:
    """One model."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    large: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


@dataclass
class Hub:
    """What has arrived, and what is to go wrong."""

    address: str = ""
    user: str = "me"
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    fails: dict[str, int | str] = field(default_factory=dict)
    """Part of a path → the status to answer with; `cut` breaks the connection off, `once` only the first time,
    `change` keeps another byte."""
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    told: list[str] = field(default_factory=list)
    """Every request's Authorization."""


def _entry(repository: Repository, path: str) -> dict[str, Any]:
    content = repository.files[path]
    large = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
    oid = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
    return {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": oid,
        **(large if path in repository.large else {}),
    }


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            self.send_header("X-Error-Message", str(value.get("error", "")))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length) if length else self._chunks()
        path, hub = unquote(urlsplit(self.path).path), self.hub
        hub.asked.append(f"{self.command} {path}")
        hub.told.append(self.headers.get("Authorization", ""))
        fault = next((fault for part, fault in hub.fails.items() if part in path), None)
        if fault == "once":
            hub.fails.clear()
        if fault in ("cut", "once"):
            self.connection.close()
            return
        if isinstance(fault, int):
            self._answer({"error": f"the stand-in answers {fault}"}, fault)
        elif path.startswith("/blob/"):
            self._large(path, content, fault)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        else:
            self._api(path, content, fault)

    do_GET = do_POST = do_PUT = _handle

    def _chunks(self) -> bytes:
        found = b""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            found += self.rfile.read(size)
            self.rfile.readline()
        return found

    def _large(self, path: str, content: bytes, fault: object) -> None:
        if path != "/blob/verify":
            self.hub.blobs[path.rpartition("/")[2]] = content
        self._answer({})

    def _api(self, path: str, content: bytes, fault: object) -> None:
        hub = self.hub
        if path == "/api/repos/create":
            said = json.loads(content)
            name = f"{said.get('organization') or hub.user}/{said['name']}"
            there = name in hub.repositories
            hub.repositories.setdefault(name, Repository(said.get("visibility") == "private"))
            self._answer({"url": f"{hub.address}/{name}", "error": "exists" if there else ""}, 409 if there else 200)
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._answer(
                {"transfer": "basic", "objects": [self._batch(each) for each in json.loads(content)["objects"]]}
            )
        else:
            _, _, _, owner, name, *rest = path.split("/")
            self._repository(hub.repositories.get(f"{owner}/{name}"), rest, content, fault)

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        to = {
            "upload": {"href": f"{self.hub.address}/blob/{asked['oid']}"},
            "verify": {"href": f"{self.hub.address}/blob/verify"},
        }
        return {"oid": asked["oid"], "size": asked["size"], "actions": to}

    def _repository(self, found: Repository | None, rest: list[str], content: bytes, fault: object) -> None:
        if found is None:
            self._answer({"error": "Repository not found"}, 404)
        elif not rest or rest[0] == "revision":
            self._answer({"id": "me/x", "private": found.private, "sha": found.commits[-1], "siblings": []})
        elif rest[0] == "tree":
            self._answer([_entry(found, path) for path in found.files])
        elif rest[0] == "preupload":
            modes = {each["path"]: "lfs" if each["path"].endswith((".safetensors", ".gguf")) else "regular"
                     for each in json.loads(content)["files"]}  # fmt: skip
            self._answer(
                {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}
            )
        elif rest[0] == "paths-info":
            asked = json.loads(content)["paths"] if content.startswith(b"{") else _form(content)
            self._answer([_entry(found, path) for path in asked if path in found.files])
        elif rest[0] == "commit":
            self._commit(found, [json.loads(line) for line in content.splitlines()], fault)

    def _commit(self, found: Repository, lines: list[dict[str, Any]], fault: object) -> None:
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, found.commits[-1]):
            self._answer({"error": "the parent has moved"}, 412)
            return
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found.files[value["path"]] = self.hub.blobs[value["oid"]]
                found.large.add(value["path"])
            elif line["key"] == "deletedFile":
                del found.files[value["path"]]
            if fault == "change" and line["key"] == "lfsFile":
                found.files[value["path"]] = found.files[value["path"]][:-1] + b"!"
        found.commits.append(f"{len(found.commits):040x}")
        self._answer({"commitUrl": f"{self.hub.address}/me/x/commit/1", "commitOid": found.commits[-1]})


def _form(content: bytes) -> list[str]:
    from urllib.parse import parse_qs

    return parse_qs(content.decode()).get("paths", [])


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the context ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
