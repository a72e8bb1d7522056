"""Projects as ``groundswell project list`` and ``show`` print them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.config_file import source_of
from ml_backend.label_studio.label_config import parse_label_config
from sync.projects.option_changes import OptionChange
from sync.rounds.wishes import PAUSE_TEXTS
from sync.settings import CROWD_DEFAULTS, PROJECT_OPTIONS, Settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord

__all__ = ["change_lines", "list_figures", "list_lines", "show_figures", "show_lines", "value_text"]


def list_figures(store: Store) -> list[dict[str, Any]]:
    """One row per project that takes part, in the order of numbers."""
    with store.read() as session:
        rows = session.query(ProjectRecord).order_by(ProjectRecord.id).all()
    return [
        {"id": row.id, "title": row.title, "paused": row.paused, "gone": row.gone_at is not None}
        for row in rows
    ]


def list_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The same for people."""
    notes = {
        number: "no longer in Label Studio" if row["gone"] else PAUSE_TEXTS.get(row["paused"], "")
        for number, row in enumerate(rows)
    }
    return [
        f"{row['id']}  {row['title']}" + (f"  ({notes[number]})" if notes[number] else "")
        for number, row in enumerate(rows)
    ] or ["no project takes part yet: create one with `groundswell init`"]


def show_figures(settings: Settings, store: Store, project_id: int) -> dict[str, Any]:
    """All about one project's settings: each with its value and where the value comes from."""
    with store.read() as session:
        record = session.get_one(ProjectRecord, project_id)
    config = parse_label_config(record.label_config)
    own = settings.for_project(record.options)
    values = own.model_dump(mode="json", include=set(PROJECT_OPTIONS))
    return {
        "id": record.id,
        "title": record.title,
        "kind": config.kind,
        "labels": list(config.labels),
        "url": f"{settings.shown_studio_url}/projects/{record.id}/data",
        "review_projects": {
            form: number
            for form, number in (("single", record.review_project_id), ("sheet", record.sheet_project_id))
            if number is not None
        },
        "files": str(ProjectPaths(settings.data_dir, record.id).root),
        "paused": record.paused,
        "round_wanted": None if record.round_wanted is None else record.round_wanted.isoformat(),
        "error": record.error,
        "options": dict(record.options),
        "settings": {
            name: {"value": values[name], "from": _origin(name, own, record.options)}
            for name in sorted(PROJECT_OPTIONS)
        },
    }


def _origin(name: str, own: Settings, options: Mapping[str, Any]) -> str:
    """Where the value of a setting comes from."""
    if name in options:
        return "project"
    source = source_of(name)
    return "crowd" if source == "default" and own.crowd and name in CROWD_DEFAULTS else source


def show_lines(found: dict[str, Any], *, everything: bool) -> list[str]:
    """The same for people; settings that nobody set only with ``everything``."""
    lines = [
        f"project {found['id']}  {found['title']}",
        f"  kind     {found['kind']}, labels {', '.join(found['labels'])}",
        f"  open at  {found['url']}",
        f"  files    {found['files']}",
    ]
    if found["paused"]:
        lines.append(f"  {PAUSE_TEXTS[found['paused']]}")
    if found["round_wanted"]:
        lines.append(f"  a round was asked for at {found['round_wanted'][:16]}; it starts at the next look")
    if found["error"]:
        lines.append(f"  error    {found['error']}")
    rows = [
        (name, value_text(row["value"]), row["from"])
        for name, row in found["settings"].items()
        if everything or row["from"] != "default"
    ]
    lines.append("  settings" + ("" if everything else " that somebody set (--all: all of them)"))
    lines += [f"    {name} = {value}  ({source})" for name, value, source in rows] or ["    none"]
    return lines


def change_lines(changes: Sequence[OptionChange]) -> list[str]:
    """``name: old → new`` for each setting that changes."""
    return [
        f"{change.name}: {value_text(change.old)} → {value_text(change.new)}"
        + ("" if change.new_is_own else "  (the installation's)" if change.old_is_own else "  (follows)")
        for change in changes
    ]


def value_text(value: Any) -> str:
    """A value as somebody would type it."""
    if value is None:
        return "empty"
    return value if isinstance(value, str) and value else json.dumps(value)
