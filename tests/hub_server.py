"""A server in this process that speaks as much of the Hugging Face Hub's API as `huggingface_hub` uses, without Xet."""

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest

from dira_scale.train.models import hub as client

TOKEN = "hf_thisIsSecret"
LARGE = (".safetensors", ".bin", ".onnx")  # kept as large files: named by their SHA-256


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)  # to commits
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # the files of each

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add or, of None, remove files; return the commit."""
        tree = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        tree = {name: content for name, content in tree.items() if content is not None}
        state = [len(self.commits), sorted((name, hashlib.sha1(content).hexdigest()) for name, content in tree.items())]
        commit = hashlib.sha1(json.dumps(state).encode()).hexdigest()
        self.branches[branch], self.commits[commit] = commit, tree
        return commit


class Hub(ThreadingHTTPServer):
    """``asked``: the requests so far, as METHOD PATH. ``swap``: content that is sent in the place of other content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}  # uploaded, by SHA-256
        self.swap: dict[bytes, bytes] = {}
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}  # in the place of others
        self.siblings: Any = None  # likewise
        self.trickles = False

    def fetched(self, suffix: str) -> list[str]:
        """Return the downloads of files of which the name ends so."""
        return [line for line in self.asked if line.startswith("GET /") and line.endswith(suffix)]


class RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}
        self.headers["ETag"] = 'W/"f-mY2VvLxuxB7KhsoOdQTlMTccuAQ"'  # of the text, as the Hub's own


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {unquote(path)}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, method in self.ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                try:
                    status, headers, content = method(self, *map(unquote, match.groups()))
                except RefusedError as refused:
                    status, headers, content = refused.status, refused.headers, b"{}"
                break
        else:
            status, headers, content = 404, {}, b"{}"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers, **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                for byte in content if self.server.trickles else ():
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)
                self.wfile.write(b"" if self.server.trickles else content)

    def _repository(self, name: str, writes: bool = False) -> Repository:
        repository, known = self.server.repositories.get(name), self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            raise RefusedError(404 if known else 401, "RepoNotFound", "Repository not found")
        if writes and not known:
            raise RefusedError(403, "", "You do not have write access")
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def info(self, name: str, revision: str | None = None) -> Any:
        repository = self._repository(name)
        commit = self._commit(repository, revision or "main")
        siblings = self.server.siblings or [{"rfilename": file} for file in repository.commits[commit]]
        return _json({"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []})

    def resolve(self, name: str, revision: str, file: str) -> Any:
        repository = self._repository(name)
        commit = self._commit(repository, revision)
        if repository.gated:
            raise RefusedError(403, "GatedRepo", "Access to this model is restricted")
        content, about = repository.commits[commit].get(file), {"X-Repo-Commit": commit}
        if content is None:
            raise (missing := RefusedError(404, "EntryNotFound", "Entry not found")).headers.update(about) or missing
        if file.endswith(LARGE):  # from storage on another host, without the caller's token
            oid = hashlib.sha256(content).hexdigest()
            self.server.large[oid] = content
            about |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            return 302, about | {"Location": f"http://localhost:{self.server.server_port}/storage/{oid}/{file}"}, b""
        return 200, about | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content

    def storage(self, oid: str) -> Any:
        assert "Authorization" not in self.headers, "the token leaves the Hub"
        content = self.server.large[oid]
        return 200, {}, self.server.swap.get(content, content)

    def create(self) -> Any:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, "", "Invalid username or password.")
        if name in self.server.repositories:
            return 409, {}, _json({"error": "exists", "url": f"{self.server.address}/{name}"})[2]
        private = asked.get("visibility") == "private" or asked.get("private", False)
        self.server.repositories[name] = Repository(private)
        self.server.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return _json({"url": f"{self.server.address}/{name}"})

    def preupload(self, name: str) -> Any:
        self._repository(name, writes=True)
        files = [each["path"] for each in json.loads(self.body)["files"]]
        modes = [(file, "lfs" if file.endswith(LARGE) else "regular") for file in files]
        return _json({"files": [{"path": file, "uploadMode": mode, "shouldIgnore": False} for file, mode in modes]})

    def batch(self, name: str) -> Any:
        self._repository(name, writes=True)
        objects = json.loads(self.body)["objects"]
        for each in objects:
            each["actions"] = {"upload": {"href": f"{self.server.address}/upload/{each['oid']}"}}
        return _json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> Any:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        return 200, {}, b""

    def add_commit(self, name: str, branch: str) -> Any:
        repository, files = self._repository(name, writes=True), dict[str, Any]()
        for line in map(json.loads, self.body.splitlines()):
            match line["key"], line["value"]:
                case "file", value:
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile", value:
                    files[value["path"]] = self.server.large[value["oid"]]
                case "deletedFile", value:
                    files[value["path"]] = None
        commit = repository.commit(files, branch)
        return _json({"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit})

    ROUTES = {  # noqa: RUF012
        r"GET /api/models/([^/]+/[^/]+)": info,
        r"GET /api/models/([^/]+/[^/]+)/revision/(.+)": info,
        r"(?:HEAD|GET) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)": resolve,
        r"GET /storage/(\w+)/.+": storage,
        r"POST /api/repos/create": create,
        r"POST /api/validate-yaml": lambda self: _json({}),
        r"POST /api/models/([^/]+/[^/]+)/preupload/main": preupload,
        r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": batch,
        r"PUT /upload/(\w+)": upload,
        r"POST /api/models/([^/]+/[^/]+)/commit/(main)": add_commit,
    }


def _json(content: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def asked_anew() -> None:
    """What was asked is forgotten, as in another process."""
    client.pinned.cache_clear()
    client.local.cache_clear()


@contextmanager
def serving(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub for this process, whose `huggingface_hub` has read its environment already, and for those that it starts.

    ``cache``: a folder for what is fetched.
    """
    from huggingface_hub import constants

    hub = Hub()
    thread = Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    asked_anew()
    values: dict[str, Any] = {"ENDPOINT": hub.address, "HF_HUB_CACHE": str(cache / "hub"), "HF_HUB_DISABLE_XET": True}
    values["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in values.items():
        patch.setattr(constants, name, value)
    for name, text in {"ENDPOINT": hub.address, "HOME": str(cache), "HUB_DISABLE_XET": "1", "HUB_OFFLINE": "0"}.items():
        patch.setenv(f"HF_{name}", text)
    patch.delenv("HF_TOKEN", raising=False)
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join(10)
        asked_anew()
