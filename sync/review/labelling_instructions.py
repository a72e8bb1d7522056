"""What annotators read before their first task: the keys, what a click does, and good and bad masks.

A text that an admin wrote stays: only what we sent is replaced. Pictures are those of the review project,
made from masks that people drew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.images.signed_links import crop_url
from ml_backend.label_studio.label_config import LabelConfig
from sync.review.instruction_text import Example, about, example_rows
from sync.review.instructions import example_pictures
from sync.review.nouns import noun_of, plural_noun
from sync.rounds.progress import Memo
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.studio.protocol import StudioClient

__all__ = ["labelling_instructions", "note_sent", "refresh_labelling_instructions"]

_KEPT = "labelling instructions that gave way to a text of the project's own"
_CLICK_ROWS = (
    ("a new object", "<b>K</b>, number of its label, click on it, ✓"),
    ("the same with a box", "<b>R</b>, number of its label, drag a box around it, ✓"),
    ("more of a {noun}", "<b>K</b>, number of its label, click on what is missing, ✓"),
    ("less of a {noun}", "<b>K</b>, number of its label, <b>Ctrl+Alt</b>+click on what is too much, ✓"),
)
_HAND_ROWS = (("a new object", "number of its label, draw"),)
_COMMON_ROWS = (
    ("another label", "click on the {noun}, number of the label"),
    ("no {noun} there", "click on the {noun}, <b>Backspace</b>"),
    ("one step back", "<b>Ctrl+Z</b>"),
    ("task done", "<b>Ctrl+Enter</b>"),
)


def labelling_instructions(config: LabelConfig, examples: Sequence[Example] = ()) -> str:
    """The text as HTML; keys as a table, then a row of small pictures for each label that has some.

    Label Studio removes ``style`` attributes here: size and layout are attributes of tables and pictures.
    """
    wanted = [target.wanted for target in config.targets]
    if all(target.is_of.unit == "picture" for target in wanted):
        return (
            "<p>Say what the picture shows: press the number of its label. Then press <b>Ctrl+Enter</b>.</p>"
        )
    clicks = bool(config.prompts)
    noun = noun_of(wanted)
    parts = [
        f"<p>{plural_noun(noun).capitalize()} that the model found are drawn already. Delete the wrong ones, "
        "correct the rest, add what is missing. The task you get is one where that helps the model most.</p>"
    ]
    if clicks:
        parts.append(
            "<p>First turn on <b>Auto-Annotation</b> in the bar at the bottom, and leave Auto-Accept off. A "
            f"click then suggests a {noun}. More clicks correct it. It counts only when you press "
            "<b>✓</b>.</p>"
        )
    rows = "".join(
        f"<tr><td><b>{what.format(noun=noun)}</b></td><td>{keys.format(noun=noun)}</td></tr>"
        for what, keys in (*(_CLICK_ROWS if clicks else _HAND_ROWS), *_COMMON_ROWS)
    )
    parts.append(f'<table cellpadding="3" cellspacing="0"><tbody>{rows}</tbody></table>')
    if clicks:
        parts.append(
            f"<p>On a {noun} that is there already, hold <b>Ctrl</b> while you click: without it, a click "
            f"only selects the {noun}. <b>Alt</b>+click says “not this”.</p>"
        )
    if not any(control.type == "labels" for control in config.controls):
        parts.append("<p>Take the number from the row of your tool: Click, Box or Draw.</p>")
    return "".join(parts) + about(wanted) + example_rows(config.labels, examples, "good", "not good")


def refresh_labelling_instructions(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    memo: Memo,
) -> bool:
    """Set the instructions of the labelled project where they changed; True when something was sent.

    Call it after ``refresh_instructions``, which makes the pictures. A project that has a text which we did
    not send keeps it, and so does one whose text somebody removed; Label Studio is then asked again only when
    our own text has changed.
    """
    examples = [
        Example(label, key, crop_url(settings, db.id, key), is_good, caption)
        for label, key, is_good, caption in example_pictures(paths)
    ]
    text = labelling_instructions(config, examples)
    sent = _sent(paths)
    if _digest(text) in (sent, memo.get((_KEPT, db.id))):
        return False
    there = studio.project(db.id).instruction
    if there != text:
        if _digest(there) != sent if sent else there:
            memo[(_KEPT, db.id)] = _digest(text)
            return False
        studio.set_instruction(db.id, text)
    write_json(_path(paths), {"sent": _digest(text)}, guard=db.guard)
    return True


def note_sent(paths: ProjectPaths, text: str) -> None:
    """Remember that a project was made with this text: it is ours to replace."""
    paths.root.mkdir(parents=True, exist_ok=True)
    write_json(_path(paths), {"sent": _digest(text)})


def _sent(paths: ProjectPaths) -> str:
    path = _path(paths)
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    return str(found.get("sent", ""))


def _path(paths: ProjectPaths) -> Path:
    return paths.root / "labelling-instructions.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
