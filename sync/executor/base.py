"""What runs somewhere: a pure function of values, over a stream of inputs, on this machine or on others.

A job says which function it is, what all its inputs share, which folders it reads and what it needs (a CPU or
a GPU). An executor maps the job over inputs and gives the results in the order of the inputs, so what is made
of them does not depend on the executor. A function must not write files or speak to anybody: a task whose
machine was lost runs again on another one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from ml_backend.errors import ExecutorError

__all__ = ["Executor", "Job", "Node", "Resource", "StreamExecutor", "TaskLost", "function_at", "path_of"]

Resource = Literal["cpu", "gpu"]

S = TypeVar("S")
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")


class Node:
    """What a task finds where it runs: the job's folders, and what earlier tasks of it left in memory."""

    def __init__(self, folders: Mapping[str, Path], kept: dict[str, Any]) -> None:
        self._folders = folders
        self._kept = kept

    def folder(self, name: str) -> Path:
        """A folder of the job, as it lies on this machine. Read it, and change nothing in it.

        Of a single file: the file, or on another machine a folder that holds it alone.
        """
        return self._folders[name]

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gave when it was first called under this name, for later tasks of the same job."""
        if name not in self._kept:
            self._kept[name] = make()
        found: T = self._kept[name]
        return found


@dataclass(frozen=True, slots=True)
class Job(Generic[S, I, O]):
    """A function to be mapped over inputs.

    Attributes
    ----------
    function : called as ``function(shared, input, node)``; a function of a module, found there by its name
    shared : what all inputs have in common; sent once
    resource : what a task needs
    folders : folders (or single files) that the function reads, by the name under which it asks for them.
        Their content must not change while the job runs
    what : names the job in messages
    """

    function: Callable[[S, I, Node], O]
    shared: S
    resource: Resource = "cpu"
    folders: Mapping[str, Path] = field(default_factory=dict)
    what: str = "a task"


@runtime_checkable
class Executor(Protocol):
    """Where jobs run."""

    name: str

    @property
    def ships(self) -> bool:
        """Whether inputs leave this process, so that compact ones (encoded pictures) are the better ones."""
        ...

    @property
    def elsewhere(self) -> bool:
        """Whether tasks run on other machines, which have only the folders of the job."""
        ...

    def device(self, wanted: str) -> str:
        """What a task should get as its device when the settings say ``wanted``. Raises ExecutorError."""
        ...

    def map(
        self,
        job: Job[S, I, O],
        inputs: Iterable[I],
        *,
        check: Callable[[], None] = lambda: None,
        said: Callable[[str], None] = lambda line: None,
    ) -> Generator[O]:
        """The results, in the order of the inputs.

        ``inputs`` is read as tasks can be started, not far ahead. ``check`` is called between results and
        while waiting for one; when it raises, or the iterator is closed, what runs is cancelled. ``said``
        gets a line when there is nothing to do but to wait for something. Raises what the function raises,
        ExecutorError when tasks cannot be run.
        """
        ...

    def close(self) -> None:
        """Give back what is held between jobs. The executor can be used again."""
        ...


class TaskLost(ExecutorError):
    """The machine of a task was lost, or the task's process ended. The task may be run again."""


@runtime_checkable
class StreamExecutor(Executor, Protocol):
    """An executor that can also run one long task on another machine."""

    def stream(
        self,
        job: Job[S, Iterator[I], Iterator[O]],
        inputs: Iterable[I],
        *,
        most_cpus: int,
        check: Callable[[], None] = lambda: None,
        said: Callable[[str], None] = lambda line: None,
    ) -> Generator[O]:
        """What one task gives, as it gives it; its function is called once and reads all inputs.

        The task gets ``most_cpus`` CPU cores and threads, or those of the largest machine if none has as
        many. Inputs travel one after the other, and are dropped once the function has taken them. ``check``
        and ``said`` are those of ``map``; when ``check`` raises, or the iterator is closed, the task is
        killed. Raises what the function raises, TaskLost when its machine was lost, ExecutorError when it
        cannot be run.
        """
        ...


def path_of(function: Callable[..., Any]) -> str:
    """``module:name`` of a function. Raises ValueError when it is not found there: it could not travel."""
    path = f"{function.__module__}:{function.__qualname__}"
    if getattr(sys.modules.get(function.__module__), function.__qualname__, None) is not function:
        raise ValueError(f"{path} is no function of a module")
    return path


def function_at(path: str) -> Callable[..., Any]:
    """The function that ``path_of`` named, imported now."""
    from importlib import import_module

    module, _, name = path.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
