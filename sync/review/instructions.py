"""Instructions of the review projects: good and bad examples of each label, made from masks people drew.

Good examples are drawn masks as they are. Bad ones are the same masks moved, cut in half or merged with a
neighbour, and good masks of another label. The pictures are small crops behind signed links. An example stays
as long as its mask does, so that workers do not meet new instructions every day. The text is sent to Label
Studio only when it changed.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.errors import GroundswellError
from ml_backend.images.crops import CropStore
from ml_backend.images.signed_links import crop_url
from ml_backend.images.store import ImageStore
from ml_backend.instances import Rle
from ml_backend.kinds.base import LabelledMask, ProjectKind
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.masks.rle import decode_rle
from sync.review.answers import review_project_of
from sync.review.gold_masks import half, merged, shifted
from sync.review.instruction_text import Example, instructions
from sync.review.question import FORMS
from sync.rounds.progress import Progress
from sync.rounds.region_rows import drawn_masks
from sync.rounds.task_queries import finished_tasks
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, TaskRecord
from sync.studio.protocol import StudioClient

__all__ = ["example_masks", "example_pictures", "refresh_instructions"]

_log = logging.getLogger(__name__)
_SIZE_PX = 224
_MOST_LABELS = 12
"""labels with pictures; further ones are named only, since nobody reads more"""
_ENOUGH = 5000
"""drawn masks per label that are read at most"""
_LOOKED_AT = 200
"""drawn masks per label among which examples are chosen"""
Masks = list[tuple[TaskRecord, Rle]]


def example_masks(paths: ProjectPaths) -> frozenset[tuple[int, str]]:
    """(task, RLE counts) of the drawn masks that the instructions show, and so must not be gold."""
    chosen = _read_state(paths).get("examples", {})
    return frozenset((int(task), str(counts)) for rows in chosen.values() for task, counts in rows)


def example_pictures(paths: ProjectPaths) -> list[tuple[str, str, bool, str]]:
    """Label, key of the crop, whether it is a good one, and caption of each example in the instructions."""
    found = _read_state(paths).get("pictures", [])
    return [(str(label), str(key), bool(is_good), str(caption)) for label, key, is_good, caption in found]


def refresh_instructions(
    db: ProjectStore,
    review_studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    round_number: int,
) -> bool:
    """Set the instructions of the review projects where they changed; True when something was sent.

    Call it before gold questions are chosen, since they avoid the examples, and again after a review project
    was made. The drawn masks are looked at once per round. When a picture cannot be read, only its own
    example is left out.
    """
    found = {form: review_project_of(db, form) for form in FORMS}
    reviews = {form: number for form, number in found.items() if number is not None}
    state = _read_state(paths)
    # links change with the signing key and with the address of the backend
    link = hashlib.sha256(crop_url(settings, db.id, "example").encode()).hexdigest()
    kinds = [[target.kind, *target.labels] for target in config.wanted]
    now = {"round": round_number, "labels": kinds, "reviews": reviews, "link": link}
    is_same = all(state.get(name) == value for name, value in now.items()) and "pictures" in state
    if is_same and all(_crops(settings, images).path(db.id, key).exists() for key in state["crops"]):
        return False
    chosen, drawn = _choose(db, config, images, state.get("examples", {}))
    examples = _render(db, config, settings, images, chosen, drawn)
    sent_before = dict(state.get("shown", {}))
    sent = False
    for form, review_id in reviews.items():
        text = instructions(config.wanted, form=form, examples=examples)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if sent_before.get(str(review_id)) != digest:
            progress.at("review.instructions")
            review_studio.set_instruction(review_id, text)
            sent_before[str(review_id)] = digest
            sent = True
    keys = sorted({example.key for example in examples})
    rows = {label: [[task.id, str(rle["counts"])] for task, rle in masks] for label, masks in chosen.items()}
    pictures = [[e.label, e.key, e.is_good, e.caption] for e in examples]
    state = {**now, "examples": rows, "crops": keys, "shown": sent_before, "pictures": pictures}
    write_json(_state_path(paths), state, guard=db.guard)
    return sent


def _choose(
    db: ProjectStore, config: LabelConfig, images: ImageStore, before: dict[str, list[list[Any]]]
) -> tuple[dict[str, Masks], dict[str, Masks]]:
    """Two typical drawn masks per label (those chosen before, as long as they exist), and all drawn masks."""
    drawn: dict[str, Masks] = {label: [] for label in config.labels}
    for task, annotation in finished_tasks(db).values():
        if task.image_error or all(len(drawn[label]) >= _ENOUGH for label in drawn):
            continue
        for label, rle in _masks_of(config, images, task, annotation):
            drawn[label].append((task, rle))
    chosen: dict[str, Masks] = {}
    for label in [label for label in config.labels if drawn[label]][:_MOST_LABELS]:
        old = {(int(task), str(counts)) for task, counts in before.get(label, [])}
        kept = [row for row in drawn[label] if (row[0].id, str(row[1]["counts"])) in old]
        typical = kept if len(kept) >= 2 else _typical(drawn[label], 2)
        if typical:
            chosen[label] = typical
    return chosen, drawn


def _masks_of(
    config: LabelConfig, images: ImageStore, task: TaskRecord, annotation: AnnotationRecord
) -> list[LabelledMask]:
    """What a model should find on a finished task; nothing when its picture is needed and cannot be read."""
    sizes = [row["rle"]["size"] for row in annotation.regions if row["rle"] is not None]
    hw = (int(sizes[0][0]), int(sizes[0][1])) if sizes else None
    if hw is None and annotation.regions:  # a class of the picture: nobody drew on it
        try:
            hw = images.get(task.image, task_id=task.id, project_id=task.project_id).hw
        except GroundswellError as error:
            _log.warning("project %s: example of task %s left out: %s", task.project_id, task.id, error)
    return [] if hw is None else drawn_masks(config.wanted, annotation.regions, hw)


def _typical(rows: Masks, count: int) -> Masks:
    """Masks of medium size that do not touch the border, from different tasks where possible."""
    if len(rows) <= 1:
        return rows
    looked_at = rows[:: max(1, len(rows) // _LOOKED_AT)]
    masks = [decode_rle(rle).astype(bool) for _, rle in looked_at]
    log_area = np.log1p([float(mask.sum()) for mask in masks])
    border = [bool(m[[0, -1]].any() or m[:, [0, -1]].any()) for m in masks]
    order = np.lexsort((np.abs(log_area - np.median(log_area)), border, log_area == 0))
    ranked = [looked_at[i] for i in order.tolist() if log_area[i] > 0]
    seen: set[int] = set()
    again = []
    for row in ranked:
        again.append(row[0].id in seen)
        seen.add(row[0].id)
    return [ranked[i] for i in np.argsort(again, kind="stable").tolist()][:count]


def _render(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    images: ImageStore,
    chosen: dict[str, Masks],
    drawn: dict[str, Masks],
) -> list[Example]:
    examples = []
    for label in chosen:
        for task, rle, is_good, caption in _variants(label, config.kind_of(label), chosen, drawn):
            key = f"example-{instance_key(task.id, label, str(rle['counts']))}"
            try:
                image = images.get(task.image, task_id=task.id, project_id=task.project_id)
                _crops(settings, images).ensure(db.id, key, image, rle)
            except GroundswellError as error:
                _log.warning("project %s: example of task %s left out: %s", db.id, task.id, error)
                continue
            url = crop_url(settings, db.id, key)
            examples.append(Example(label, key, url, is_good, caption))
    return examples


def _variants(
    label: str, kind: ProjectKind, chosen: dict[str, Masks], drawn: dict[str, Masks]
) -> list[tuple[TaskRecord, Rle, bool, str]]:
    """Good examples, then bad ones: task, mask, whether it is good, what it shows."""
    masks = chosen[label]
    found = [(task, rle, True, "good") for task, rle in masks]
    (task, rle), (task2, rle2) = masks[0], masks[-1]
    same_picture = [
        other
        for rows in drawn.values()
        for other_task, other in rows
        if other_task.id == task2.id and other is not rle2
    ]
    bad: list[tuple[TaskRecord, Rle | None, str]] = []
    if kind.unit != "picture":
        made = (
            (task, shifted(rle), "shifted"),
            (task2, half(rle2), "a part"),
            (task2, merged(rle2, same_picture), "too much" if kind.same_iou > 1 else "two objects"),
        )
        # a box stays a box
        bad += [(t, kind.to_instances([(label, m)])[0][1], said) for t, m, said in made if m is not None]
    others = [name for name in chosen if name != label]
    if others:
        bad.append((*chosen[others[0]][0], others[0]))
    return found + [(where, mask, False, caption) for where, mask, caption in bad if mask is not None]


def _crops(settings: Settings, images: ImageStore) -> CropStore:
    return CropStore(settings.data_dir, images, size_px=_SIZE_PX)


def _state_path(paths: ProjectPaths) -> Path:
    return paths.root / "instructions.json"


def _read_state(paths: ProjectPaths) -> dict[str, Any]:
    path = _state_path(paths)
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    return found
