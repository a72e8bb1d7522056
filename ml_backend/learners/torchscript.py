"""Write networks as TorchScript: one file that needs only torch and torchvision to run, and a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ml_backend.artifacts.files import storage_errors, write_json
from ml_backend.errors import ModelError

__all__ = ["write_torchscript"]


def write_torchscript(
    module: nn.Module, out: Path, manifest: Mapping[str, Any], *, example: Tensor | None = None
) -> Path:
    """Write ``out`` and beside it ``manifest`` as .json; returns ``out``.

    The module is compiled, or traced with an ``example`` of its input. Its parameters are frozen. Raises
    ModelError when it cannot be compiled, StorageError.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        if example is None:
            scripted = torch.jit.script(module.eval())
        else:
            with torch.inference_mode():
                scripted = torch.jit.trace(module.eval(), (example,), check_trace=False)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ModelError(f"this network cannot be written as TorchScript: {error}") from error
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        scripted.save(str(out))  # type: ignore[no-untyped-call]
    write_json(out.with_suffix(".json"), {"format": "torchscript", **manifest})
    return out
