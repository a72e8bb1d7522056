"""ONNX models on a device, moved to the CPU, said aloud, when the device cannot run them (any more)."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ml_backend.devices import TUNED_MALLOC, is_out_of_memory
from ml_backend.errors import ModelError

__all__ = ["OnnxSessions"]

log = logging.getLogger(__name__)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxSessions:
    """Sessions that share a device, by name. Thread-safe: onnxruntime's ``run`` is.

    Parameters
    ----------
    paths : name → ONNX file
    device : ``cpu``, ``cuda`` or ``cuda:1``; what serves in the end is in ``device``
    threads : of one operator on the CPU, 0 = as many as there are cores
    hint : what to do when a file is no model, for the error

    Raises ModelError when a file cannot be loaded on the CPU either. ``notice`` says why the CPU serves
    although another device was asked for, else it is empty.
    """

    def __init__(self, paths: Mapping[str, Path], *, device: str, threads: int = 0, hint: str = "") -> None:
        self._paths = dict(paths)
        self._threads = threads
        self._hint = hint
        self._falling_back = threading.Lock()
        self.device = device
        self.notice = ""
        if device == "cpu":
            self._sessions = self._load("cpu")
            return
        try:
            self._sessions = self._load(device)
        except ModelError as error:
            self._sessions = self._load("cpu")  # a broken file raises here again
            self._say(device, error)
            return
        # onnxruntime itself goes on without a provider that does not start, and says so on stderr only.
        if any(_CUDA not in session.get_providers() for session in self._sessions.values()):
            self._say(device, "onnxruntime has no CUDA provider that starts here; install onnxruntime-gpu")

    def inputs(self, name: str) -> list[Any]:
        """Names, shapes and types of a model's inputs."""
        return list(self._sessions[name].get_inputs())

    def outputs(self, name: str) -> list[str]:
        """Names of a model's outputs."""
        return [output.name for output in self._sessions[name].get_outputs()]

    def run(
        self, name: str, outputs: Sequence[str] | None, feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Run one model. What fails on the device runs on the CPU; if it works there, the CPU serves from
        then on. ModelError when the CPU cannot run it either.
        """
        device, sessions = self.device, self._sessions
        try:
            found: list[npt.NDArray[Any]] = sessions[name].run(outputs, dict(feed))
            return found
        except Exception as error:  # onnxruntime raises its own types, one per failure
            if device == "cpu":
                raise _failed(self._paths[name], error) from error
            failure = error
        with self._falling_back:
            ours = self._sessions if self.device == "cpu" else self._load("cpu")
            try:
                found = ours[name].run(outputs, dict(feed))
            except Exception as error:
                raise _failed(self._paths[name], error) from error
            if self.device != "cpu":
                self._sessions = ours
                self._say(device, failure)
        return found

    def _say(self, device: str, error: object) -> None:
        memory = isinstance(error, BaseException) and is_out_of_memory(error)
        what = "ran out of memory" if memory else "cannot run this model"
        self.device = "cpu"
        self.notice = f"{device} {what}; clicks are served by the CPU, slower"
        log.warning("%s (%s)", self.notice, _line(error))

    def _load(self, device: str) -> dict[str, Any]:
        return {name: self._session(path, device) for name, path in self._paths.items()}

    def _session(self, path: Path, device: str) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        # Where the C library keeps freed memory for the next picture, a pool of onnxruntime's own on top of
        # it only holds a quarter more (ViT-B: 7.2 GB instead of 5.3) and is no faster.
        keeps = all(os.environ.get(name) == value for name, value in TUNED_MALLOC.items())
        options.enable_cpu_mem_arena = not keeps
        # Idle threads that spin cost other clicks, and training beside us, more than they save.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = [_CPU]
        if device.startswith("cuda") and _CUDA in ort.get_available_providers():
            _, _, number = device.partition(":")
            providers.insert(0, (_CUDA, {"device_id": int(number or 0)}))
        try:
            return ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise ModelError(
                f"{path} cannot be loaded ({_line(error)})", field="sam_checkpoint", hint=self._hint
            ) from error


def _failed(path: Path, error: Exception) -> ModelError:
    hint = "Free memory, or use a smaller model" if is_out_of_memory(error) else "See the log of the backend"
    return ModelError(f"{path.name} failed ({_line(error)})", field="segmenter", hint=hint)


def _line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
