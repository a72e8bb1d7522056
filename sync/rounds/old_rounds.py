"""Old rounds: which of them keep their large files, see the option ``keep_rounds``.

Large are the pool (every mask the model found, with its embedding) and the trees. Nothing a person said lies
in them alone: answers, labels and verdicts stay, in Label Studio, in the store and in the round's small
files. Models stay too, so every version can be made to serve again; its pool is then found anew.

Never touched are the round that serves, the one whose accepted masks are exported, all newer ones, and a
version that somebody asked for.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from ml_backend.artifacts.files import storage_errors
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from sync.rounds.round_records import reviewed_round
from sync.rounds.wanted_version import wanted_version
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["OldRounds", "drop_old_rounds", "old_rounds"]

_log = logging.getLogger(__name__)
_GONE = ".gone-"


@dataclass(frozen=True, slots=True)
class OldRounds:
    """Numbers of rounds that are not in use any more, newest first: those that keep their large files, and
    those that do not need to."""

    kept: tuple[int, ...]
    to_drop: tuple[int, ...]


def old_rounds(rounds: Sequence[RoundRecord], keep: int | None) -> OldRounds:
    """Which rounds are old, when ``keep`` of the old ones keep their files (None: all)."""
    pushed = max((record.number for record in rounds if record.pushed), default=0)
    exported = reviewed_round(rounds)
    first = 0 if exported is None else min(pushed, exported.number)
    old = sorted((record.number for record in rounds if record.number < first), reverse=True)
    cut = len(old) if keep is None else keep
    return OldRounds(tuple(old[:cut]), tuple(old[cut:]))


def drop_old_rounds(db: ProjectStore, settings: Settings, paths: ProjectPaths) -> int:
    """Remove the large files of rounds older than ``settings.keep_rounds`` says; how many pools went.

    A pool is renamed while the lease is certainly ours, then deleted; what a killed run left goes with the
    next. Raises LeaseLost, StorageError.
    """
    if settings.keep_rounds is None or not paths.pools.is_dir():
        return 0
    with db.read() as session:
        rounds = list(session.scalars(select(RoundRecord).where(RoundRecord.project_id == db.id)))
    drop = set(old_rounds(rounds, settings.keep_rounds).to_drop)
    current = ModelRegistry(settings.data_dir).current(db.id)
    in_use = {record.model_version for record in rounds if record.number not in drop}
    in_use |= {current or "", wanted_version(db)}
    gone = 0
    with storage_errors(paths.pools):
        for left in paths.pools.glob(f"{_GONE}*"):
            shutil.rmtree(left)
        for record in rounds:
            if record.number not in drop or record.model_version in in_use:
                continue
            for tree in sorted(paths.round(record.number).glob("tree-*.npz")):  # a killed run may leave some
                with db.guard(tree):
                    tree.unlink()
            pool = paths.pool(record.model_version)
            if not pool.is_dir():
                continue
            away = paths.pools / f"{_GONE}{record.model_version}"
            with db.guard(pool):
                os.replace(pool, away)
            shutil.rmtree(away)
            gone += 1
            _log.info("project %s: round %s is old, its pool and trees are gone", db.id, record.number)
    return gone
