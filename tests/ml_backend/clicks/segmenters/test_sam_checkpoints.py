"""Pulling checkpoints from a local server with ranges, broken connections and wrong content."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ml_backend.clicks.segmenters.sam_checkpoints import (
    CHECKPOINTS,
    Checkpoint,
    find_checkpoint,
    pull_checkpoint,
)
from ml_backend.errors import BadInput, ModelError
from sync.commands.models import register

CONTENT = bytes(range(256)) * 20_000


class Server(ThreadingHTTPServer):
    """Serves CONTENT; ``cut`` bytes per answer, then the connection breaks; ``ranges`` off answers 200
    always.
    """

    cut: int | None = None
    ranges = True
    content = CONTENT
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        if not self.path.endswith("model.pth"):
            self.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        body = self.server.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.cut is None else body[: self.server.cut])

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def checkpoint(server: Server, content: bytes = CONTENT, file: str = "model.pth") -> Checkpoint:
    base = f"http://127.0.0.1:{server.server_port}/"
    return Checkpoint("m", file, len(content), hashlib.sha256(content).hexdigest(), base)


def test_whole_download_and_nothing_to_do_the_second_time(server: Server, tmp_path: Path) -> None:
    seen: list[int] = []
    path = pull_checkpoint(checkpoint(server), tmp_path, progress=lambda done, total: seen.append(done))
    assert path.read_bytes() == CONTENT
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)
    assert pull_checkpoint(checkpoint(server), tmp_path) == path
    assert len(server.asked) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_broken_connections_are_resumed_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.cut = 2_000_000
    assert pull_checkpoint(checkpoint(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[0] == ""
    begins = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.asked[1:]]
    assert begins == sorted(begins)
    assert begins[0] > 0


def test_an_interrupted_command_goes_on_later(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").write_bytes(CONTENT[:1_234_567])
    assert pull_checkpoint(checkpoint(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1234567-"]


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "model.pth.part").write_bytes(b"x" * 1000)
    assert pull_checkpoint(checkpoint(server), tmp_path).read_bytes() == CONTENT


def test_damaged_file_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"damaged")
    assert pull_checkpoint(checkpoint(server), tmp_path).read_bytes() == CONTENT


def test_wrong_content_is_deleted_and_refused(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(ModelError, match="hash"):
        pull_checkpoint(checkpoint(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_offline_and_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="HTTP 404"):
        pull_checkpoint(checkpoint(server, file="other.pth"), tmp_path)
    nowhere = Checkpoint("m", "model.pth", 10, "0" * 64, "http://127.0.0.1:9/")
    with pytest.raises(ModelError, match="could not be downloaded") as caught:
        pull_checkpoint(nowhere, tmp_path)
    assert "Without internet, copy model.pth" in caught.value.hint


def test_names() -> None:
    assert find_checkpoint("sam_vit_b").url.endswith("segment_anything/sam_vit_b_01ec64.pth")
    assert (
        find_checkpoint("sam_vit_b", mirror="http://mirror/x").url == "http://mirror/x/sam_vit_b_01ec64.pth"
    )
    assert all(len(c.sha256) == 64 for c in CHECKPOINTS.values())
    with pytest.raises(BadInput, match="sam_vit_z"):
        find_checkpoint("sam_vit_z")


def test_command_lists_and_pulls(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDSWELL_DATA_DIR", str(tmp_path))
    runner = CliRunner()
    app = typer.Typer()
    register(app)
    listed = runner.invoke(app, ["models"])
    assert listed.exit_code == 0, listed.output
    for word in ("classical", "sam-onnx", "project", "maskrcnn", "sam_vit_b"):
        assert word in listed.output
    assert "✓ auto" in listed.output
    assert "now shipped (auto: no other weights are here)" in listed.output
    assert "better: `groundswell models pull" in listed.output
    monkeypatch.setitem(CHECKPOINTS, "m", checkpoint(server))
    pulled = runner.invoke(app, ["models", "pull", "m", "--json"])
    assert pulled.exit_code == 0, pulled.output
    assert (tmp_path / "checkpoints" / "model.pth").read_bytes() == CONTENT
