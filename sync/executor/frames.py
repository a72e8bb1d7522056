"""Messages between the worker and the process that speaks to Ray: pickled values, each after its length."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import IO, Any

from sync.executor.base import Resource

__all__ = [
    "Begin",
    "Done",
    "End",
    "Failed",
    "Item",
    "Ready",
    "Result",
    "Unreadable",
    "Waits",
    "Wanted",
    "read",
    "write",
]

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Begin:
    """To the process: a job begins. ``folders`` are paths on this machine, by name.

    ``streams``: one task reads all inputs, with ``most_cpus`` CPU cores; the results are what it gives.
    """

    function: str
    shared: Any
    resource: Resource
    folders: dict[str, str]
    what: str
    streams: bool = False
    most_cpus: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """To the process: one more input."""

    value: Any


@dataclass(frozen=True, slots=True)
class End:
    """To the process: there are no more inputs."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From the process: it is connected; ``gpus`` that the cluster has now."""

    gpus: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """From the process: so many more inputs can be used now."""

    count: int


@dataclass(frozen=True, slots=True)
class Result:
    """From the process: the result of the next input, in their order."""

    value: Any


@dataclass(frozen=True, slots=True)
class Waits:
    """From the process: nothing runs, and why."""

    line: str


@dataclass(frozen=True, slots=True)
class Failed:
    """From the process: the job is over with this error."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Done:
    """From the process: all results were sent."""


class Unreadable(Exception):
    """A message came whole, but this process cannot unpickle it. The next one can be read."""


def write(pipe: IO[bytes], message: object) -> None:
    """Send one message. Raises OSError when the other side is gone."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def read(pipe: IO[bytes]) -> Any:
    """The next message. Raises EOFError when the other side is gone, Unreadable."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    size = _LENGTH.unpack(head)[0]
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    try:
        return pickle.loads(data)
    except Exception as error:  # also an EOFError of a value, which must not look like the end of the pipe
        raise Unreadable(repr(error)) from error
