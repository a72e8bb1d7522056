"""The verdicts of a round, where the steps look for them; they live in ``ml_backend.verdicts``."""

from __future__ import annotations

from ml_backend.verdicts import Verdict, VerdictTable, read_verdicts, write_verdicts

__all__ = ["Verdict", "VerdictTable", "read_verdicts", "write_verdicts"]
