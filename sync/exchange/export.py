"""Export a project in one of the formats that suit its kinds of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput
from ml_backend.images.store import ImageStore
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.label_config import LabelConfig
from sync.exchange.coco_export import write_coco
from sync.exchange.collect import Content, LeftOut, collect
from sync.exchange.csv_export import write_csv
from sync.exchange.png_export import write_png
from sync.store.project_store import ProjectStore

__all__ = ["FORMATS", "ExportReport", "choose_format", "export_project"]

FORMATS: Final[Mapping[str, Callable[[Content, Path], None]]] = {
    "coco": write_coco,
    "csv": write_csv,
    "png": write_png,
}


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
    chosen = name or wanted[0].is_of.exports[0]
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
) -> ExportReport:
    """Write the export to ``out``, in the usual format of the first kind of labels or in the one given.

    Raises BadInput on a format that is unknown or does not fit, StorageError when it cannot be written.
    """
    chosen, wanted = choose_format(config.wanted, format)
    content = collect(db, wanted, paths, images)
    FORMATS[chosen](content, out)
    counts = Counter(str(item.origin["source"]) for picture in content.pictures for item in picture.items)
    return ExportReport(
        images=len(content.pictures),
        annotations={name: counts[name] for name in sorted(counts)},
        round=content.info["round"],
        model_version=content.info["model_version"],
        review_done=content.info["review_done"],
        left_out=content.left_out,
        says=content.info["says"],
        format=chosen,
        other_labels=[label for label in config.labels if label not in content.labels],
    )
