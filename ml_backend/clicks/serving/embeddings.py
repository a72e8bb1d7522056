"""Embeddings by image content and encoder, kept in RAM and on disk; each of the two tiers has a byte limit.

An embedding that several callers want at once is made once, and clicks go before background work. A file
holds one embedding (safetensors layout: named arrays, size of the image in the metadata). Files are
written to a temporary name and renamed, and read by memory map, so several server processes share the disk
tier without locks.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import write_atomic
from ml_backend.caches import ByteCache
from ml_backend.clicks.base import Embedding
from ml_backend.clicks.device_gate import CLICK, DeviceGate, Ticket
from ml_backend.errors import StorageError

__all__ = ["EmbeddingStore", "Found", "read_embedding", "write_embedding"]

log = logging.getLogger(__name__)

_DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
    "BOOL": np.bool_,
}
_SPARED_S = 60.0
"""Files used within this many seconds are not evicted: another process may be about to map them."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """An embedding and where it came from: ``ram``, ``disk``, ``encoded`` or ``joined`` (another caller's
    encode).
    """

    embedding: Embedding
    tier: str


@dataclass(eq=False)
class _Flight:
    future: Future[Embedding]
    ticket: Ticket


class EmbeddingStore:
    """Shared by all threads of a process; the disk tier by all processes.

    Parameters
    ----------
    root : folder of the disk tier
    ram_bytes, disk_bytes : limits of the tiers; 0 switches a tier off
    half : round float32 arrays to float16. They are rounded when made, so RAM and disk give the same masks.
    """

    def __init__(self, root: Path, *, ram_bytes: int, disk_bytes: int, half: bool = False) -> None:
        self.root = root
        self.ram_bytes = ram_bytes
        self.disk_bytes = disk_bytes
        self.half = half
        self._lock = threading.Lock()
        self._ram: ByteCache[tuple[str, str], Embedding] = ByteCache(ram_bytes, lambda found: found.nbytes)
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._disk_used: int | None = None
        self._writer = ThreadPoolExecutor(1, "embedding-writer")  # starts its thread when first used

    # -- lookup ------------------------------------------------------------------------------------

    def get(self, sha: str, encoder: str) -> Found | None:
        """From RAM or disk, or None. Never waits for an encode."""
        key = (encoder, sha)
        embedding = self._ram.get(key)
        if embedding is not None:
            return Found(embedding, "ram")
        path = self._path(key)
        try:
            embedding = read_embedding(path, encoder)
        except FileNotFoundError:
            return None
        except (ValueError, OSError, KeyError) as error:
            log.warning("embedding %s cannot be read (%s); it is made again", path.name, error)
            path.unlink(missing_ok=True)
            return None
        try:
            os.utime(path)
        except OSError:  # evicted meanwhile by another process: the map stays valid
            log.debug("embedding %s went away while in use", path.name)
        self._ram.put(key, embedding)
        return Found(embedding, "disk")

    def has(self, sha: str, encoder: str) -> bool:
        """Whether either tier holds it (no loading, not counted as a use)."""
        return (encoder, sha) in self._ram or self._path((encoder, sha)).exists()

    def get_or_make(
        self,
        sha: str,
        encoder: str,
        load: Callable[[], npt.NDArray[np.uint8]],
        embed: Callable[[npt.NDArray[np.uint8]], Embedding],
        *,
        gate: DeviceGate,
        priority: int = CLICK,
        persist: bool = True,
    ) -> Found:
        """Look the embedding up, or make it. It is made once even if several callers wait for it.

        ``load`` gives the (H, W, 3) pixels before the device is taken; ``embed`` runs while it is held. A
        click that meets a queued background encode of the same image joins it and moves it to the front.
        Errors reach every waiting caller and are not remembered.
        """
        found = self.get(sha, encoder)
        if found is not None:
            return found
        key = (encoder, sha)
        with self._lock:
            flight = self._flights.get(key)
            leader = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight(Future(), Ticket(priority))
        if not leader:
            gate.promote(flight.ticket, priority)
            return Found(flight.future.result(), "joined")
        try:
            found = self.get(sha, encoder)  # another thread may have finished it since the look-up
            if found is None:
                pixels = load()
                with gate.hold(flight.ticket):
                    embedding = self._round(embed(pixels))
                self._ram.put(key, embedding)
                found = Found(embedding, "encoded")
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            flight.future.set_exception(error)
            raise
        with self._lock:
            del self._flights[key]
        flight.future.set_result(found.embedding)
        if persist and found.tier == "encoded":
            if priority == CLICK and found.embedding.nbytes <= self.ram_bytes:
                # A person waits for the mask and the disk can be slow; RAM has it until it is written.
                self._writer.submit(self._write, key, found.embedding)
            else:
                self._write(key, found.embedding)
        return found

    def put(self, sha: str, embedding: Embedding) -> None:
        """Keep an embedding on disk that was made elsewhere; it is rounded as others are."""
        self._write((embedding.encoder, sha), self._round(embedding))

    def flush(self) -> None:
        """Wait until the embeddings made by clicks are on disk."""
        self._writer.submit(bool).result()

    def forget(self) -> None:
        """Drop the RAM tier (tests, memory pressure)."""
        self._ram.clear()

    @property
    def ram_used(self) -> int:
        """Bytes of the RAM tier."""
        return self._ram.nbytes

    # -- tiers -------------------------------------------------------------------------------------

    def _path(self, key: tuple[str, str]) -> Path:
        encoder, sha = key
        return self.root / encoder / f"{sha}.safetensors"

    def _round(self, embedding: Embedding) -> Embedding:
        if not self.half:
            return embedding
        arrays = {
            name: array.astype(np.float16).astype(np.float32) if array.dtype == np.float32 else array
            for name, array in embedding.arrays.items()
        }
        return Embedding(embedding.encoder, embedding.hw, arrays)

    def _write(self, key: tuple[str, str], embedding: Embedding) -> None:
        try:
            self._write_file(key, embedding)
        except Exception:  # an exception in the writer's thread would go unnoticed
            log.exception("embedding not kept on disk")

    def _write_file(self, key: tuple[str, str], embedding: Embedding) -> None:
        if embedding.nbytes > self.disk_bytes:
            return
        if all(array.dtype == np.uint8 for array in embedding.arrays.values()):
            return  # the image itself: the image cache has it, in less space
        path = self._path(key)
        try:
            size = write_embedding(path, embedding, half=self.half)
        except (StorageError, OSError) as error:  # a click must not fail because the cache is full
            log.warning("embedding not kept on disk: %s", error)
            return
        with self._lock:
            if self._disk_used is not None:
                self._disk_used += size
            over = self._disk_used is None or self._disk_used > self.disk_bytes
        if over:
            self._evict(path)

    def _evict(self, spared: Path) -> None:
        """Delete the least recently used files until the tier is within its limit. ``spared`` and files used
        a moment ago stay.
        """
        files = []
        for path in self.root.glob("*/*.safetensors"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            files.append((stat.st_mtime, stat.st_size, path))
        used = sum(size for _, size, _ in files)
        now = time.time()
        for mtime, size, path in sorted(files, key=lambda f: f[0]):
            if used <= self.disk_bytes:
                break
            # Files just used stay, unless the tier is at more than twice its limit.
            if path == spared or (now - mtime < _SPARED_S and used <= 2 * self.disk_bytes):
                continue
            path.unlink(missing_ok=True)
            used -= size
        with self._lock:
            self._disk_used = used


def write_embedding(path: Path, embedding: Embedding, *, half: bool = False) -> int:
    """Write one embedding atomically; returns its size in bytes. StorageError when the disk is full."""
    from safetensors.numpy import save

    arrays = {
        name: np.ascontiguousarray(array.astype(np.float16) if half and array.dtype == np.float32 else array)
        for name, array in embedding.arrays.items()
    }
    metadata = {
        "hw": json.dumps(list(embedding.hw)),
        "encoder": embedding.encoder,
        "float32": json.dumps([name for name, a in embedding.arrays.items() if a.dtype == np.float32]),
    }
    data: bytes = save(arrays, metadata=metadata)
    write_atomic(path, data)
    return len(data)


def read_embedding(path: Path, encoder: str) -> Embedding:
    """Map one embedding; exact arrays are views of the file, float16 ones are widened to float32.

    Raises FileNotFoundError when absent, ValueError when the file is not whole or belongs to another encoder.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = int.from_bytes(file.read(8), "little")
        if not 0 < head <= size - 8:
            raise ValueError("header does not fit the file")
        header = json.loads(file.read(head))
    metadata = header.pop("__metadata__")
    if metadata["encoder"] != encoder:
        raise ValueError(f"made by {metadata['encoder']}")
    data = np.memmap(path, np.uint8, mode="c", offset=8 + head) if size > 8 + head else np.zeros(0, np.uint8)
    wide = set(json.loads(metadata["float32"]))
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        if end > len(data):
            raise ValueError("file is cut off")
        array = data[begin:end].view(_DTYPES[info["dtype"]]).reshape(info["shape"])
        arrays[name] = array.astype(np.float32) if name in wide and array.dtype == np.float16 else array
    height, width = json.loads(metadata["hw"])
    return Embedding(encoder, (height, width), arrays)
