"""Train: when a training is due, what it trains on, and publishing the model version.

A round starts with a snapshot: labels, learner, hyper-parameters and every region it trains and tests on. The
version is named after the snapshot's digest, training runs in a process of its own, and the result is
published by renaming its folder. So after a kill the next run goes on with the same snapshot under the same
version name, from the last checkpoint, or finds the version there. When a training fails, the last good
version keeps serving. The first round may be an early one, see ``early``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml_backend.artifacts.model_versions import ModelRegistry, VersionInfo
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.serving.everything_learner import EVERYTHING
from ml_backend.clicks.serving.segmenter_table import AUTO
from ml_backend.errors import BadImage, BadInput, ModelError, StorageError
from ml_backend.examples import Example
from ml_backend.images.store import ImageStore
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import get_learner
from ml_backend.learners.training_job import run_training
from sync.artifacts.opening import bring_version
from sync.rounds.due import WANTED_FORMAT, wanted_of
from sync.rounds.early import OfNoUse, check_use, early_fields, given_up
from sync.rounds.far_training import executor_that_trains, train_elsewhere
from sync.rounds.few_pictures import few_pictures_text
from sync.rounds.given_rounds import ADOPTED, COLD, TRAINED, adopt_into
from sync.rounds.history import write_history
from sync.rounds.learner_choice import choose_learner
from sync.rounds.progress import Memo, Progress
from sync.rounds.propagated import propagated_examples, propagated_rows
from sync.rounds.region_rows import drawn_masks, fits, tags_of
from sync.rounds.registration import check_project_settings
from sync.rounds.round_records import (
    begin_round,
    current_round,
    digest_of,
    finish_step,
    last_trained_for,
    load_snapshot,
    update_round,
)
from sync.rounds.series import in_series_of, series_of
from sync.rounds.task_queries import finished_tasks, note_image_errors
from sync.rounds.test_split import frozen_test_split
from sync.rounds.training_folder import (
    keep_events,
    remove_leftovers,
    remove_training_folder,
    training_folder,
)
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished
from sync.store.tables import AnnotationRecord, RoundRecord, TaskRecord

__all__ = [
    "as_trained",
    "begin_again",
    "cold_start_due",
    "examples_of",
    "is_retry_due",
    "start_adopted",
    "start_cold",
    "start_round",
    "train",
    "waiting_training",
]

_log = logging.getLogger(__name__)
_ATTEMPTS = 3
_TRIES = 3
_SETTINGS = ("config", "wanted", "labels", "learner", "preset", "options", "seed")


def start_round(
    db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths, *, early: bool = True
) -> RoundRecord:
    """Freeze what the next round trains on; ``early``: the first round may be an early one.

    Raises BadInput when too little is finished, or when an option is wrong: no round is begun then.
    """
    check_project_settings(settings, config.wanted)
    last = current_round(db)
    number = 1 if last is None else last.number + 1
    snapshot = _snapshot(db, config, settings, paths, last, early=early)
    return begin_round(db, paths, number, snapshot)


def cold_start_due(db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths) -> bool:
    """Whether a first model should be made now that learns from no task of the project.

    Only before the first training, and again when what it is made from changed: labels or options.
    """
    if not settings.cold_start or last_trained_for(db) is not None:
        return False
    newest = current_round(db)
    if newest is None:
        return True
    return newest.origin == COLD and digest_of(_cold_snapshot(config, settings)) != newest.digest


def start_cold(db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths) -> RoundRecord:
    """Begin a round whose version the learner of ``cold_start`` makes without any task.

    One that has no model yet is begun anew. Raises BadInput when an option is wrong.
    """
    check_project_settings(settings, config.wanted)
    newest = current_round(db)
    number = 1 if newest is None else newest.number + has_finished(newest, "train")
    return begin_round(db, paths, number, _cold_snapshot(config, settings))


def _cold_snapshot(config: LabelConfig, settings: Settings) -> dict[str, Any]:
    # a detector that knows words finds objects; classes of whole pictures are left to training
    objects = [target.labels for target in config.wanted if target.is_of.unit != "picture"]
    labels = [label for group in objects for label in group] or list(config.labels)
    return {
        **_frozen_settings(config, settings),
        "origin": COLD,
        "learner": settings.cold_start,
        "labels": labels,
        "options": _cold_options(settings),
        "split": 0,
        "start": "",
        "train": [],
        "test": [],
    }


def _cold_options(settings: Settings) -> Mapping[str, Any]:
    """The options of the cold start; masks of everything come from the segmenter that answers clicks here."""
    options = settings.cold_start_options
    if settings.cold_start != EVERYTHING or options.get("segmenter"):
        return options
    if settings.segmenter in (AUTO, "project"):  # a process that predicts chooses by itself
        return options
    return {**options, "segmenter": settings.segmenter}


def start_adopted(
    db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths, model: Mapping[str, Any]
) -> RoundRecord:
    """Begin a round that takes over the version of ``snapshot_of_model``.

    When the newest round took over the same, with the same labels, that one is returned.
    """
    newest = current_round(db)
    snapshot = {**_frozen_settings(config, settings), "options": {}, **model}
    if newest is None:
        return begin_round(db, paths, 1, snapshot)
    if digest_of(snapshot) == newest.digest:
        return newest
    was_left = newest.origin == ADOPTED and not has_finished(newest, "train")
    return begin_round(db, paths, newest.number + (not was_left), snapshot)


def begin_again(
    db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths, record: RoundRecord
) -> RoundRecord | None:
    """Begin a round anew whose training failed; None when the settings have not changed since.

    Newly finished tasks alone are no reason: a training that fails would be started again at every
    annotation. Raises what ``start_round`` raises.
    """
    frozen = load_snapshot(paths, record.number)
    if record.origin != TRAINED:
        return None
    is_begun = digest_of(frozen) == record.digest  # not so after a kill between the snapshot and the row
    if is_begun and {name: frozen.get(name) for name in _SETTINGS} == _frozen_settings(config, settings):
        return None
    check_project_settings(settings, config.wanted)
    with db.read() as session:
        before = session.get(RoundRecord, (db.id, record.number - 1))
    snapshot = _snapshot(db, config, settings, paths, before, early="early" in frozen)
    return begin_round(db, paths, record.number, snapshot)


def _snapshot(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    last: RoundRecord | None,
    *,
    early: bool,
) -> dict[str, Any]:
    """What a round that follows ``last`` would train on, as JSON-ready values."""
    finished = finished_tasks(db)
    split = frozen_test_split(db, settings, paths, sorted(finished))
    rows = [_snapshot_row(task, annotation) for task, annotation in finished.values()]
    like_tested = in_series_of(series_of(db, settings.split_by), split.tasks)
    train_rows = [row for row in rows if row["task"] not in split.tasks | like_tested]
    if not train_rows:
        raise BadInput(
            f"project {db.id} has no finished task to train on",
            field="project",
            hint=f"Finish at least {settings.min_finished} tasks first",
        )
    propagated = [
        row
        for row in _propagated(db, config, settings, paths, last, train_rows)
        if row["task"] not in like_tested
    ]
    return {
        **_frozen_settings(config, settings),
        **_start(db, config, settings, last, split.number),
        "split": split.number,
        **({"propagated": propagated} if propagated else {}),
        **(early_fields(settings, last, [each.is_of.headline for each in config.wanted]) if early else {}),
        "train": train_rows,
        "test": [row for row in rows if row["task"] in split.tasks],
    }


def _propagated(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    last: RoundRecord | None,
    drawn: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Accepted masks on unfinished tasks, if they are to be trained on and the learner can do so."""
    if last is None or not settings.train_on_propagated:
        return []
    learner = get_learner(choose_learner(config.wanted, settings).name)
    if not getattr(learner, "leaves_areas_out", False):
        return []
    return propagated_rows(db, paths, last, drawn, wanted=config.wanted, seed=settings.seed)


