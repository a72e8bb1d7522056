"""Of which project, round and task a log line speaks, for logs that programs read.

The fields of the present work hold for its thread until they are set again. A line may name another project,
round or task in its words, which then counts: messages always write ``project 3``, ``round 2``, ``task 7``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

__all__ = ["add_log_fields", "set_log_fields"]

_present: ContextVar[Mapping[str, int]] = ContextVar("log fields", default=MappingProxyType({}))
_NAMED: Final = re.compile(r"(?<![\w-])(?<!review )(project|round|task) (\d{1,18})\b")


def set_log_fields(**fields: int | None) -> None:
    """What the lines of this thread speak of from now on, such as ``project=3``; None: of none."""
    merged = {**_present.get(), **fields}
    _present.set({name: value for name, value in merged.items() if value is not None})


def add_log_fields(record: logging.LogRecord) -> None:
    """Give a record the fields ``project``, ``round`` and ``task``, as far as they are known."""
    named = {name: int(number) for name, number in reversed(_NAMED.findall(record.getMessage()))}
    present = _present.get()
    if named.get("project", present.get("project")) != present.get("project"):
        present = {}  # the line is about another project, of which the present round says nothing
    for name, value in {**present, **named}.items():
        if not hasattr(record, name):
            setattr(record, name, value)
