"""What a machine does without, where its copy of a project's files may hold so many bytes.

Only old rounds (``sync.store.round_state``) give up something: their pools and the weights of their models.
Everything is in the object store, and whoever uses such a version brings its files back first
(``SharedFiles.bring``). Which files those are follows from the database alone, so a machine that is new never
fetches them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from sync.artifacts.manifest import Entry
from sync.store.round_state import old_rounds
from sync.store.tables import ProjectRecord, RoundRecord

__all__ = ["spared"]

_FOLDERS: Final = ("pools", "models")
"""in this order; of a pool nothing stays, as readers take a folder that is there for a whole pool"""
_MANIFEST: Final = "manifest.json"
"""says what a version is; lists of versions need it"""


def spared(
    session: Session, project_id: int, manifest: Mapping[str, Entry], limit: int | None
) -> frozenset[str]:
    """Files of old rounds that this machine need not hold, oldest first, until ``limit`` bytes are kept.

    None of them while everything fits, or without a limit. The versions that serve, that somebody asked for,
    whose accepted masks are exported, and all newer ones stay, so the rest may hold more than the limit.
    """
    if limit is None:
        return frozenset()
    excess = sum(entry.size for entry in manifest.values()) - limit
    if excess <= 0:
        return frozenset()
    query = select(RoundRecord).where(RoundRecord.project_id == project_id).order_by(RoundRecord.number)
    rounds = list(session.scalars(query))
    old = set(old_rounds(rounds, 0).to_drop)
    wish = select(ProjectRecord.version_wanted).where(ProjectRecord.id == project_id)
    in_use = {record.model_version for record in rounds if record.number not in old}
    in_use.add(session.scalar(wish) or "")
    serving = manifest["current"].digest if "current" in manifest else ""
    folders: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in manifest.values():
        kind, _, rest = entry.path.partition("/")
        version, _, name = rest.partition("/")
        if kind in _FOLDERS and name and (kind, name) != ("models", _MANIFEST):
            folders[kind, version].append(entry)
    found: set[str] = set()
    for record in rounds:
        version = record.model_version
        if record.number not in old or version in in_use or _digest(version) == serving:
            continue
        for kind in _FOLDERS:
            entries = folders[kind, version]
            found.update(entry.path for entry in entries)
            excess -= sum(entry.size for entry in entries)
            if excess <= 0:
                return frozenset(found)
    return frozenset(found)


def _digest(name: str) -> str:
    """What ``current`` would be the digest of, if it held this name."""
    return hashlib.sha256(name.encode()).hexdigest()
