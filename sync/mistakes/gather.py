"""From what judges say about single tasks to findings of the whole project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from clustering.arrays import Floats, Ints
from clustering.mistakes import (
    SHARES,
    class_mistakes,
    difference_scores,
    geometric_mean,
    rows_by,
    soft_minimum,
    tag_mistakes,
)
from ml_backend.artifacts.mistakes import Finding
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.label_config import LabelConfig
from sync.mistakes.judged import JudgedTask
from sync.mistakes.measure import BINS, Raw
from sync.mistakes.reasons import class_reason, reason_of

__all__ = ["LEAST", "gather"]

LEAST: Final = 0.25
"""score from which on a finding is worth a look"""
_KIND_OF: Final[Mapping[str, str]] = {"nothing": "placed"}
"""kinds that people see, where they are others"""


def gather(config: LabelConfig, judged: Mapping[int, JudgedTask]) -> list[Finding]:
    """The findings of all judged tasks with a score of ``LEAST`` or more, in any order.

    What a judge says is weighed against how often it says the like of all tasks it judged: one that finds
    half of the objects proves nothing by not finding one.
    """
    findings: list[Finding] = []
    for judge in sorted({row.judge for row in judged.values()}):
        findings += _objects({task: row for task, row in judged.items() if row.judge == judge})
    for target in config.wanted:
        if target.is_of.unit == "picture":
            findings += (_classes if target.exclusive else _tags)(target, judged)
    return findings


def _objects(judged: Mapping[int, JudgedTask]) -> list[Finding]:
    """Findings about objects and areas, of the tasks of one judge."""
    labels = sorted({raw.label for row in judged.values() for raw in row.measured.raw})
    number = {label: i for i, label in enumerate(labels)}
    drawn, agreed = np.zeros(len(labels)), np.zeros((len(labels), BINS))
    by_kind: dict[str, list[tuple[int, Raw]]] = {}
    for task, row in judged.items():
        for label, n in row.measured.drawn.items():
            if label in number:
                drawn[number[label]] += n
        for label, bins in row.measured.agreed.items():
            if label in number:
                agreed[number[label]] += bins
        for raw in row.measured.raw:
            by_kind.setdefault(raw.kind, []).append((task, raw))
    scored: list[tuple[int, Raw, float]] = []
    for kind, said in by_kind.items():
        strength = np.array([raw.strength for _, raw in said])
        of = np.array([number[raw.label] for _, raw in said], np.int64)
        score = strength
        if kind in SHARES:
            chances = np.repeat(drawn[:, None], len(said), axis=1)
            picture = nearby = None
            if kind == "overlooked":
                chances = _as_sure(agreed, strength, of)
                picture = np.array([task for task, _ in said], np.int64)
                nearby = _as_sure_there(judged, strength, picture)
            score = difference_scores(
                strength, of, chances, share=SHARES[kind], pooled=kind == "swapped", picture=picture,
                nearby=nearby,
            )  # fmt: skip
        scored += [(task, raw, float(s)) for (task, raw), s in zip(said, score, strict=True)]
    quality = _qualities(scored)
    return [
        Finding(
            task,
            _KIND_OF.get(raw.kind, raw.kind),
            score,
            reason_of(raw, judged[task].measured.hw),
            raw.label,
            raw.other,
            raw.region,
            *raw.box,
            *judged[task].measured.hw,
            judged_by=judged[task].judge,
            task_score=1.0 - quality[task],
        )
        for task, raw, score in scored
        if score >= LEAST
    ]


def _as_sure(agreed: Floats, strength: Floats, label: Ints) -> Floats:
    """(labels, n) predictions of each label, agreeing or not, at least as sure as each of the n that do not
    agree."""
    bins = np.minimum((strength * BINS).astype(np.int64), BINS - 1)
    surer = agreed[:, ::-1].cumsum(axis=1)[:, ::-1]
    out = surer[:, bins]
    for i in range(len(agreed)):
        alone = np.sort(strength[label == i])
        out[i] += len(alone) - np.searchsorted(alone, strength, "left")
    return out


def _as_sure_there(judged: Mapping[int, JudgedTask], strength: Floats, task: Ints) -> Floats:
    """(n,) the same on the picture of each alone, for all labels together."""
    out = np.empty(len(strength))
    for mine in rows_by(task):
        agreed = np.zeros(BINS)
        for bins in judged[int(task[mine[0]])].measured.agreed.values():
            agreed += bins
        out[mine] = _as_sure(agreed[None], strength[mine], np.zeros(len(mine), np.int64))[0]
    return out


def _qualities(scored: Sequence[tuple[int, Raw, float]]) -> dict[int, float]:
    """Quality of each task: the geometric mean over the kinds of mistakes of the soft minima (ObjectLab)."""
    of_task: dict[int, dict[str, list[float]]] = {}
    for task, raw, score in scored:
        kind = _KIND_OF.get(raw.kind, raw.kind)
        of_task.setdefault(task, {}).setdefault(kind, [1.0]).append(1.0 - score)
    found = {}
    for task, kinds in of_task.items():
        parts = [soft_minimum(np.array(values)) for values in kinds.values()]
        whole = 1 if "area" in kinds else 3
        found[task] = geometric_mean(parts + [1.0] * (whole - len(parts)))
    return found


def _classes(target: Wanted, judged: Mapping[int, JudgedTask]) -> list[Finding]:
    number = {label: i for i, label in enumerate(target.labels)}
    rows = []
    for task, row in judged.items():
        mine = [label for label in row.measured.given if label in number]
        if len(mine) == 1 and set(number) <= set(row.measured.probability):
            rows.append((task, number[mine[0]], row))
    if not rows:
        return []
    probability = np.array([[row.measured.probability[label] for label in number] for _, _, row in rows])
    given = np.array([label for _, label, _ in rows], np.int64)
    score, likely = class_mistakes(probability, given)
    return [
        _finding(
            rows[i][0], rows[i][2], float(score[i]), target.labels[given[i]], target.labels[likely[i]],
            float(probability[i, likely[i]]),
        )
        for i in np.flatnonzero(score >= LEAST).tolist()
    ]  # fmt: skip


def _tags(target: Wanted, judged: Mapping[int, JudgedTask]) -> list[Finding]:
    rows = [(t, row) for t, row in judged.items() if set(target.labels) <= set(row.measured.probability)]
    if not rows:
        return []
    probability = np.array([[row.measured.probability[label] for label in target.labels] for _, row in rows])
    given = np.array([[label in row.measured.given for label in target.labels] for _, row in rows])
    score = tag_mistakes(probability, given)
    findings = []
    for i, j in zip(*np.nonzero(score >= LEAST), strict=True):
        label, p = target.labels[j], float(probability[i, j])
        said, likely, sure = (label, "", 1.0 - p) if given[i, j] else ("", label, p)
        findings.append(_finding(rows[i][0], rows[i][1], float(score[i, j]), said, likely, sure))
    return findings


def _finding(task: int, row: JudgedTask, score: float, given: str, likely: str, sure: float) -> Finding:
    height, width = row.measured.hw
    return Finding(
        task, "class", score, class_reason(given, likely, sure), given or likely, likely, height=height,
        width=width, judged_by=row.judge, task_score=score,
    )  # fmt: skip
