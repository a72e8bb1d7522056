"""Images: checked, cached by content, decoded once. ``ml_backend.images.fetch`` opens their addresses.

There are three stages: an index from address to content hash, the bytes on disk by content hash, and decoded
pixels in memory. Threads that want the same image at the same time fetch it once.

Pixels are those the editor shows: EXIF orientation is applied, as browsers do, so ``hw`` is the size in which
Label Studio states its coordinates (``original_height``, ``original_width``). Transparency is laid on white,
16-bit greys are scaled by their range, palettes and CMYK become RGB.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import write_atomic
from ml_backend.caches import ByteCache
from ml_backend.errors import BadImage
from ml_backend.images.addresses import CacheKey
from ml_backend.images.decode import decode_image, open_image, pil_errors, read_cached
from ml_backend.images.fetch import Fetcher
from ml_backend.settings import BackendSettings

__all__ = ["ImageRef", "ImageSource", "ImageStore"]
_SUFFIX: Final = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "TIFF": ".tif",
    "GIF": ".gif",
    "MPO": ".jpg",
}
_MUTABLE_AGE_S: Final = 24 * 3600.0
_SPARE_S: Final = 3600.0
_ORIENTATION: Final = 0x0112


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where a picture came from, so that it can be fetched again."""

    value: str
    task_id: int | None
    project_id: int | None


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image on this machine.

    Attributes
    ----------
    sha : content hash (SHA-256, hex)
    path : file with its bytes; another process may delete it to make room
    hw : (height, width) in pixels as shown, orientation applied
    source : where to fetch it again; None for bytes that were handed in
    """

    sha: str
    path: Path
    hw: tuple[int, int]
    source: ImageSource | None = field(default=None, compare=False)


class ImageStore:
    """Images by address; see the module. One per process, safe under threads.

    ``get`` finds the bytes, ``pixels`` decodes them. Uploads never change; other addresses are fetched again
    after a day.
    """

    def __init__(self, settings: BackendSettings, *, fetcher: Fetcher | None = None) -> None:
        self._folder = settings.data_dir / "images"
        self._max_pixels = settings.max_image_pixels
        self._disk_cap = settings.image_disk_bytes
        self._fetcher = fetcher or Fetcher(settings)
        self._lock = threading.Lock()
        self._flights: dict[str, Future[ImageRef]] = {}
        self._decoding: dict[str, Future[npt.NDArray[np.uint8]]] = {}
        self._pixels: ByteCache[str, npt.NDArray[np.uint8]] = ByteCache(
            settings.image_ram_bytes, lambda pixels: pixels.nbytes
        )
        self._written = 0

    @property
    def ram_bytes(self) -> int:
        """Bytes of decoded pixels held now."""
        return self._pixels.nbytes

    def get(
        self,
        value: str,
        *,
        task_id: int | None = None,
        project_id: int | None = None,
        field: str = "data.image",
    ) -> ImageRef:
        """The image behind an address of task data (or a path).

        ``task_id`` and ``project_id`` belong to the task: Label Studio may answer differently for others.
        Raises BadImage with what was tried and what to set, StudioError when Label Studio refuses or does not
        answer.
        """
        key = self._fetcher.cache_key(value, task_id=task_id, project_id=project_id, field=field)
        source = ImageSource(value, task_id, project_id)
        found = self._indexed(key)
        if found is not None:
            return replace(found, source=source)
        with self._lock:
            flight = self._flights.get(key.name)
            mine = flight is None
            if flight is None:
                flight = self._flights[key.name] = Future()
        if not mine:
            return flight.result()
        try:
            ref = replace(self._fetch(key, source, field), source=source)
            flight.set_result(ref)
            return ref
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                self._flights.pop(key.name, None)

    def _fetch(self, key: CacheKey, source: ImageSource, field: str) -> ImageRef:
        data = self._fetcher.fetch(
            source.value, task_id=source.task_id, project_id=source.project_id, field=field
        )
        ref = self.put(data, field=field)
        entry = {"sha": ref.sha, "hw": ref.hw, "at": time.time()}
        write_atomic(self._index_file(key.name), json.dumps(entry).encode())
        return ref

    def put(self, data: bytes, *, field: str = "image") -> ImageRef:
        """Check the header of an image and keep its bytes. ``pixels`` finds damage after the header."""
        sha = hashlib.sha256(data).hexdigest()
        with pil_errors(field), open_image(data, max_pixels=self._max_pixels, field=field) as image:
            suffix = _SUFFIX.get(image.format or "", ".img")
            # for TIFF files Pillow already gives the size after rotation
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            hw = (image.width, image.height) if turned else (image.height, image.width)
        path = self._folder / sha[:2] / f"{sha}{suffix}"
        if not _touch(path):
            write_atomic(path, data)
            self._evict_disk(len(data))
        return ImageRef(sha, path, hw)

    def data(self, ref: ImageRef) -> bytes:
        """The bytes of the file, fetched again when another process deleted them to make room.

        Raises BadImage when that fails or gives another image, StudioError when Label Studio does not answer.
        """
        return self._bytes(ref)

    def by_sha(self, sha: str, hw: tuple[int, int]) -> ImageRef | None:
        """A cached image by content hash; None when its bytes are not here (any more)."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha):
            return None
        path = next((self._folder / sha[:2]).glob(f"{sha}.*"), None)
        return None if path is None else ImageRef(sha, path, hw)

    def pixels(self, ref: ImageRef) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, read-only: copy before writing.

        Bytes that another process deleted to make room are fetched again. Raises BadImage when that fails or
        gives another image, StudioError when Label Studio does not answer.
        """
        found = self._pixels.get(ref.sha)
        if found is not None:
            return found
        with self._lock:
            flight = self._decoding.get(ref.sha)
            mine = flight is None
            if flight is None:
                flight = self._decoding[ref.sha] = Future()
        if not mine:
            return flight.result()
        try:
            pixels = decode_image(self._bytes(ref), max_pixels=self._max_pixels)
            pixels.flags.writeable = False
            self._pixels.put(ref.sha, pixels)
            flight.set_result(pixels)
            return pixels
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                self._decoding.pop(ref.sha, None)

    def _index_file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._folder / "index" / digest[:2] / f"{digest}.json"

    def _bytes(self, ref: ImageRef) -> bytes:
        try:
            return read_cached(ref.path)
        except BadImage:
            if ref.source is None:
                raise
        again = self.get(ref.source.value, task_id=ref.source.task_id, project_id=ref.source.project_id)
        if again.sha != ref.sha:
            raise BadImage("the image changed while it was being read", field="image", hint="Try again")
        return read_cached(again.path)

    def _indexed(self, key: CacheKey) -> ImageRef | None:
        """The image that the index has for an address, if the entry is valid and the bytes are there."""
        try:
            raw = json.loads(self._index_file(key.name).read_text())
            sha, hw, at = str(raw["sha"]), (int(raw["hw"][0]), int(raw["hw"][1])), float(raw["at"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        if not key.is_immutable and time.time() - at > _MUTABLE_AGE_S:
            return None
        path = next((self._folder / sha[:2]).glob(f"{sha}.*"), None)
        return ImageRef(sha, path, hw) if path is not None and _touch(path) else None

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """The cached files with size and time, the longest unused first."""
        found = []
        for path in self._folder.glob("??/*"):
            try:
                found.append((path, path.stat()))
            except OSError:  # another process deleted it
                continue
        return sorted(found, key=lambda item: item[1].st_mtime)

    def _evict_disk(self, written: int) -> None:
        """Delete the least recently used files when the folder exceeds its limit.

        This is checked each time 5 % of the limit was written. Files used within the last hour stay: a
        training or a click may be about to open them. Other processes may use a file at any time, so its time
        is checked again just before it is deleted. A process that still finds its file gone fetches it again.
        """
        with self._lock:
            self._written += written
            if self._written < self._disk_cap // 20:
                return
            self._written = 0
        files = self._files()
        total = sum(stat.st_size for _, stat in files)
        for path, stat in files:
            if total <= self._disk_cap or stat.st_mtime > time.time() - _SPARE_S:
                return
            try:
                if path.stat().st_mtime > stat.st_mtime:
                    continue
            except OSError:
                pass  # another process deleted it: its bytes are gone all the same
            path.unlink(missing_ok=True)
            total -= stat.st_size


def _touch(path: Path) -> bool:
    """Mark a file as used now, so that eviction spares it; False when it is not there."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True
