"""Compute devices: which one to use, how to recognise that memory ran out, allocator settings for servers."""

from __future__ import annotations

from ml_backend.errors import ModelError

__all__ = ["TUNED", "TUNED_MALLOC", "is_out_of_memory", "resolve_device"]

TUNED_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Environment of glibc that keeps big activation buffers instead of returning them to the kernel after every
forward pass: about 2x on image encoders on a CPU, exact, at the price of retained memory. Must be set before
the process starts: it is read by the C library once."""

TUNED = {**TUNED_MALLOC, "MALLOC_ARENA_MAX": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of a server of clicks: the allocator with one arena, as what one thread of the server has given
back is of no use to another's arena (encoding in a server: 2x); and torch's threads that sleep while they
wait for each other. By default they spin, which on a machine that also trains or serves others makes a
decoder about 4x slower (two cores, load 7).
"""


def resolve_device(name: str) -> str:
    """``auto`` → ``cuda`` where there is one, else ``cpu``; anything else is checked and passed through."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(
            f"unknown device {name!r}", field="device", hint="Use auto, cpu, cuda or cuda:1"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "no CUDA device can be used here", field="device", hint="Set GROUNDSWELL_DEVICE=auto or cpu"
        )
    return name


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which torch, onnxruntime and Python say that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "failed to allocate" in text or "not enough memory" in text)
    )
