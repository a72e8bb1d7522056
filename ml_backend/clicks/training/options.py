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
    """Hyper-parameters. The defaults take about eight minutes on one CPU core and leave the others to clicks;
    on shared cores, further threads cost more by waiting for each other than they bring.
    """

    size: int = 128
    width: int = 32
    small_size: int = 64
    small_share: float = 0.7
    """Share of the training spent at ``small_size``, where a step costs a third, before going on at
    ``size``.
    """
    batch: int = 8
    iterations: int = 1500
    continued_share: float = 0.4
    """Share of the iterations when training goes on from an earlier version."""
    learning_rate: float = 3e-3
    max_corrections: int = 3
    seconds: float = 600.0
    """Stop early (with the learning rate run down) when training takes longer than this."""
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
