"""ONNX models on a device. While the device cannot run them, the CPU does; every change is logged."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ml_backend.device_fallback import DeviceFallback
from ml_backend.devices import TUNED_MALLOC, is_out_of_memory
from ml_backend.errors import ModelError

__all__ = ["OnnxSessions"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxSessions:
    """Named sessions that share a device. Thread-safe, because onnxruntime's ``run`` is.

    Parameters
    ----------
    paths : name → ONNX file
    device : ``cpu``, ``cuda`` or ``cuda:1``; ``fallback`` says where they run now and why
    model : name of the whole model, for messages and metrics
    threads : threads of one operator on the CPU, 0 = as many as there are cores
    hint : what to do when a file cannot be loaded; goes into the error

    After an out-of-memory error the device is tried again after a pause. After any other failure the CPU is
    used until the models are loaded again. Raises ModelError when a file cannot be loaded on the CPU either.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        *,
        device: str,
        model: str = "the model",
        threads: int = 0,
        hint: str = "",
    ) -> None:
        self._paths = dict(paths)
        self._threads = threads
        self._hint = hint
        self._moving = threading.Lock()
        self.fallback = DeviceFallback(model, device)
        self.nbytes = sum(path.stat().st_size for path in self._paths.values() if path.exists())
        if device == "cpu":
            self._sessions = self._load("cpu")
            return
        try:
            self._sessions = self._load(device)
        except ModelError as error:
            self._sessions = self._load("cpu")  # a broken file raises here again
            self._leave(error)
            return
        # When a provider does not start, onnxruntime goes on without it and only writes to stderr.
        if any(_CUDA not in session.get_providers() for session in self._sessions.values()):
            detail = "onnxruntime has no CUDA provider that starts here; install onnxruntime-gpu"
            self.fallback.leave("cannot run this model", detail, for_good=True)

    def inputs(self, name: str) -> list[Any]:
        """Names, shapes and types of a model's inputs."""
        return list(self._sessions[name].get_inputs())

    def outputs(self, name: str) -> list[str]:
        """Names of a model's outputs."""
        return [output.name for output in self._sessions[name].get_outputs()]

    def run(
        self, name: str, outputs: Sequence[str] | None, feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Run one model. If it fails on the device, it runs on the CPU. If it works there, the CPU serves the
        following calls too; the class says for how long. ModelError when the CPU cannot run it either.
        """
        if self.fallback.is_due():
            self._try_device()
        device, sessions = self.fallback.device, self._sessions
        try:
            found: list[npt.NDArray[Any]] = sessions[name].run(outputs, dict(feed))
            return found
        except Exception as error:  # onnxruntime raises its own types, one per failure
            if device == "cpu":
                raise _failed(self._paths[name], error) from error
            failure = error
        with self._moving:
            ours = self._sessions if self.fallback.device == "cpu" else self._load("cpu")
            try:
                found = ours[name].run(outputs, dict(feed))
            except Exception as error:
                raise _failed(self._paths[name], error) from error
            if self.fallback.device != "cpu":
                self._sessions = ours
                self._leave(failure)
        return found

    def _leave(self, error: BaseException) -> None:
        memory = is_out_of_memory(error)
        self.fallback.leave(
            "ran out of memory" if memory else "cannot run this model", _line(error), for_good=not memory
        )

    def _try_device(self) -> None:
        """Try to load the models on the device again; stay on the CPU if memory is still short."""
        with self._moving:
            if not self.fallback.is_due():
                return  # another thread was here before
            try:
                sessions = self._load(self.fallback.wanted)
            except ModelError as error:
                self.fallback.leave("is still out of memory", _line(error))
            else:
                self._sessions = sessions
                self.fallback.come_back()

    def _load(self, device: str) -> dict[str, Any]:
        return {name: self._session(path, device) for name, path in self._paths.items()}

    def _session(self, path: Path, device: str) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        # When the C library already keeps freed memory for the next picture, onnxruntime's own pool takes a
        # third more memory (ViT-B: 7.2 GB instead of 5.3) and is no faster.
        keeps = all(os.environ.get(name) == value for name, value in TUNED_MALLOC.items())
        options.enable_cpu_mem_arena = not keeps
        # Idle threads that spin slow down other clicks and a training on this machine.
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
