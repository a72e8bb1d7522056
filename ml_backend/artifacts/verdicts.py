"""What was decided about the instances of a round: written by the worker, read by worker and backend.

``rounds/<n>/verdicts.parquet``, one row per decided instance: key, label, verdict (+1 accepted, -1 rejected),
verified (by a person's own verdict), decision (number of the decision of the round, -1 = none), cluster,
lower, upper, confidence, test. The bounds are of the purity of the masks that carry the decision: nobody has
seen those. At each look the whole file is replaced by renaming.
"""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import Guard, unguarded, write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import tasks_of_keys
from ml_backend.caches import ByteCache
from ml_backend.errors import StorageError
from ml_backend.label_studio.regions import provenance_meta

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "NO_VERDICTS",
    "Verdict",
    "VerdictCache",
    "VerdictPages",
    "VerdictTable",
    "read_verdicts",
    "write_verdicts",
]

_FILE: Final = "verdicts.parquet"

_NUMBERS: Final = ("verdict", "verified", "decision", "cluster", "lower", "upper", "confidence")
_WORDS: Final = ("label", "test")
"""columns of few different values"""
_CACHE_BYTES: Final = 256 * 1024**2
_KEY_BYTES: Final = 200  # of one entry of the dict of rows: key, number, slot


@dataclass(frozen=True, slots=True)
class Verdict:
    """One decided instance; ``lower``..``upper`` bound the purity of its cluster at level ``confidence``."""

    key: str
    label: str
    verdict: int
    verified: bool
    decision: int
    cluster: int
    lower: float
    upper: float
    confidence: float
    test: str

    def provenance(self, round_number: int) -> dict[str, Any]:
        """Where an accepted mask comes from; stored with it in Label Studio and in exports."""
        fields: dict[str, Any] = {"key": self.key, "round": round_number}
        if self.verified:
            return {**fields, "source": "verified"}
        return {
            **fields,
            "source": "propagated",
            "cluster": self.cluster,
            "decision": self.decision,
            "purity_lower": _rounded(self.lower),
            "purity_upper": _rounded(self.upper),
            "confidence": _rounded(self.confidence),
            "test": self.test,
        }

    def meta(self, round_number: int) -> dict[str, Any]:
        """``meta`` of the region in Label Studio: a line for people, fields for programs."""
        if self.verified:
            text = "verified by review"
        else:
            of = f"cluster {self.cluster}" if self.cluster >= 0 else "one of a set"
            text = f"propagated: {of}, purity {self.lower:.2f}–{self.upper:.2f} ({self.test})"
        return provenance_meta(text, **self.provenance(round_number))


