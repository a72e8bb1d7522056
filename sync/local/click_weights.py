"""Weights for clicks that ``groundswell up`` may fetch: asked once, and only where none are here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ml_backend.artifacts.files import write_json
from ml_backend.clicks.segmenters.hf_models import pulled_folder
from ml_backend.clicks.segmenters.hf_pull import pull_hf_model
from ml_backend.clicks.segmenters.sam_checkpoints import find_checkpoint, pull_checkpoint
from ml_backend.clicks.serving.auto_choice import Fetchable, fetchable, has_weights
from ml_backend.clicks.serving.segmenter_table import AUTO
from ml_backend.errors import GroundswellError
from sync.settings import Settings

__all__ = ["can_ask", "fetch_weights", "offer_weights"]

_TENTHS = 10


class _Answer(BaseModel):
    """What somebody answered to the question about the weights ``name``."""

    name: str
    yes: bool


def can_ask() -> bool:
    """Whether a person reads and types here."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def offer_weights(
    settings: Settings,
    *,
    yes: bool,
    ask: Callable[[str], bool] | None,
    say: Callable[[str], None],
) -> None:
    """Fetch published weights if the segmenter is ``auto``, none are here, and somebody wants them.

    ``yes`` wants them without a question. ``ask`` puts the question; None where nobody can be asked. The
    answer is kept in the data directory: after a no nothing is asked again, after a yes a download that broke
    goes on. What goes wrong is said, and everything starts with what is here.
    """
    found = fetchable()
    if settings.segmenter != AUTO or found is None or has_weights(settings):
        return
    file = settings.data_dir / "weights-asked.json"
    before = _answer(file)
    if before is not None and before.name == found.name:
        wanted = yes or before.yes
    elif yes or ask is not None:
        wanted = yes or (ask is not None and ask(_question(found)))
        write_json(file, _Answer(name=found.name, yes=wanted).model_dump())
    else:
        return
    if not wanted:
        return
    say(f"fetches {found.name} ({found.nbytes / 1e6:.0f} MB)")
    try:
        path = fetch_weights(found.name, settings, say)
    except GroundswellError as error:
        say(f"not fetched: {error}")
        say(f"goes on without; the next start tries again, or `groundswell models pull {found.name}`")
    else:
        say(f"clicks will be answered by {path}")


def fetch_weights(name: str, settings: Settings, say: Callable[[str], None]) -> Path:
    """Fetch a checkpoint or a model of the hub to where ``auto`` finds it; returns its place.

    Goes on after a broken download; the hash is checked before the weights count. Raises ModelError,
    StorageError.
    """
    if "/" in name:
        return pull_hf_model(name, pulled_folder(settings.data_dir, name))
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        if done * _TENTHS // total > told:
            told = done * _TENTHS // total
            say(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")

    return pull_checkpoint(find_checkpoint(name), settings.data_dir / "checkpoints", progress=progress)


def _question(found: Fetchable) -> str:
    return (
        f"Masks take fewer clicks with the published model {found.name} (about {found.nbytes / 1e6:.0f} MB, "
        f"licence {found.licence}). Fetch it? This is asked once; later: groundswell models pull {found.name}"
    )


def _answer(file: Path) -> _Answer | None:
    try:
        return _Answer.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
