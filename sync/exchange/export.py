"""Export a project in one of the formats that suit its kinds of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadImage, BadInput, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.label_config import LabelConfig
from sync.exchange.coco_export import write_coco
from sync.exchange.collect import collect
from sync.exchange.content import EVERYTHING, Choice, Content, LeftOut, Shown
from sync.exchange.csv_export import write_csv
from sync.exchange.masks_export import write_masks
from sync.exchange.parquet_export import write_parquet
from sync.exchange.voc_export import write_voc
from sync.exchange.writing import ExportOptions
from sync.exchange.yolo_export import write_yolo
from sync.store.project_store import ProjectStore

__all__ = ["FORMATS", "ExportReport", "choose_format", "export_project"]

Writer = Callable[[Content, Path, ExportOptions], None]
FORMATS: Final[Mapping[str, Writer]] = {
    "coco": lambda content, out, options: write_coco(content, out),
    "csv": lambda content, out, options: write_csv(content, out),
    "masks": lambda content, out, options: write_masks(content, out),
    "parquet": write_parquet,
    "voc": write_voc,
    "yolo": write_yolo,
}
WITH_PICTURES: Final = frozenset({"parquet", "voc", "yolo"})
"""formats that may come with their pictures"""
_SIZELESS: Final = frozenset({"csv"})
"""formats that do not say how large a picture is"""
_OLD_NAMES: Final[Mapping[str, str]] = {"png": "masks"}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export holds.

    ``annotations`` counts masks, boxes or classes by source. ``round`` and ``model_version`` are those of the
    accepted ones, None before anything was reviewed; ``review_done`` says whether all questions of that round
    were answered. ``other_labels`` do not fit the format: they are left out.
    """

    images: int
    annotations: Mapping[str, int]
    round: int | None
    model_version: str | None
    review_done: bool
    left_out: Sequence[LeftOut]
    says: Sequence[str] = ()
    format: str = "coco"
    other_labels: Sequence[str] = ()


def choose_format(wanted: Sequence[Wanted], name: str) -> tuple[str, list[Wanted]]:
    """The format of that name, or the usual one of the first kind (empty name), and the kinds that it fits.

    Raises BadInput when no kind of the project can be written in it.
    """
    chosen = _OLD_NAMES.get(name, name) or wanted[0].is_of.exports[0]
    fitting = [target for target in wanted if chosen in target.is_of.exports]
    if chosen not in FORMATS or not fitting:
        of = {target.is_of.name: target.is_of.exports for target in wanted}
        known = "; ".join(f"{kind}: {', '.join(formats)}" for kind, formats in of.items())
        what = "does not fit the labels of this project" if chosen in FORMATS else "is not known"
        raise BadInput(f"format {chosen!r} {what}", field="format", hint=f"Formats of {known}")
    return chosen, fitting


def export_project(
    db: ProjectStore,
    config: LabelConfig,
    paths: ProjectPaths,
    images: ImageStore,
    out: Path,
    *,
    format: str = "",
    choice: Choice = EVERYTHING,
    boxes: bool = False,
    with_images: bool = False,
) -> ExportReport:
    """Write the export to ``out``, in the usual format of the first kind of labels or in the one given.

    ``boxes``: boxes around masks (yolo, voc). ``with_images``: the pictures too (yolo, voc, parquet);
    one that cannot be read is left out with all its labels. Memory does not grow with the number of pictures.
    Raises BadInput on a format that is unknown or does not fit, StorageError when it cannot be written.
    """
    chosen, wanted = choose_format(config.wanted, format)
    if with_images and chosen not in WITH_PICTURES:
        raise BadInput(f"a {chosen} export has no pictures", field="with_images", hint="Leave it away")
    if boxes and chosen not in ("voc", "yolo"):
        raise BadInput(f"a {chosen} export holds boxes and masks as they are", field="boxes")
    content = collect(db, wanted, paths, images, choice, with_sizes=chosen not in _SIZELESS)
    read = _Pictures(db.id, images) if with_images else None
    seen = _Counted(content, read)
    options = ExportOptions(boxes, None if read is None else read.take)
    FORMATS[chosen](seen.content, out, options)
    return ExportReport(
        images=seen.images,
        annotations={name: seen.items[name] for name in sorted(seen.items)},
        round=content.info["round"],
        model_version=content.info["model_version"],
        review_done=content.info["review_done"],
        left_out=list(content.left_out),
        says=content.info["says"],
        format=chosen,
        other_labels=[label for label in config.labels if label not in content.labels],
    )


class _Pictures:
    """The bytes of one picture at a time."""

    def __init__(self, project_id: int, images: ImageStore) -> None:
        self._project_id, self._images = project_id, images
        self._now: tuple[int, bytes] = (-1, b"")

    def read(self, picture: Shown) -> None:
        """Read the bytes. Raises BadImage, StudioError."""
        ref = self._images.get(picture.address, task_id=picture.task_id, project_id=self._project_id)
        self._now = picture.task_id, self._images.data(ref)

    def take(self, picture: Shown) -> bytes:
        """The bytes that were read last."""
        assert self._now[0] == picture.task_id
        return self._now[1]


class _Counted:
    """Content whose pictures are counted as they pass; those that cannot be read are left out."""

    def __init__(self, content: Content, read: _Pictures | None) -> None:
        self.images = 0
        self.items: Counter[str] = Counter()
        self._given, self._read = content, read
        self.content = replace(content, pictures=self._pass())

    def _pass(self) -> Iterator[Shown]:
        for picture in self._given.pictures:
            try:
                if self._read is not None:
                    self._read.read(picture)
            except (BadImage, StudioError) as error:
                assert isinstance(self._given.left_out, list)
                self._given.left_out.append(LeftOut(picture.task_id, picture.file_name, str(error)))
                continue
            self.images += 1
            self.items.update(str(item.origin["source"]) for item in picture.items)
            yield picture
