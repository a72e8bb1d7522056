"""What was decided about the instances of a round: columns on disk, one row per decided instance.

``rounds/<n>/verdicts.parquet``: key, label, verdict (+1 accepted, -1 rejected), verified (by a person's own
verdict), decision (number of the decision of that label, -1 = none), lower, upper, confidence, test, cluster.
Derived from the answers as a whole at each look, so withdrawing an answer takes its consequences back.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.artifacts import write_atomic
from ml_backend.regions import provenance_meta
from sync.steps.rounds import digest_of

__all__ = ["Verdict", "VerdictTable", "read_verdicts", "write_verdicts"]

_COLUMNS = (
    "key",
    "label",
    "verdict",
    "verified",
    "decision",
    "cluster",
    "lower",
    "upper",
    "confidence",
    "test",
)


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
        """What an accepted mask carries into Label Studio and exports."""
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
            text = (
                f"propagated: cluster {self.cluster}, purity {self.lower:.2f}–{self.upper:.2f} ({self.test})"
            )
        return provenance_meta(text, **self.provenance(round_number))


@dataclass(frozen=True, slots=True)
class VerdictTable:
    """All decided instances of a round by key."""

    rows: Mapping[str, Verdict]

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, key: str) -> Verdict | None:
        return self.rows.get(key)

    @property
    def digest(self) -> str:
        """12 hex digits that change with any decision that shows."""
        return digest_of(
            sorted((v.key, v.verdict, v.verified, v.cluster, round(v.lower, 4)) for v in self.rows.values())
        )[:12]


def write_verdicts(folder: Path, rows: Sequence[Verdict]) -> VerdictTable:
    """Replace the verdicts of a round."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: [getattr(row, name) for row in rows] for name in _COLUMNS}, schema=_schema())
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    write_atomic(folder / "verdicts.parquet", file.getvalue())
    return _table(rows)


def read_verdicts(folder: Path) -> VerdictTable:
    """The verdicts of a round; empty before the first look."""
    import pyarrow.parquet as pq

    path = folder / "verdicts.parquet"
    if not path.exists():
        return VerdictTable({})
    return _table(Verdict(**row) for row in pq.read_table(path).to_pylist())


def _rounded(value: float) -> float | None:
    """JSON knows no NaN."""
    return round(value, 4) if math.isfinite(value) else None


def _table(rows: Iterable[Verdict]) -> VerdictTable:
    return VerdictTable({row.key: row for row in rows})


def _schema() -> Any:
    import pyarrow as pa

    kinds = {
        "verdict": pa.int8(),
        "verified": pa.bool_(),
        "decision": pa.int64(),
        "cluster": pa.int64(),
        "lower": pa.float64(),
        "upper": pa.float64(),
        "confidence": pa.float64(),
    }
    return pa.schema([(name, kinds.get(name, pa.string())) for name in _COLUMNS])
