"""JSON that is no deeper than data ever is, looked at while it is read.

A streaming parser keeps the path to where it is: brackets inside of 200,000 brackets take it more memory
than machines have. So a file is refused before the parser sees how deep it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Final

import numpy as np

from ml_backend.errors import BadInput

__all__ = ["MOST_LEVELS", "ShallowJson"]

MOST_LEVELS: Final = 500
"""COCO has five; what other programs add to it has a few more"""
_ESCAPED: Final = re.compile(rb"\\.", re.DOTALL)
_STEP: Final = np.zeros(256, np.int64)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1


class ShallowJson:
    """A binary file whose ``read`` raises BadInput at a place that is inside of more than 500 brackets.

    Brackets in strings do not count. Memory O(bytes that are read at once).
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._depth = 0
        self._in_string = False
        self._escape = b""  # a backslash at the end of what was read

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises BadInput."""
        data = self._file.read(size)
        self._look(data)
        return data

    def _look(self, data: bytes) -> None:
        data = self._escape + data
        backslashes = len(data) - len(data.rstrip(b"\\"))
        self._escape = data[len(data) - backslashes % 2 :]
        parts = _ESCAPED.sub(b"", data[: len(data) - backslashes % 2]).split(b'"')
        outside = b"".join(parts[1::2] if self._in_string else parts[::2])
        self._in_string ^= len(parts) % 2 == 0
        depth = self._depth + np.cumsum(_STEP[np.frombuffer(outside, np.uint8)])
        if depth.max(initial=0) > MOST_LEVELS:
            raise BadInput(
                f"{self._path} is not readable: lists inside of more than {MOST_LEVELS} lists",
                field="path",
                hint="Is this a file of data?",
            )
        self._depth = int(depth[-1]) if len(depth) else self._depth
