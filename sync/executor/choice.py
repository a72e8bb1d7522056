"""The executor that the settings name, kept by a worker between looks."""

from __future__ import annotations

from sync.executor.base import Executor
from sync.executor.local import LocalExecutor
from sync.settings import Settings

__all__ = ["executor_of"]


def executor_of(settings: Settings, memo: dict[object, object]) -> Executor:
    """The executor of these settings; ``memo`` holds it. Raises MissingExtra when Ray is not installed."""
    ray = (settings.ray_address, settings.ray_task_cpus, settings.ray_cache_bytes, settings.ray_wait_s)
    key = ("executor", settings.executor, settings.local_processes, *ray)
    found = memo.get(key)
    if isinstance(found, Executor):
        return found
    made = memo[key] = _made(settings)
    return made


def _made(settings: Settings) -> Executor:
    if settings.executor == "local" and settings.local_processes == 1:
        return LocalExecutor()
    if settings.executor == "local":
        from sync.executor.processes import ProcessExecutor

        return ProcessExecutor(settings.local_processes)
    from sync.executor.ray import RayExecutor

    return RayExecutor(
        settings.ray_address,
        task_cpus=settings.ray_task_cpus,
        cache_bytes=settings.ray_cache_bytes,
        wait_s=settings.ray_wait_s,
    )
