"""A pool of real detections whose truth is known: train on a part of a COCO set, detect on the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadInput
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.learners.base import Predictor, TrainSpec
from ml_backend.learners.evaluation import match_iou
from ml_backend.learners.registry import get_learner
from ml_backend.learners.training_job import run_training
from ml_backend.masks.coco import CocoSet
from ml_backend.masks.edges import EDGES, edge_statistics
from ml_backend.masks.statistics import STATISTICS, mask_statistics

__all__ = ["DetectorPool", "DetectorPoolPlan", "detector_pool", "merge_classes"]

GOOD_IOU = 0.75
Columns = dict[str, npt.NDArray[Any]]
Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class DetectorPoolPlan:
    """How the detector is made.

    Parameters
    ----------
    train_fraction : share of images to train on; ``train_images``, a number, takes its place when given
    model : folder of a trained version, used as it is on all images; None: train one
    save_model : folder to keep the trained version in; None: it is thrown away
    learner, preset, options, device : see ``groundswell models`` and the learners' own options
    threshold : lowest score of a detection that is kept
    seed : of split and training
    """

    train_fraction: float = 0.5
    train_images: int | None = None
    model: Path | None = None
    save_model: Path | None = None
    learner: str = "maskrcnn"
    preset: str = "light"
    options: Mapping[str, Any] = field(default_factory=dict)
    threshold: float = 0.1
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DetectorPool:
    """The detections on ``images`` images, in columns of n rows (see ``sync.lab.pool_files``).

    ``started_from`` says which weights the detector was trained from, or which version was used.
    """

    columns: Columns
    images: int
    started_from: str

    def summary(self) -> dict[str, Any]:
        """Counts, share of good masks, and how well score and quality predict the true IoU."""
        iou, n = self.columns["iou"], len(self.columns["iou"])
        return {
            "images": self.images,
            "instances": n,
            "good_share": round(float((iou >= GOOD_IOU).mean()), 4) if n else 0.0,
            "correlation_score_iou": _correlation(self.columns["score"], iou),
            "correlation_quality_iou": _correlation(self.columns["quality"], iou),
            "started_from": self.started_from,
        }

    def save(self, path: Path) -> None:
        """Write the columns as a NumPy archive (.npz)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **self.columns)  # type: ignore[arg-type]


def merge_classes(data: CocoSet, name: str) -> CocoSet:
    """The same instances, all of one class. Raises BadInput when its name is empty."""
    if not name.strip():
        raise BadInput("the name of the merged class is empty", field="merge_classes", hint="Such as object")
    images = tuple(replace(image, label=(0,) * len(image.label)) for image in data.images)
    return replace(data, categories=(name,), images=images)


def detector_pool(
    data: CocoSet, plan: DetectorPoolPlan, *, report: Report = lambda share, line: None
) -> DetectorPool:
    """Train (or load) the detector and keep what it finds on images it was not trained on.

    ``report`` is called with the share done (0..1) and a line about it. Raises BadInput when the split leaves
    one side without images, or when the model knows other classes than the data.
    """
    examples = data.examples()
    order = np.random.default_rng(plan.seed).permutation(len(examples))
    learner = get_learner(plan.learner)
    with tempfile.TemporaryDirectory(prefix="groundswell-pool-") as scratch:
        if plan.model is not None:
            folder, rest, started_from = plan.model, [examples[i] for i in order], str(plan.model)
        else:
            count = plan.train_images or round(plan.train_fraction * len(examples))
            if not 0 < count < len(examples):
                raise BadInput(
                    f"training on {count} of {len(examples)} images leaves one side without any",
                    field="train_fraction",
                    hint="Choose a share, or --train-images, that leaves some for both",
                )
            folder = plan.save_model or Path(scratch) / "model"
            rest = [examples[i] for i in order[count:]]
            spec = TrainSpec(
                data.categories,
                tuple(examples[i] for i in order[:count]),
                (),
                preset=plan.preset,
                seed=plan.seed,
                device=plan.device,
                options=dict(plan.options),
            )
            started_from = run_training(learner, spec, folder, report).started_from
        predictor = learner.load(folder, device=plan.device)
        if tuple(predictor.labels) != data.categories:
            raise BadInput(
                f"the model knows {list(predictor.labels)}, the file {list(data.categories)}",
                field="model",
                hint="Use a model of the same classes in the same order",
            )
        columns = _detect(predictor, rest, plan.threshold, report)
    columns["labels"] = np.array(data.categories, np.str_)
    return DetectorPool(columns, len(rest), started_from)


def _detect(predictor: Predictor, examples: Sequence[Example], threshold: float, report: Report) -> Columns:
    """Columns of all instances found at ``threshold`` or above, with their true IoU."""
    parts: list[tuple[int, Instances, npt.NDArray[np.float32]]] = []
    edges: list[npt.NDArray[np.float32]] = [np.zeros((0, len(EDGES)), np.float32)]
    objects = np.zeros((len(examples), len(predictor.labels)), np.int64)
    for i, example in enumerate(examples):
        image = read_image(example.image)
        found = next(iter(predictor.predict([image])))
        found = found.take(found.score >= threshold)
        parts.append((i, found, match_iou(found, example)))
        edges.append(edge_statistics(image, found.rle))
        objects[i] = np.bincount(np.asarray(example.label, np.int64), minlength=len(predictor.labels))
        report((i + 1) / len(examples), f"detected on {i + 1} of {len(examples)} images")
    found_all = [found for _, found, _ in parts]
    rles = [rle for found in found_all for rle in found.rle]
    extras = mask_statistics(rles) if rles else np.zeros((0, len(STATISTICS)), np.float32)
    return {
        "embedding": np.concatenate([found.embedding for found in found_all]),
        "score": np.concatenate([found.score for found in found_all]),
        "quality": np.concatenate([found.quality for found in found_all]),
        "extras": np.concatenate([extras, np.concatenate(edges)], axis=1),
        "iou": np.concatenate([iou for _, _, iou in parts]),
        "label": np.concatenate([found.label for found in found_all]),
        "image": np.repeat([i for i, _, _ in parts], [len(found) for found in found_all]),
        "objects": objects,
    }


def _correlation(column: npt.NDArray[Any], iou: npt.NDArray[Any]) -> float | None:
    """Pearson's correlation, None where one of the two does not vary."""
    if len(iou) < 2 or not float(iou.std()) or not float(column.std()):
        return None
    return round(float(np.corrcoef(column, iou)[0, 1]), 3)
