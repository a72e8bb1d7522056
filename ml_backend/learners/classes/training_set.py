"""The pictures of a training with their labels, and which labels can be learnt from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from ml_backend.examples import Example
from ml_backend.learners.base import LeftOut

__all__ = ["Learnable", "learnable", "tag_matrix", "tagged_examples"]

Floats = npt.NDArray[np.float64]


def tagged_examples(
    examples: Sequence[Example], *, labels: int, exclusive: bool
) -> tuple[tuple[Example, ...], tuple[LeftOut, ...]]:
    """Those whose tags can be learnt from, and the others with the reason.

    In a single choice a picture needs exactly one tag; in multiple choice none means that no label fits.
    """
    kept, left_out = [], []
    for example in examples:
        tags = set(example.tags)
        if any(not 0 <= tag < labels for tag in tags):
            left_out.append(LeftOut(example.task_id, "it has a label that the project no longer knows"))
        elif exclusive and not tags:
            left_out.append(LeftOut(example.task_id, "nobody chose a label for it"))
        elif exclusive and len(tags) > 1:
            left_out.append(LeftOut(example.task_id, f"it has {len(tags)} labels where one may be chosen"))
        else:
            kept.append(example)
    return tuple(kept), tuple(left_out)


def tag_matrix(examples: Sequence[Example], labels: int) -> Floats:
    """(n, labels) of 0 and 1."""
    truth = np.zeros((len(examples), labels))
    for row, example in enumerate(examples):
        truth[row, list(example.tags)] = 1.0
    return truth


@dataclass(frozen=True, slots=True, eq=False)
class Learnable:
    """``columns``: labels that a model can be fitted to. The others have fixed probabilities: ``unseen`` (k,)
    in a single choice, ``fixed`` (k,) logits in multiple choice. ``said``: a sentence about them, or
    empty."""

    columns: npt.NDArray[np.int64]
    unseen: Floats
    fixed: Floats
    said: str


def learnable(truth: Floats, labels: Sequence[str], *, exclusive: bool) -> Learnable:
    """Which labels have examples for and against them.

    A label without any example gets the probability that Laplace's rule gives it: one in (pictures + labels)
    in a single choice, one in (pictures + 2) in multiple choice, where one that every picture has gets the
    rest.
    """
    n, k = truth.shape
    counts = truth.sum(axis=0)
    unseen: Floats = np.zeros(k)
    fixed: Floats = np.zeros(k)
    none = [labels[i] for i in np.flatnonzero(counts == 0)]
    said = f"{_named(none)} {'has' if len(none) == 1 else 'have'} no example yet" if none else ""
    if exclusive:
        unseen[counts == 0] = 1.0 / (n + k)
        columns = np.flatnonzero(counts > 0)
        if len(columns) == 1:
            only = labels[int(columns[0])]
            said = f"all pictures are {only}, so there is nothing to tell apart yet"
            columns = np.zeros(0, np.int64)
            unseen = np.where(counts > 0, (n + 1.0) / (n + k), 1.0 / (n + k))
        return Learnable(columns, unseen, fixed, said)
    columns = np.flatnonzero((counts > 0) & (counts < n))
    constant = np.setdiff1d(np.arange(k), columns)
    fixed[constant] = special.logit((counts[constant] + 1.0) / (n + 2.0))
    every = [labels[i] for i in np.flatnonzero(counts == n)]
    if every:
        said = "; ".join(part for part in (said, f"every picture is {_named(every)}") if part)
    return Learnable(columns, unseen, fixed, said)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
