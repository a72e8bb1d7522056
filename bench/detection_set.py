"""What the detector's benchmarks run on: a COCO set of the user's, or a drawn one."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml_backend.examples import Example
from ml_backend.learners.child_process import training_environment
from ml_backend.masks.coco import load_coco

__all__ = ["add_arguments", "load_examples", "print_figure", "split", "with_training_environment"]

_DRAWN = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help="folder of images (default: drawn pictures)")
    parser.add_argument("--coco", type=Path, help="their COCO annotations.json")
    parser.add_argument("--seed", type=int, default=0)


def load_examples(
    options: argparse.Namespace, scratch: Path
) -> tuple[str, tuple[str, ...], tuple[Example, ...]]:
    """Name of the set, labels, examples in random order."""
    images, coco = options.images, options.coco
    if images is None or coco is None:
        from sync.lab.sample_set import make_sample_set

        folder = make_sample_set(scratch / "drawn", n=_DRAWN, seed=options.seed)
        images, coco = folder / "images", folder / "annotations.json"
    data = load_coco(images, coco)
    examples = data.examples()
    order = np.random.default_rng(options.seed).permutation(len(examples))
    return coco.parent.name, data.categories, tuple(examples[i] for i in order)


def split(
    examples: Sequence[Example], n_test: int, n_train: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Training and test examples; the test ones are the first."""
    return tuple(examples[n_test : n_test + n_train]), tuple(examples[:n_test])


def with_training_environment(module: str) -> None:
    """Start this program again with the allocator's settings of a training process, unless it has them.

    They halve the time of a step on a CPU and can only be set from outside; what is compared must have them.
    """
    wanted = training_environment(os.environ)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], wanted)


def print_figure(name: str, value: float, unit: str, baseline: float | None, **more: Any) -> None:
    """One JSON line; what is not a number (no instance to judge by) is null."""
    known = baseline is not None and np.isfinite(baseline) and np.isfinite(value) and baseline != 0
    line = {
        "name": name,
        "value": round(value, 4) if np.isfinite(value) else None,
        "unit": unit,
        "baseline": None if baseline is None else round(baseline, 4),
        "ratio": round(value / baseline, 3) if known and baseline is not None else None,
    }
    print(json.dumps({**line, **more}), flush=True)
