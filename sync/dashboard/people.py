"""What people did: hours spent and saved, figures per annotator and per review worker.

Label Studio measures how long a task or a question was open, also while its person was away. So one task
counts half an hour at most, and one answer two minutes; how many were cut is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ml_backend.label_studio.label_config import LabelConfig
from sync.dashboard.annotations import AnnotationLine, AnswerLine
from sync.dashboard.figures import (
    AnnotatorRow,
    Hours,
    WorkerRow,
    mean_range,
    median_range,
    share_range,
)
from sync.dashboard.masks import Accepted

__all__ = ["LONGEST_ANSWER_S", "LONGEST_TASK_S", "annotators", "hours", "workers"]

LONGEST_TASK_S, LONGEST_ANSWER_S = 1800.0, 120.0
_SOURCES = {
    "mask": "a mask drawn by hand takes 80 s (COCO: Lin et al. 2014)",
    "box": "a box takes 7 s (extreme clicking: Papadopoulos et al. 2017)",
    "picture": "a class of a picture takes 1.4 s (Papadopoulos et al. 2021)",
}


def hours(
    lines: Sequence[AnnotationLine],
    answers: Sequence[AnswerLine],
    accepted: Mapping[str, Accepted],
    config: LabelConfig,
) -> Hours:
    """Seconds spent on drawing and answering, and what drawing the accepted masks would have taken."""
    timed = [line for line in lines if line.seconds is not None and not line.was_cancelled]
    drawing = [min(line.seconds or 0.0, LONGEST_TASK_S) for line in timed]
    clock = _answer_seconds(answers)
    answering = float(sum(min(seconds, LONGEST_ANSWER_S) for seconds in clock))
    known = [label for label in accepted if label in config.labels]
    drawn_s = {label: config.kind_of(label).drawn_s for label in known}
    low = sum((accepted[label].verified + accepted[label].sure) * drawn_s[label] for label in known)
    high = sum((accepted[label].verified + accepted[label].may_be) * drawn_s[label] for label in known)
    own_tasks = [
        (seconds, line.regions) for line, seconds in zip(timed, drawing, strict=True) if line.regions
    ]
    own = mean_range(*zip(*own_tasks, strict=True)) if own_tasks else None
    good = (
        sum(accepted[label].verified + accepted[label].sure for label in known),
        sum(accepted[label].verified + accepted[label].may_be for label in known),
    )
    units = {config.kind_of(label).unit for label in known} or {target.is_of.unit for target in config.wanted}
    return Hours(
        drawing=float(sum(drawing)),
        answering=answering,
        tasks=len(timed),
        answers=len(clock),
        untimed=sum(line.seconds is None and not line.was_cancelled for line in lines)
        + sum(one.seconds is None for one in answers),
        cut=sum((line.seconds or 0.0) > LONGEST_TASK_S for line in timed)
        + sum(seconds > LONGEST_ANSWER_S for seconds in clock),
        accepted=sum(accepted[label].verified + accepted[label].propagated for label in known),
        accepted_low=good[0],
        accepted_high=good[1],
        assumed=float(high),
        saved_low=low - answering,
        saved_high=high - answering,
        source="; ".join(_SOURCES[unit] for unit in sorted(units)),
        own=own,
        own_saved_low=None if own is None else own.low * good[0] - answering,
        own_saved_high=None if own is None else own.high * good[1] - answering,
    )


def _answer_seconds(answers: Sequence[AnswerLine]) -> list[float]:
    """Seconds of each answer; a skipped sheet noted its time at each of its questions, and counts once."""
    found = [one.seconds for one in answers if one.seconds is not None and one.value != "skip"]
    skips = {one.annotation_id: one.seconds for one in answers if one.value == "skip"}
    return found + [seconds for seconds in skips.values() if seconds is not None]


def annotators(
    lines: Sequence[AnnotationLine],
    agreed: Mapping[int, tuple[int, int, int]],
    names: Mapping[int, str],
) -> tuple[AnnotatorRow, ...]:
    """One row per person, most tasks first.

    ``agreed``: by annotation, how many objects the person has, how many the prediction had, and how many of
    these are the same. ``names``: what people are called, by their number in Label Studio.
    """
    people: dict[int, list[AnnotationLine]] = {}
    for line in lines:
        people.setdefault(line.user, []).append(line)
    rows = []
    for user, mine in people.items():
        done = [line for line in mine if not line.was_cancelled]
        compared = [agreed[line.id] for line in done if line.id in agreed]
        objects, shown, same = (
            (sum(column) for column in zip(*compared, strict=True)) if compared else (0,) * 3
        )
        rows.append(
            AnnotatorRow(
                user=user,
                name=names.get(user, ""),
                tasks=len({line.task_id for line in done}),
                skipped=len(mine) - len(done),
                seconds=median_range([line.seconds for line in done if line.seconds is not None]),
                compared=len(compared),
                found=share_range(same, objects),
                kept=share_range(same, shown),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.tasks, row.user)))


def workers(
    answers: Sequence[AnswerLine], reported: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> tuple[WorkerRow, ...]:
    """One row per person who answered: as the crowd model judged them, else only counts and speed."""
    if reported:
        rows = [_reported(row, names) for row in reported]
    else:
        people: dict[int, list[AnswerLine]] = {}
        for one in answers:
            people.setdefault(one.worker, []).append(one)
        rows = [_counted(worker, mine, names) for worker, mine in people.items()]
    return tuple(sorted(rows, key=lambda row: (-row.answers, row.worker)))


def _reported(row: Mapping[str, Any], names: Mapping[int, str]) -> WorkerRow:
    yes_good, good, no_bad, bad = row.get("gold_counts") or (0, 0, 0, 0)
    return WorkerRow(
        worker=int(row["worker"]),
        name=names.get(int(row["worker"]), ""),
        answers=int(row["answers"]),
        unsure=int(row.get("unsure", 0)),
        seconds=row.get("seconds"),
        agreement=row.get("agreement"),
        gold=int(row.get("gold", 0)),
        good=share_range(yes_good, good),
        bad=share_range(no_bad, bad),
        consistency=row.get("consistency"),
        suspended=bool(row.get("suspended")),
        reasons=tuple(str(reason).replace("_", " ") for reason in row.get("reasons", ())),
    )


def _counted(worker: int, mine: Sequence[AnswerLine], names: Mapping[int, str]) -> WorkerRow:
    said = [one for one in mine if one.value != "skip"]
    seconds = [one.seconds for one in said if one.seconds is not None]
    return WorkerRow(
        worker=worker,
        name=names.get(worker, ""),
        answers=len(said),
        unsure=sum(one.value == "unsure" for one in said),
        seconds=float(np.median(seconds)) if seconds else None,
        agreement=None,
        gold=0,
        good=None,
        bad=None,
        consistency=None,
        suspended=False,
        reasons=(),
    )
