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

from sqlalchemy import select

from ml_backend.artifacts.files import storage_errors
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from sync.rounds.wanted_version import wanted_version
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.round_state import old_rounds
from sync.store.tables import RoundRecord

__all__ = ["drop_old_rounds"]

_log = logging.getLogger(__name__)
_GONE = ".gone-"


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
            is_here = pool.is_dir()
            if not is_here and not db.is_away(pool):
                continue
            going = paths.pools / f"{_GONE}{record.model_version}"
            with db.guard(pool):
                if is_here:
                    os.replace(pool, going)
            if is_here:
                shutil.rmtree(going)
            gone += 1
            _log.info("project %s: round %s is old, its pool and trees are gone", db.id, record.number)
    return gone
