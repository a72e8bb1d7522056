"""A small project on the fake Label Studio: images on disk, masks, and a worker's view of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.brush import encode_mask
from ml_backend.label_config import build_label_config, parse_label_config
from ml_backend.regions import Region, to_result
from sync.fake_studio import FakeStudio
from sync.project_state import Project, open_project, register_project
from sync.settings import Settings
from sync.store import Store

LABELS = ("disc", "bar")
CONFIG_XML = build_label_config(LABELS)
HW = (48, 64)


class Scene:
    """One generated image with its true masks: bright discs and bars on dark noise."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.image = rng.integers(20, 60, (*HW, 3)).astype(np.uint8)
        self.masks: list[tuple[str, np.ndarray[Any, np.dtype[np.bool_]]]] = []
        y, x = np.mgrid[: HW[0], : HW[1]]
        for column in range(3):
            cx, cy = 11 + 21 * column, int(rng.integers(14, 34))
            label = LABELS[int(rng.integers(2))]
            if label == "disc":
                mask = (x - cx) ** 2 + (y - cy) ** 2 <= int(rng.integers(5, 9)) ** 2
            else:
                mask = (abs(x - cx) <= 3) & (abs(y - cy) <= int(rng.integers(7, 12)))
            self.image[mask] = (220, 60, 60) if label == "disc" else (60, 220, 60)
            self.masks.append((label, mask))

    def result(self) -> list[dict[str, Any]]:
        """The annotation a careful person would draw."""
        regions = []
        for i, (label, mask) in enumerate(self.masks):
            regions.append(Region(f"r{i}", "mask", label, encode_mask(mask), (0.0, 0.0, 1.0, 1.0)))
        return to_result(regions, parse_label_config(CONFIG_XML), HW)


class World:
    """Images, a Label Studio project over them, and the worker's store and settings."""

    def __init__(self, folder: Path, n_images: int, studio: FakeStudio | None = None, **options: Any) -> None:
        self.folder = folder
        images = folder / "images"
        images.mkdir(parents=True)
        self.scenes = [Scene(seed) for seed in range(n_images)]
        for i, scene in enumerate(self.scenes):
            Image.fromarray(scene.image).save(images / f"{i:03d}.png")
        self.studio = studio or FakeStudio()
        self.project_id = self.studio.create_project("Shapes", CONFIG_XML).id
        self.studio.upload_images(self.project_id, sorted(images.iterdir()))
        self.tasks = sorted(self.studio.task_ids(self.project_id))
        self.settings = Settings(data_dir=folder / "data", allow_image_dirs=str(images), **options)
        self.store = Store(self.settings.database())
        register_project(self.store, self.studio, self.project_id)

    def open(self, checkpoint: Callable[[str], None] = lambda place: None) -> Project:
        return open_project(self.settings, self.store, self.studio, self.project_id, checkpoint=checkpoint)

    def label(self, *numbers: int) -> None:
        """A person finishes these tasks truthfully."""
        for number in numbers:
            result = self.scenes[number].result()
            self.studio.create_annotation(self.tasks[number], result, lead_time_s=20.0)


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(
        n_images: int = 4, studio: FakeStudio | None = None, name: str = "world", **options: Any
    ) -> World:
        made.append(World(tmp_path / name, n_images, studio, **options))
        return made[-1]

    yield make
    for world in made:
        world.store.close()
