"""Find likely label mistakes among the finished tasks of a project; see docs/mistakes.md.

Each finished task is judged by a model that was not trained on it. What a judge says about a task is kept, so
a look at a project in which one annotation changed judges one task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from sqlalchemy import select

from ml_backend.artifacts.mistakes import Finding, MistakeTable, read_mistakes, write_mistakes
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pools import read_pool
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.masks.statistics import filled_masks
from sync.mistakes.fingerprints import Fingerprint, ensure_fingerprints
from sync.mistakes.gather import gather
from sync.mistakes.judged import VERSION, JudgedTask, read_judged, write_judged
from sync.mistakes.judges import Judge, all_judges, choose_judges, fold_folders
from sync.mistakes.marks import dismissed_tasks
from sync.mistakes.measure import measure_task
from sync.mistakes.reasons import twin_reason
from sync.mistakes.twins import find_twins
from sync.rounds.progress import Memo, Progress
from sync.rounds.region_rows import fits, is_tagged_only, lacks_masks
from sync.rounds.round_records import digest_of
from sync.rounds.series import in_series_of, series_of
from sync.rounds.task_queries import effective_annotation, finished_digests, task_images, test_split
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, RoundRecord

__all__ = ["find_mistakes"]

_CHUNK: Final = 200
_POOL: Final = ("task_id", "label", "rle", "score", "quality")
_LEAK, _DIFFERS, _REPEATS = 0.8, 0.9, 0.4
_NEARLY: Final = 0.7
"""what a near duplicate counts of an exact one"""


@dataclass(frozen=True, slots=True)
class _State:
    """What the findings of a round follow from."""

    digests: Mapping[int, str]
    tested: frozenset[int]
    dismissed: Mapping[int, str]
    judges: Sequence[Judge]
    key: str


def find_mistakes(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
) -> MistakeTable:
    """The likely mistakes as they are now, also in the file of the round's version.

    Safe to repeat and to kill. Raises StorageError when a pool is damaged.
    """
    state = _state(db, config, settings, paths, memo, record)
    path = paths.mistakes(record.model_version)
    known = read_mistakes(path)
    if known is not None and known.key == state.key:
        return known
    addresses = task_images(db)
    progress.at("mistakes.pictures")
    prints = ensure_fingerprints(
        paths, images, progress, {task: addresses[task] for task in state.digests}, guard=db.guard
    )
    progress.at("mistakes.judge")
    judged = _judged(db, config, settings, paths, progress, state, prints)
    findings = gather(config, judged) + _twins(db, settings, state, prints)
    findings = [
        replace(finding, annotation=state.digests[finding.task_id])
        for finding in findings
        if not _is_done(finding, state, judged)
    ]
    findings.sort(key=lambda finding: (-finding.score, finding.task_id, finding.reason))
    listed = {finding.task_id for finding in findings}
    judged = {task: replace(row, listed=task in listed) for task, row in judged.items()}
    about = {
        "round": record.number,
        "version": record.model_version,
        "finished": len(state.digests),
        "judged": dict(Counter(row.judge for row in judged.values())),
        "unjudged": len(state.digests) - len(judged),
        "dismissed": len(state.dismissed),
        "kinds": dict(Counter(finding.kind for finding in findings)),
    }
    table = MistakeTable(state.key, about, tuple(findings))
    write_judged(paths.mistakes_folder / "judged.parquet", judged, guard=db.guard)
    write_mistakes(path, table, guard=db.guard)
    progress.report("mistakes", 1.0, f"{len(listed)} finished tasks may hold a mistake")
    return table


def _state(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    memo: Memo,
    record: RoundRecord,
) -> _State:
    digests = finished_digests(db)
    tested = frozenset(test_split(db, record.split))
    dismissed = {
        task: mark for task, mark in dismissed_tasks(db, digests).items() if digests[task].startswith(mark)
    }
    judges = all_judges(
        ModelRegistry(settings.data_dir), paths, memo, db.id, config.wanted, record.model_version
    )
    key = digest_of(
        [
            VERSION,
            record.model_version,
            config.digest,
            settings.push_min_score,
            settings.split_by,
            sorted(digests.items()),
            sorted(tested),
            sorted(dismissed.items()),
            [[judge.name, judge.index.parts] for judge in judges],
            [str(folder) for folder in fold_folders(paths)],
        ]
    )
    return _State(digests, tested, dismissed, judges, key)


def _is_done(finding: Finding, state: _State, judged: Mapping[int, JudgedTask]) -> bool:
    """Whether a person has looked at it since: said that all is well, or changed the annotation."""
    task, digest = finding.task_id, state.digests[finding.task_id]
    if task in state.dismissed:
        return True
    return bool(finding.judged_by) and task in judged and judged[task].settled == digest


def _judged(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    state: _State,
    prints: Mapping[int, Fingerprint],
) -> dict[int, JudgedTask]:
    before = read_judged(paths.mistakes_folder / "judged.parquet")
    sha = {task: each.sha for task, each in prints.items()}
    chosen = choose_judges(state.judges, state.digests, sha)
    judged: dict[int, JudgedTask] = {}
    todo: dict[int, tuple[Judge, list[int]]] = {}
    for task, judge in chosen.items():
        old = before.get(task)
        if old is not None and (old.annotation, old.judge) == (state.digests[task], judge.name):
            judged[task] = old
        else:
            todo.setdefault(id(judge), (judge, []))[1].append(task)
    total = sum(len(tasks) for _, tasks in todo.values())
    for judge, tasks in todo.values():
        for start in range(0, len(tasks), _CHUNK):
            progress.at("mistakes.task")
            part = sorted(tasks)[start : start + _CHUNK]
            judged |= _ask(db, config, settings, judge, part)
            share = 0.5 + 0.5 * len(judged) / max(total + len(before), 1)
            progress.report("mistakes", min(share, 0.99), f"{len(judged)} of {len(chosen)} tasks judged")
    return {task: replace(row, settled=_settled(before.get(task), row)) for task, row in judged.items()}


def _settled(old: JudgedTask | None, new: JudgedTask) -> str:
    if old is None:
        return ""
    was_changed = old.listed and old.annotation != new.annotation
    return new.annotation if was_changed else old.settled


def _ask(
    db: ProjectStore, config: LabelConfig, settings: Settings, judge: Judge, tasks: Sequence[int]
) -> dict[int, JudgedTask]:
    """What a judge says about some tasks; those drawn on a picture of another size are left out."""
    table = read_pool(judge.folder, columns=_POOL, task_ids=tasks, index=judge.index)
    # a pool of another program may hold what says nothing
    filled = filled_masks([str(text) for text in table.counts], table.hw)
    table = table.take(np.flatnonzero(np.isfinite(table.score) & filled))
    order = np.argsort(table.task_id, kind="stable")
    ids = table.task_id[order]
    out: dict[int, JudgedTask] = {}
    for task, annotation in _annotations(db, tasks).items():
        entry = judge.index.entry(task)
        rows = annotation.regions
        if entry is None or not fits(rows, entry.hw):
            continue
        wanted = config.wanted
        if is_tagged_only(config, rows) or lacks_masks(wanted, rows):
            wanted = tuple(target for target in wanted if target.is_of.unit == "picture")
        mine = order[np.searchsorted(ids, task, "left") : np.searchsorted(ids, task, "right")]
        measured = measure_task(
            wanted, rows, table.take(mine), entry.hw, labels=judge.labels, shown_from=settings.push_min_score
        )
        out[task] = JudgedTask(annotation.digest, judge.name, measured)
    return out


def _annotations(db: ProjectStore, tasks: Sequence[int]) -> dict[int, AnnotationRecord]:
    """The annotation that counts for each of the tasks."""
    query = select(AnnotationRecord).where(
        AnnotationRecord.project_id == db.id, AnnotationRecord.task_id.in_(tasks)
    )
    by_task: dict[int, list[AnnotationRecord]] = {}
    with db.read() as session:
        for row in session.scalars(query):
            by_task.setdefault(row.task_id, []).append(row)
    found = ((task, effective_annotation(rows)) for task, rows in sorted(by_task.items()))
    return {task: row for task, row in found if row is not None}


def _twins(
    db: ProjectStore, settings: Settings, state: _State, prints: Mapping[int, Fingerprint]
) -> list[Finding]:
    series = series_of(db, settings.split_by)
    aside = in_series_of(series, state.tested)  # neither tested on nor trained on
    twins = find_twins({t: p for t, p in prints.items() if t not in aside}, state.tested, series)
    told = sorted({task for each in twins for task in (each.task, each.other)})
    labels: dict[int, Counter[str]] = {}
    for start in range(0, len(told), _CHUNK):
        for task, row in _annotations(db, told[start : start + _CHUNK]).items():
            labels[task] = Counter(str(region["label"]) for region in row.regions)
    findings = []
    for each in twins:
        differs = _difference(labels.get(each.task, Counter()), labels.get(each.other, Counter()))
        score = max(_LEAK if each.leaks else 0.0, _DIFFERS if differs else _REPEATS)
        findings.append(
            Finding(
                each.task,
                "leak" if each.leaks else "duplicate" if each.exact else "near duplicate",
                score if each.exact else score * _NEARLY,
                twin_reason(each.other, exact=each.exact, leaks=each.leaks, differs=differs),
                other_task=each.other,
            )
        )
    return findings


def _difference(mine: Counter[str], theirs: Counter[str]) -> str:
    """How the labels of two tasks differ, in words; empty when they do not."""
    names = sorted(name for name in mine.keys() | theirs.keys() if mine[name] != theirs[name])
    return ", ".join(f"{mine[name]} {name} here, {theirs[name]} there" for name in names[:3])
