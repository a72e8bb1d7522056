"""Rounds without a training on this project's tasks: a cold start, or a version that was taken over.

Both are rounds like any other: their version finds masks on all open tasks, these are shown, and questions
are asked about them. Only the train step differs, and nothing was learnt from this project, so there is
neither a test split nor a figure of quality.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_backend.artifacts.files import read_json
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.adopted import NAME, write_adopted
from ml_backend.learners.class_map import ClassMap, class_map
from ml_backend.learners.registry import get_learner
from sync.artifacts.opening import bring_version
from sync.rounds.round_records import version_prefix
from sync.settings import Settings
from sync.store.database import Store

__all__ = [
    "ADOPTED",
    "COLD",
    "TRAINED",
    "GivenModel",
    "adopt_into",
    "bring_model",
    "find_model",
    "snapshot_of_model",
]

TRAINED, COLD, ADOPTED = "trained", "cold", "adopted"
"""Where the version of a round comes from."""


@dataclass(frozen=True, slots=True)
class GivenModel:
    """A published version, wherever it lies.

    ``project`` is 0 for a folder of another installation. ``manifest`` may be empty for a folder that a
    learner wrote and no project published.
    """

    version: str
    folder: Path
    learner: str
    project: int = 0
    manifest: Mapping[str, Any] = field(default_factory=dict)


def find_model(settings: Settings, name: str) -> GivenModel:
    """The model called ``name``: a version of any project here, or the folder of one.

    Raises BadInput when there is none of that name, ModelError when its files are damaged.
    """
    folder = Path(name)
    if folder.is_dir():
        manifest = _json(folder / "manifest.json")
        learner = str(manifest.get("learner") or _json(folder / "learner.json").get("learner", ""))
        if not learner:
            raise BadInput(
                f"{folder} does not say which learner made it",
                field="model",
                hint="Give a folder with manifest.json or learner.json",
            )
        return GivenModel(str(manifest.get("version", folder.name)), folder, learner, 0, manifest)
    number = _project_of(name)
    if not number:
        raise BadInput(
            f"there is no model {name!r}",
            field="model",
            hint="Name a version as `groundswell status` shows it, or the folder of one",
        )
    info = ModelRegistry(settings.data_dir).info(number, name)
    return GivenModel(name, info.folder, info.learner, number, info.manifest)


def bring_model(settings: Settings, store: Store, name: str) -> None:
    """Bring the files of the version called ``name`` here, where machines share them; nothing for a folder.

    Raises StorageError.
    """
    if (number := _project_of(name)) and not Path(name).is_dir():
        bring_version(settings, store, number, name)


def _project_of(name: str) -> int:
    """Number of the project whose version has this name; 0 when no version can have it."""
    number = name.removeprefix("gs").partition("-")[0]
    is_version = number.isdigit() and name.startswith(version_prefix(int(number)))
    return int(number) if is_version else 0


def snapshot_of_model(
    model: GivenModel, project_id: int, named: Mapping[str, str], default: str | None
) -> dict[str, Any]:
    """What a round that takes over ``model`` is made from, as JSON-ready values.

    Of an older version of the same project its test split is known. Of any other model nobody knows which
    pictures it was trained on, so none of them may teach or measure anything: split 0.
    """
    own = model.project == project_id
    return {
        "origin": ADOPTED,
        "learner": model.learner,
        "model": {"version": model.version, "folder": str(model.folder.resolve()), "project": model.project},
        "map": dict(sorted(named.items())),
        "default": default,
        "split": int(model.manifest.get("split", 1)) if own else 0,
        "start": "",
        "train": [],
        "test": [],
    }


def adopt_into(folder: Path, snapshot: Mapping[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """Write the version of an adopted round into ``folder``; returns the fields of its manifest.

    Raises BadInput when no label fits, ModelError when the model cannot be loaded.
    """
    source = Path(snapshot["model"]["folder"])
    learner = str(snapshot["learner"])
    manifest = _json(source / "manifest.json")
    theirs = tuple(get_learner(learner).load(source, device="cpu").labels)
    mapping: ClassMap = class_map(theirs, labels, snapshot["map"], default=snapshot["default"])
    if mapping.changes_nothing:
        _copy(source, folder)
    else:
        _copy(source, folder / "model")
        write_adopted(folder, learner, mapping)
        learner = NAME
    return {
        "learner": learner,
        "labels": list(theirs if mapping.changes_nothing else labels),
        "started_from": f"taken over as it is: {snapshot['model']['version']}",
        "adopted": dict(snapshot["model"]),
        "iterations": 0,
        "seconds": 0.0,
        "n_train": 0,
        "train_tasks": [],
        "preset": str(manifest.get("preset", "")),
        "evaluation": {"n_images": 0, "n_instances": 0, "metrics": {}},
    }


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a version; its manifest is written anew."""
    try:
        shutil.copytree(
            source, target, dirs_exist_ok=True, ignore=lambda at, names: {"manifest.json"} & set(names)
        )
    except (OSError, shutil.Error) as error:
        raise ModelError(f"the model in {source} cannot be copied ({error})", field="model") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error})") from error
    return value if isinstance(value, dict) else {}
