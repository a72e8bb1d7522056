"""What a killed process was writing goes away; what somebody is writing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.artifacts.files import open_atomic, publish_dir, write_atomic
from sync.artifacts import staging
from sync.artifacts.shared import SharedFiles
from sync.artifacts.staging import remove_abandoned
from sync.store.database import Store
from tests.sync.artifacts.test_sharing import Machine, machines, own_store

__all__ = ["machines", "own_store"]

DAY = 24 * 3600.0


def _old(path: Path, age_s: float = DAY + 60) -> None:
    then = time.time() - age_s
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then))


@pytest.fixture
def gone() -> int:
    """Number of a process that ran."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.fixture
def running() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


def test_only_what_is_old_and_belongs_to_nobody_goes(tmp_path: Path, gone: int, running: int) -> None:
    names = {
        "left": f"models/.v1.{gone}.0123abcd",
        "new": f"models/.v2.{gone}.0123abcd",
        "in use": f"pools/.part-0.parquet.{running}.0123abcd",
        "checkpoints": "models/.training-r1",
        "note": ".held.json",
        "file": f"crops/a.{gone}.0123abcd",
        "folder": f"rounds/.3.{gone}.89abcdef/tree-0.npz",
        "growing": f"rounds/.4.{gone}.89abcdef/tree-0.npz",
    }
    paths = {what: tmp_path / name for what, name in names.items()}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in tmp_path.iterdir():
        _old(path)
    _old(paths["new"], DAY - 600)
    _old(paths["growing"], 10)
    assert remove_abandoned(tmp_path) == 2
    assert {what for what, path in paths.items() if not path.exists()} == {"left", "folder"}
    assert not paths["folder"].parent.exists()


def test_in_a_container_the_next_worker_has_the_same_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / f".current.{os.getpid()}.0123abcd"
    before.write_bytes(b"x")
    _old(before, 3 * DAY)
    monkeypatch.setattr(staging, "_STARTED", time.time() - 2 * DAY)
    with open_atomic(tmp_path / "weights") as file, publish_dir(tmp_path / "v1"):
        file.write(b"x")
        for path in tmp_path.iterdir():
            if path != before:
                _old(path)  # it has written for a day
        assert remove_abandoned(tmp_path) == 1
    assert not before.exists()
    assert (tmp_path / "weights").read_bytes() == b"x"
    assert (tmp_path / "v1").is_dir()


KILLED = """
import os, signal, sys
from sync.artifacts import objects
from sync.artifacts.opening import shared_files
from sync.settings import Settings
from sync.store.database import Store

data, url, database = sys.argv[1:]
download = objects.Objects.download
def die(self, key, target, **about):
    download(self, key, target, **about)
    os.kill(os.getpid(), signal.SIGKILL)
objects.Objects.download = die
shared_files(Settings(data_dir=data, artifacts_url=url, signing_key="k" * 32), Store(database), 1).fetch()
"""


def test_the_next_fetch_removes_what_a_killed_one_left(
    machines: tuple[Machine, Machine], tmp_path: Path, own_store: Store
) -> None:
    a, b = machines
    write_atomic(a.root / "models/v1/weights", b"w", guard=a.db.guard)
    arguments = [str(b.settings.data_dir), b.settings.artifacts_url, f"sqlite:///{tmp_path / 'store.db'}"]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(list((b.root / ".fetch").iterdir())) == 1
    assert b.shared.fetch() == 1
    assert b.files() == {"models/v1/weights": b"w"}
    assert not (b.root / ".fetch").exists()


def test_a_fetch_waits_for_the_one_under_way_and_leaves_its_files(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker and backend of one machine share a copy: the second must not remove what the first fetches."""
    import threading

    a, b = machines
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    other = SharedFiles(b.db.store, b.shared.objects, b.root, 1)
    second = threading.Thread(target=other.fetch)
    download = b.shared.objects.download

    def slow(key: str, target: Path, *, digest: str) -> None:
        download(key, target, digest=digest)
        second.start()
        second.join(0.3)  # waits at the lock; without one it would remove the file by now
        assert target.exists()

    with monkeypatch.context() as patched:
        patched.setattr(b.shared.objects, "download", slow)
        assert b.shared.fetch() == 1
    second.join()
    assert b.files() == {"current": b"v1"}
