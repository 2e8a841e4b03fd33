"""A server on this machine that takes what wandb 0.31 sends: runs, metrics, files, artifacts and their uses.

Of wandb's GraphQL it answers what the client asks; an operation that it does not know gets an empty answer.
"""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "me"
KEY = "a" * 40
NOW = "2026-01-01T00:00:00Z"


@dataclass
class Run:
    """What arrived of a run. history: rows by the line's number. uses: artifacts, as `name:vN`."""

    id: str
    asked: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    uses: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> set[str]:
        """Names in the history, without wandb's own."""
        return {name for row in self.history.values() for name in row if not name.startswith("_")}


@dataclass
class Version:
    """A version of an artifact. files: contents by name. run: which logged it."""

    id: str
    name: str
    type: str
    index: int
    digest: str
    run: str
    aliases: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "PENDING"


class Server(ThreadingHTTPServer):
    """runs: by id. versions: of all artifacts, in the order of their arrival. unknown: operations without an
    answer. faults: of this server itself."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, Run] = {}
        self.versions: list[Version] = []
        self.unknown: set[str] = set()
        self.faults: list[str] = []
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """A client that goes away in the middle of a request, as wandb's does at its end."""

    def run(self, name: str) -> Run:
        return self.runs.setdefault(name, Run(name))

    def named(self, name: str) -> Version | None:
        """The committed version that `[entity/project/]name:alias` means."""
        base, _, alias = name.split("/")[-1].partition(":")
        for version in reversed(self.versions):
            known = (f"v{version.index}", version.digest, *version.aliases)
            if version.name == base and version.state == "COMMITTED" and (alias or "latest") in known:
                return version
        return None

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        handler = getattr(self, f"_{operation}", None)
        if handler is None:
            self.unknown.add(operation)
            return {}
        with self.lock:
            try:
                return handler(given)
            except Exception as error:  # the client would ask again and again
                self.faults.append(f"{operation}: {error!r} for {given}")
                return {}

    def _Viewer(self, _: Any) -> dict[str, Any]:
        viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}}}

    def _UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        new = given["name"] not in self.runs
        run = self.run(given["name"])
        run.asked |= {key: value for key, value in given.items() if value is not None}
        if given.get("config"):
            run.config = {key: one["value"] for key, one in json.loads(given["config"]).items()}
        project = {"id": "p", "name": run.asked["project"], "entity": {"id": "e", "name": ENTITY}}
        bucket = {"id": f"b-{run.id}", "name": run.id, "displayName": run.asked.get("displayName")}
        bucket |= {"description": "", "config": given.get("config"), "sweepName": None, "project": project}
        return {"upsertBucket": {"bucket": bucket | {"historyLineCount": len(run.history)}, "inserted": new}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        model = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": None}
        if run is not None:
            last = run.history[max(run.history)] if run.history else {}
            model["bucket"] = {
                "id": f"b-{run.id}",
                "name": run.id,
                "displayName": run.asked.get("displayName"),
                "summaryMetrics": json.dumps(run.summary),
                "logLineCount": 0,
                "historyLineCount": len(run.history),
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(last)] if last else []),
                "eventsTail": "[]",
                "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
                "tags": run.asked.get("tags") or [],
                "notes": "",
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": model}

    def _CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/run/{given['run']}/{name}"} for name in given["files"]
        ]
        return {"createRunFiles": {"runID": f"b-{given['run']}", "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, given: dict[str, Any]) -> dict[str, Any]:
        version = self.named(given["name"])
        return {"project": {"artifact": version and {"artifactType": {"name": version.type}}}}

    def _ArtifactMembershipByName(self, given: dict[str, Any]) -> dict[str, Any]:
        version = self.named(given["name"])
        return {"project": {"artifactCollectionMembership": version and _membership(version)}}

    def _ArtifactByID(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"artifact": _membership(self._by_id(given["id"]))["artifact"]}

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        asked = given["input"]
        name = asked.get("artifactCollectionName") or asked["artifactCollectionNames"][0]
        own = [version for version in self.versions if version.name == name]
        same = [version for version in own if version.digest == asked["digest"]]
        aliases = [each["alias"] for each in asked.get("aliases") or []]
        if same:
            version = same[0]
        else:
            number, metadata = len(self.versions), json.loads(asked.get("metadata") or "{}")
            version = Version(
                f"a{number}", name, asked["artifactTypeName"], len(own), asked["digest"], asked["runName"]
            )
            version.metadata = metadata
            self.versions.append(version)
        for other in own:
            other.aliases = [each for each in other.aliases if each not in aliases or other is version]
        version.aliases = list(dict.fromkeys([*version.aliases, *aliases]))
        latest = own[-1].id if own and not same else None
        sequence = {"latestArtifact": {"id": latest} if latest else None}
        answer = {"id": version.id, "state": version.state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": answer}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/manifest/{given['artifactID']}"
        manifest = {"id": f"m-{given['artifactID']}", "file": {"id": "f", "uploadUrl": url}}
        manifest["file"]["uploadHeaders"] = []
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        identity = given["artifactManifestID"].removeprefix("m-")
        file = {"id": "f", "uploadUrl": f"{self.url}/manifest/{identity}", "uploadHeaders": []}
        return {
            "updateArtifactManifest": {"artifactManifest": {"id": given["artifactManifestID"], "file": file}}
        }

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for asked in given["input"]["artifactFiles"]:
            identity = asked["artifactID"]
            node = {
                "storagePath": asked["name"],
                "uploadUrl": f"{self.url}/artifact/{identity}/{asked['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": identity},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        version = self._by_id(given["artifactID"])
        version.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def _UseArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        asked = given.get("input", given)
        version = self._by_id(asked["artifactID"])
        uses = self.run(asked["runName"]).uses
        if (name := f"{version.name}:v{version.index}") not in uses:
            uses.append(name)
        return {"useArtifact": {"artifact": {"id": version.id}}}

    def _by_id(self, identity: str) -> Version:
        return next(version for version in self.versions if version.id == identity)

    def stream(self, run: Run, sent: dict[str, Any]) -> None:
        """A piece of what wandb calls the file stream."""
        for name, piece in (sent.get("files") or {}).items():
            for number, line in enumerate(piece["content"]):
                if name == "wandb-history.jsonl":
                    run.history[piece["offset"] + number] = json.loads(line)
                if name == "wandb-summary.json":
                    run.summary = json.loads(line)

    def store(self, path: str, content: bytes) -> None:
        kind, owner, name = (*path.strip("/").split("/", 2), "")[:3]
        if kind == "run":
            self.run(owner).files[name] = content
        elif kind == "artifact":
            self._by_id(owner).files[name] = content


def _membership(version: Version) -> dict[str, Any]:
    info = {"id": "p", "internalId": "p", "name": "celltransfer", "entity": {"name": ENTITY}}
    collection = {"__typename": "ArtifactSequence", "name": version.name, "project": info}
    aliases = [{"__typename": "ArtifactAlias", "id": each, "alias": each} for each in version.aliases]
    artifact = {
        "__typename": "Artifact",
        "id": version.id,
        "artifactSequence": collection,
        "versionIndex": version.index,
        "artifactType": {"name": version.type},
        "description": None,
        "metadata": json.dumps(version.metadata),
        "ttlDurationSeconds": -1,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": version.state,
        "size": 0,
        "digest": version.digest,
        "commitHash": "",
        "fileCount": len(version.files),
        "createdAt": NOW,
        "updatedAt": NOW,
    }
    membership = {"__typename": "ArtifactCollectionMembership", "id": "m", "versionIndex": version.index}
    return membership | {
        "createdAt": NOW,
        "aliases": aliases,
        "artifactCollection": collection,
        "artifact": artifact,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._send({})

    def do_PUT(self) -> None:
        self.server.store(self.path, self._body())
        self._send({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            asked = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            name = operation[1] if operation else ""
            self._send({"data": self.server.answer(name, asked.get("variables") or {})})
        else:
            if found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                with self.server.lock:
                    self.server.stream(self.server.run(found[1]), json.loads(body))
            self._send({"limits": {}})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            content = b"".join(pieces)
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def _send(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Server]:
    """The server, which runs until the block ends."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