def _coded(words: Sequence[str]) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Each word as an index into the list of distinct words; and that list."""
    number: dict[str, int] = {}
    codes = [number.setdefault(word, len(number)) for word in words]
    return np.array(codes, np.int32), list(number)


class VerdictTable(Mapping[str, Verdict]):
    """All decided instances of a round by key, held as columns; a ``Verdict`` is made when asked for."""

    def __init__(self, rows: Sequence[Verdict] = ()) -> None:
        self._hold(
            [row.key for row in rows],
            {name: np.array([getattr(row, name) for row in rows]) for name in _NUMBERS},
            {name: _coded([getattr(row, name) for row in rows]) for name in _WORDS},
        )

    @classmethod
    def from_arrow(cls, table: pa.Table) -> VerdictTable:
        """The table from the columns of the file."""
        made = cls.__new__(cls)
        words = {}
        for name in _WORDS:
            column = table[name].combine_chunks().dictionary_encode()
            words[name] = (column.indices.to_numpy(zero_copy_only=False), column.dictionary.to_pylist())
        numbers = {name: table[name].to_numpy() for name in _NUMBERS}
        made._hold(table["key"].to_pylist(), numbers, words)
        return made

    def _hold(
        self,
        keys: list[str],
        numbers: dict[str, npt.NDArray[Any]],
        words: dict[str, tuple[npt.NDArray[Any], list[str]]],
    ) -> None:
        self._row = {key: row for row, key in enumerate(keys)}
        self._numbers = numbers
        self._words = words

    def to_arrow(self) -> pa.Table:
        """The columns, as they are written."""
        import pyarrow as pa

        kinds = {"verdict": pa.int8(), "verified": pa.bool_(), "decision": pa.int64(), "cluster": pa.int64()}
        words = {
            name: pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))
            for name, (codes, names) in self._words.items()
        }
        columns = {name: words[name].cast(pa.string()) for name in _WORDS}
        for name, values in self._numbers.items():
            columns[name] = pa.array(values, kinds.get(name, pa.float64()))
        return pa.table({"key": pa.array(self._row, pa.string()), **columns})

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __getitem__(self, key: str) -> Verdict:
        row = self._row[key]
        fields = {name: values[row].item() for name, values in self._numbers.items()}
        words = {name: names[codes[row]] for name, (codes, names) in self._words.items()}
        return Verdict(key=key, **fields, **words)

    @property
    def nbytes(self) -> int:
        """Approximate bytes of memory."""
        words = sum(int(codes.nbytes) for codes, _ in self._words.values())
        return sum(int(v.nbytes) for v in self._numbers.values()) + words + _KEY_BYTES * len(self)

    @property
    def rows(self) -> Mapping[str, Verdict]:
        """Verdicts by key."""
        return self

    @property
    def digest(self) -> str:
        """12 hex digits that change with any decision that shows."""
        keys = sorted(self._row)
        order = np.array([self._row[key] for key in keys], np.int64)
        found = hashlib.blake2b("\n".join(keys).encode(), digest_size=6)
        for name, kind in (("verdict", np.int8), ("verified", np.bool_), ("cluster", np.int64)):
            found.update(self._numbers[name][order].astype(kind).tobytes())
        found.update(np.round(self._numbers["lower"][order].astype(np.float64), 4).tobytes())
        return found.hexdigest()


NO_VERDICTS: Final = VerdictTable()


def write_verdicts(folder: Path, rows: Sequence[Verdict], *, guard: Guard = unguarded) -> VerdictTable:
    """Replace the verdicts of a round."""
    import pyarrow.parquet as pq

    table = VerdictTable(rows)
    file = io.BytesIO()
    pq.write_table(table.to_arrow(), file, compression="zstd")
    write_atomic(folder / _FILE, file.getvalue(), guard=guard)
    return table


def read_verdicts(folder: Path) -> VerdictTable:
    """The verdicts of a round; empty before the first look. Raises StorageError when they are damaged."""
    import pyarrow.parquet as pq

    path = folder / _FILE
    if not path.exists():
        return NO_VERDICTS
    with _damage(path):
        return VerdictTable.from_arrow(pq.read_table(path))


class VerdictPages:
    """The verdicts of a round for some tasks at a time: a hundred thousand keys need no dict at once.

    Raises StorageError when they are damaged; empty before the first look.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        path = folder / _FILE
        self._rows: pa.Table | None = None
        self._task: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        if not path.exists():
            return
        with _damage(path):
            self._rows = pq.read_table(path)
            self._task = tasks_of_keys(self._rows["key"])

    def tasks(self, *, or_test: str) -> list[int]:
        """Tasks with an accepted instance, or with one decided by the test of this name; ascending."""
        if self._rows is None:
            return []
        accepted = self._rows["verdict"].to_numpy() > 0
        accepted |= self._rows["test"].to_numpy() == or_test
        return [int(task) for task in np.unique(self._task[accepted])]

    def of(self, tasks: Sequence[int]) -> VerdictTable:
        """The verdicts on the instances of these tasks."""
        if self._rows is None:
            return NO_VERDICTS
        mine = np.flatnonzero(np.isin(self._task, np.array(tasks, np.int64)))
        return VerdictTable.from_arrow(self._rows.take(mine))


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what goes wrong while the file is read into a StorageError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read ({error})", hint="Delete it: the worker makes it again from the answers"
        ) from error


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """Verdicts as read when the file had this ``stamp``."""

    stamp: tuple[int, int]
    table: VerdictTable


class VerdictCache:
    """Verdicts of rounds, read again when the worker has replaced them. Safe under threads."""

    def __init__(self, data_dir: Path, *, max_bytes: int = _CACHE_BYTES) -> None:
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._kept: ByteCache[Path, _Read] = ByteCache(max_bytes, lambda read: read.table.nbytes)

    def of(self, project_id: int, number: int) -> VerdictTable:
        """The verdicts of a round as they are now; empty before its first look. Raises StorageError."""
        folder = ProjectPaths(self._data_dir, project_id).round(number)
        try:
            now = (folder / _FILE).stat()
        except FileNotFoundError:
            return NO_VERDICTS
        stamp = (now.st_ino, now.st_mtime_ns)
        with self._lock:  # one thread reads a new table, the others wait for it
            found = self._kept.get(folder)
            if found is None or found.stamp != stamp:
                found = _Read(stamp, read_verdicts(folder))
                self._kept.put(folder, found)
            return found.table

    @property
    def nbytes(self) -> int:
        """Bytes of the tables held now."""
        return self._kept.nbytes


def _rounded(value: float) -> float | None:
    """JSON knows no NaN."""
    return round(value, 4) if math.isfinite(value) else None
