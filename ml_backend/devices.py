"""Compute devices: which one to use, how to recognise that memory ran out, allocator settings for servers."""

from __future__ import annotations

import os

from ml_backend.errors import ModelError

__all__ = ["TUNED", "TUNED_MALLOC", "is_out_of_memory", "limit_threads", "omp_threads", "resolve_device"]

TUNED_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Environment variables of the C library (glibc), which reads them when a process starts.

By default it returns the large buffers of a forward pass to the kernel and asks for them again. With these it
keeps them: image encoders run about twice as fast on a CPU, with the same results. The process holds more
memory in return.
"""

TUNED = {**TUNED_MALLOC, "MALLOC_ARENA_MAX": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Environment variables of a server that answers clicks.

One memory arena serves all threads: with one each, a thread cannot use what another has freed (encoding in a
server: twice as fast). Threads of torch sleep while they wait for each other. By default they spin, which
makes a decoder about four times slower on a machine that also trains (two cores, load 7).
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


def omp_threads() -> int:
    """Threads that ``OMP_NUM_THREADS`` asks for; 0 when it says nothing.

    It may be a list, one number for each level of nesting (``4,2``): the first counts.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() else 0


def limit_threads(threads: int) -> dict[str, str]:
    """Environment variables for a process that may use so many threads; libraries read them at its start.

    OpenCV has a variable of its own: without it, it takes all cores of the machine.
    """
    return {"OMP_NUM_THREADS": str(threads), "OPENCV_FOR_THREADS_NUM": str(threads)}
