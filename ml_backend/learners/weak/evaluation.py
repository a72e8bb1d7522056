"""Quality of a version that learnt from tags: masks where people drew some, tags everywhere."""

from __future__ import annotations

import dataclasses

import numpy as np

from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import Evaluation, Predictor
from ml_backend.learners.evaluation import evaluate
from ml_backend.learners.weak.bags import drawn_of
from ml_backend.learners.weak.predictor import CimPredictor
from ml_backend.learners.weak.tag_metrics import tag_metrics

__all__ = ["evaluate_weak"]


def evaluate_weak(
    predictor: Predictor, heads: CimPredictor, test: tuple[Example, ...], labels: tuple[str, ...]
) -> Evaluation:
    """AP of masks where test pictures have some, AP of tags where pictures differ in them."""
    found, outlined, scores = [], [], []
    tags = np.zeros((len(test), len(labels)), np.bool_)
    for row, example in zip(tags, test, strict=True):
        image = read_image(example.image)
        row[list(example.tags) + list(example.label)] = True
        scores.append(heads.tag_scores(image))
        masks = drawn_of(example).masks
        # a tag without a mask says that something is there that nobody drew
        if (masks or not row.any()) and set(example.tags) <= {label for label, _ in masks}:
            instances = next(iter(predictor.predict([image])))
            ranked = np.asarray(instances.score * instances.quality, np.float32)
            found.append(dataclasses.replace(instances, score=ranked))
            label, rle = tuple(k for k, _ in masks), tuple(rle for _, rle in masks)
            outlined.append(dataclasses.replace(example, label=label, rle=rle))
    measured = evaluate(found, outlined, labels, loose=True)
    told = tag_metrics(np.array(scores, np.float32).reshape(len(test), len(labels)), tags, labels)
    return Evaluation(len(test), measured.n_instances, {**measured.metrics, **told})
