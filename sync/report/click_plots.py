"""Plot of a click evaluation: IoU after k clicks per segmenter and start, with bootstrap bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot_click_curves"]


def plot_click_curves(reports: Sequence[Mapping[str, Any]], path: Path, *, title: str = "") -> None:
    """Write the curves of one or more reports (``groundswell evaluate clicks --report``) to ``path``.

    One panel per robot, one line per segmenter and start, its band the 95 % interval over images; dotted
    where IoU 0.85 and 0.90 lie. The file format follows the suffix (.png, .svg, .pdf).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    robots = list(dict.fromkeys(report["settings"]["robot"] for report in reports))
    names = list(dict.fromkeys(report["segmenter"] for report in reports))
    figure, panels = plt.subplots(
        1,
        len(robots),
        figsize=(1.5 + 5.5 * len(robots), 4.5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for robot, axes in zip(robots, panels[0], strict=True):
        for report in reports:
            if report["settings"]["robot"] == robot:
                _curves(axes, report, f"C{names.index(report['segmenter'])}")
        for iou in (0.85, 0.90):
            axes.axhline(iou, color="grey", linewidth=0.8, linestyle=":")
        axes.set(xlabel="clicks", ylim=(0, 1), title=f"{robot} robot")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="lower right", fontsize=8)
        axes.grid(alpha=0.25)
    n_masks = max(scores["n_targets"] for report in reports for scores in report["starts"].values())
    panels[0][0].set_ylabel("mean IoU")
    figure.suptitle(title or f"{n_masks} masks")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curves(axes: Any, report: Mapping[str, Any], color: str) -> None:
    """One line and its band per start."""
    for start, scores in report["starts"].items():
        curve = scores["iou_at"]
        clicks = range(len(curve))
        noc = scores["noc"]["0.85"]["value"]
        axes.plot(
            clicks,
            [point["value"] for point in curve],
            color=color,
            linestyle="-" if start == "empty" else "--",
            label=f"{report['segmenter']}, {start} start (NoC@85 {noc:.2f})",
        )
        low, high = ([point[end] for point in curve] for end in ("low", "high"))
        axes.fill_between(clicks, low, high, color=color, alpha=0.15, linewidth=0)
