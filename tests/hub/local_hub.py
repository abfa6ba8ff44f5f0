"""A hub on this machine that speaks what huggingface_hub asks for, and misbehaves as it is told.

Routes: GET /api/models/REPO/revision/REV, HEAD and GET /REPO/resolve/REV/FILE, as
https://huggingface.co/docs/hub/api and the sources of huggingface_hub describe them.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS = 10_000  # bytes; smaller files lie in git


@dataclass
class LocalHub:
    """The hub's content, its faults, and what it saw."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    url: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    # faults, by file name
    break_after: dict[str, list[int]] = field(default_factory=dict)  # bytes, one for each answer
    wrong: set[str] = field(default_factory=set)  # a byte is changed on the way
    longer: set[str] = field(default_factory=set)  # more bytes than were listed
    redirect: dict[str, str] = field(default_factory=dict)  # file or "api" -> address
    status: dict[str, list[int]] = field(default_factory=dict)  # file or "api" -> answers
    code: str = ""  # X-Error-Code of errors
    whole_only: bool = False  # Range is not understood
    without_hashes: bool = False  # the listing has names only
    etags: bool = True
    listing: list[dict[str, Any]] = field(default_factory=list)  # further siblings
    answer: bytes | None = None  # in the place of a listing
    stall: dict[str, list[float]] = field(default_factory=dict)  # seconds after a first piece
    slow: float = 0.0  # seconds for each piece

    def sent(self, file: str) -> int:
        """Count the answers to GETs of a file."""
        return len(self.of(file))

    def of(self, file: str) -> list[dict[str, str]]:
        """Return the headers of all GETs of a file."""
        ending = f"/{file}"
        return [h for method, path, h in self.requests if method == "GET" and path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, path, headers))
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            repo, _, rest = path.strip("/").partition("/resolve/")
            self._file(repo, rest.partition("/")[2])
        elif path.startswith("/stored/"):
            repo, _, name = path.removeprefix("/stored/").partition("//")
            self._send_file(name, self.hub.repos[repo][name])
        else:
            self._error(404)

    def _api(self, rest: str) -> None:
        if self._fault("api"):
            return
        if self.hub.answer is not None:
            self._send(200, self.hub.answer, {"content-type": "application/json"})
            return
        repo, _, revision = rest.partition("/revision/")
        if repo not in self.hub.repos:
            self._error(404, "RepoNotFound")
        elif revision not in ("main", "v1", self.hub.commit):
            self._error(404, "RevisionNotFound")
        else:
            files = self.hub.repos[repo].items()
            siblings = [self._sibling(name, data) for name, data in files] + self.hub.listing
            body = {"id": repo, "modelId": repo, "sha": self.hub.commit, "siblings": siblings}
            self._send(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        if self.hub.without_hashes:
            return {"rfilename": name}
        found: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
        if len(data) >= LFS:
            digest = hashlib.sha256(data).hexdigest()
            found["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
        return found

    def _file(self, repo: str, name: str) -> None:
        data = self.hub.repos.get(repo, {}).get(name)
        if data is None:
            self._error(404, "EntryNotFound")
        elif not self._fault(name):
            self._send_file(name, data)

    def _fault(self, name: str) -> bool:
        """Answer with an error or a redirect if one was ordered."""
        if self.hub.status.get(name):
            self._error(self.hub.status[name].pop(0), self.hub.code)
            return True
        if name in self.hub.redirect:
            self._send(302, b"", {"location": self.hub.redirect[name]})
            return True
        return False

    def _send_file(self, name: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest() if len(data) >= LFS else git_hash(data)
        headers = {"x-repo-commit": self.hub.commit, "accept-ranges": "bytes"}
        if self.hub.etags:
            headers |= {"etag": f'"{digest}"', "x-linked-etag": f'"{digest}"'}
            headers["x-linked-size"] = str(len(data))
        if name in self.hub.wrong:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        if name in self.hub.longer:
            data += b"more"
        status, asked = 200, self.headers.get("Range", "")
        if asked and not self.hub.whole_only:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or len(data) - 1), len(data) - 1)
            headers["content-range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        self._send(status, data, headers, name)

    def _error(self, status: int, code: str = "") -> None:
        headers = {"x-error-code": code} if code else {}
        if status in (429, 503):
            headers["retry-after"] = "0"
        self._send(status, b"{}", headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str], name: str = "") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        limits = self.hub.break_after.get(name)
        limit = limits.pop(0) if limits else len(data)
        with contextlib.suppress(OSError):
            for start in range(0, min(limit, len(data)), 1 << 16):
                self.wfile.write(data[start : min(start + (1 << 16), limit)])
                time.sleep(self.hub.slow)
                if self.hub.stall.get(name):
                    time.sleep(self.hub.stall[name].pop(0))
            if limit < len(data):
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def running(address: str = "127.0.0.1") -> Iterator[LocalHub]:
    """Run a hub on a free port of this machine."""
    hub = LocalHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer((address, 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
