"""Where a training keeps its checkpoints: a folder beside the versions that survives a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["BEFORE", "keep_events", "remove_leftovers", "remove_training_folder", "training_folder"]

BEFORE = "-checkpoint-before"
"""end of the name of a staging folder that holds the checkpoints while newer ones take their place"""
_EVENTS = "events"


def training_folder(models: Path, version: str) -> Path:
    """The folder of the training of one version, below that of all versions."""
    return models / f".training-{version}"


def remove_training_folder(models: Path, version: str) -> None:
    """Forget the checkpoints of one version: it is published, or training it failed again and again."""
    shutil.rmtree(training_folder(models, version), ignore_errors=True)


def remove_leftovers(models: Path, version: str) -> None:
    """Remove staging folders of a killed training of this version, and checkpoints of other versions.

    The lease proves that no training of them runs. Checkpoints that a kill left aside, when newer ones were
    to take their place, are put back.
    """
    training = training_folder(models, version)
    for path in models.glob(f".{version}.*{BEFORE}"):
        if not training.exists():
            path.rename(training)
    for path in models.glob(f".{version}.*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in models.glob(".training-*"):
        if path != training:
            shutil.rmtree(path, ignore_errors=True)


def keep_events(training: Path, out: Path) -> None:
    """Move the training curves (TensorBoard events), where there are any, into the version's folder.

    ``training`` is the folder of the training. One of several parts has events in the folder of each part.
    """
    for events in sorted(training.rglob(_EVENTS)):
        target = out / _EVENTS / events.parent.relative_to(training)
        target.mkdir(parents=True, exist_ok=True)
        for file in events.iterdir():
            shutil.move(file, target / file.name)
