"""Which models of transformers answer clicks, where their folder is, and how they are loaded.

Nothing here asks the hub: a name is looked up in the data directory and in the hub's local cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.segmenters.inspection import Inspection
from ml_backend.clicks.segmenters.sam_identify import identify
from ml_backend.errors import ModelError
from ml_backend.extras import missing_packages
from ml_backend.settings import BackendSettings

__all__ = [
    "FAMILIES",
    "Family",
    "card_licence",
    "check_folder",
    "find_folder",
    "inspect",
    "load_model",
    "pulled_folder",
]

_FIELD = "hf_model"
_APACHE = "Apache-2.0"
_SAM3 = "SAM License (Meta's own: read it before use)"
_LICENCES = "SAM, HQ-SAM, SAM 2, EdgeTAM: Apache-2.0; SAM 3: SAM License; others: see the model's card"


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture.

    Attributes
    ----------
    title : for people
    model, processor : names of the classes in transformers
    squeezes : a picture is squeezed into the square input; otherwise its long side fills it and the rest is
        padded
    licence : of the weights that the authors published
    needs : packages beside transformers
    """

    title: str
    model: str
    processor: str
    squeezes: bool
    licence: str
    needs: tuple[str, ...] = ()


# SAM's and HQ-SAM's pictures are resized as segment-anything resizes them (PIL), the others by torchvision,
# as their processors do. A video model's folder holds the weights of its image model as well.
_SAM2 = Family("SAM 2 and 2.1", "Sam2Model", "Sam2ImageProcessor", True, _APACHE)
_EDGE = Family("EdgeTAM", "EdgeTamModel", "Sam2ImageProcessor", True, _APACHE, ("timm",))
_SAM3_TRACKER = Family("SAM 3 (tracker)", "Sam3TrackerModel", "Sam3ImageProcessor", True, _SAM3)
FAMILIES: dict[str, Family] = {
    "sam": Family("SAM", "SamModel", "SamImageProcessorPil", False, _APACHE),
    "sam_hq": Family("HQ-SAM", "SamHQModel", "SamImageProcessorPil", False, _APACHE),
    "sam2": _SAM2,
    "sam2_video": _SAM2,
    "edgetam": _EDGE,
    "edgetam_video": _EDGE,
    "sam3_tracker": _SAM3_TRACKER,
    "sam3_tracker_video": _SAM3_TRACKER,
    "sam3_video": _SAM3_TRACKER,
}
"""By ``model_type`` of config.json."""

_WEIGHTS = ("*.safetensors", "*.bin")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def pulled_folder(data_dir: Path, name: str, revision: str = "") -> Path:
    """Where ``groundswell models pull <owner>/<name>`` puts a model."""
    return data_dir / "checkpoints" / (name.replace("/", "--") + (f"@{revision}" if revision else ""))


def find_folder(settings: BackendSettings) -> Path:
    """The folder of the model that the settings name. ModelError when there is none or it holds another kind.

    The error says what was found there instead, and what to do.
    """
    name, revision = settings.hf_model, settings.hf_revision
    if not name:
        raise ModelError(
            "no model of transformers is configured",
            field=_FIELD,
            hint="Set GROUNDSWELL_HF_MODEL to a folder with config.json, or to a name on the hub",
        )
    path = Path(name).expanduser()
    if path.exists():
        return check_folder(path)
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name} does not exist",
            field=_FIELD,
            hint="Set GROUNDSWELL_HF_MODEL to a folder with config.json, or to a name on the hub",
        )
    pulled = pulled_folder(settings.data_dir, name, revision)
    if pulled.is_dir():
        return check_folder(pulled)
    cached = _cached(name, revision)
    if cached is not None:
        return check_folder(cached)
    at = f" --revision {revision}" if revision else ""
    raise ModelError(
        f"{name} is not on this machine",
        field=_FIELD,
        hint=f"Run 'groundswell models pull {name}{at}'; without internet, name a folder instead",
    )


