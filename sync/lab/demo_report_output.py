"""The demo report as files and as a table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ml_backend.artifacts.files import write_json
from sync.lab.demo_report import DemoReport, Share

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["plot_report", "report_table", "save_report"]


def save_report(report: DemoReport, path: Path) -> None:
    """Write ``path`` (JSON) and the plot beside it (.png)."""
    write_json(path, report.as_json())
    plot_report(report, path.with_suffix(".png"))


def report_table(report: DemoReport) -> Table:
    """The rounds as a table for the terminal."""
    from rich.table import Table

    headline = report.rounds[0].headline if report.rounds else "AP"
    table = Table(title=str(report.setup.get("title", "Groundswell")), show_lines=False)
    for name in (
        "round",
        "labelled",
        f"{headline} (95 %)",
        "pool",
        "good in pool",
        "questions",
        "accepted",
        "propagated",
        "precision",
        "unseen",
        "recall",
        "answers, h",
        "to finish, h",
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
            _text(row.metrics.get(row.headline)),
            str(row.pool),
            "–" if row.pool_precision is None else f"{row.pool_precision.value:.2f}",
            str(row.answers),
            str(row.accepted),
            str(row.propagated),
            _text(row.precision),
            _text(row.precision_propagated),
            "–" if row.recall is None else f"{row.recall:.3f}",
            f"{row.answer_hours:.2f}",
            f"{row.hours_to_finish:.2f}",
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
        (
            f"{report.rounds[0].headline if report.rounds else 'AP'} on the test split",
            [row.metrics.get(row.headline) for row in report.rounds],
        ),
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
