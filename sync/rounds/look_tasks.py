"""What is worked out of the pixels of pictures, as functions that run on any machine.

``find`` looks at pictures with a trained version, ``describe`` gives feature vectors of whole pictures. Both
get a batch, because models are faster on several pictures at once, and a picture that cannot be decoded takes
no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.devices import resolve_device
from ml_backend.errors import BadImage
from ml_backend.instances import NO_FEATURE, Instances
from ml_backend.learners.base import Learner, Predictor
from ml_backend.learners.mask_features import MaskFeatures
from ml_backend.learners.mirrored import predict_twice
from ml_backend.learners.picture_features import PictureFeatures, picture_features
from ml_backend.learners.uncertainty import confidence
from ml_backend.masks.edges import edge_statistics
from ml_backend.masks.empty import without_empty_masks
from ml_backend.task_prediction import usable_instances
from sync.executor.base import Node
from sync.rounds.loaded_pictures import Picture, pixels_of

__all__ = [
    "FEATURES",
    "MASKS",
    "MODEL",
    "Asked",
    "Described",
    "Describing",
    "Finding",
    "Found",
    "describe",
    "find",
]

MODEL: Final = "model"
FEATURES: Final = "features"
MASKS: Final = "masks"
"""names of the folders that these functions read"""

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Finding:
    """What ``find`` needs for all pictures of a pool.

    Attributes
    ----------
    learner : ``module:class`` of the learner that made the folder ``MODEL``
    device : as torch names it
    twice : also look at the mirrored picture, see ``predict_twice``
    shown_from : class score from which masks are shown
    mask_features : what gives the embeddings of masks: ``own``: the learner; ``classical``; ``folder``: the
        vision model in the folder ``MASKS``
    features : what describes whole pictures: ``classical``, or ``folder``: that in ``FEATURES``
    with_edges : whether to measure how well masks fit the edges of the picture
    """

    learner: str
    device: str
    twice: bool
    shown_from: float
    mask_features: str
    features: str
    with_edges: bool


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One picture; ``describe``: its frozen feature vector is wanted if the model gives none."""

    picture: Picture
    describe: bool


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What there is on one picture, or the ``error`` why it cannot be read.

    Attributes
    ----------
    instances : n distinct ones with finite numbers and masks that are not empty; ``left_out`` others were not
    edges : (n, k) float32 or None, see ``edge_statistics``
    score : confidence in the picture as a whole
    vector : (f,) float32 frozen feature vector; f is 0 when it was not wanted
    """

    error: str
    instances: Instances
    edges: Features | None
    score: float
    vector: Features
    left_out: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class FoundBatch:
    """What ``find`` gives: labels of the model, width of its embeddings, and each picture in order."""

    labels: tuple[str, ...]
    embedding_dim: int
    found: tuple[Found, ...]


def find(finding: Finding, asked: Sequence[Asked], node: Node) -> FoundBatch:
    """Instances of each picture. Raises ModelError, BadInput when a model cannot be loaded."""
    predictor = node.keep("predictor", lambda: _predictor(finding, node))
    masks = node.keep("masks", lambda: _mask_features(finding, node))
    dim = predictor.embedding_dim if masks is None else masks.dim
    pixels, errors = _decoded([each.picture for each in asked])
    there = [picture for picture in pixels if picture is not None]
    if finding.twice:
        predicted = iter(predict_twice(predictor, there, shown_from=finding.shown_from))
    else:
        predicted = iter(predictor.predict(there))
    rows: list[Found] = []
    for picture, error in zip(pixels, errors, strict=True):
        if picture is None:
            rows.append(Found(error, Instances.empty(dim), None, 1.0, NO_FEATURE))
            continue
        every = next(predicted)
        usable = usable_instances(every)
        score = confidence(usable, shown_from=finding.shown_from)
        instances = without_empty_masks(usable if masks is None else masks.embed(picture, usable))
        edges = edge_statistics(picture, instances.rle) if finding.with_edges and len(instances) else None
        rows.append(Found("", instances, edges, score, NO_FEATURE, len(every) - len(usable)))
    wanted = [
        i
        for i, row in enumerate(rows)
        if asked[i].describe and not row.error and not len(row.instances.feature)
    ]
    if wanted:
        model = node.keep("features", lambda: _picture_features(finding.features, node, "cpu"))
        for i, vector in zip(wanted, model([p for i in wanted if (p := pixels[i]) is not None]), strict=True):
            rows[i] = replace(rows[i], vector=vector)
    return FoundBatch(tuple(predictor.labels), dim, tuple(rows))


@dataclass(frozen=True, slots=True)
class Describing:
    """What ``describe`` needs; ``features`` as in ``Finding``."""

    features: str


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """The (f,) float32 feature vector of one picture, or why it cannot be read."""

    error: str
    vector: Features


def describe(describing: Describing, pictures: Sequence[Picture], node: Node) -> tuple[Described, ...]:
    """Feature vectors of whole pictures. Raises BadInput, ModelError when the model cannot be loaded."""
    model = node.keep("features", lambda: _picture_features(describing.features, node, "cpu"))
    pixels, errors = _decoded(pictures)
    there = [picture for picture in pixels if picture is not None]
    vectors = iter(model(there)) if there else iter(())
    return tuple(
        Described(error, NO_FEATURE if picture is None else next(vectors))
        for picture, error in zip(pixels, errors, strict=True)
    )


def _decoded(pictures: Sequence[Picture]) -> tuple[list[npt.NDArray[np.uint8] | None], list[str]]:
    pixels: list[npt.NDArray[np.uint8] | None] = []
    errors: list[str] = []
    for picture in pictures:
        try:
            pixels.append(pixels_of(picture))
            errors.append("")
        except BadImage as error:
            pixels.append(None)
            errors.append(str(error))
    return pixels, errors


def _predictor(finding: Finding, node: Node) -> Predictor:
    module, _, name = finding.learner.partition(":")
    learner: Learner = getattr(import_module(module), name)()
    return learner.load(node.folder(MODEL), device=finding.device)


def _mask_features(finding: Finding, node: Node) -> MaskFeatures | None:
    if finding.mask_features == "own":
        return None
    choice = str(node.folder(MASKS)) if finding.mask_features == "folder" else finding.mask_features
    return MaskFeatures(choice, device=resolve_device(finding.device), field="cluster_features")


def _picture_features(choice: str, node: Node, device: str) -> PictureFeatures:
    return picture_features(str(node.folder(FEATURES)) if choice == "folder" else choice, device=device)
