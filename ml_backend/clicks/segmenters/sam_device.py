"""A torch model that answers clicks on one device, and on the CPU while that device is short of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ml_backend.device_fallback import DeviceFallback, FallsBack
from ml_backend.devices import is_out_of_memory

__all__ = ["TorchOnDevice"]


class TorchOnDevice(FallsBack):
    """Base of the segmenters in torch. Thread-safe: the model is read-only, calls share nothing.

    ``_state`` is (model, what ``_prepare`` made of it, device), replaced as a whole when the model moves.
    """

    name: str

    def _start(self, model: Any, device: str) -> None:
        import torch

        self.fallback = DeviceFallback(self.name, device)
        self.nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        self._moving = threading.Lock()
        try:
            self._place(model.to(device), device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._state = (model, None, device)
            self._to_cpu(error)
        # On a GPU one decode runs at a time, to save memory; on a CPU several clicks may decode together.
        self._decoding: Any = threading.Lock() if torch.device(device).type == "cuda" else nullcontext()

    def _prepare(self, model: Any) -> Any:
        """What is computed once per place of the model, and given to every call."""
        return None

    def _copy(self, model: Any, device: str) -> Any:
        """The model with its weights on another device, without a second copy on the old one."""
        raise NotImplementedError

    def _place(self, model: Any, device: str) -> None:
        self._state = (model, self._prepare(model), device)

    @property
    def model(self) -> Any:
        """The torch model, where it is now."""
        return self._state[0]

    def _retry(self, call: Callable[[Any, Any, str], Any]) -> Any:
        """Run on the device. When it is out of memory, run on the CPU for a while; see DeviceFallback."""
        if self.fallback.is_due():
            self._try_device()
        state = self._state
        try:
            return call(*state)
        except (RuntimeError, MemoryError) as error:
            if state[2] == "cpu" or not is_out_of_memory(error):
                raise
            self._to_cpu(error)
        return call(*self._state)

    def _to_cpu(self, error: BaseException) -> None:
        with self._moving:
            model, _, device = self._state
            if device != "cpu":
                # Not a deep copy: it would first need the memory twice, on the device that just ran out.
                self._place(self._copy(model, "cpu"), "cpu")
                self.fallback.leave("ran out of memory", error)
                del model
                _free_device_memory()

    def _try_device(self) -> None:
        """Try to move the model back to the device asked for; stay on the CPU if memory is still short."""
        with self._moving:
            if not self.fallback.is_due():
                return  # another thread was here before
            try:
                # A copy: other threads may be using the one on the CPU.
                self._place(self._copy(self.model, self.fallback.wanted), self.fallback.wanted)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                _free_device_memory()
                self.fallback.leave("is still out of memory", error)
            else:
                self.fallback.come_back()


def _free_device_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
