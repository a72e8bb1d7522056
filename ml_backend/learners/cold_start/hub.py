"""Models of transformers from a local folder, the local cache or the hub."""

from __future__ import annotations

from typing import Any

import torch

from ml_backend.errors import ModelError
from ml_backend.extras import require_extra

__all__ = ["Hub"]


class Hub:
    """Loads the parts of one model. ``wanted`` is ``auto`` (the hub may be asked) or ``cached`` (never)."""

    def __init__(self, name: str, wanted: str, field: str) -> None:
        require_extra("hf")
        from transformers.utils import logging

        logging.disable_progress_bar()  # it would fill the log of a worker
        self.name = name
        self._local = wanted != "auto"
        self._field = field

    def load(self, kind: Any, **options: Any) -> Any:
        """``kind.from_pretrained`` of this model; networks in evaluation mode. Raises ModelError."""
        try:
            found = kind.from_pretrained(self.name, local_files_only=self._local, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(
                f"{self.name} cannot be loaded by transformers: {_first_line(error)}",
                field=self._field,
                hint="It must be a folder written by save_pretrained, or a name on the hub",
            ) from error
        return found.eval() if isinstance(found, torch.nn.Module) else found


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
