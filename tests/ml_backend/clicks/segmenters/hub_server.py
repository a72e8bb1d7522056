"""A server on this machine that speaks the part of the hub's protocol that a download needs.

It can break off after some bytes, serve other bytes than it lists, and refuse. Nothing leaves the machine.
"""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves the files of ``folder`` as the repository ``name``.

    Attributes
    ----------
    served : file → bytes that come instead of those that were listed
    break_after : bytes of model.safetensors after which each connection breaks, for ``breaks`` times
    refuse : status that every request gets, with the hub's own word for it
    asked : (method, path, Range header) of all requests
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.name = folder, name
        self.listed = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.served: dict[str, bytes] = {}
        self.extra: list[dict[str, object]] = []
        self.break_after, self.breaks = 0, 0
        self.refuse: tuple[int, str] | None = None
        self.asked: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def siblings(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for name, content in sorted(self.listed.items()):
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            row: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
            if not name.endswith((".json", ".md")):
                sha = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"sha256": sha, "size": len(content), "pointerSize": 130}
            rows.append(row)
        return rows + self.extra


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(send=True)

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def _answer(self, *, send: bool) -> None:
        hub = self.server
        path = urlsplit(self.path).path
        wanted = self.headers.get("Range", "")
        hub.asked.append((self.command, path, wanted))
        if hub.refuse is not None:
            status, word = hub.refuse
            self._reply(status, b"{}", {"X-Error-Code": word}, send=send)
        elif path.startswith(f"/api/models/{hub.name}"):
            listed = {"id": hub.name, "sha": COMMIT, "siblings": hub.siblings()}
            self._reply(200, json.dumps(listed).encode(), {}, send=send)
        elif path.startswith(f"/{hub.name}/resolve/{COMMIT}/"):
            self._file(path.rsplit("/", 1)[-1], wanted, send=send)
        else:
            self._reply(404, b"{}", {"X-Error-Code": "EntryNotFound"}, send=send)

    def _file(self, name: str, wanted: str, *, send: bool) -> None:
        hub = self.server
        content = hub.served.get(name, hub.listed[name])
        etag = next(row for row in hub.siblings() if row["rfilename"] == name)
        headers = {"ETag": f'"{etag["blobId"]}"', "X-Repo-Commit": COMMIT}
        begin = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        body = content[begin:]
        if wanted:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if send and name == "model.safetensors" and hub.breaks:
            hub.breaks -= 1
            self._reply(206 if wanted else 200, body, headers, send=True, most=hub.break_after)
            self.close_connection = True
            return
        self._reply(206 if wanted else 200, body, headers, send=send)

    def _reply(
        self, status: int, body: bytes, headers: dict[str, str], *, send: bool, most: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send:
            self.wfile.write(body[:most])

    def log_message(self, *_: object) -> None:
        return None
