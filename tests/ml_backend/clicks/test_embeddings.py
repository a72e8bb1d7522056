"""The embedding store: tiers, caps, single flight, clicks first, damaged and shared files."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ml_backend.clicks.base import Embedding
from ml_backend.clicks.device_gate import BACKGROUND, CLICK, DeviceGate
from ml_backend.clicks.serving.embeddings import EmbeddingStore, read_embedding, write_embedding

KB = 1024


def embedding(seed: int = 0, encoder: str = "enc", floats: int = 256) -> Embedding:
    values = np.random.default_rng(seed).normal(size=(1, floats)).astype(np.float32)
    return Embedding(encoder, (30, 40), {"features": values, "ids": np.arange(5, dtype=np.int32)})


def pixels(seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.full((2, 2, 3), seed, np.uint8)


def store(root: Path, *, ram: int = 64 * KB, disk: int = 1024 * KB, half: bool = False) -> EmbeddingStore:
    return EmbeddingStore(root, ram_bytes=ram, disk_bytes=disk, half=half)


def make(it: EmbeddingStore, sha: str, seed: int = 0) -> str:
    found = it.get_or_make(
        sha, "enc", lambda: pixels(seed), lambda p: embedding(int(p[0, 0, 0])), gate=DeviceGate()
    )
    it.flush()
    return found.tier


def test_file_round_trip_is_exact_and_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_embedding(path, embedding())
    got = read_embedding(path, "enc")
    assert got.hw == (30, 40)
    for name, array in embedding().arrays.items():
        np.testing.assert_array_equal(got.arrays[name], array)
        assert got.arrays[name].dtype == array.dtype
        assert isinstance(got.arrays[name], np.memmap)


def test_half_precision_gives_the_same_from_ram_and_from_disk(tmp_path: Path) -> None:
    first = store(tmp_path, half=True)
    made = first.get_or_make("s", "enc", pixels, lambda _: embedding(), gate=DeviceGate()).embedding
    first.flush()
    read = store(tmp_path, half=True).get("s", "enc")
    assert read is not None
    assert read.tier == "disk"
    np.testing.assert_array_equal(read.embedding.arrays["features"], made.arrays["features"])
    assert read.embedding.arrays["features"].dtype == np.float32
    assert not np.array_equal(made.arrays["features"], embedding().arrays["features"])
    exact = np.asarray(embedding().arrays["features"], np.float32)
    np.testing.assert_allclose(np.asarray(made.arrays["features"], np.float32), exact, rtol=1e-3)


def test_ram_then_disk_then_encoder(tmp_path: Path) -> None:
    it = store(tmp_path)
    assert make(it, "a") == "encoded"
    assert make(it, "a") == "ram"
    it.forget()
    assert make(it, "a") == "disk"
    assert make(store(tmp_path), "a") == "disk"
    assert make(it, "b") == "encoded"
    assert it.get("a", "another-encoder") is None


def test_ram_cap_spares_what_was_just_used(tmp_path: Path) -> None:
    it = store(tmp_path, ram=3 * 1100, disk=0)
    for name in "abc":
        make(it, name)
    assert it.get("a", "enc") is not None  # a is now newer than b
    make(it, "d")
    assert it.get("b", "enc") is None
    assert {n for n in "abcd" if it.get(n, "enc")} == {"a", "c", "d"}
    assert it.ram_used <= 3 * 1100


def test_disk_cap_drops_the_oldest_use_and_spares_the_newest(tmp_path: Path) -> None:
    it = store(tmp_path, ram=0, disk=4 * KB)
    old = time.time() - 1000
    for index, name in enumerate("abc"):
        make(it, name)
        os.utime(tmp_path / "enc" / f"{name}.safetensors", (old + index, old + index))
    assert it.get("a", "enc") is not None  # touched: b is the oldest use now
    make(it, "d")
    kept = {p.stem for p in (tmp_path / "enc").glob("*.safetensors")}
    assert kept == {"a", "c", "d"}
    assert not list((tmp_path / "enc").glob(".*"))


def test_damaged_file_is_made_again(tmp_path: Path) -> None:
    it = store(tmp_path, ram=0)
    make(it, "a")
    path = tmp_path / "enc" / "a.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:20], whole[:-50], b"", b"x" * 200):
        path.write_bytes(broken)
        assert make(it, "a") == "encoded"
        np.testing.assert_array_equal(
            read_embedding(path, "enc").arrays["features"], embedding().arrays["features"]
        )


def test_full_disk_does_not_fail_the_click(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml_backend.clicks.serving.embeddings.write_embedding", full)
    it = store(tmp_path)
    assert make(it, "a") == "encoded"
    assert make(it, "a") == "ram"


def test_many_callers_encode_once(tmp_path: Path) -> None:
    it, gate = store(tmp_path), DeviceGate()
    encodes: list[int] = []
    together = threading.Barrier(8)
    results: list[str] = []

    def slow(_: npt.NDArray[np.uint8]) -> Embedding:
        encodes.append(1)
        time.sleep(0.05)
        return embedding()

    def call() -> None:
        together.wait()
        results.append(it.get_or_make("a", "enc", pixels, slow, gate=gate).tier)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert encodes == [1]
    assert len(results) == 8
    assert results.count("encoded") == 1


def test_an_error_reaches_all_callers_and_is_not_remembered(tmp_path: Path) -> None:
    it, gate = store(tmp_path), DeviceGate()
    entered = threading.Event()
    errors: list[str] = []

    def failing(_: npt.NDArray[np.uint8]) -> Embedding:
        entered.set()
        time.sleep(0.05)
        raise ValueError("broken encoder")

    def call() -> None:
        try:
            it.get_or_make("a", "enc", pixels, failing, gate=gate)
        except ValueError as error:
            errors.append(str(error))

    first = threading.Thread(target=call)
    first.start()
    assert entered.wait(60)
    second = threading.Thread(target=call)
    second.start()
    first.join(60)
    second.join(60)
    assert errors == ["broken encoder"] * 2
    assert make(it, "a") == "encoded"


def test_a_click_overtakes_queued_background_work(tmp_path: Path) -> None:
    it, gate = store(tmp_path), DeviceGate()
    order: list[str] = []
    running, release = threading.Event(), threading.Event()

    def encode(name: str) -> Embedding:
        order.append(name)
        if name == "running":
            running.set()
            assert release.wait(60)
        return embedding()

    def start(name: str, priority: int) -> threading.Thread:
        thread = threading.Thread(
            target=lambda: it.get_or_make(
                name, "enc", pixels, lambda _: encode(name), gate=gate, priority=priority
            )
        )
        thread.start()
        return thread

    def queued(count: int) -> None:
        deadline = time.time() + 60
        while len(gate._waiting) < count and time.time() < deadline:
            time.sleep(0.002)
        assert len(gate._waiting) == count

    threads = [start("running", BACKGROUND)]
    assert running.wait(60)
    threads.append(start("background 1", BACKGROUND))
    queued(1)
    threads.append(start("background 2", BACKGROUND))
    queued(2)
    threads.append(start("click", CLICK))
    queued(3)
    joining = start("background 2", CLICK)  # somebody clicks on an image that is queued: it moves up
    deadline = time.time() + 60
    while sum(t.priority == CLICK for t in gate._waiting) < 2 and time.time() < deadline:
        time.sleep(0.002)
    release.set()
    for thread in [*threads, joining]:
        thread.join(60)
    assert order[0] == "running"
    assert set(order[1:3]) == {"click", "background 2"}
    assert order[3] == "background 1"
