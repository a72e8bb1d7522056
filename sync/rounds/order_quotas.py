"""Quotas in the order of tasks: wanted shares of the classes, the least or the most confident first."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from clustering.arrays import Floats, Ints
from clustering.quotas import apply_quotas, shares_of
from ml_backend.errors import BadInput
from sync.settings import Settings

__all__ = ["check_balance", "with_quotas"]

_log = logging.getLogger(__name__)


def check_balance(settings: Settings, labels: Sequence[str]) -> None:
    """Raise BadInput, saying what is wrong, unless ``ideal_class_balance`` fits the labels."""
    if not settings.ideal_class_balance:
        return
    try:
        shares_of(settings.ideal_class_balance, labels)
    except ValueError as error:
        raise BadInput(
            str(error),
            field="options.ideal_class_balance",
            hint='One share per label and one for NULL (nothing found), e.g. {"cat": 0.5, "NULL": 0.5}',
        ) from error


def with_quotas(order: Ints, shown: Floats, doubt: Floats, settings: Settings, labels: Sequence[str]) -> Ints:
    """The order with the quotas of the settings; without any, as it is.

    Parameters
    ----------
    order : (n,) places of the tasks, the first to be served first
    shown : (n, k) how much of each label a prediction shows; 0 = nothing
    doubt : (n,) what the order goes by
    labels : the k labels

    ``pick`` = most takes tasks with the least doubt first, and those on which nothing was found last. A
    balance that no longer fits the labels (one was renamed) is left out, and the log says so.

    Places drawn at random are mixed in afterwards, or their logged chances would be wrong.
    """
    free = order.copy()
    if settings.pick == "most":
        is_empty = ~(shown[free] > 0).any(axis=1)
        free = free[np.lexsort((doubt[free], is_empty))]
    if settings.ideal_class_balance:
        try:
            shares = shares_of(settings.ideal_class_balance, labels)
        except ValueError as error:
            _log.warning("ideal_class_balance is left out: %s", error)
        else:
            free = free[apply_quotas(np.arange(len(free)), shown[free] > 0, shares)]
    return free
