"""A segmenter tried for real: its weights load, and a click on a small picture gives a mask.

``python -m ml_backend.clicks.serving.probe`` does it in a process of its own, which ends at a time limit and
gives its memory back. The result is kept in ``data_dir/probes.json`` under sizes and times of the files of
weights and the releases of the libraries, so the next question costs nothing until one of them changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickSegmenter, Prompt
from ml_backend.clicks.segmenters.inspection import Inspection
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.clicks.serving.segmenter_table import SEGMENTERS
from ml_backend.devices import is_out_of_memory
from ml_backend.errors import GroundswellError, ModelError, StorageError
from ml_backend.learners.base import Progress
from ml_backend.learners.child_process import run_as_child, run_child
from ml_backend.settings import BackendSettings

__all__ = ["Probe", "known_probe", "probe", "try_click"]

log = logging.getLogger(__name__)

_SIDE = 96
_FIELDS = (
    "data_dir", "device", "sam_checkpoint", "sam_onnx", "click_onnx", "hf_model", "hf_revision",
    "hf_precision",
)  # fmt: skip


class Probe(BaseModel):
    """``problem`` is empty when a click gave a mask; ``seconds`` is what loading and that click took."""

    problem: str = ""
    hint: str = ""
    seconds: float = 0.0


_FILE = TypeAdapter(dict[str, Probe])


def known_probe(name: str, settings: BackendSettings, report: Inspection) -> Probe | None:
    """The result of an earlier probe of the same files on the same device; None when there was none."""
    return _read(settings.data_dir).get(_key(name, settings, report))


def probe(
    name: str,
    settings: BackendSettings,
    report: Inspection,
    project: ProjectPaths | None = None,
    *,
    timeout_s: float,
) -> Probe:
    """Try a segmenter now and remember the result; a time-out and a missing device are not remembered."""
    request = {
        "name": name,
        "project": None if project is None else project.project_id,
        "settings": settings.model_dump(mode="json", include=set(_FIELDS)),
    }
    lasting = True
    try:
        with tempfile.TemporaryDirectory(prefix="groundswell-probe-") as out:
            said = run_child(
                __name__, request, Path(out), lambda share, line: None, timeout_s=timeout_s, what="probe"
            )
        found = Probe.model_validate(said)
    except GroundswellError as error:
        lasting = bool(error.field) and error.field != "device"
        found = Probe(problem=error.message, hint=error.hint)
    if lasting:
        _remember(settings.data_dir, _key(name, settings, report), found)
    return found


def try_click(segmenter: ClickSegmenter) -> None:
    """One click on a generated picture: a bright disc on a dark ground. Raises ModelError without a mask."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    disc = (rows - _SIDE / 2) ** 2 + (columns - _SIDE / 2) ** 2 < (_SIDE / 4) ** 2
    picture = np.where(disc[..., None], (230, 200, 90), (40, 50, 60)).astype(np.uint8)
    click = Prompt(((_SIDE / 2, _SIDE / 2, True),), None, "")
    answer = segmenter.segment(segmenter.embed(picture), click, None)
    if answer.masks.shape[1:] != disc.shape or not np.isfinite(answer.iou).all():
        raise ModelError(
            f"a click gave a mask of {answer.masks.shape} with score {answer.iou}: this is no click model",
            field="segmenter",
            hint="Name other weights",
        )
    if not answer.masks[0].any():
        raise ModelError(
            "a click in the middle of a bright disc gave an empty mask",
            field="segmenter",
            hint="The weights may be damaged or of another model: fetch them again",
        )


def _key(name: str, settings: BackendSettings, report: Inspection) -> str:
    stats = [(str(path), path.stat()) for path in report.files if path.exists()]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    text = json.dumps([name, settings.device, settings.hf_precision, files, _releases(name)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _releases(name: str) -> list[str]:
    """Releases of what runs the weights: after an update they are tried again."""
    found = []
    for package in ("groundswell", *SEGMENTERS[name].needs):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # a copy that was not installed, or a build of another name
            found.append(package)
    return found


def _read(data_dir: Path) -> dict[str, Probe]:
    try:
        return _FILE.validate_json((data_dir / "probes.json").read_bytes())
    except (OSError, ValidationError):
        return {}


def _remember(data_dir: Path, key: str, found: Probe) -> None:
    if not data_dir.is_dir():
        return  # looking at a list makes no data directory
    known = {**_read(data_dir), key: found}
    try:
        write_json(data_dir / "probes.json", _FILE.dump_python(known, mode="json"))
    except StorageError as error:
        log.warning("%s", error)


def _work(request: Any, out: Path, progress: Progress) -> dict[str, Any]:
    settings = BackendSettings(**request["settings"])
    number = request["project"]
    project = None if number is None else ProjectPaths(settings.data_dir, number)
    began = time.monotonic()
    try:
        try_click(build_segmenter(request["name"], settings, project))
    except GroundswellError:
        raise
    except Exception as error:  # whatever the libraries raise about weights that do not fit
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise ModelError(
            f"a click failed ({type(error).__name__}: {line})",
            hint="The weights may be damaged or of another model: fetch them again",
            field="" if is_out_of_memory(error) else "segmenter",
        ) from error
    return Probe(seconds=round(time.monotonic() - began, 2)).model_dump()


if __name__ == "__main__":
    run_as_child(_work)
