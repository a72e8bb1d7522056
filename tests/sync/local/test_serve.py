"""``groundswell serve``: the backend alone, in a process as an admin starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import free_port
from tests.ml_backend.helpers import image_bytes
from tests.ml_backend.served import CONFIG, CONTEXT


class Served:
    """A ``groundswell serve`` in ``folder``, with what it logged."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = folder / "serve.log"
        own = {k: v for k, v in os.environ.items() if not k.startswith("GROUNDSWELL_")}
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sync.cli", "serve", "--port", self.url.rpartition(":")[2]),
                    *("--data-dir", "own data"),
                ],
                env={**own, **environment, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait(self) -> httpx.Response:
        """The first reply of /health."""
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            try:
                return httpx.get(f"{self.url}/health", timeout=5)
            except httpx.TransportError:
                time.sleep(0.2)
        raise AssertionError(self.log)

    def end(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def serve(folder: Path, **environment: str) -> Iterator[Served]:
    served = Served(folder, **environment)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.end()


def test_the_backend_runs_alone_and_ends_when_asked(tmp_path: Path) -> None:
    with serve(tmp_path, GROUNDSWELL_STUDIO_URL="http://127.0.0.1:1") as served:
        assert served.wait().status_code == 200
        assert httpx.get(f"{served.url}/review/", timeout=20).status_code == 200  # pages as well
        note = tmp_path / "own data" / "segmenter.json"
        end = time.monotonic() + 120
        while not note.exists() and time.monotonic() < end:
            time.sleep(0.1)  # a thread writes it
        assert served.end() == 0, served.log
    assert "computes on the" in served.log
    assert "clicks by shipped (auto: no other weights are here)" in served.log
    assert json.loads(note.read_text())["line"] == "shipped (auto: no other weights are here)"
    assert (tmp_path / "own data").is_dir()


class SlowPictures(BaseHTTPRequestHandler):
    """A Label Studio that sends a picture when it is told to."""

    asked = threading.Event()
    go_on = threading.Event()

    def do_GET(self) -> None:
        self.asked.set()
        self.go_on.wait(60)
        body = image_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


def test_a_click_under_way_is_answered_before_the_backend_ends(tmp_path: Path) -> None:
    studio = ThreadingHTTPServer(("127.0.0.1", 0), SlowPictures)
    threading.Thread(target=studio.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{studio.server_port}"
    environment = {
        "GROUNDSWELL_STUDIO_URL": address,
        "GROUNDSWELL_STUDIO_TOKEN": "t" * 40,
        "GROUNDSWELL_OPEN_BACKEND": "true",
        "GROUNDSWELL_SEGMENTER": "classical",
    }
    body = {
        "tasks": [{"id": 1, "data": {"image": "/data/upload/1/1.png"}, "annotations": [], "drafts": []}],
        "project": "3.1795209803",
        "label_config": CONFIG,
        "params": {"context": CONTEXT},
    }
    try:
        with serve(tmp_path, **environment) as served, ThreadPoolExecutor(2) as threads:
            served.wait()
            click = threads.submit(httpx.post, f"{served.url}/predict", json=body, timeout=60)
            assert SlowPictures.asked.wait(60), served.log
            ended = threads.submit(served.end)
            until = time.monotonic() + 30
            while "Handling signal: term" not in served.log:
                assert time.monotonic() < until, served.log
                time.sleep(0.05)
            SlowPictures.go_on.set()
            reply = click.result()
            assert reply.status_code == 200, reply.text
            assert reply.json()["results"][0]["result"][0]["value"]["rle"]
            assert ended.result() == 0, served.log
    finally:
        SlowPictures.go_on.set()
        studio.shutdown()
        studio.server_close()
