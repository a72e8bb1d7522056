"""Optional packages: which extra of Groundswell installs them, and one clear error when one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from ml_backend.errors import GroundswellError

__all__ = ["EXTRA_OF", "PARTS_OF", "MissingExtra", "explain_missing", "missing_packages", "require_extra"]

EXTRA_OF: Mapping[str, str] = {
    "fastcluster": "cluster",
    "sklearn": "cluster",
    "faster_coco_eval": "models",
    "safetensors": "models",
    "segment_anything": "models",
    "torch": "models",
    "torchvision": "models",
    "flask": "backend",
    "gunicorn": "backend",
    "prometheus_client": "backend",
    "werkzeug": "backend",
    "matplotlib": "plots",
    "onnx": "onnx",
    "onnxruntime": "models",
    "psycopg": "postgres",
    "ray": "ray",
    "s3fs": "s3",
    "transformers": "hf",
    "timm": "hf",
    "tensorboard": "tensorboard",
}
"""Name to import -> the extra that installs it. Everything else is installed with Groundswell itself."""

PARTS_OF: Mapping[str, frozenset[str]] = {
    "backend": frozenset({"backend", "models"}),
    "worker": frozenset({"models", "cluster"}),
}
"""Extras that are made of several."""


HAS_SUBSTITUTE = frozenset({"onnxruntime"})
"""Packages of an extra that a start does not insist on: without onnxruntime, clicks are answered by
``classical``.
"""


class MissingExtra(GroundswellError):
    """Something needs packages that are not installed here; the hint is the command that installs them."""

    def __init__(self, packages: list[str], extras: list[str]) -> None:
        super().__init__(
            f"not installed here: {', '.join(packages)}",
            hint=f"Install what is missing: pip install 'groundswell[{','.join(extras)}]'",
        )


def missing_packages(names: list[str]) -> list[str]:
    """The names that cannot be imported here. Imports nothing."""
    return [name for name in names if find_spec(name) is None]


def require_extra(*extras: str) -> None:
    """Check that the packages of these extras are installed. Raises MissingExtra naming all that are not."""
    missing, needed = [], []
    for extra in extras:
        parts = PARTS_OF.get(extra, frozenset({extra}))
        wanted = [name for name, part in EXTRA_OF.items() if part in parts and name not in HAS_SUBSTITUTE]
        found = missing_packages(wanted)
        missing += [name for name in found if name not in missing]
        needed += [extra] if found else []
    if missing:
        raise MissingExtra(missing, needed)


def explain_missing(error: ModuleNotFoundError) -> GroundswellError | None:
    """The error to show for a failed import of an optional package; None for any other failed import."""
    package = (error.name or "").split(".")[0]
    extra = EXTRA_OF.get(package)
    return None if extra is None else MissingExtra([package], [extra])
