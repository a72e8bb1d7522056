"""Everything a preview shows, as plain values: for the page, for ``--json``, and for the dashboard.

Where the figures come from: precision and recall from the test split (``clustering.thresholds``), questions
and minutes from plays (``preview_price``), objects that the model misses from the test split as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from clustering.arrays import Floats, Ints
from clustering.thresholds import FEWEST_PICTURES, TestMasks, ThresholdCurve, threshold_curve
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import PoolTable, joined
from ml_backend.errors import BadInput
from ml_backend.images.store import ImageStore
from ml_backend.kinds.base import ProjectKind
from ml_backend.label_studio.label_config import LabelConfig
from sync.report.preview_price import LARGEST_POOL, Price, forecast_price
from sync.report.preview_sample import Shot, choose_tasks, render_shots
from sync.review.verdicts import ReviewLog, read_review_log
from sync.rounds.cluster import LabelPool, load_label_pools
from sync.rounds.infer import pool_index
from sync.rounds.known_masks import KnownMasks, load_known_masks, load_lessons
from sync.rounds.policies import build_policy
from sync.rounds.progress import Memo
from sync.rounds.round_records import trained_round
from sync.rounds.task_queries import open_task_ids
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished

__all__ = ["STEPS", "make_preview", "missed_objects", "test_masks", "without_pictures"]

Report = Callable[[float, str], None]
STEPS = 101
"""Thresholds 0, 0.01, … 1."""
_CONFIDENCE = 0.9


def make_preview(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    memo: Memo,
    *,
    sample: int = 24,
    seed: int = 0,
    workers: int | None = None,
    apart: bool = False,
    report: Report = lambda share, line: None,
) -> dict[str, Any]:
    """The preview of the newest clustered round.

    ``sample`` pictures, drawn with ``seed``. ``workers``, ``apart``: processes for the plays, see
    ``forecast_price``. Nothing is written. Raises
    BadInput when no round was clustered yet, StorageError when files of the round are gone.
    """
    record = trained_round(db)
    if record is None or not has_finished(record, "cluster"):
        raise BadInput(
            f"project {db.id} has no whole round yet",
            field="project",
            hint="Label a few tasks and let `groundswell round` or the worker finish a round",
        )
    pools = load_label_pools(db, paths, memo, record)
    labels, kinds = [pool.label for pool in pools], [pool.kind for pool in pools]
    known = load_known_masks(db, paths, memo, record, labels)
    index = pool_index(paths, memo, record.model_version)
    waiting = set(open_task_ids(db))
    open_tasks = [task for task in index.task_id.tolist() if task in waiting and task not in index.error]
    table = _open_masks(pools, open_tasks, config)
    chosen = choose_tasks(
        open_tasks, table, labels, sample=sample, shown_from=settings.push_min_score, seed=seed
    )
    shots = render_shots(
        db, images, chosen, table, labels, kinds, report=lambda share, line: report(0.3 * share, line)
    )
    log = read_review_log(
        db, settings, record.number, pools, lessons=load_lessons(db, paths, memo, record, labels)
    )
    prices = forecast_price(
        settings,
        pools,
        load_lessons(db, paths, memo, record, labels),
        log,
        round_number=record.number,
        seed=seed,
        workers=workers,
        apart=apart,
        report=lambda share, line: report(0.3 + 0.7 * share, line),
    )
    return {
        "project": db.id,
        "title": db.title,
        "round": record.number,
        "version": record.model_version,
        "made_at": utc_now().isoformat(timespec="seconds"),
        "seed": seed,
        "studio_url": settings.shown_studio_url,
        "labels": [{"name": pool.label, "unit": pool.kind.unit, "kind": pool.kind.name} for pool in pools],
        "tasks": len(open_tasks),
        "masks": len(table),
        "shown_from": settings.push_min_score,
        "pool_from": settings.pool_min_score,
        "counts": {label: _counts(table.score[table.label == label]) for label in labels},
        "tests": _test_figures(known, config, labels),
        "price": _price_figures(config, settings, pools, known, log, prices, len(open_tasks)),
        "pictures": [_shot(shot) for shot in shots],
    }


def without_pictures(data: dict[str, Any]) -> dict[str, Any]:
    """The same without pixels and outlines: what ``--json`` prints."""
    pictures = [
        {name: picture[name] for name in ("task", "for_label")} | {"masks": len(picture["drawn"])}
        for picture in data["pictures"]
    ]
    return {**data, "pictures": pictures}


def _shot(shot: Shot) -> dict[str, Any]:
    return {
        "task": shot.task,
        "for_label": shot.for_label,
        "width": shot.width,
        "height": shot.height,
        "jpeg": shot.data_uri,
        "drawn": [[one.label, one.score, one.path] for one in shot.drawn],
    }


def _open_masks(pools: Sequence[LabelPool], open_tasks: Sequence[int], config: LabelConfig) -> PoolTable:
    """What the model finds on the tasks; of classes that exclude each other only the likeliest.

    Without boxes, embeddings and edges: a copy of those would take as much memory as the pools themselves.
    """
    waiting = np.array(open_tasks, np.int64)
    tables = []
    for pool in pools:
        rows = np.flatnonzero(np.isin(pool.table.task_id, waiting))
        none = np.zeros((len(pool), 0), np.float32)
        tables.append(replace(pool.table, box_xyxy=none, embedding=none, edges=none).take(rows))
    table = tables[0]
    for other in tables[1:]:
        table = joined(table, other)
    return table.take(_likeliest(table, config))


def _likeliest(table: PoolTable, config: LabelConfig) -> Ints:
    """Rows without the classes of a picture that a likelier one excludes."""
    keep = np.ones(len(table), bool)
    for target in config.wanted:
        if target.exclusive and target.is_of.unit == "picture":
            rows = np.flatnonzero(np.isin(table.label.astype(str), target.labels))
            order = rows[np.lexsort((-table.score[rows], table.task_id[rows]))]
            _, first = np.unique(table.task_id[order], return_index=True)
            keep[rows] = False
            keep[order[first]] = True
    return np.flatnonzero(keep)


def _counts(score: np.ndarray[Any, np.dtype[np.float32]]) -> list[int]:
    """How many scores reach each threshold."""
    ranked = np.sort(score.astype(np.float64))
    found: list[int] = (len(ranked) - np.searchsorted(ranked, _thresholds(), side="left")).tolist()
    return found


def _thresholds() -> Floats:
    # a score of 0.3 as float32 is a little above 0.3: it must reach its own threshold
    return np.asarray(np.linspace(0.0, 1.0, STEPS) - 1e-7, np.float64)


def test_masks(known: KnownMasks, config: LabelConfig) -> TestMasks:
    """Known masks as the columns that thresholds are judged by."""
    rows = _likeliest(known.table, config)
    return TestMasks(
        known.table.score[rows].astype(np.float64),
        known.good[rows],
        known.object[rows],
        np.searchsorted(known.pictures, known.picture[rows]).astype(np.int64),
        known.label[rows],
        known.objects,
    )


test_masks.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def _test_figures(known: KnownMasks | None, config: LabelConfig, labels: Sequence[str]) -> dict[str, Any]:
    """Precision and recall at every threshold, of all labels (key "") and of each."""
    if known is None:
        return {"pictures": 0, "fewest": FEWEST_PICTURES, "curves": {}}
    masks = test_masks(known, config)
    curves = {"": threshold_curve(masks, range(len(labels)), _thresholds())}
    if len(labels) > 1:
        curves |= {
            label: threshold_curve(masks, [number], _thresholds()) for number, label in enumerate(labels)
        }
    return {
        "pictures": len(known.pictures),
        "fewest": FEWEST_PICTURES,
        "curves": {label: _curve(curve) for label, curve in curves.items()},
    }


def _curve(curve: ThresholdCurve) -> dict[str, Any]:
    return {
        "pictures": curve.pictures,
        "objects": curve.objects,
        "too_few": curve.too_few,
        "kept": curve.kept.tolist(),
        "precision": _columns(curve.precision),
        "recall": _columns(curve.recall),
    }


def _columns(values: Floats) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 3) for value in row] for row in values]


def missed_objects(known: KnownMasks, config: LabelConfig, others: int) -> dict[str, Any] | None:
    """Objects on ``others`` pictures like the test pictures that no good mask of the pool shows.

    None with under ``FEWEST_PICTURES`` test pictures. The interval (90 %) is that of a mean over pictures, by
    Student's t, cut off at 0.
    """
    t = len(known.pictures)
    if t < FEWEST_PICTURES:
        return None
    masks = test_masks(known, config)
    good = masks.good & (masks.object >= 0)
    found = np.unique(np.stack([masks.place[good], masks.label[good], masks.object[good]], axis=1), axis=0)
    missed = known.objects.sum(axis=1) - np.bincount(found[:, 0], minlength=t)
    mean = float(missed.mean())
    reach = float(
        stats.t.ppf(0.5 + _CONFIDENCE / 2, t - 1) * missed.std(ddof=1) * np.sqrt(1 / t + 1 / max(others, 1))
    )
    low, high = max(0.0, mean - reach), mean + reach
    return {
        "objects": [round(others * value) for value in (mean, low, high)],
        "of_test_objects": [int(missed.sum()), int(known.objects.sum())],
        "pictures": t,
    }


def _price_figures(
    config: LabelConfig,
    settings: Settings,
    pools: Sequence[LabelPool],
    known: KnownMasks | None,
    log: ReviewLog,
    prices: Sequence[Price],
    open_tasks: int,
) -> dict[str, Any]:
    masks = sum(len(pool) for pool in pools)
    kinds: list[ProjectKind] = [pool.kind for pool in pools]
    drawn_s = max((kind.drawn_s for kind in kinds), default=0.0)
    missed = None if known is None else missed_objects(known, config, open_tasks)
    rows = []
    for price in prices:
        row = price.as_json()
        row["hours_of_drawing"] = _hours(price.lost, missed, drawn_s)
        rows.append(row)
    return {
        "policy": settings.policy,
        "masks": masks,
        "played_masks": min(masks, LARGEST_POOL),
        "answered": len(log.known),
        "lessons": 0 if known is None else len(known),
        "test_pictures": 0 if known is None else len(known.pictures),
        "now": next((row.promise for row in prices if row.promise == _promised(settings)), None),
        "budget": settings.question_budget,
        "confidence": _CONFIDENCE,
        "drawn_s": drawn_s,
        "missed": missed,
        "rows": rows,
    }


def _promised(settings: Settings) -> float | None:
    policy = build_policy(settings)
    return next((getattr(policy, name) for name in ("purity", "accept") if hasattr(policy, name)), None)


def _hours(
    lost: tuple[float, float, float], missed: dict[str, Any] | None, drawn_s: float
) -> list[float] | None:
    """Hours of drawing what is left: lost masks, and objects that the model misses. None where those are
    unknown. The ends of both intervals are added up, which is cautious."""
    if missed is None:
        return None
    return [
        round((masks + objects) * drawn_s / 3600.0, 1)
        for masks, objects in zip(lost, missed["objects"], strict=True)
    ]
