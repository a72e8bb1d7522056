"""The history of a project as lines for people: one table per test split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from sync.rounds.few_pictures import few_pictures_text
from sync.rounds.history import FigureRow

__all__ = ["history_lines"]


def history_lines(rows: Sequence[FigureRow]) -> list[str]:
    """One line per version and metric over all labels, with the interval; below it the labels.

    A heading begins whenever the test split changes.
    """
    if not rows:
        return ["no model version was measured yet"]
    lines: list[str] = []
    for split, of_split in groupby(rows, lambda row: row.split):
        lines += [""] if lines else []
        measured = list(of_split)
        lines.append(
            f"test split {split} ({_size(measured[-1].test_pictures)})"
            + ("" if split == rows[0].split else ": not to be compared with the figures above")
        )
        for version, of_version in groupby(measured, lambda row: row.version):
            figures = list(of_version)
            first = figures[0]
            lines.append(
                f"  round {first.round}  {version}  {first.learner}, trained on {first.train_tasks} tasks in "
                f"{first.seconds:.0f} s"
            )
            whole = [row for row in figures if not row.label]
            for row in whole:
                of_labels = [r for r in figures if r.label and r.metric == row.metric]
                lines.append(
                    f"    {row.metric:<8} {row.value:.3f} ({row.low:.3f}–{row.high:.3f})"
                    + "".join(f"  {r.label} {r.value:.3f}" for r in of_labels)
                )
            known = {row.metric for row in whole}
            for metric in dict.fromkeys(r.metric for r in figures if r.metric not in known):
                of_labels = [r for r in figures if r.metric == metric]
                lines.append(
                    f"    {metric:<8}" + "".join(f" {r.label} {r.value:.3f} " for r in of_labels).rstrip()
                )
    return lines


def _size(pictures: int) -> str:
    few = few_pictures_text(pictures)
    return f"{pictures} pictures" + (f": {few}" if few else "")
