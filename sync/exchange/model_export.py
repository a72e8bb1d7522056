"""A model version as a folder that works without Groundswell: model, labels, a script and a model card."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ml_backend.artifacts.files import read_json, storage_errors, write_atomic
from ml_backend.artifacts.model_versions import VersionInfo
from ml_backend.errors import BadInput
from ml_backend.learners.registry import get_learner

__all__ = ["ModelFolder", "export_model"]

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_PUBLISHED: Final = (
    "Training started from weights that torchvision publishes (its code is under BSD 3-clause; the weights "
    "were learnt from the data set named above, whose terms may limit their use)."
)
_NONE: Final = "Training started from random numbers: nothing in it comes from the weights of others."
_OTHER: Final = "Training started from weights that you gave (see above): their licence applies as well."
_PICTURES: Final = "The terms of your own pictures and labels apply to the model as well."


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What was written: ``files`` by name with what each is."""

    folder: Path
    version: str
    learner: str
    files: Mapping[str, str]


def export_model(info: VersionInfo, project: int, out: Path, *, title: str = "") -> ModelFolder:
    """Write a version into the folder ``out``: model files, predict.py, README.md.

    Raises BadInput when ``out`` holds other files, ModelError where the learner cannot export.
    """
    learner = get_learner(info.learner)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(
            f"{out} is there already and not an empty folder", field="out", hint="Give a new folder"
        )
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    suffix = ".onnx" if _of_classes(info) else ".pt"
    learner.export(info.folder, out / f"model{suffix}")
    models = sorted(path for path in out.iterdir() if path.suffix in (".onnx", ".pt"))
    files = {path.name: _what(path) for path in models}
    files |= {
        path.with_suffix(".json").name: "labels, what the model takes and what it gives" for path in models
    }
    script, packages = _script(info, models)
    if script:
        write_atomic(out / "predict.py", _environment().get_template(script).render().encode())
        files["predict.py"] = "a script that uses the model"
    write_atomic(out / "README.md", _card(info, project, title, files, packages, len(models)).encode())
    files["README.md"] = "this model card"
    return ModelFolder(out, info.version, info.learner, files)


def _of_classes(info: VersionInfo) -> bool:
    return info.learner == "classifier"


def _what(path: Path) -> str:
    about: dict[str, Any] = read_json(path.with_suffix(".json"))
    return f"the model as {'ONNX' if about['format'] == 'onnx' else 'TorchScript'}; input: {about['input']}"


def _script(info: VersionInfo, models: Sequence[Path]) -> tuple[str, str]:
    """The script for these files and the packages it needs; empty where there is none."""
    inputs = {str(read_json(path.with_suffix(".json"))["input"]) for path in models}
    if _of_classes(info):
        return "classes.py.j2", "onnxruntime, Pillow and numpy"
    if inputs == {"(3, H, W) uint8 RGB, any size"}:
        return "pictures.py.j2", "torch, torchvision, Pillow and numpy"
    return "", ""


def _card(
    info: VersionInfo, project: int, title: str, files: Mapping[str, str], packages: str, models: int
) -> str:
    manifest = info.manifest
    evaluation = manifest.get("evaluation") or {"n_images": 0, "metrics": {}}
    said = str(manifest.get("started_from", ""))
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            title=title or f"Model of project {project}",
            project=project,
            version=info.version,
            learner=info.learner,
            made=time.strftime("%Y-%m-%d", time.gmtime(float(manifest.get("created_at", 0.0)))),
            labels=list(manifest.get("labels", ())),
            started_from=said,
            counts={"train": manifest.get("n_train", 0), "test": evaluation["n_images"]},
            left_out=len(manifest.get("left_out", ())),
            metrics=[(name, *values) for name, values in sorted(evaluation["metrics"].items())],
            files=list(files.items()),
            script=packages,
            several=models > 1,
            licence=f"{_licence(said)} {_PICTURES}",
        )
    )


def _licence(started_from: str) -> str:
    if "published weights:" in started_from:
        return _PUBLISHED
    known = ("random weights", "filters learnt from patches")
    return _NONE if any(words in started_from for words in known) else _OTHER


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_SCRIPTS),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
