"""What can be told of a click version on disk from its small files alone."""

from __future__ import annotations

import logging
from pathlib import Path

from ml_backend.artifacts.files import read_json
from ml_backend.clicks.segmenters.input_maps import CLICK_FORMAT

__all__ = ["incumbent_of", "is_outdated", "is_usable", "version_stamp"]

log = logging.getLogger(__name__)


def _format(folder: Path) -> object:
    try:
        return read_json(folder / "click.json")["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_usable(folder: Path) -> bool:
    """Whether ``folder`` holds a click network that this release can run."""
    return _format(folder) == CLICK_FORMAT


def is_outdated(folder: Path) -> bool:
    """Whether ``folder`` holds a click network of another release; False if it is damaged or missing."""
    return _format(folder) not in (None, CLICK_FORMAT)


def incumbent_of(folder: Path) -> str:
    """The segmenter that the version was measured against; empty, with a warning, when no report says it."""
    try:
        return str(read_json(folder / "report.json")["incumbent"]["segmenter"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("click model %s has no readable report: %r", folder, error)
        return ""


def version_stamp(folder: Path) -> tuple[int, int] | None:
    """A value that changes when the version is trained again under the same name; None if there is none."""
    try:
        stat = (folder / "click.json").stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
