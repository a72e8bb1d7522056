"""What can be told of a segmenter's weights without loading them into a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_backend.clicks.segmenters.sam_identify import identify
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings

__all__ = ["Inspection", "check_sam_file", "inspect_file"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """``problem`` says in one line why the segmenter cannot be used, empty when nothing speaks against it.

    ``hint`` says what to do about it, ``files`` are the weights, ``licence`` theirs as far as it is known.
    """

    problem: str = ""
    hint: str = ""
    files: tuple[Path, ...] = ()
    licence: str = ""

    @property
    def nbytes(self) -> int:
        """Size of the weights on disk."""
        return sum(path.stat().st_size for path in self.files if path.is_file())

    @classmethod
    def refused(cls, error: ModelError, *, licence: str = "") -> Inspection:
        """What an error says."""
        return cls(error.message, error.hint, licence=licence)


def inspect_file(settings: BackendSettings, names: tuple[str, ...]) -> Inspection:
    """The file that the first of these settings names which is set."""
    path: Path | None = next((found for name in names if (found := getattr(settings, name))), None)
    variables = [f"GROUNDSWELL_{name.upper()}" for name in names]
    if path is None:
        return Inspection(f"{' or '.join(variables)} is not set", f"Set {variables[0]}")
    if not path.exists():
        return Inspection(f"{path} does not exist", f"Set {variables[0]} to where the weights are")
    return Inspection(files=(path,))


def check_sam_file(path: Path) -> Inspection:
    """Whether a file is a checkpoint of segment-anything, by the names of its tensors."""
    found = identify(path)
    if found is not None and "segment-anything" in found.what:
        return Inspection(files=(path,))
    if found is not None:
        return Inspection(f"{path} is {found.what}: not a SAM checkpoint", found.hint)
    return Inspection(
        f"{path} is not a readable SAM checkpoint",
        "Fetch it again, or run 'groundswell models pull sam_vit_b'",
    )
