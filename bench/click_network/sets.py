"""The real pictures that the network learns from, and how each set is divided.

Only sets whose licence lets weights be shipped: nuclei (CC0), mushrooms (CC BY 4.0), blood cells (MIT; boxes
alone, so only patterns are taken from its pictures).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_backend.examples import Example
from ml_backend.masks.coco import CocoImage, load_coco

__all__ = ["SETS", "Division", "divide", "texture_paths"]

SETS = ("nuclei_dsb2018_a", "mushrooms")
TEXTURES = ("bccd_cells",)


@dataclass(frozen=True, slots=True)
class Division:
    """Pictures of one set: to learn from, to choose by (when to stop, constants), to report on."""

    learn: tuple[CocoImage, ...]
    choose: tuple[CocoImage, ...]
    report: tuple[CocoImage, ...]
    categories: tuple[str, ...]

    def examples(self) -> list[Example]:
        """The pictures to learn from, as the sampler takes them."""
        return [Example(i.image_id, i.path, tuple(i.label), tuple(i.rle)) for i in self.learn]


def divide(folder: Path) -> Division:
    """Of five pictures in the order of their names three are learnt from, one chosen by, one reported on."""
    data = load_coco(folder / "images", folder / "annotations.json")
    images = sorted(data.images, key=lambda image: image.path.name)
    return Division(
        tuple(image for at, image in enumerate(images) if at % 5 < 3),
        tuple(images[3::5]),
        tuple(images[4::5]),
        tuple(data.categories),
    )


def texture_paths(folder: Path) -> list[Path]:
    """Pictures of a set without masks, those to learn from."""
    paths = sorted((folder / "images").iterdir())
    return [path for at, path in enumerate(paths) if at % 5 < 3]
