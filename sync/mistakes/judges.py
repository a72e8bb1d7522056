"""Which model may judge which finished task: one that was not trained on it.

Cheap judges first: the pool of an earlier round holds what its model found on a task before somebody finished
it, and the present model looks at the test split. A version knows every task that it, or a version its
training started from, was trained on. Where there is no such model, models of a cross-validation may judge
(``sync.mistakes.folds``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.artifacts.files import read_json
from ml_backend.artifacts.model_versions import ModelRegistry, VersionInfo
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import PoolIndex, read_index
from ml_backend.artifacts.pools import read_tasks
from ml_backend.kinds.registry import Wanted
from sync.rounds.given_rounds import TRAINED
from sync.rounds.progress import Memo

__all__ = ["Judge", "all_judges", "choose_judges", "fold_folders"]

_SEVERAL = "several"


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """A model with a pool of what it found.

    Attributes
    ----------
    name : model version, or which part of a cross-validation
    folder : its pool
    index : the tasks of the pool
    sha : content hash of the picture it saw, by task
    labels : the labels it knows
    knows : the tasks it was trained on
    """

    name: str
    folder: Path
    index: PoolIndex
    sha: Mapping[int, str]
    labels: tuple[str, ...]
    knows: frozenset[int]

    def may_judge(self, task: int) -> bool:
        """Whether it looked at the picture of the task and never learnt from it."""
        entry = self.index.entry(task)
        return entry is not None and not entry.error and task not in self.knows


def fold_folders(paths: ProjectPaths) -> list[Path]:
    """Finished parts of cross-validations, the newest first."""
    found = [path.parent for path in (paths.mistakes_folder / "folds").glob("*/fold-*/fold.json")]
    return sorted(found, key=lambda folder: ((folder / "fold.json").stat().st_mtime, folder.name))[::-1]


def all_judges(
    registry: ModelRegistry,
    paths: ProjectPaths,
    memo: Memo,
    project_id: int,
    wanted: Sequence[Wanted],
    version: str,
) -> list[Judge]:
    """All that may judge some task, the one trained on most tasks first.

    A version counts when its learner is one for the kinds that are ``wanted`` now, or that of the present
    ``version``: another one found something else. Raises StorageError.
    """
    versions = {info.version: info for info in registry.versions(project_id)}
    learners = {name for target in wanted for name in target.is_of.learners} | {_SEVERAL}
    if version in versions:
        learners.add(versions[version].learner)
    judges: list[Judge] = []
    for info in versions.values():
        folder = paths.pool(info.version)
        if info.manifest.get("origin") != TRAINED or info.learner not in learners or not folder.is_dir():
            continue
        knows = _known_tasks(info, versions)
        if knows is not None:
            labels = tuple(str(label) for label in info.manifest.get("labels", ()))
            judges.append(_judge(memo, info.version, folder, labels, knows))
    for folder in reversed(fold_folders(paths)):
        about = read_json(folder / "fold.json")
        knows = frozenset(int(task) for task in about["train_tasks"])
        judges.append(_judge(memo, str(about["name"]), folder / "pool", about["labels"], knows))
    # the test split keeps pictures out of every version: the newest of those trained on most comes first
    order = sorted(range(len(judges)), key=lambda i: (len(judges[i].knows), i), reverse=True)
    return [judges[i] for i in order]


def choose_judges(judges: Iterable[Judge], tasks: Iterable[int], sha: Mapping[int, str]) -> dict[int, Judge]:
    """The first judge of each task that may judge it; tasks without one are left out.

    ``sha`` is the content hash of each task's present picture, where it is known: a judge that saw another
    picture does not count.
    """
    chosen: dict[int, Judge] = {}
    left = set(tasks)
    for judge in judges:
        mine = {
            task
            for task in left & set(judge.index.task_id.tolist())
            if judge.may_judge(task) and sha.get(task, judge.sha[task]) == judge.sha[task]
        }
        chosen.update(dict.fromkeys(mine, judge))
        left -= mine
    return chosen


def _known_tasks(info: VersionInfo, versions: Mapping[str, VersionInfo]) -> frozenset[int] | None:
    """Tasks that a version or one it started from was trained on; None when that is not known."""
    known: set[int] = set()
    seen: set[str] = set()
    at: VersionInfo | None = info
    while at is not None:
        if "train_tasks" not in at.manifest or at.version in seen:
            return None
        seen.add(at.version)
        known.update(int(task) for task in at.manifest["train_tasks"])
        start = str(at.manifest.get("start", ""))
        if not start:
            return frozenset(known)
        at = versions.get(start)
    return None


def _judge(memo: Memo, name: str, folder: Path, labels: Iterable[Any], knows: frozenset[int]) -> Judge:
    """The judge, read again when its pool has got new parts."""
    key = ("judge", str(folder))
    kept = memo.get(key)
    known = kept if isinstance(kept, Judge) else None
    index = read_index(folder, known.index if known is not None else None)
    if known is not None and known.index.parts == index.parts and known.knows == knows:
        return known
    table = read_tasks(folder)
    sha = dict(zip(table.task_id.tolist(), (str(one) for one in table.image_sha), strict=True))
    fresh = Judge(name, folder, index, sha, tuple(str(label) for label in labels), knows)
    memo[key] = fresh
    return fresh
