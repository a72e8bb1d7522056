"""The report of a played demo: what each round cost and gave, measured against the ground truth.

Precision is the share of accepted masks that overlap a true instance of their label with IoU of at least
0.75, with a 95 % Wilson interval (masks of one picture are not independent, so it is on the narrow side).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.errors import StorageError
from sync.lab.played_people import GOOD_IOU, Truth
from sync.rounds.cluster import load_label_pools
from sync.rounds.progress import Memo
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord, TaskRecord

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["DemoReport", "RoundFigures", "Share", "measure_round", "plot_report", "report_table"]

_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """A share or score with its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, good: int, n: int) -> Share | None:
        """Wilson interval of ``good`` among ``n``, None when there are none."""
        if n == 0:
            return None
        p = good / n
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return cls(p, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n)

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f}, n={self.n})"


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """One round. Masks are instances of the round's pool; ``*_s`` are seconds.

    ``propagated`` are the accepted masks that nobody was asked about. ``pool_precision`` is the share of
    good masks in the whole pool: what accepting everything unseen would give. ``recall`` is the number of
    accepted good masks over the number of true instances on the tasks of the pool.
    """

    round: int
    model_version: str
    labelled_tasks: int
    train_tasks: int
    ap: Share | None
    ap50: Share | None
    pool: int
    pool_precision: Share | None
    questions: int
    answers: int
    accepted: int
    propagated: int
    rejected: int
    precision: Share | None
    precision_propagated: Share | None
    masks_per_question: float | None
    recall: float | None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """A whole demo: how it was set up, its rounds, and its wall time."""

    setup: Mapping[str, Any]
    rounds: Sequence[RoundFigures]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write ``path`` (JSON) and the plot beside it (.png)."""
        write_json(path, self.as_json())
        plot_report(self, path.with_suffix(".png"))


def measure_round(
    db: ProjectStore,
    paths: ProjectPaths,
    memo: Memo,
    record: RoundRecord,
    truth: Truth,
    *,
    seconds: Mapping[str, float],
) -> RoundFigures:
    """Compare what a reviewed round decided with the ground truth."""
    tables = [pool.table for pool in load_label_pools(db, paths, memo, record) if len(pool)]
    good = {key: ok for table in tables for key, ok in _good(db, table, truth).items()}
    verdicts = [v for v in read_verdicts(paths.round(record.number)).rows.values() if v.key in good]
    accepted = [v for v in verdicts if v.verdict > 0]
    propagated = [v for v in accepted if not v.verified]
    review = record.figures.get("review", {})
    answers = int(review.get("answered", 0))
    train = record.figures.get("train", {})
    true = _true_instances(db, tables, truth)
    steps = {
        step: float(record.figures[step]["seconds"])
        for step in ("pull", "train", "infer", "cluster", "review", "push")
        if "seconds" in record.figures.get(step, {})
    }
    return RoundFigures(
        round=record.number,
        model_version=record.model_version,
        labelled_tasks=record.finished_tasks,
        train_tasks=int(train.get("n_train", 0)),
        ap=_metric(train, "AP"),
        ap50=_metric(train, "AP50"),
        pool=len(good),
        pool_precision=Share.of(sum(good.values()), len(good)),
        questions=int(review.get("asked", 0)),
        answers=answers,
        accepted=len(accepted),
        propagated=len(propagated),
        rejected=sum(v.verdict < 0 for v in verdicts),
        precision=Share.of(sum(good[v.key] for v in accepted), len(accepted)),
        precision_propagated=Share.of(sum(good[v.key] for v in propagated), len(propagated)),
        masks_per_question=len(accepted) / answers if answers else None,
        recall=sum(good[v.key] for v in accepted) / true if true else None,
        seconds={**steps, **seconds},
    )


def _metric(train: Mapping[str, Any], name: str) -> Share | None:
    values = train.get("metrics", {}).get(name)
    if values is None:
        return None
    value, low, high = (float(v) for v in values)
    return Share(value, low, high, int(train["n_test"]))


def _addresses(db: ProjectStore, task_ids: npt.NDArray[np.int64]) -> dict[int, str]:
    ids = sorted({int(task) for task in task_ids})
    with db.read() as session:
        rows = session.execute(select(TaskRecord.id, TaskRecord.image).where(TaskRecord.project_id == db.id))
        known = {int(task): str(image) for task, image in rows}
    missing = [task for task in ids if task not in known]
    if missing:
        raise StorageError(
            f"the store does not know task {missing[0]}", hint="Run `groundswell rebuild` and try again"
        )
    return {task: known[task] for task in ids}


def _good(db: ProjectStore, table: PoolTable, truth: Truth) -> dict[str, bool]:
    """Per instance key of one label's pool: does it overlap a true instance enough?"""
    address = _addresses(db, table.task_id)
    found: dict[str, bool] = {}
    for task in np.unique(table.task_id):
        rows = np.flatnonzero(table.task_id == task)
        label = str(table.label[rows[0]])
        iou = truth.best_iou(address[int(task)], label, [table.rle(int(row)) for row in rows])
        found |= {str(table.key[row]): bool(value >= GOOD_IOU) for row, value in zip(rows, iou, strict=True)}
    return found


