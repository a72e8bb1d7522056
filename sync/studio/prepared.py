"""Predictions made ready to be sent: checked against a label config, and written as JSON once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, overload

from ml_backend.errors import StudioError
from sync.studio.checks import prediction_problem
from sync.studio.protocol import PredictionRow

__all__ = ["PreparedPredictions"]

_ROWS_PER_CALL: Final = 10_000
_BYTES_PER_CALL: Final = 96 * 1024**2


class PreparedPredictions(Sequence[PredictionRow]):
    """Predictions of one project, each held as the bytes of its JSON; as rows they are read back from these.

    Large masks take a tenth of the memory of their Python lists so, and are written only once.

    Parameters
    ----------
    label_config : XML that they were checked against
    rows : predictions to begin with
    """

    def __init__(self, label_config: str, rows: Iterable[PredictionRow] = ()) -> None:
        self.label_config = label_config
        self.task_ids: list[int] = []
        self.size = 0
        """bytes of JSON"""
        self._items: list[bytes] = []
        self._problems: list[str] = []
        for row in rows:
            self.add(row)

    def add(self, row: PredictionRow) -> None:
        """Check and write one more."""
        problem = prediction_problem(self.label_config, row)
        if problem:
            self._problems.append(f"task {row.task_id}: {problem}")
        item: dict[str, Any] = {
            "task": row.task_id,
            "result": [dict(region) for region in row.result],
            "score": float(row.score),
            "model_version": row.model_version,
        }
        self._items.append(
            json.dumps(item, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        )
        self.task_ids.append(row.task_id)
        self.size += len(self._items[-1])

    def check(self) -> None:
        """Raise StudioError naming the first rows that Label Studio would drop without an error."""
        wrong = self._problems
        if wrong:
            shown = "; ".join(wrong[:3]) + (f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else "")
            raise StudioError(
                f"{len(wrong)} of {len(self)} predictions do not fit the label config: {shown}",
                hint="Nothing was sent. Compare the labels of the model with those of the project",
                field="predictions",
                status=400,
            )

    def bodies(self) -> Iterator[tuple[bytes, int]]:
        """Bodies of bulk imports and how many rows each holds: few and large, because each call recounts the
        whole project.
        """
        first, size = 0, 0
        for number, item in enumerate(self._items):
            if number > first and (number - first >= _ROWS_PER_CALL or size + len(item) > _BYTES_PER_CALL):
                yield self._body(first, number)
                first, size = number, 0
            size += len(item)
        if self._items:
            yield self._body(first, len(self._items))

    def _body(self, first: int, end: int) -> tuple[bytes, int]:
        return b"[" + b",".join(self._items[first:end]) + b"]", end - first

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> PredictionRow: ...

    @overload
    def __getitem__(self, place: slice) -> list[PredictionRow]: ...

    def __getitem__(self, place: int | slice) -> PredictionRow | list[PredictionRow]:
        if isinstance(place, slice):
            return [_row(item) for item in self._items[place]]
        return _row(self._items[place])


def _row(item: bytes) -> PredictionRow:
    read = json.loads(item)
    return PredictionRow(read["task"], read["result"], read["score"], read["model_version"])
