"""Images: checked, cached by content, decoded once. Opening addresses is ``ml_backend.images.fetch``'s work.

Tiers: an index from address to content hash, the bytes on disk by content hash, decoded pixels in memory. Two
threads that want one cold image fetch it once.

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
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import write_atomic
from ml_backend.images.decode import decode_image, open_image, pil_errors, read_cached
from ml_backend.images.fetch import Fetcher
from ml_backend.settings import BackendSettings

__all__ = ["ImageRef", "ImageStore"]
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
class ImageRef:
    """An image on this machine: content hash (sha256, hex), path of its bytes, and (height, width) as
    shown.
    """

    sha: str
    path: Path
    hw: tuple[int, int]


class ImageStore:
    """Images by address; see the module. One per process, safe under threads.

    ``get`` finds the bytes, ``pixels`` decodes them. Addresses under ``/data/upload/`` never change; others
    are looked at again after a day.
    """

    def __init__(self, settings: BackendSettings, *, fetcher: Fetcher | None = None) -> None:
        self._folder = settings.data_dir / "images"
        self._max_pixels = settings.max_image_pixels
        self._ram_cap = settings.image_ram_bytes
        self._disk_cap = settings.image_disk_bytes
        self._fetcher = fetcher or Fetcher(settings)
        self._lock = threading.Lock()
        self._flights: dict[str, Future[ImageRef]] = {}
        self._decoding: dict[str, Future[npt.NDArray[np.uint8]]] = {}
        self._pixels: OrderedDict[str, npt.NDArray[np.uint8]] = OrderedDict()
        self._ram = 0
        self._written = 0

    def get(
        self,
        value: str,
        *,
        task_id: int | None = None,
        project_id: int | None = None,
        field: str = "data.image",
    ) -> ImageRef:
        """The image behind an address of task data (or a path).

        Raises BadImage with what was tried and what to set, StudioError when Label Studio refuses or is away.
        """
        name = self._fetcher.cache_name(value)
        found = self._indexed(name, value)
        if found is not None:
            return found
        with self._lock:
            flight = self._flights.get(name)
            mine = flight is None
            if flight is None:
                flight = self._flights[name] = Future()
        if not mine:
            return flight.result()
        try:
            data = self._fetcher.fetch(value, task_id=task_id, project_id=project_id, field=field)
            ref = self.put(data, field=field)
            write_atomic(
                self._index_file(name), json.dumps({"sha": ref.sha, "hw": ref.hw, "at": time.time()}).encode()
            )
            flight.set_result(ref)
            return ref
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                self._flights.pop(name, None)

    def put(self, data: bytes, *, field: str = "image") -> ImageRef:
        """Check that the bytes are an image and keep them. Damage behind the header shows in ``pixels``."""
        sha = hashlib.sha256(data).hexdigest()
        with pil_errors(field), open_image(data, max_pixels=self._max_pixels, field=field) as image:
            suffix = _SUFFIX.get(image.format or "", ".img")
            # of TIFF files Pillow states the turned size already
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            hw = (image.width, image.height) if turned else (image.height, image.width)
        path = self._folder / sha[:2] / f"{sha}{suffix}"
        if not path.exists():
            write_atomic(path, data)
            self._evict_disk(len(data))
        return ImageRef(sha, path, hw)

    def by_sha(self, sha: str, hw: tuple[int, int]) -> ImageRef | None:
        """A cached image by content hash; None when its bytes are not here (any more)."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha):
            return None
        path = next((self._folder / sha[:2]).glob(f"{sha}.*"), None)
        return None if path is None else ImageRef(sha, path, hw)

    def pixels(self, ref: ImageRef) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, read-only: copy before writing. Raises BadImage when the bytes are gone."""
        with self._lock:
            found = self._pixels.get(ref.sha)
            if found is not None:
                self._pixels.move_to_end(ref.sha)
                return found
            flight = self._decoding.get(ref.sha)
            mine = flight is None
            if flight is None:
                flight = self._decoding[ref.sha] = Future()
        if not mine:
            return flight.result()
        try:
            pixels = decode_image(read_cached(ref.path), max_pixels=self._max_pixels)
            self._remember(ref.sha, pixels)
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

    def _indexed(self, name: str, value: str) -> ImageRef | None:
        """What the index knows of an address, if it is still true and the bytes are there."""
        try:
            raw = json.loads(self._index_file(name).read_text())
            sha, hw, at = str(raw["sha"]), (int(raw["hw"][0]), int(raw["hw"][1])), float(raw["at"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        if not self._fetcher.is_immutable(value) and time.time() - at > _MUTABLE_AGE_S:
            return None
        path = next((self._folder / sha[:2]).glob(f"{sha}.*"), None)
        if path is None:
            return None
        try:
            os.utime(path)  # eviction spares what was just used
        except OSError:
            return None
        return ImageRef(sha, path, hw)

    def _remember(self, sha: str, pixels: npt.NDArray[np.uint8]) -> None:
        pixels.flags.writeable = False
        if pixels.nbytes > self._ram_cap:
            return
        with self._lock:
            if sha not in self._pixels:
                self._pixels[sha] = pixels
                self._ram += pixels.nbytes
            self._pixels.move_to_end(sha)
            while self._ram > self._ram_cap:
                _, old = self._pixels.popitem(last=False)
                self._ram -= old.nbytes

    def _evict_disk(self, written: int) -> None:
        """Drop the files unused for longest when the folder outgrew its cap; looks once per 5 % of the cap
        written.
        """
        with self._lock:
            self._written += written
            if self._written < self._disk_cap // 20:
                return
            self._written = 0
        files = [(p, p.stat()) for p in self._folder.glob("??/*") if p.is_file()]
        total = sum(s.st_size for _, s in files)
        newest = time.time() - _SPARE_S  # a training run or a click may be about to open it
        for path, stat in sorted(files, key=lambda f: f[1].st_mtime):
            if total <= self._disk_cap or stat.st_mtime > newest:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size
