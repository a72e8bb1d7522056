"""The weights a training of detectron2 starts from."""

from __future__ import annotations

import io
import logging
import pickle
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ml_backend.errors import ModelError
from ml_backend.learners.detectron2.configuration import ZOO_WEIGHTS
from ml_backend.learners.weights import read_weights, taken_or_refused

__all__ = ["norm_of", "start_state", "take"]

log = logging.getLogger(__name__)

_ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "OrderedDict")}
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")


def start_state(wanted: str, mask_head: str) -> tuple[dict[str, Tensor] | None, str]:
    """Weights to start from and a sentence about them; None for random ones.

    ``wanted`` is ``none``, ``auto`` (those of the model zoo, if they are there or can be downloaded) or the
    path of a .safetensors, .pth or .pkl file. Raises ModelError where a path cannot be read.
    """
    if wanted == "none":
        return None, "random weights (published ones were not wanted)"
    if wanted != "auto":
        path = Path(wanted)
        state = _read_pickle(path) if path.suffix == ".pkl" else read_weights(path)
        return state, f"weights of {path.name}"
    from detectron2.utils.file_io import PathManager

    address = ZOO_WEIGHTS[mask_head]
    try:
        path = Path(PathManager.get_local_path(address))
    except (urllib.error.URLError, TimeoutError, OSError, RuntimeError, AssertionError) as error:
        return None, f"random weights (the published ones could not be had: {error})"
    return _read_pickle(path), f"published weights: {address.removeprefix('detectron2://')}"


def take(model: Any, state: Mapping[str, Tensor], source: str) -> str:
    """Copy the tensors that fit; returns words about those that do not, empty where all do.

    Raises ModelError when the backbone does not fit.
    """
    own = model.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict({**own, **fitting})
    return taken_or_refused(own, fitting, state, source, part="backbone.")


def norm_of(state: Mapping[str, Tensor] | None) -> str:
    """``frozen`` where weights hold statistics of a batch normalisation, else ``group``."""
    return "frozen" if state is not None and any(k.endswith("running_mean") for k in state) else "group"


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """State of a checkpoint of the model zoo: a pickle of a dictionary of arrays. Nothing else is unpickled,
    so the file can run no code. Raises ModelError."""
    try:
        loaded = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        state = loaded.get("model", loaded)
        return {str(name): torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    except FileNotFoundError as error:
        raise ModelError(f"no weights at {path}") from error
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read as weights: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    """Refuses everything but numpy's arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or (module in _ARRAYS and name in ("_reconstruct", "scalar")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array")
