"""Several learners as one, for projects that want several kinds of labels: each finds the labels of a part.

The options of a training name the parts: ``{"parts": [{"learner": "fasterrcnn", "labels": ["car"], …}, …]}``.
A version is a folder with one folder per part. All parts look at every picture, and what they find is put
together.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from ml_backend.artifacts.files import write_json
from ml_backend.errors import BadInput, ModelError
from ml_backend.examples import Example
from ml_backend.instances import Instances
from ml_backend.learners.base import Evaluation, LeftOut, Predictor, Progress, TrainReport, TrainSpec
from ml_backend.learners.registry import get_learner
from ml_backend.learners.version_files import CONFIG, read_description

__all__ = ["Part", "Several"]


class Part(BaseModel):
    """One learner and the labels it finds, with the options of its training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    learner: str
    labels: tuple[str, ...]
    exclusive: bool = False
    options: dict[str, Any] = {}


class Several:
    """Learner ``several``."""

    name = "several"

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the part and option that is wrong."""
        for i, part in enumerate(_parts(options)):
            try:
                get_learner(part.learner).check_options(preset, part.options)
            except BadInput as error:
                raise BadInput(
                    error.message, field=f"options.parts.{i}.{error.field}", hint=error.hint
                ) from error

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train one part after the other into ``out``: part-0, part-1, … and learner.json.

        A part without anything to learn from yet is left for a later round; the others are trained. Raises
        what the learners raise when no part can be trained.
        """
        started = time.monotonic()
        parts = _parts(spec.options)
        names = _names([part.kind for part in parts])
        out.mkdir(parents=True, exist_ok=True)
        reports: dict[int, TrainReport] = {}
        missing: dict[int, BadInput | ModelError] = {}
        before = _folders(spec.start) if spec.start is not None else {}
        for i, part in enumerate(parts):

            def mine(share: float, line: str, *, i: int = i, part: Part = part) -> None:
                progress((i + share) / len(parts), f"{names[i]}: {line}")

            folder = out / f"part-{i}"
            folder.mkdir()
            try:
                own = _spec_of(spec, part, before.get((part.learner, part.labels)))
                own = dataclasses.replace(
                    own,
                    resume=None if spec.resume is None else spec.resume / folder.name,
                    seconds=spec.seconds / len(parts),
                )
                reports[i] = get_learner(part.learner).train(own, folder, mine)
            except (BadInput, ModelError) as error:
                missing[i] = error
                shutil.rmtree(folder)
                mine(1.0, f"not trained: {error}")
        if not reports:
            raise next(iter(missing.values()))
        rows = [parts[i].model_dump() | {"folder": f"part-{i}"} for i in reports]
        write_json(out / CONFIG, {"learner": self.name, "labels": list(spec.labels), "parts": rows})
        first = next(iter(reports.values()))
        said = [f"{names[i]}: {report.started_from}" for i, report in reports.items()]
        said += [f"{names[i]}: not trained ({error})" for i, error in missing.items()]
        return TrainReport(
            learner=self.name,
            started_from="; ".join(said),
            iterations=sum(report.iterations for report in reports.values()),
            seconds=time.monotonic() - started,
            evaluation=_evaluation({names[i]: report.evaluation for i, report in reports.items()}),
            history=first.history,
            left_out=_left_out(list(reports.values())),
            cut_short=any(report.cut_short for report in reports.values()),
        )

    def load(self, folder: Path, *, device: str = "auto") -> SeveralPredictor:
        """Load all parts. Raises ModelError when files are missing or do not fit."""
        description = read_description(folder, Several.name)
        loaded = [
            (get_learner(row["learner"]).load(folder / row["folder"], device=device), tuple(row["labels"]))
            for row in description["parts"]
        ]
        return SeveralPredictor(tuple(description["labels"]), loaded)

    def export(self, folder: Path, out: Path) -> Path:
        """Export each part beside ``out``, with the kind in its name; returns the first file."""
        rows = read_description(folder, Several.name)["parts"]
        files = [
            get_learner(row["learner"]).export(
                folder / row["folder"], out.with_name(f"{out.stem}-{name}{out.suffix}")
            )
            for row, name in zip(rows, _names([row["kind"] for row in rows]), strict=True)
        ]
        return files[0]


