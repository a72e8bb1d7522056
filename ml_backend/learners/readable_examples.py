"""Find the examples that can be used: the picture can be decoded and has the same size as the masks.

All examples are checked once, before training. A truncated file then costs only its own task and not the
whole round. Only decoding shows whether a file is whole. Files are decoded in parallel threads, since the
decoder releases Python's global lock.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ml_backend.errors import BadImage, BadInput, GroundswellError, ModelError
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import LeftOut, TrainSpec

__all__ = ["ReadableExamples", "nothing_left", "readable_examples", "with_readable"]

log = logging.getLogger(__name__)

_NAMED = 3


@dataclass(frozen=True, slots=True)
class ReadableExamples:
    """``kept`` in the order given, and ``left_out`` with the reason for each."""

    kept: tuple[Example, ...]
    left_out: tuple[LeftOut, ...]


def readable_examples(examples: Sequence[Example]) -> ReadableExamples:
    """Split examples into those that can be used and those that cannot; the reasons are logged too."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        reasons = list(threads.map(_problem, examples))
    left_out = []
    for example, reason in zip(examples, reasons, strict=True):
        if reason:
            log.warning("task %d is left out of training: %s", example.task_id, reason)
            left_out.append(LeftOut(example.task_id, reason))
    kept = tuple(example for example, reason in zip(examples, reasons, strict=True) if not reason)
    return ReadableExamples(kept, tuple(left_out))


def with_readable(spec: TrainSpec) -> tuple[TrainSpec, tuple[LeftOut, ...]]:
    """``spec`` with the examples that can be used, and those that cannot, of training and test.

    Raises what ``nothing_left`` says when no instance is left to train on.
    """
    train, test = readable_examples(spec.train), readable_examples(spec.test)
    if not spec.labels or not any(example.rle for example in train.kept):
        raise nothing_left(train.left_out)
    return dataclasses.replace(spec, train=train.kept, test=test.kept), train.left_out + test.left_out


def nothing_left(left_out: Sequence[LeftOut]) -> GroundswellError:
    """The error of a training that has no usable example.

    BadInput when there are no masks at all; ModelError, naming the first tasks left out, when pictures cannot
    be used.
    """
    if not left_out:
        return BadInput("there is no instance to train on", hint="Annotate some images first", field="train")
    named = "; ".join(f"task {entry.task_id}: {entry.reason}" for entry in left_out[:_NAMED])
    more = f"; and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    return ModelError(
        f"none of the pictures to train on can be used ({named}{more})",
        hint="Replace the pictures or annotate others",
        field="train",
    )


def _problem(example: Example) -> str:
    """Why an example cannot be used; empty when it can."""
    try:
        height, width = read_image(example.image).shape[:2]
    except BadImage as error:
        return str(error)
    for rle in (*example.rle, *example.ignore):
        if list(rle["size"]) != [height, width]:  # type: ignore[call-overload]
            return f"its masks are {rle['size']} (height, width), its picture is {[height, width]}"
    return ""
