"""Rows brought into groups on disk: files list rows in any order, pictures need theirs together."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from ml_backend.errors import BadInput

__all__ = ["Spool"]

_AT_ONCE = 5000


class Spool:
    """A temporary table of rows with a key each. Memory does not grow with the number of rows.

    Used as a context; its file is gone at the end.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="groundswell-")
        self._db = sqlite3.connect(f"{self._folder.name}/rows.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE rows (part TEXT, key TEXT, number INTEGER, body TEXT)")

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._folder.cleanup()

    def fill(self, part: str, rows: Iterable[tuple[str, Any]]) -> None:
        """Add all rows (key and any JSON value) of a part, numbered from 0 in their order.

        Raises BadInput for lists inside of thousands of lists.
        """
        self._db.execute("BEGIN")
        bodies = ((part, key, number, json.dumps(body)) for number, (key, body) in enumerate(rows))
        try:
            self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", bodies)
        except RecursionError as error:
            raise BadInput("a row is not readable: lists inside of too many lists", field=part) from error
        self._db.execute("COMMIT")
        self._db.execute("CREATE INDEX IF NOT EXISTS by_key ON rows (part, key, number)")

    def keys(self, part: str) -> Iterator[str]:
        """The keys of a part, in the order of their first rows."""
        query = "SELECT key FROM rows WHERE part = ? GROUP BY key ORDER BY MIN(number)"
        for (key,) in self._fetch(query, part):
            yield str(key)

    def in_order(self, part: str) -> Iterator[Any]:
        """The values of a part in the order of their keys; of one key in the order in which they came."""
        for (body,) in self._fetch("SELECT body FROM rows WHERE part = ? ORDER BY key, number", part):
            yield json.loads(body)

    def of(self, part: str, key: str) -> list[tuple[int, Any]]:
        """Number and value of each row of a key."""
        query = "SELECT number, body FROM rows WHERE part = ? AND key = ? ORDER BY number"
        return [(int(number), json.loads(body)) for number, body in self._db.execute(query, (part, key))]

    def strays(self, part: str, among: str) -> Iterator[tuple[str, int]]:
        """Key and number of each row of ``part`` whose key has no row in ``among``."""
        query = (
            "SELECT key, number FROM rows AS r WHERE part = ? AND NOT EXISTS "
            "(SELECT 1 FROM rows WHERE part = ? AND key = r.key) ORDER BY number"
        )
        for key, number in self._fetch(query, part, among):
            yield str(key), int(number)

    def _fetch(self, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
        cursor = self._db.execute(query, values)  # a cursor of its own: others read between its rows
        while rows := cursor.fetchmany(_AT_ONCE):
            yield from rows
