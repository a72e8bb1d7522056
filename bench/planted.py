"""Errors planted into annotations, and the out-of-fold predictions they are looked for with."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances, Rle
from ml_backend.kinds.base import ProjectKind
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.registry import get_learner
from ml_backend.learners.training_job import run_training
from ml_backend.masks.rle import decode_rle, encode_mask, rle_box

__all__ = ["OBJECT_ERRORS", "Box", "Planted", "out_of_fold", "plant", "plant_classes"]

OBJECT_ERRORS: Final = ("overlooked", "placed", "swapped")
_FEWEST_PX: Final = 12


Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Planted:
    """One error: its task, what kind, where the object is, and where it was drawn (x0, y0, x1, y1)."""

    task: int
    kind: str
    box: Box
    drawn: Box


def plant(
    examples: Sequence[Example], labels: Sequence[str], *, share: float, seed: int
) -> tuple[list[Example], list[Planted]]:
    """The examples with errors in ``share`` of the objects of each kind of error, and these errors.

    Overlooked objects are left out. Badly placed ones are moved by 0.4 to 0.7 of their size, or made larger
    or smaller by half. Swapped ones get another label, where there are several.
    """
    rng = np.random.default_rng([seed, 11])
    kinds = OBJECT_ERRORS if len(labels) > 1 else OBJECT_ERRORS[:2]
    made, planted = [], []
    for example in examples:
        label, rle = [], []
        for mine, mask in zip(example.label, example.rle, strict=True):
            box = rle_box(mask)
            draw = float(rng.random())
            kind = kinds[int(draw / share)] if draw < share * len(kinds) else ""
            if kind == "placed":
                moved = _moved(mask, rng)
                kind, mask = (kind, moved) if moved is not None else ("", mask)
            if kind == "swapped":
                mine = int(rng.choice([i for i in range(len(labels)) if i != mine]))
            if kind:
                planted.append(Planted(example.task_id, kind, box, rle_box(mask)))
            if kind != "overlooked":
                label.append(mine)
                rle.append(mask)
        made.append(dataclasses.replace(example, label=tuple(label), rle=tuple(rle)))
    return made, planted


def _moved(mask: Rle, rng: np.random.Generator) -> Rle | None:
    """The mask elsewhere or of another size; None when little of it would be left in the picture."""
    pixels = decode_rle(mask).astype(np.uint8)
    x0, y0, x1, y1 = rle_box(mask)
    w, h, cx, cy = x1 - x0, y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2
    if rng.random() < 0.5:
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.7)
        scale, dx, dy = 1.0, far * w * np.cos(angle), far * h * np.sin(angle)
    else:
        scale, dx, dy = (1.5 if rng.random() < 0.5 else 0.6), 0.0, 0.0
    move = np.array([[scale, 0, cx - scale * cx + dx], [0, scale, cy - scale * cy + dy]])
    turned = cv2.warpAffine(pixels, move, (pixels.shape[1], pixels.shape[0]), flags=cv2.INTER_NEAREST)
    both, either = (turned & pixels).sum(), (turned | pixels).sum()
    if turned.sum() < max(_FEWEST_PX, 0.25 * pixels.sum()) or both > 0.6 * either:
        return None
    return encode_mask(turned.astype(bool))


def plant_classes(
    examples: Sequence[Example], labels: int, *, share: float, seed: int
) -> tuple[list[Example], set[int]]:
    """The examples with another class in ``share`` of them, and the tasks of these."""
    rng = np.random.default_rng([seed, 13])
    wrong = set(rng.choice(len(examples), round(share * len(examples)), replace=False).tolist())
    made = []
    for i, example in enumerate(examples):
        tags = example.tags
        if i in wrong:
            tags = (int(rng.choice([label for label in range(labels) if label != tags[0]])),)
        made.append(dataclasses.replace(example, tags=tags))
    return made, {examples[i].task_id for i in wrong}


def fold_numbers(n: int, folds: int, seed: int, groups: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
    """(n,) the fold of each picture, all about equally large; groups stay whole."""
    names = [str(i) for i in range(n)] if groups is None else groups
    number = np.unique(np.array(names), return_inverse=True)[1]
    order = np.random.default_rng([seed, 5]).permutation(int(number.max()) + 1) % folds
    return np.asarray(order[np.arange(n) if groups is None else number], np.int64)


def out_of_fold(
    examples: Sequence[Example],
    labels: tuple[str, ...],
    kind: ProjectKind,
    *,
    folds: int,
    seed: int,
    options: dict[str, Any],
    cache: Path,
    groups: Sequence[str] | None = None,
    parts: int = 0,
) -> dict[int, Instances]:
    """What models that were not trained on a picture find on it, by task; kept in the file ``cache``.

    ``parts`` > 0: only so many models are trained; pictures of the other folds are left out.
    """
    if cache.exists():
        found: dict[int, Instances] = pickle.loads(cache.read_bytes())
        return found
    fold = fold_numbers(len(examples), folds, seed, groups)
    learner = get_learner(kind.learners[0])
    found = {}
    for number in range(parts or folds):
        train = tuple(e for e, mine in zip(examples, fold, strict=True) if mine != number)
        rest = [e for e, mine in zip(examples, fold, strict=True) if mine == number]
        out = cache.with_suffix(f".fold{number}")
        if not (out / "manifest").exists():
            out.mkdir(parents=True, exist_ok=True)
            spec = TrainSpec(
                labels, train, (), device="cpu", seed=seed, options=options, exclusive=kind.unit == "picture"
            )
            run_training(learner, spec, out, lambda share, line: None)
            (out / "manifest").write_text("done")
        predictor = learner.load(out, device="cpu")
        for example in rest:
            found[example.task_id] = next(predictor.predict([read_image(example.image)]))
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(pickle.dumps(found))
    return found