def _cached(name: str, revision: str) -> Path | None:
    """The folder of a model in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return Path(found).parent if isinstance(found, str) else None


def check_folder(path: Path) -> Path:
    """The path itself if it is a folder with a model that takes clicks, else ModelError; loads nothing."""
    kind = _model_type(path)
    if kind not in FAMILIES:
        found = identify(path)
        names = ", ".join(dict.fromkeys(family.title for family in FAMILIES.values()))
        raise ModelError(
            f"{path} is {found.what}"
            if found
            else f"{path} holds no model of transformers that takes clicks",
            field=_FIELD,
            hint=found.hint if found else f"Name a folder with config.json and weights of one of: {names}",
        )
    if not any(any(path.glob(pattern)) for pattern in _WEIGHTS):
        raise ModelError(
            f"{path} has a config.json but no weights",
            field=_FIELD,
            hint="Copy model.safetensors into it, or fetch the model again",
        )
    missing = missing_packages([*FAMILIES[kind].needs])
    if missing:
        raise ModelError(
            f"{FAMILIES[kind].title} needs {', '.join(missing)}",
            field=_FIELD,
            hint="Install what is missing: pip install 'groundswell[hf]'",
        )
    return path


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text()).get("model_type", ""))
    except (OSError, ValueError, AttributeError, RecursionError):  # the last: brackets in brackets in …
        return ""


def inspect(settings: BackendSettings, project: ProjectPaths | None) -> Inspection:
    """What the configured folder holds, and the licence of its weights as far as it is known.

    That is what the model's card says, else what the authors of its architecture published theirs under.
    """
    if not settings.hf_model:
        return Inspection(
            "GROUNDSWELL_HF_MODEL is not set",
            "Set it to a folder with config.json, or to a name on the hub",
            licence=_LICENCES,
        )
    try:
        folder = find_folder(settings)
    except ModelError as error:
        return Inspection.refused(error, licence=_LICENCES)
    said = card_licence(folder)
    family = FAMILIES[_model_type(folder)]
    licence = (
        f"{said} (says the model's card)"
        if said
        else f"unknown, there is no model card; the authors published {family.title} under {family.licence}"
    )
    return Inspection(files=(*_described(folder), *_weight_files(folder)), licence=licence)


def card_licence(folder: Path) -> str:
    """``license_name`` or ``license`` of the header of the model's card; empty when it says none."""
    try:
        text = (folder / "README.md").read_text(errors="replace")
    except OSError:
        return ""
    header = text.split("---")[1] if text.startswith("---") else ""
    said = dict(re.findall(r"^(license(?:_name)?):\s*(\S.*?)\s*$", header, re.M))
    return str(said.get("license_name") or said.get("license", ""))


def load_model(folder: Path) -> tuple[Any, Any, Family, str]:
    """(model in float32 and evaluation mode, image processor, family, digest of all that makes masks).

    Raises ModelError when transformers cannot read the folder or weights are missing in it.
    """
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would fill the log of the backend
    family = FAMILIES[_model_type(folder)]
    processor_class = getattr(transformers, family.processor)
    described = any((folder / name).is_file() for name in _PROCESSOR_FILES)
    try:
        model, report = getattr(transformers, family.model).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        processor = processor_class.from_pretrained(folder) if described else processor_class()
    except Exception as error:  # transformers raises whatever its readers meet
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"{folder} cannot be loaded by transformers ({line})",
            field=_FIELD,
            hint="Its config.json and weights must belong together and be whole; fetch the model again",
        ) from error
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise ModelError(
            f"the weights in {folder} lack {len(missing)} tensors of {family.title}: {missing[0]}, …",
            field=_FIELD,
            hint="Its config.json and weights must belong together and be whole; fetch the model again",
        )
    model.eval().requires_grad_(False)
    return model, processor, family, _digest(folder)


_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def _digest(folder: Path) -> str:
    """sha256 of config, image processor and weights."""
    whole = hashlib.sha256()
    for path in (*_described(folder), *_weight_files(folder)):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _described(folder: Path) -> tuple[Path, ...]:
    names = ("config.json", *_PROCESSOR_FILES)
    return tuple(folder / name for name in names if (folder / name).is_file())


def _weight_files(folder: Path) -> tuple[Path, ...]:
    return tuple(next(files for files in (sorted(folder.glob(end)) for end in _WEIGHTS) if files))