def _frozen_settings(config: LabelConfig, settings: Settings) -> dict[str, Any]:
    """The part of a snapshot that comes from label config and settings: the fields ``_SETTINGS``."""
    chosen = choose_learner(config.wanted, settings)
    return {
        "config": config.digest,
        "wanted": WANTED_FORMAT.dump_python(config.wanted, mode="json"),
        "labels": list(config.labels),
        "learner": chosen.name,
        "preset": settings.preset,
        "options": chosen.options,
        "seed": settings.seed,
    }


def waiting_training(db: ProjectStore, now_s: float) -> RoundRecord | None:
    """The round that is to be trained now, ``now_s`` seconds since 1970: the newest, when it has no model.

    None also where it is to wait after a failure.
    """
    newest = current_round(db)
    if newest is None or has_finished(newest, "train") or given_up(newest):
        return None
    return None if newest.failed and not is_retry_due(newest, now_s) else newest


def train(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
) -> RoundRecord:
    """Train the round's snapshot and publish its version, unless it is published already.

    It runs in a process of the worker, or where the executor of the settings says; ``memo`` keeps that one.

    Raises ModelError when training fails, BadInput when it can never succeed with these options. The round is
    marked as failed then and the last good version keeps serving. An early version that is of no use is not
    published and is no failure.
    """
    registry = ModelRegistry(settings.data_dir)
    snapshot = load_snapshot(paths, record.number)
    started = time.monotonic()
    with db.write():  # a worker that lost its lease must not take the folder of its successor away
        remove_leftovers(paths.models, record.model_version)

    def build(folder: Path) -> Mapping[str, Any]:
        if record.origin == ADOPTED:
            progress.at("train.start")
            if project := int(snapshot["model"].get("project") or 0):
                bring_version(settings, db.store, project, str(snapshot["model"]["version"]))
            return {**_about(record, snapshot), **adopt_into(folder, snapshot, tuple(snapshot["labels"]))}
        resume = training_folder(paths.models, record.model_version)
        spec = _spec(db, settings, images, registry, snapshot, resume)
        progress.at("train.start")
        learner = str(snapshot["learner"])
        far = executor_that_trains(settings, memo, learner, spec, progress)
        if far is None:
            report = _train_in_child(progress, learner, spec, folder)
        else:
            report = train_elsewhere(far, settings, learner, spec, folder, progress, guard=db.guard)
        # shown by `groundswell status` beside the images that cannot be fetched
        _note_image_errors(db, {entry.task_id: entry.reason for entry in report.left_out})
        if report.cut_short:
            check_use(snapshot, report.evaluation)
        progress.at("train.publish")  # raising here leaves the folder of the training to a successor
        keep_events(resume, folder)
        return _manifest(record, snapshot, spec, report)

    try:
        info = registry.publish(db.id, record.model_version, build, make_current=False, guard=db.guard)
    except OfNoUse as error:
        progress.report("train", 1.0, f"{error}; the whole training follows")
        figures = {**record.figures, "train": {"early": True, "given_up": True, "said": str(error)}}
        with db.write():
            remove_training_folder(paths.models, record.model_version)
        return update_round(db, paths, record.number, failed="", figures=figures)
    except (ModelError, BadInput) as error:
        attempts = int(record.figures.get("train", {}).get("attempts", 0)) + 1
        if isinstance(error, BadInput):
            attempts = _ATTEMPTS  # trying again would change nothing
        if attempts > 1:  # the last try begins anew, in case the checkpoint is what fails
            with db.write():
                remove_training_folder(paths.models, record.model_version)
        figures = {**record.figures, "train": {"attempts": attempts}}
        update_round(db, paths, record.number, failed=str(error), figures=figures)
        _log.error("project %s round %s: training failed: %s", db.id, record.number, error)
        raise
    with db.write():
        remove_training_folder(paths.models, record.model_version)
    progress.report("train", 1.0, _one_line(info))
    update_round(db, paths, record.number, failed="")
    record = finish_step(db, paths, record.number, "train", _figures(info, time.monotonic() - started))
    write_history(db, settings, paths)
    return record