class SeveralPredictor:
    """The predictors of all parts; what they find has the labels of the whole."""

    def __init__(self, labels: tuple[str, ...], parts: Sequence[tuple[Predictor, tuple[str, ...]]]) -> None:
        self.labels = labels
        self._parts = [
            (predictor, np.array([labels.index(name) for name in predictor.labels], np.int64))
            for predictor, _ in parts
        ]
        self.embedding_dim = max(predictor.embedding_dim for predictor, _ in parts)
        self.nbytes = sum(predictor.nbytes for predictor, _ in parts)

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each picture, the parts one after the other."""
        for image in images:
            found = [(next(iter(predictor.predict([image]))), number) for predictor, number in self._parts]
            yield self._together(found)

    def _together(self, found: Sequence[tuple[Instances, npt.NDArray[np.int64]]]) -> Instances:
        doubts: dict[str, float] = {}
        for part, _ in found:  # what one part is uncertain of, the picture is uncertain of
            for name, value in part.doubts.items():
                doubts[name] = max(value, doubts.get(name, 0.0))
        dim = self.embedding_dim
        wide = [np.pad(part.embedding, ((0, 0), (0, dim - part.embedding.shape[1]))) for part, _ in found]
        return Instances(
            np.concatenate([number[part.label] for part, number in found]),
            np.concatenate([part.box_xyxy for part, _ in found]),
            [rle for part, _ in found for rle in part.rle],
            np.concatenate([part.score for part, _ in found]),
            np.concatenate([part.quality for part, _ in found]),
            np.concatenate(wide).astype(np.float32, copy=False),
            doubts,
            next((part.feature for part, _ in found if len(part.feature)), found[0][0].feature),
        )


def _parts(options: Mapping[str, Any]) -> list[Part]:
    rows = options.get("parts")
    if set(options) - {"parts"} or not isinstance(rows, list | tuple) or not rows:
        raise BadInput("a list of parts is needed, and nothing else", field="options.parts")
    try:
        return [row if isinstance(row, Part) else Part.model_validate(row) for row in rows]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{where}: {first['msg']}", field="options.parts") from error


def _spec_of(spec: TrainSpec, part: Part, start: Path | None) -> TrainSpec:
    """The training of one part: its labels, and the examples as far as they concern them."""
    number = {spec.labels.index(name): i for i, name in enumerate(part.labels)}

    def of_part(example: Example) -> Example:
        mine = [i for i, label in enumerate(example.label) if label in number]
        return dataclasses.replace(
            example,
            label=tuple(number[example.label[i]] for i in mine),
            rle=tuple(example.rle[i] for i in mine),
            tags=tuple(number[tag] for tag in example.tags if tag in number),
            weight=tuple(example.weight[i] for i in mine) if example.weight else (),
        )

    return dataclasses.replace(
        spec,
        labels=part.labels,
        train=tuple(of_part(example) for example in spec.train),
        test=tuple(of_part(example) for example in spec.test),
        start=start,
        options=part.options,
        exclusive=part.exclusive,
    )


def _folders(folder: Path) -> dict[tuple[str, tuple[str, ...]], Path]:
    """Folders of the parts of a version, by learner and labels."""
    return {
        (row["learner"], tuple(row["labels"])): folder / row["folder"]
        for row in read_description(folder, Several.name)["parts"]
    }


def _evaluation(of_kind: Mapping[str, Evaluation]) -> Evaluation:
    """The figures of all parts; those of the second and later parts have their kind in front."""
    metrics: dict[str, tuple[float, float, float]] = {}
    for i, (kind, found) in enumerate(of_kind.items()):
        for name, value in found.metrics.items():
            metrics[name if i == 0 else f"{kind} {name}"] = value
    every = list(of_kind.values())
    return Evaluation(max(e.n_images for e in every), sum(e.n_instances for e in every), metrics)


def _names(kinds: Sequence[str]) -> list[str]:
    """Distinct names of parts: classes, classes-2, …"""
    before = [list(kinds[:i]).count(kind) for i, kind in enumerate(kinds)]
    return [f"{kind}-{n + 1}" if n else kind for kind, n in zip(kinds, before, strict=True)]


def _left_out(reports: Sequence[TrainReport]) -> tuple[LeftOut, ...]:
    """Tasks that no part could use, each once: one without a class may well teach boxes."""
    found = {entry.task_id: entry for report in reports for entry in report.left_out}
    of_all = set.intersection(*({entry.task_id for entry in report.left_out} for report in reports))
    return tuple(entry for task, entry in found.items() if task in of_all)
