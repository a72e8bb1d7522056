"""``groundswell serve``: the backend alone, in a process as an admin starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.conftest import free_port


def test_the_backend_runs_alone_and_ends_when_asked(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "serve.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GROUNDSWELL_")}
    environment["GROUNDSWELL_STUDIO_URL"] = "http://127.0.0.1:1"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "sync.cli", "serve", "--port", str(port), "--data-dir", "own data"],
            env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        answer = None
        end = time.monotonic() + 120
        while answer is None and time.monotonic() < end and process.poll() is None:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
            except httpx.TransportError:
                time.sleep(0.2)
        assert answer is not None, log.read_text()
        assert answer.status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/review/", timeout=20).status_code == 200  # pages as well
        note = tmp_path / "own data" / "segmenter.json"
        while not note.exists() and time.monotonic() < end:
            time.sleep(0.1)  # a thread writes it
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
    text = log.read_text()
    assert code == 0, text
    assert "computes on the" in text
    assert "clicks by shipped (auto: no other weights are here)" in text
    assert json.loads(note.read_text())["line"] == "shipped (auto: no other weights are here)"
    assert (tmp_path / "own data").is_dir()