def _snapshot_row(task: TaskRecord, annotation: AnnotationRecord) -> dict[str, Any]:
    return {
        "task": task.id,
        "image": task.image,
        "annotation": annotation.id,
        "digest": annotation.digest,
        "regions": [{"label": region["label"], "rle": region["rle"]} for region in annotation.regions],
    }


def _start(
    db: ProjectStore, config: LabelConfig, settings: Settings, last: RoundRecord | None, split: int
) -> dict[str, Any]:
    """The version that the training starts from: the last one of the same learner with the same labels.

    One of an older test split may have been trained on tasks of this ``split``, so it is none to start from.
    """
    registry = ModelRegistry(settings.data_dir)
    for info in reversed(registry.versions(db.id) if last is not None else []):
        same = (
            info.learner == choose_learner(config.wanted, settings).name
            and tuple(info.manifest.get("labels", ())) == config.labels
            and info.manifest.get("preset") == settings.preset
            and info.manifest.get("split", 1) == split
        )
        if same:
            early = {"start_is_early": True} if info.manifest.get("early") else {}
            return {"start": info.version, **early}
    return {"start": ""}


def _spec(
    db: ProjectStore,
    settings: Settings,
    images: ImageStore,
    registry: ModelRegistry,
    snapshot: Mapping[str, Any],
    resume: Path,
) -> TrainSpec:
    labels = tuple(str(label) for label in snapshot["labels"])
    wanted = wanted_of(snapshot)
    train_set = examples_of(db, images, snapshot["train"], labels, wanted)
    if not train_set and snapshot["train"]:
        raise ModelError(
            "none of the finished tasks has a readable image",
            field=f"project {db.id}",
            hint="See the reasons in `groundswell status`",
        )
    train_set += propagated_examples(db, images, snapshot.get("propagated", ()), labels)
    options = dict(snapshot["options"])
    if snapshot.get("iterations") is not None:  # older releases kept it apart
        options["iterations"] = snapshot["iterations"]
    start = str(snapshot["start"])
    if start:
        db.bring(registry.folder(db.id, start))
    return TrainSpec(
        labels=labels,
        train=train_set,
        test=examples_of(db, images, snapshot["test"], labels, wanted),
        preset=str(snapshot["preset"]),
        start=registry.info(db.id, start).folder if start else None,
        seed=int(snapshot["seed"]),
        device=settings.device,
        options=options,
        exclusive=wanted[0].exclusive,
        resume=resume,
        seconds=float(snapshot["early"][0]) if "early" in snapshot else 0.0,
        start_is_early=bool(snapshot.get("start_is_early", False)),
    )