def _true_instances(db: ProjectStore, tables: Sequence[PoolTable], truth: Truth) -> int:
    tasks = np.unique(np.concatenate([t.task_id for t in tables])) if tables else np.zeros(0, np.int64)
    return sum(len(truth.image(address).label) for address in _addresses(db, tasks).values())


def report_table(report: DemoReport) -> Table:
    """The rounds as a table for the terminal."""
    from rich.table import Table

    table = Table(title=str(report.setup.get("title", "Groundswell")), show_lines=False)
    for name in (
        "round",
        "labelled",
        "AP (95 %)",
        "pool",
        "good in pool",
        "questions",
        "accepted",
        "propagated",
        f"precision (IoU ≥ {GOOD_IOU})",
        "masks/question",
    ):
        table.add_column(name, justify="right")
    used = [" ".join(f"{name} {value:.0f}" for name, value in row.seconds.items()) for row in report.rounds]
    table.caption = "\n".join(
        f"round {row.round}, seconds: {text}" for row, text in zip(report.rounds, used, strict=True)
    )
    for row in report.rounds:
        table.add_row(
            str(row.round),
            str(row.labelled_tasks),
            _text(row.ap),
            str(row.pool),
            "–" if row.pool_precision is None else f"{row.pool_precision.value:.2f}",
            str(row.answers),
            str(row.accepted),
            str(row.propagated),
            _text(row.precision),
            "–" if row.masks_per_question is None else f"{row.masks_per_question:.2f}",
        )
    return table


def _text(share: Share | None) -> str:
    return "–" if share is None else f"{share.value:.3f} ({share.low:.3f}–{share.high:.3f})"


def plot_report(report: DemoReport, path: Path) -> None:
    """AP and precision with their intervals, and masks against questions, per round (PNG)."""
    import io

    from matplotlib.figure import Figure

    from ml_backend.artifacts.files import write_atomic

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rounds = [row.round for row in report.rounds]
    for name, shares in (
        ("AP on the test split", [row.ap for row in report.rounds]),
        ("precision of accepted masks", [row.precision for row in report.rounds]),
        ("good masks in the pool", [row.pool_precision for row in report.rounds]),
    ):
        known = [(r, share) for r, share in zip(rounds, shares, strict=True) if share is not None]
        if known:
            value = np.array([share.value for _, share in known])
            spread = np.abs(np.array([(share.low, share.high) for _, share in known]).T - value)
            left.errorbar([r for r, _ in known], value, yerr=spread, marker="o", capsize=3, label=name)
    left.set(xlabel="round", ylim=(0, 1.02), xticks=rounds)
    if left.has_data():
        left.legend(fontsize=8)
    width = 0.27
    for shift, name, values in (
        (-width, "questions", [row.answers for row in report.rounds]),
        (0.0, "masks accepted", [row.accepted for row in report.rounds]),
        (width, "of them propagated", [row.propagated for row in report.rounds]),
    ):
        right.bar(np.array(rounds) + shift, values, width, label=name)
    right.set(xlabel="round", xticks=rounds)
    right.legend(fontsize=8)
    figure.suptitle(str(report.setup.get("title", "")))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    write_atomic(path, file.getvalue())
