"""Plots of simulated reviews: masks at equal seconds, hours and recall, purity beside the promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clustering.simulation import Curve

__all__ = ["plot_curves"]

_PANELS = (
    ("hours", "masks", "delivered masks", "hours of answers"),
    ("hours", "recall", "recall of correct masks", "hours of answers"),
    ("hours", "hours_to_finish", "hours to a finished set", "hours of answers"),
    ("questions", "precision", "precision of delivered masks", "questions"),
    ("questions", "unseen_precision", "precision of masks nobody saw", "questions"),
)
# distinguishable without colour vision
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def plot_curves(
    curves: Mapping[str, Sequence[Curve]], path: Path, *, promise: float | None = None, title: str = ""
) -> None:
    """Write one picture (its suffix decides: .png or .svg): every play thin, the median of each policy bold.

    Parameters
    ----------
    curves : policy -> one curve per seed
    promise : promised purity, drawn into the panel of the precision
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    last = [int(curve.questions[-1]) for runs in curves.values() for curve in runs]
    # policies that differ by orders of magnitude need a logarithmic axis; it leaves out points at 0 questions
    wide = max(last, default=0) > 8 * max(1, min(last, default=0))
    figure, axes = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    for axis, (x_name, y_name, y_title, x_title) in zip(axes.flat, _PANELS, strict=False):
        for (policy, runs), colour in zip(curves.items(), _COLOURS * 9, strict=False):
            for curve in runs:
                axis.plot(
                    getattr(curve, x_name), getattr(curve, y_name), color=colour, alpha=0.25, linewidth=0.7
                )
            grid, median = _median(runs, x_name, y_name)
            axis.plot(grid, median, color=colour, linewidth=2.2, label=policy)
        if y_name.endswith("precision") and promise is not None:
            axis.axhline(promise, color="#444444", linestyle="--", linewidth=1.0)
            axis.annotate(
                "promised purity", (0.99, promise), xycoords=("axes fraction", "data"), ha="right", va="top"
            )
        axis.set_xlabel(x_title)
        axis.set_ylabel(y_title)
        axis.grid(alpha=0.25)
        if wide and x_name in ("questions", "hours"):
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())  # labels between the powers of ten overlap
        if y_name == "hours_to_finish":
            axis.set_yscale("log")  # drawing everything takes a hundred times as long as the answers
    summary = axes.flat[-1]
    handles, labels = axes.flat[0].get_legend_handles_labels()
    summary.axis("off")
    summary.legend(handles, labels, loc="center", frameon=False, fontsize=12)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _median(
    runs: Sequence[Curve], x_name: str, y_name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Median of y over plays, as a step function of x; a play that has ended keeps its last value."""
    grid = np.unique(np.concatenate([getattr(curve, x_name) for curve in runs]).astype(np.float64))
    values = []
    for curve in runs:
        at = np.searchsorted(getattr(curve, x_name), grid, side="right") - 1
        values.append(np.asarray(getattr(curve, y_name), np.float64)[np.maximum(at, 0)])
    table = np.array(values)
    # precision is not defined before the first mask is accepted
    some = ~np.isnan(table).all(axis=0)
    median = np.full(len(grid), np.nan)
    median[some] = np.nanmedian(table[:, some], axis=0)
    return grid, median
