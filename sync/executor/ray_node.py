"""What Ray runs on a node: find the function and its folders, and call it."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.devices import limit_threads
from ml_backend.errors import ExecutorError, GroundswellError
from ml_backend.learners.child_process import training_environment
from sync.executor.base import Node, function_at
from sync.executor.folders import FolderCache, cache_root

if TYPE_CHECKING:
    from ray import ObjectRef

__all__ = ["Call", "Outcome", "code_digest", "environment_on_node", "run_group", "run_on_node"]

_JOBS_KEPT = 2


@dataclass(frozen=True, slots=True)
class Call:
    """All of a job but its inputs.

    ``job`` stands for function, shared values and folders; ``folders`` holds the digest of each folder by its
    name; ``code`` is ``code_digest`` of the machine that asks.
    """

    function: str
    shared: Any
    job: str
    folders: Mapping[str, str]
    cache_bytes: int
    code: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task with several inputs gave.

    ``values`` are the results, up to the first input that failed, ``error`` how that one failed, ``seconds``
    the time that it took.
    """

    values: list[Any]
    error: Exception | None
    seconds: float


@cache
def code_digest() -> str:
    """Stands for the code of Groundswell that is installed here."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent.parent
    for package in ("clustering", "ml_backend", "sync"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def environment_on_node(cpus: int) -> dict[str, Any]:
    """``runtime_env`` of what has so many CPU cores.

    It has as many threads, whatever the machine says, and an allocator that keeps big buffers.
    """
    return {"env_vars": {**training_environment({}), **limit_threads(cpus)}}


_kept: OrderedDict[str, dict[str, Any]] = OrderedDict()
"""What the tasks of the last jobs keep in memory in this process of a node; one runs at a time."""


def run_on_node(call: Call, packed: Mapping[str, ObjectRef[Any]], item: Any) -> Any:
    """One task. ``packed`` refers to the bytes of the folders by digest; they are fetched when not here yet.

    Raises ExecutorError when this node has other code than the worker, and what the function raises.
    """
    if call.code != code_digest():
        import socket

        raise ExecutorError(
            f"the node {socket.gethostname()} has another release of Groundswell than the worker",
            hint="Install the same release on all machines, and start Ray again there",
        )
    folders = FolderCache(cache_root(), call.cache_bytes)
    there = {
        name: folders.get(digest, partial(_bytes_of, packed[digest])) for name, digest in call.folders.items()
    }
    kept = _kept.setdefault(call.job, {})
    _kept.move_to_end(call.job)
    while len(_kept) > _JOBS_KEPT:
        _kept.popitem(last=False)
    return function_at(call.function)(call.shared, item, Node(there, kept))


def run_group(call: Call, packed: Mapping[str, ObjectRef[Any]], items: Sequence[Any]) -> Outcome:
    """One task with several inputs. What the function raises is in the outcome: results before it count."""
    started = time.perf_counter()
    values: list[Any] = []
    error: Exception | None = None
    for item in items:
        try:
            values.append(run_on_node(call, packed, item))
        except GroundswellError as raised:
            error = raised
            break
        except Exception:  # it is told where the worker is; it may hold what cannot be sent
            error = RuntimeError(f"a task on a node of Ray failed: {traceback.format_exc()}")
            break
    return Outcome(values, error, time.perf_counter() - started)


def _bytes_of(packed: ObjectRef[Any]) -> memoryview:
    import ray

    return memoryview(ray.get(packed))
