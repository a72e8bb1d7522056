"""Plot of an evaluation of orders: the metric over labelled pictures and over seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["plot_orders"]


def plot_orders(found: Mapping[str, Any], path: Path, *, title: str = "") -> None:
    """Write the curves of ``groundswell evaluate al`` to ``path``; the suffix says the format.

    Left over labelled pictures, right over minutes of work: mean over seeds, and where single seeds lie.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for i, (name, order) in enumerate(found["orders"].items()):
        y = np.array([[point["metric"] for point in curve] for curve in order["curves"]])
        if not len(y):
            continue
        for axes, axis, scale in ((panels[0], "labelled", 1.0), (panels[1], "seconds", 60.0)):
            x = np.array([[point[axis] for point in curve] for curve in order["curves"]]) / scale
            for one, other in zip(x, y, strict=True):
                axes.plot(one, other, color=f"C{i}", alpha=0.2, linewidth=0.8)
            axes.plot(x.mean(axis=0), y.mean(axis=0), color=f"C{i}", marker="o", markersize=3, label=name)
            axes.grid(alpha=0.25)
    panels[0].set(xlabel="labelled pictures", ylabel=found["metric"])
    panels[1].set(xlabel="minutes of work")
    panels[0].legend(loc="lower right", fontsize=8)
    figure.suptitle(title or f"{found['learner']}, {found['seeds']} seeds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
