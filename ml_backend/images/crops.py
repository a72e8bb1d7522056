"""Crops for review: an instance with some surroundings and an outline that is visible on any background.

A crop is named by the key of its instance. The key is made from label and mask, so one key always gives the
same picture. It is rendered once, and browsers may cache it. The worker renders crops ahead; the server makes
those that are missing, from the pool and the image cache.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ml_backend.artifacts.files import write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_reader import Pools
from ml_backend.artifacts.pool_tables import task_of_key
from ml_backend.errors import BadInput
from ml_backend.images.store import ImageRef, ImageStore
from ml_backend.instances import Rle
from ml_backend.masks.outlines import outline_rings
from ml_backend.masks.rle import decode_rle, rle_box

__all__ = ["CropStore", "crop_window", "render_crop"]

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_DARK: Final = (0, 0, 0)
_LIGHT: Final = (255, 255, 90)
_QUALITY: Final = 88


def crop_window(
    box_xyxy: tuple[float, float, float, float],
    hw: tuple[int, int],
    *,
    context: float = 0.4,
    min_px: int = 48,
) -> tuple[int, int, int, int]:
    """Window (x0, y0, x1, y1) in pixels around a box, inside the image.

    ``context`` is the margin on each side as a share of the box's longer side. The window is square where
    the image allows it, and at least ``min_px`` wide: tiny objects need surroundings to be recognised.
    """
    height, width = hw
    x0, y0, x1, y1 = box_xyxy
    side = max(x1 - x0, y1 - y0)
    size = max(side * (1 + 2 * context), float(min_px))

    def span(low: float, high: float, limit: int) -> tuple[int, int]:
        length = min(round(size), limit)
        start = round((low + high) / 2 - length / 2)
        start = min(max(start, 0), limit - length)
        return start, start + length

    left, right = span(x0, x1, width)
    top, bottom = span(y0, y1, height)
    return left, top, right, bottom


def render_crop(
    pixels: npt.NDArray[np.uint8], rle: Rle, *, size_px: int = 448, context: float = 0.4, outline: bool = True
) -> bytes:
    """JPEG of an instance and its surroundings, with the outline of all its parts and holes.

    Parameters
    ----------
    pixels : (H, W, 3) RGB image at the size of the mask
    rle : the mask
    size_px : longer side of the JPEG
    context : margin around the instance, see ``crop_window``
    outline : a light line inside a dark one, so that one of the two stands out on any background. It is
        drawn after enlarging, so it stays thin and does not hide the edge.

    Raises BadInput when mask and image differ in size or the mask is empty.
    """
    hw = (int(pixels.shape[0]), int(pixels.shape[1]))
    mask = decode_rle(rle)
    if mask.shape != hw:
        raise BadInput(f"the mask has size {mask.shape}, the image {hw}", field="rle")
    box = rle_box(rle)
    if box[2] <= box[0]:
        raise BadInput("the mask is empty", field="rle")
    x0, y0, x1, y1 = crop_window(box, hw, context=context)
    scale = size_px / max(x1 - x0, y1 - y0)
    out_wh = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    crop = cv2.resize(np.ascontiguousarray(pixels[y0:y1, x0:x1]), out_wh, interpolation=how)
    if outline and not mask.all():  # a class of the whole picture has no outline
        soft = cv2.resize(mask[y0:y1, x0:x1].astype(np.float32), out_wh, interpolation=cv2.INTER_LINEAR)
        _draw_outline(crop, soft, size_px)
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()


def _draw_outline(crop: npt.NDArray[np.uint8], soft: npt.NDArray[np.float32], size_px: int) -> None:
    level = min(0.5, float(soft.max()) / 2)  # a mask much thinner than a pixel of the crop stays visible
    rings = outline_rings(soft > level, holes=True)
    width = max(2, round(size_px / 220))
    cv2.drawContours(crop, rings, -1, _DARK, width + 3, cv2.LINE_AA)
    cv2.drawContours(crop, rings, -1, _LIGHT, width, cv2.LINE_AA)


class CropStore:
    """Rendered crops of all projects: files below ``projects/<id>/crops/``, nothing in memory.

    Parameters
    ----------
    data_dir : Groundswell's files
    images : where pictures come from
    size_px : longer side of a crop
    pools : where ``find`` looks up masks; default: pools of its own
    """

    def __init__(
        self, data_dir: Path, images: ImageStore, *, size_px: int = 448, pools: Pools | None = None
    ) -> None:
        self._data_dir = data_dir
        self._images = images
        self._size_px = size_px
        self._pools = pools or Pools(data_dir)

    def path(self, project_id: int, key: str) -> Path:
        """The file of a crop. Raises BadInput when ``key`` is not an instance key."""
        if not _KEY.fullmatch(key):
            raise BadInput(f"{key!r} is not the key of a crop", field="key")
        return ProjectPaths(self._data_dir, project_id).crops / f"{key}.jpg"

    def ensure(self, project_id: int, key: str, image: ImageRef, rle: Rle) -> Path:
        """Render the crop of a key unless it is there. Raises BadImage, BadInput, StorageError."""
        path = self.path(project_id, key)
        if not path.exists():
            self.put(project_id, key, render_crop(self._images.pixels(image), rle, size_px=self._size_px))
        return path

    def put(self, project_id: int, key: str, crop: bytes) -> None:
        """Keep a crop that was rendered elsewhere. Raises BadInput, StorageError."""
        write_atomic(self.path(project_id, key), crop)

    def find(self, project_id: int, key: str) -> Path | None:
        """The crop of a key; rendered now when a pool knows the key and the image is cached, else None.

        Raises StorageError when a pool is damaged.
        """
        path = self.path(project_id, key)
        if path.exists():
            return path
        try:
            task_id = task_of_key(key)
        except ValueError:
            return None
        for version in self._pools.versions(project_id):
            pool = self._pools.of(project_id, version)
            table = pool.read([task_id]).get(task_id)
            if table is None:
                continue
            for row in np.flatnonzero(table.key == key)[:1]:
                hw = (int(table.hw[row, 0]), int(table.hw[row, 1]))
                image = self._images.by_sha(pool.image_sha(task_id), hw)
                if image is not None:
                    return self.ensure(project_id, key, image, table.rle(int(row)))
        return None
