"""`groundswell up` as a user runs it: a process that is started, interrupted, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from sync.local.processes import start_time
from sync.local.up import read_state
from sync.studio.client import Studio
from tests.conftest import free_port

pytestmark = pytest.mark.studio


class Up:
    """One `groundswell up`, with what it printed."""

    def __init__(self, data_dir: Path, port: int, backend_port: int) -> None:
        self.data_dir = data_dir
        env = {name: value for name, value in os.environ.items() if not name.startswith("GROUNDSWELL_")}
        if "GROUNDSWELL_STUDIO_VENV" in os.environ:
            env["GROUNDSWELL_STUDIO_VENV"] = os.environ["GROUNDSWELL_STUDIO_VENV"]
        self.output = data_dir.with_suffix(".out")
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    *("-m", "sync.cli", "up", "--data-dir", str(data_dir)),
                    *("--port", str(port), "--backend-port", str(backend_port)),
                ],
                env=env,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_until_it_says(self, words: str, *, times: int = 1, timeout_s: float = 240.0) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.text().count(words) >= times:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        logs = {p.name: p.read_text(errors="replace")[-1500:] for p in (self.data_dir / "logs").glob("*.log")}
        pytest.fail(f"never said {words!r}:\n{self.text()}\n{logs}")

    def parts(self) -> dict[str, int]:
        raw = json.loads((self.data_dir / "up.json").read_text())
        return {part["name"]: part["pid"] for part in raw["parts"]}


def all_gone(pids: list[int]) -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end and any(start_time(pid) is not None for pid in pids):
        time.sleep(0.1)
    return not any(start_time(pid) is not None for pid in pids)


def test_up_starts_stops_and_finds_everything_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    port, backend_port = free_port(), free_port()

    first = Up(data_dir, port, backend_port)
    first.wait_until_it_says("Ctrl-C stops everything")
    secrets = json.loads((data_dir / "secrets.json").read_text())
    assert f"http://127.0.0.1:{port}" in first.text()
    assert secrets["email"] in first.text()
    assert secrets["password"] in first.text()
    assert secrets["token"] not in first.text()
    studio = Studio(f"http://127.0.0.1:{port}", secrets["token"])
    assert studio.whoami() == secrets["email"]
    assert studio.version() == "1.23.2"
    backend = f"http://127.0.0.1:{backend_port}"
    assert httpx.get(f"{backend}/health", timeout=30).status_code == 200
    assert httpx.post(f"{backend}/predict", json={"tasks": []}, timeout=30).status_code == 401
    login = ("groundswell", secrets["backend_password"])
    assert httpx.get(f"{backend}/versions", auth=login, timeout=30).status_code == 200
    assert secrets["backend_password"] not in first.text()
    project = studio.create_project("a kept project", '<View><Image name="image" value="$image"/></View>')
    parts = first.parts()
    assert set(parts) == {"label-studio", "backend", "worker"}
    state = read_state(data_dir)
    assert state is not None
    assert state.running

    second = Up(data_dir, free_port(), free_port())
    assert second.process.wait(timeout=240) == 1
    assert "already runs" in second.text()
    assert first.process.poll() is None

    # a crash: nobody stops the parts; the next start ends them and finds users and projects
    first.process.kill()
    first.process.wait(timeout=60)
    assert all(start_time(pid) is not None for pid in parts.values())
    third = Up(data_dir, port, backend_port)
    third.wait_until_it_says("Ctrl-C stops everything", times=2)
    assert "left over" in third.text()
    assert all_gone(list(parts.values()))
    assert studio.project(project.id).title == "a kept project"

    # Ctrl-C stops what was started, also when pressed again and again; a part that dies stops the rest
    parts = third.parts()
    third.process.send_signal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM):
        time.sleep(0.3)
        third.process.send_signal(number)
    assert third.process.wait(timeout=240) == 0
    assert all_gone(list(parts.values()))
    assert read_state(data_dir) is None

    fourth = Up(data_dir, port, backend_port)
    fourth.wait_until_it_says("Ctrl-C stops everything", times=3)
    parts = fourth.parts()
    os.kill(parts["backend"], signal.SIGKILL)
    assert fourth.process.wait(timeout=240) == 1
    assert "backend ended with code -9" in fourth.text()
    assert all_gone(list(parts.values()))
