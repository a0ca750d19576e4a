"""A server that speaks as much of the Hugging Face Hub's protocol as its client needs, with faults to order."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "x" * 30
LARGE = 2000         # bytes from which a file goes by the large-file protocol


@dataclass
class Repository:
    """Commits, oldest first: (id, path -> bytes)."""

    kind: str
    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a branch or an id."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)

    def commit(self, files: dict[str, bytes]) -> str:
        self.commits.append((hashlib.sha1(f"{len(self.commits)} {sorted(files)} {id(self)}".encode()).hexdigest(), files))
        return self.commits[-1][0]


@dataclass
class Hub:
    """What the server has and what it saw.

    Attributes:
        objects: large files by SHA-256.
        fail: (method, pattern of the path) -> status that is answered in place of the real answer, or "half", "short" (once)
            or "flip" for the body of a file; removed by tests.
        seen: every request, "METHOD path".
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    fail: dict[tuple[str, str], int | str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    most_puts: int | None = None

    def fault(self, method: str, path: str) -> int | str | None:
        return next((what for (kind, pattern), what in self.fail.items() if kind == method and re.search(pattern, path)), None)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes | dict[str, Any] | list[Any] = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X_Error_Code": code} if code else {}
        if status == 429:
            headers["Retry_After"] = "0"
        self.answer(status, {"error": message or "refused"}, **headers)

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append(f"{self.command} {path}")
        fault = self.hub.fault(self.command, path)
        if isinstance(fault, int):
            self.refuse(fault)
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve("dataset" if found[1] else "model", found[2], found[3], found[4], fault)
        elif path == "/api/repos/create":
            self.create()
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/(?:datasets/)?(.+)\.git/info/lfs/objects/batch", path):
            self.batch()
        elif path.startswith("/put/"):
            self.put(path.removeprefix("/put/"))
        elif found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/([a-z]+)(?:/(.+))?)?", path):
            self.api(found[1], found[2], found[3] or "revision", found[4] or "main")
        else:
            self.refuse(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.refuse(401, message="Invalid username or password.")
        return False

    def create(self) -> None:
        if self.may_write():
            asked = json.loads(self.body)
            name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
            if name in self.hub.repositories:
                self.answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
                return
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            made = self.hub.repositories[name] = Repository(asked.get("type", "model"), private)
            made.commit({".gitattributes": b"*.parquet filter=lfs"})
            self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def batch(self) -> None:
        if self.may_write():
            objects = [{**each, **({} if each["oid"] in self.hub.objects else
                                   {"actions": {"upload": {"href": f"{self.hub.url}/put/{each['oid']}"}}})}
                       for each in json.loads(self.body)["objects"]]
            self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if self.hub.most_puts is not None:
            self.hub.most_puts -= 1
            if self.hub.most_puts < 0:
                self.refuse(400, message="the line broke")
                return
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self.answer(200)

    def api(self, kind: str, name: str, what: str, revision: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None or repository.kind != kind or (
                repository.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self.refuse(401 if "Authorization" not in self.headers else 404, "RepoNotFound", "Repository not found")
            return
        revision = revision.partition("/")[0]
        commit = repository.at(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "revision":
            self.answer(200, {"id": name, "modelId": name, "sha": commit[0], "private": repository.private, "tags": [],
                              "siblings": [{"rfilename": path} for path in sorted(commit[1])]})
        elif what == "tree":
            self.answer(200, [{"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
                              for path, data in sorted(commit[1].items())])
        elif what == "preupload" and self.may_write():
            self.answer(200, {"files": [{"path": each["path"], "shouldIgnore": False, "oid": None,
                                         "uploadMode": "lfs" if each["size"] >= LARGE else "regular"}
                                        for each in json.loads(self.body)["files"]]})
        elif what == "commit" and self.may_write():
            files = dict(commit[1])
            for line in filter(None, self.body.splitlines()):
                entry = json.loads(line)
                value = entry["value"]
                match entry["key"]:
                    case "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    case "lfsFile":
                        files[value["path"]] = self.hub.objects[value["oid"]]
                    case "deletedFile":
                        files.pop(value["path"])
            made = repository.commit(files)
            self.answer(200, {"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/{name}/commit/{made}"})

    def resolve(self, kind: str, name: str, revision: str, path: str, fault: int | str | None) -> None:
        repository = self.hub.repositories.get(name)
        commit = repository.at(revision) if repository is not None and repository.kind == kind else None
        if commit is None or path not in commit[1]:
            self.refuse(404, "EntryNotFound" if commit else "RevisionNotFound", "not found")
            return
        data, start = commit[1][path], 0
        etag = hashlib.sha256(data).hexdigest() if len(data) >= LARGE else git_hash(data)
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit[0], "Accept_Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        sent = data[start:]
        if self.command == "GET" and fault == "flip":
            sent = sent[:-1] + bytes([sent[-1] ^ 1])
        if self.command == "GET" and fault in ("half", "short"):
            if fault == "short":
                self.hub.fail.clear()
            self.answer(206 if asked else 200, sent[:len(sent) // 2], **headers, Content_Length=str(len(sent)))
            self.close_connection = True
            return
        self.answer(206 if asked else 200, sent, **headers)


def git_hash(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def start() -> tuple[Hub, ThreadingHTTPServer]:
    """A hub that listens; end it with the server's `shutdown`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return hub, server
