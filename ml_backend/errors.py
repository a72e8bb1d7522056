"""All errors Groundswell raises on purpose.

GroundswellError            catch this to catch everything below
├── BadInput                something from outside (task, config, body, image, answer) is wrong;
│                           nothing was changed
│   ├── BadLabelConfig
│   ├── BadImage
│   │   └── ImageUnavailable it could not be fetched now
│   ├── BadRegion
│   ├── BadPrompt
│   └── UnknownProject      Groundswell does not look after this project
├── StudioError             Label Studio could not be reached or refused
├── ModelError              a model or checkpoint is missing, corrupt or does not fit
├── TooMany                 somebody asks more often than is allowed
├── StorageError            the data directory cannot be read or written (disk full, permissions)
├── ExecutorError           the machines that run tasks cannot be reached, or lost a task again and again
└── LeaseLost               another worker took over
"""

from __future__ import annotations

import copyreg
from typing import Any

__all__ = [
    "BadImage",
    "BadInput",
    "BadLabelConfig",
    "BadPrompt",
    "BadRegion",
    "ExecutorError",
    "GroundswellError",
    "ImageUnavailable",
    "LeaseLost",
    "ModelError",
    "StorageError",
    "StudioError",
    "TooMany",
    "UnknownProject",
]


class GroundswellError(Exception):
    """Base of all deliberate errors: what was wrong, and a hint what to do next."""

    def __init__(self, message: str, *, hint: str = "", field: str = "") -> None:
        self.message = message
        self.hint = hint
        self.field = field
        parts = [f"{field}: {message}" if field else message]
        if hint:
            parts.append(hint)
        super().__init__(". ".join(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes also when their class takes other arguments than its text."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class BadInput(GroundswellError):
    """Input from outside is wrong. `field` names where; nothing was changed."""


class BadLabelConfig(BadInput):
    """The label config cannot be used."""


class BadImage(BadInput):
    """An image is missing, unreadable, too large or not an image."""


class ImageUnavailable(BadImage):
    """An image could not be fetched now; it may work later."""


class BadRegion(BadInput):
    """A region of an annotation or prediction does not follow Label Studio's format."""


class BadPrompt(BadInput):
    """A click or box cannot be used as a prompt."""


class UnknownProject(BadInput):
    """Groundswell does not look after this project, or looked after an older one of the same number."""


class StudioError(GroundswellError):
    """Label Studio could not be reached or answered with an error."""

    def __init__(self, message: str, *, hint: str = "", field: str = "", status: int | None = None) -> None:
        super().__init__(message, hint=hint, field=field)
        self.status = status


class TooMany(GroundswellError):
    """More requests than one person makes; ``retry_s`` says in how many seconds to come back."""

    def __init__(self, message: str, *, retry_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_s = retry_s


class ModelError(GroundswellError):
    """A model or checkpoint is missing, corrupt or does not fit the project."""


class StorageError(GroundswellError):
    """The data directory cannot be read or written."""


class LeaseLost(GroundswellError):
    """Another worker holds this project now; the current round must stop without writing."""


class ExecutorError(GroundswellError):
    """The machines that run tasks cannot be reached, or a task ended there again and again."""
