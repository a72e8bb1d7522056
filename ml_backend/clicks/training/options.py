"""Hyper-parameters of a click network's training. No torch here: options are checked where they are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.learners.options import with_options

__all__ = ["ClickOptions", "click_options"]


@dataclass(frozen=True, slots=True)
class ClickOptions:
    """Hyper-parameters. The defaults take about eight minutes on one CPU core; the rest are free for clicks.
    On shared cores more threads do not help: they lose more time waiting for each other than they save.
    """

    size: int = 128
    width: int = 32
    small_size: int = 64
    small_share: float = 0.7
    """Share of the training at ``small_size``, where a step takes a third of the time; the rest is at
    ``size``.
    """
    batch: int = 8
    iterations: int = 1500
    first_weights: str = "shipped"
    """What the first version of a project begins with: ``shipped``, the network of the package (``random``
    where ``width`` is not its own), or ``random``.
    """
    continued_share: float = 0.4
    """Share of the iterations when training goes on from an earlier version."""
    learning_rate: float = 3e-3
    max_corrections: int = 3
    seconds: float = 600.0
    """Training takes at most about this long; the learning rate falls in time for an early end."""
    threads: int = 1
    seed: int = 0
    device: str = "auto"
    eval_limit: int = 100
    max_clicks: int = 20


def click_options(given: Mapping[str, Any]) -> ClickOptions:
    """The defaults with ``given`` put over them. Raises BadInput with the field ``options.<name>``."""
    options = with_options(
        ClickOptions(),
        given,
        choices={"first_weights": ("random", "shipped")},
        positive=(
            "size",
            "width",
            "small_size",
            "batch",
            "iterations",
            "threads",
            "eval_limit",
            "max_clicks",
        ),
    )
    for name in ("size", "small_size"):
        if getattr(options, name) % 16:
            raise BadInput("must be a multiple of 16", field=f"options.{name}")
    return options