def _wanted_then(paths: ProjectPaths, memo: Memo, record: RoundRecord) -> tuple[Wanted, ...]:
    """What a round's model was made for. Its snapshot holds all that was drawn, so it is read only once."""
    name = ("wanted then", record.project_id)
    kept = memo.get(name)
    if isinstance(kept, tuple) and kept[0] == (record.number, record.digest):
        found: tuple[Wanted, ...] = kept[1]
        return found
    fresh = wanted_of(load_snapshot(paths, record.number))
    memo[name] = ((record.number, record.digest), fresh)
    return fresh


def as_trained(config: LabelConfig, paths: ProjectPaths, memo: Memo, record: RoundRecord) -> LabelConfig:
    """The config with those labels only that mean to a round's model what they mean now.

    After somebody made boxes of the classes of a project, what the old model finds is neither shown nor asked
    about: nobody wants it any more.
    """
    then = {label: target.kind for target in _wanted_then(paths, memo, record) for label in target.labels}
    return config.only(
        {
            label
            for label in config.labels
            if then.get(label, config.kind_of(label).name) == config.kind_of(label).name
        }
    )


def examples_of(
    db: ProjectStore,
    images: ImageStore,
    rows: Sequence[Mapping[str, Any]],
    labels: tuple[str, ...],
    wanted: Sequence[Wanted],
) -> tuple[Example, ...]:
    """Rows whose image can be read and fits its regions; the others are noted on their tasks.

    Drawn regions become what a model should find, as their kind says; choices become tags.
    """
    number = {name: i for i, name in enumerate(labels)}
    examples: list[Example] = []
    errors: dict[int, str] = {}
    for row in rows:
        task = int(row["task"])
        regions = [region for region in row["regions"] if region["label"] in number]
        try:
            ref = images.get(str(row["image"]), task_id=task, project_id=db.id)
            if not fits(regions, ref.hw):
                size = next(region["rle"]["size"] for region in regions if region["rle"] is not None)
                raise BadImage(
                    f"the image has {ref.hw[1]}×{ref.hw[0]} pixels, its regions were drawn on "
                    f"{size[1]}×{size[0]}",
                    field="data.image",
                )
        except BadImage as error:
            errors[task] = str(error)
            _log.warning("project %s task %s left out of training: %s", db.id, task, error)
            continue
        errors[task] = ""
        drawn = drawn_masks([target for target in wanted if target.is_of.unit != "picture"], regions, ref.hw)
        examples.append(
            Example(
                task_id=task,
                image=ref.path,
                label=tuple(number[label] for label, _ in drawn),
                rle=tuple(rle for _, rle in drawn),
                tags=tuple(number[label] for label in tags_of(regions)),
            )
        )
    _note_image_errors(db, errors)
    return tuple(examples)


