"""Cross-validation on demand: every finished task is judged by a model that was trained on the others.

Finished tasks are dealt to a few parts. For each part a model is trained on the other parts, from the start:
a version of the project has seen the tasks that it is to judge. Pictures of a series, and pictures that look
alike, stay in one part. ``mistakes/folds/<digest>/fold-<n>/`` holds what a model found on its part; finished
parts stay after a kill, and the next run goes on with the others.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clustering.duplicates import alike_groups
from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.errors import BadImage, BadInput
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.classes.folds import fold_of, usable_folds
from ml_backend.learners.registry import get_learner
from ml_backend.learners.training_job import run_training
from ml_backend.task_prediction import usable_instances
from sync.mistakes.fingerprints import Fingerprint, ensure_fingerprints, words_of
from sync.mistakes.twins import MOST_BITS
from sync.rounds.learner_choice import ChosenLearner, choose_learner
from sync.rounds.progress import Progress
from sync.rounds.round_records import digest_of
from sync.rounds.series import in_series_of, series_of
from sync.rounds.task_queries import finished_tasks, test_split
from sync.rounds.train import examples_of
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["train_folds"]

_FEWEST: Final = 4
"""finished tasks below which nothing can be learnt from a part of them"""
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is trained: ``fold`` says which part each row belongs to."""

    rows: Rows
    fold: npt.NDArray[np.int64]
    folder: Path
    chosen: ChosenLearner
    labels: tuple[str, ...]
    exclusive: bool


def train_folds(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    record: RoundRecord,
    *,
    folds: int,
) -> int:
    """Train ``folds`` models and keep what each finds on its part; returns how many tasks they can judge.

    Tasks of the test split are left out: the version that serves judges them. Raises BadInput when there are
    too few tasks or parts, ModelError when a training fails.
    """
    plan = _plan(db, config, settings, paths, images, progress, record, folds)
    numbers = usable_folds(plan.fold)
    for at, number in enumerate(numbers):
        out = plan.folder / f"fold-{number}"
        if (out / "fold.json").exists():
            continue

        def report(share: float, line: str, at: int = at) -> None:
            text = f"part {at + 1} of {len(numbers)}: {line}"
            progress.report("mistakes", (at + 0.9 * share) / len(numbers), text)

        _train_one(db, config, settings, images, plan, number, len(numbers), out, report)
    for old in plan.folder.parent.iterdir():
        if old != plan.folder:
            shutil.rmtree(old)
    return int(np.isin(plan.fold, numbers).sum())


def _plan(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    record: RoundRecord,
    folds: int,
) -> _Plan:
    if folds < 2:
        raise BadInput(f"{folds} parts are too few", field="folds", hint="Use 2 to 10; 5 is usual")
    tested = test_split(db, record.split)
    series = series_of(db, settings.split_by)
    aside = tested | in_series_of(series, tested)
    tasks = {task: found for task, found in finished_tasks(db).items() if task not in aside}
    if len(tasks) < max(_FEWEST, folds):
        raise BadInput(
            f"{len(tasks)} finished tasks outside of the test split are too few for {folds} parts",
            field="folds",
            hint=f"Finish at least {max(_FEWEST, folds)} tasks, or ask for fewer parts",
        )
    rows: list[dict[str, Any]] = [
        {"task": task, "image": row.image, "regions": annotation.regions, "digest": annotation.digest}
        for task, (row, annotation) in sorted(tasks.items())
    ]
    chosen = choose_learner(config.wanted, settings)
    addresses = {task: row.image for task, (row, _) in tasks.items()}
    prints = ensure_fingerprints(paths, images, progress, addresses, guard=db.guard)
    ids = [int(row["task"]) for row in rows]
    truth = np.array(
        [[any(r["label"] == name for r in row["regions"]) for name in config.labels] for row in rows]
    )
    fold = fold_of(_groups(ids, prints, series), truth.astype(np.float64), folds=folds, seed=settings.seed)
    key = digest_of(
        [
            config.digest,
            chosen.name,
            chosen.options,
            settings.preset,
            [row["digest"] for row in rows],
            ids,
            folds,
        ]
    )
    return _Plan(
        rows,
        fold,
        paths.mistakes_folder / "folds" / key[:12],
        chosen,
        config.labels,
        config.wanted[0].exclusive,
    )


def _groups(
    tasks: Sequence[int], prints: Mapping[int, Fingerprint], series: Mapping[int, str]
) -> npt.NDArray[np.int64]:
    """(n,) number of the group of each task: its series, or the pictures like its own."""
    with_bits = [task for task in tasks if task in prints and prints[task].bits]
    alike, _ = alike_groups(words_of(prints, with_bits), MOST_BITS)
    like = dict(zip(with_bits, alike.tolist(), strict=True))
    names = [series.get(task, f"like {like[task]}" if task in like else f"task {task}") for task in tasks]
    return np.asarray(np.unique(np.array(names), return_inverse=True)[1], np.int64)


def _train_one(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    images: ImageStore,
    plan: _Plan,
    number: int,
    folds: int,
    out: Path,
    report: Callable[[float, str], None],
) -> None:
    held = [row for row, mine in zip(plan.rows, plan.fold, strict=True) if mine == number]
    rest = [row for row, mine in zip(plan.rows, plan.fold, strict=True) if mine != number]
    model, pool = out / "model", out / "pool"
    shutil.rmtree(model, ignore_errors=True)
    shutil.rmtree(pool, ignore_errors=True)
    model.mkdir(parents=True)
    spec = TrainSpec(
        labels=plan.labels,
        train=examples_of(db, images, rest, plan.labels, config.wanted),
        test=(),
        preset=settings.preset,
        seed=settings.seed,
        device=settings.device,
        options=plan.chosen.options,
        exclusive=plan.exclusive,
        resume=out / "training",
    )
    run_training(plan.chosen.name, spec, model, report)
    predictor = get_learner(plan.chosen.name).load(model, device=settings.device)
    with PoolWriter(pool, predictor.labels, embedding_dim=predictor.embedding_dim, guard=db.guard) as writer:
        for row in held:
            task = int(row["task"])
            try:
                ref = images.get(str(row["image"]), task_id=task, project_id=db.id)
                found = next(iter(predictor.predict([images.pixels(ref)])))
            except BadImage:
                continue  # the training has said so
            writer.add(task, usable_instances(found), hw=ref.hw, image_sha=ref.sha)
    about = {
        "name": f"part {number + 1} of {folds} of a cross-validation ({plan.folder.name})",
        "labels": list(predictor.labels),
        "train_tasks": sorted(int(row["task"]) for row in rest),
        "learner": plan.chosen.name,
    }
    write_json(out / "fold.json", about, guard=db.guard)
    shutil.rmtree(model)
    shutil.rmtree(out / "training", ignore_errors=True)
