"""Plot of a click evaluation: IoU after k clicks per segmenter and start, with bootstrap bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot_click_curves"]


def plot_click_curves(reports: Sequence[Mapping[str, Any]], path: Path, *, title: str = "") -> None:
    """Write the curves of one or more reports (``groundswell evaluate clicks --report``) to ``path``.

    One line per segmenter and start, its band the 95 % interval over images; dotted where IoU 0.85 and 0.90
    lie. The file format follows the suffix (.png, .svg, .pdf).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for index, report in enumerate(reports):
        for start, scores in report["starts"].items():
            curve = scores["iou_at"]
            clicks = range(len(curve))
            noc = scores["noc"]["0.90"]["value"]
            axes.plot(
                clicks,
                [point["value"] for point in curve],
                color=f"C{index}",
                linestyle="-" if start == "empty" else "--",
                label=f"{report['segmenter']}, {start} start (NoC@90 {noc:.2f})",
            )
            axes.fill_between(
                clicks,
                [point["low"] for point in curve],
                [point["high"] for point in curve],
                color=f"C{index}",
                alpha=0.15,
                linewidth=0,
            )
    for iou in (0.85, 0.90):
        axes.axhline(iou, color="grey", linewidth=0.8, linestyle=":")
    n_masks = max(scores["n_targets"] for report in reports for scores in report["starts"].values())
    axes.set(xlabel="clicks", ylabel="mean IoU", ylim=(0, 1), title=title or f"{n_masks} masks")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