def _note_image_errors(db: ProjectStore, errors: Mapping[int, str]) -> None:
    """``note_image_errors`` beside a look that may change the same tasks: of two transactions that wait for
    each other the database ends one, which is tried again.
    """
    for left in range(_TRIES - 1, -1, -1):
        try:
            return note_image_errors(db, errors)
        except StorageError:
            if not left:
                raise


def _train_in_child(progress: Progress, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
    """Run the learner in a process of its own: its end frees its memory, a crash harms nothing else."""

    def relay(share: float, line: str) -> None:
        progress.report("train", min(share, 0.99), line)
        progress.at("train.progress")  # raising here ends the child

    return run_training(learner, spec, folder, relay)


def _manifest(
    record: RoundRecord, snapshot: Mapping[str, Any], spec: TrainSpec, report: TrainReport
) -> dict[str, Any]:
    evaluation = report.evaluation
    return {
        **_about(record, snapshot),
        "learner": report.learner,
        "labels": list(spec.labels),
        "preset": spec.preset,
        "started_from": report.started_from,
        "iterations": report.iterations,
        "seconds": round(report.seconds, 3),
        **({"early": True} if report.cut_short else {}),
        "n_train": len(spec.train),
        "train_tasks": [example.task_id for example in spec.train],
        "left_out": [asdict(entry) for entry in report.left_out],
        "evaluation": {**asdict(evaluation), "metrics": {k: list(v) for k, v in evaluation.metrics.items()}},
    }


def _about(record: RoundRecord, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says about the round."""
    return {
        "round": record.number,
        "snapshot": record.digest,
        "origin": record.origin,
        "start": snapshot["start"],
        "split": record.split,
    }


def _figures(info: VersionInfo, seconds: float) -> dict[str, Any]:
    manifest = info.manifest
    return {
        "seconds": round(seconds, 3),
        "version": info.version,
        "learner": info.learner,
        "split": manifest.get("split", 1),
        "n_train": manifest["n_train"],
        "n_test": manifest["evaluation"]["n_images"],
        "left_out": manifest.get("left_out", []),
        "metrics": {
            name: list(values)
            for name, values in manifest["evaluation"]["metrics"].items()
            if all(math.isfinite(value) for value in values)
        },
        "started_from": manifest["started_from"],
        "iterations": manifest["iterations"],
        **({"early": True} if manifest.get("early") else {}),
    }


def _one_line(info: VersionInfo) -> str:
    metrics = info.manifest["evaluation"]["metrics"]
    n = info.manifest["evaluation"]["n_images"]
    early = "early version " if info.manifest.get("early") else ""
    for name, (value, low, high) in metrics.items():  # learners name the most telling one first
        few = few_pictures_text(n)
        return f"{early}{info.version}: {name} {value:.3f} ({low:.3f}–{high:.3f}, " + (
            f"{few})" if few else f"{n} test images)"
        )
    return f"{early}{info.version} published"


def is_retry_due(record: RoundRecord, now_s: float) -> bool:
    """Whether to try a failed training again: twice, after 1 and 5 minutes, then only on another snapshot."""
    attempts = int(record.figures.get("train", {}).get("attempts", 1))
    return attempts < _ATTEMPTS and now_s - record.updated_at.timestamp() >= 60.0 * 5.0 ** (attempts - 1)
