"""A learner of milliseconds for tests: instances are bright blobs, labels by learnt mean colour."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ml_backend.errors import BadInput, ModelError
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.learners.base import Evaluation, Progress, TrainReport, TrainSpec
from ml_backend.learners.readable_examples import readable_examples
from ml_backend.masks.rle import decode_rle, encode_mask

NAME = "tiny"
TARGET = "tests.sync.tiny_learner:TinyLearner"


class TinyPredictor:
    embedding_dim = 3
    nbytes = 100

    def __init__(self, labels: Sequence[str], colours: Any) -> None:
        self.labels = tuple(labels)
        self._colours = np.asarray(colours, np.float64)

    def predict(self, images: Sequence[Any]) -> Iterator[Instances]:
        for image in images:
            yield self._one(image)

    def _one(self, image: Any) -> Instances:
        count, parts = cv2.connectedComponents((image.max(axis=2) > 120).astype(np.uint8))
        rows: list[tuple[Any, ...]] = []
        for part in range(1, count):
            mask = parts == part
            y, x = np.nonzero(mask)
            colour = image[mask].mean(axis=0)
            label = int(np.linalg.norm(self._colours - colour, axis=1).argmin())
            box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
            rows.append((label, box, encode_mask(mask), 0.9 - 0.05 * (len(x) % 5), colour / 255))
        if not rows:
            return Instances.empty(self.embedding_dim)
        label, box, rle, score, colour = zip(*rows, strict=True)
        score32 = np.array(score, np.float32)
        return Instances(
            np.array(label, np.int64), np.array(box, np.float32), list(rle), score32,
            np.full(len(rows), 0.95, np.float32), np.array(colour, np.float32),
        )  # fmt: skip


class TinyLearner:
    """Learns one mean colour per label. Environment: TINY_FAIL raises, TINY_SLEEP_S waits before the end,
    TINY_MARK names a file that then holds the process id, TINY_EARLY_AP makes a training with a time limit
    end early with that AP.
    """

    name = NAME

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        if "epochs" in options:
            raise BadInput("there is no such option", field="options.epochs")

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        if os.environ.get("TINY_FAIL"):
            raise ModelError("the tiny learner was told to fail")
        usable = readable_examples(spec.train)
        sums, counts = np.zeros((len(spec.labels), 3)), np.full(len(spec.labels), 1e-9)
        for example in usable.kept:
            image = read_image(example.image).astype(np.float64)
            for label, rle in zip(example.label, example.rle, strict=True):
                mask = decode_rle(rle).astype(bool)
                sums[label] += image[mask].sum(axis=0)
                counts[label] += mask.sum()
        progress(0.5, "half way")
        if "TINY_MARK" in os.environ:
            Path(os.environ["TINY_MARK"]).write_text(str(os.getpid()))
        time.sleep(float(os.environ.get("TINY_SLEEP_S", "0")))
        text = json.dumps({"labels": spec.labels, "colours": (sums / counts[:, None]).tolist()})
        (out / "tiny.json").write_text(text)
        ap = float(os.environ.get("TINY_EARLY_AP", "0.5")) if spec.seconds else 0.5
        metrics = {"AP": (ap, 0.8 * ap, 1.2 * ap)}
        evaluation = Evaluation(len(spec.test), sum(len(e.label) for e in spec.test), metrics)
        start = "random start" if spec.start is None else f"version {spec.start.name}"
        return TrainReport(
            self.name,
            start + " (early)" * spec.start_is_early,
            len(spec.train),
            0.0,
            evaluation,
            left_out=usable.left_out,
            cut_short=bool(spec.seconds) and "TINY_EARLY_AP" in os.environ,
        )

    def load(self, folder: Path, *, device: str = "auto") -> TinyPredictor:
        value = json.loads((folder / "tiny.json").read_text())
        return TinyPredictor(value["labels"], value["colours"])

    def export(self, folder: Path, out: Path) -> Path:
        raise ModelError("the tiny learner cannot be exported")


COLD_NAME = "tiny-cold"
COLD_TARGET = "tests.sync.tiny_learner:TinyCold"


class TinyCold(TinyLearner):
    """Knows its colours from the options: ``{"colours": {label: [r, g, b]}}``; learns from no task."""

    name = COLD_NAME

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        if set(options) != {"colours"}:
            raise BadInput("the colours are missing", field="options.colours")

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        assert spec.train == spec.test == ()
        if os.environ.get("TINY_FAIL"):
            raise ModelError("the tiny learner was told to fail")
        colours = [spec.options["colours"].get(label, [9999.0] * 3) for label in spec.labels]
        (out / "tiny.json").write_text(json.dumps({"labels": spec.labels, "colours": colours}))
        return TrainReport(self.name, "known colours", 0, 0.0, Evaluation(0, 0, {}))
