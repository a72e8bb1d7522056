"""Our docstrings for griffe: after ``name :`` stands what an argument means, its type is in the signature.

griffe reads numpydoc, where a type stands there. This brings each entry into the form that numpydoc has for
arguments without a type: the name in a line of its own, the meaning indented below.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTIONS = ("Parameters", "Attributes")
_ENTRY = re.compile(r"^(?P<names>\w[\w, ]*?) : (?P<meaning>.+)$")


class MeaningsAfterNames(griffe.Extension):
    """Rewrites the sections of every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_numpydoc(obj.docstring.value)


def as_numpydoc(text: str) -> str:
    """The docstring with each ``name : meaning`` of its sections on two lines."""
    lines, inside, done = text.splitlines(), False, []
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if following and set(following) == {"-"}:
            inside = line.strip() in _SECTIONS
        entry = _ENTRY.match(line) if inside else None
        done += [line] if entry is None else [entry["names"], f"    {entry['meaning']}"]
    return "\n".join(done)
