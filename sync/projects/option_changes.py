"""Other options for a project: merged with those it has, checked, and told as old → new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import parse_label_config
from sync.rounds.order_quotas import check_balance
from sync.rounds.project import registered
from sync.rounds.registration import check_project_settings
from sync.settings import PROJECT_OPTIONS, Settings
from sync.store.database import Store
from sync.store.schedule import wake_worker
from sync.store.tables import ProjectRecord

__all__ = ["OptionChange", "option_changes", "set_options"]


@dataclass(frozen=True, slots=True)
class OptionChange:
    """One setting of a project before and after, JSON-ready.

    ``old_is_own`` and ``new_is_own`` say whether the value is the project's own, rather than that of the
    installation. A setting may change with another one: ``crowd`` brings several.
    """

    name: str
    old: Any
    new: Any
    old_is_own: bool
    new_is_own: bool


def option_changes(
    settings: Settings, old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[OptionChange, ...]:
    """What differs between two sets of a project's own options, by name. Raises BadInput on a wrong one."""
    before, after = _effective(settings, old), _effective(settings, new)
    return tuple(
        OptionChange(name, before[name], after[name], name in old, name in new)
        for name in sorted(PROJECT_OPTIONS)
        if before[name] != after[name] or (name in old) != (name in new)
    )


def set_options(
    settings: Settings,
    store: Store,
    project_id: int,
    changes: Mapping[str, Any],
    *,
    unset: Sequence[str] = (),
    dry_run: bool = False,
) -> tuple[OptionChange, ...]:
    """Merge ``changes`` into a project's own options and take those named in ``unset`` out of them.

    Returns what changes; with ``dry_run`` nothing is stored. Raises BadInput, with nothing changed, when the
    project does not take part or an option is unknown or wrong.
    """
    registered(settings, store, project_id)
    unknown = sorted(set(unset) - PROJECT_OPTIONS)
    if unknown:
        raise BadInput(
            f"a project has no option {unknown[0]!r}",
            field=f"options.{unknown[0]}",
            hint=f"Options of a project: {', '.join(sorted(PROJECT_OPTIONS))}",
        )
    both = sorted(set(unset) & set(changes))
    if both:
        raise BadInput(f"{both[0]!r} is both set and unset", field=f"options.{both[0]}")
    with store.read() as session:
        record = session.get_one(ProjectRecord, project_id)
    new = merged(record.options, changes, unset)
    own = settings.for_project(new)
    config = parse_label_config(record.label_config)
    check_project_settings(own, config.wanted)
    check_balance(own, config.labels)
    found = option_changes(settings, record.options, new)
    if found and not dry_run:
        with store.write() as session:  # merged again: another command may have set something meanwhile
            record = session.get_one(ProjectRecord, project_id)
            record.options = merged(record.options, changes, unset)
        wake_worker(settings, store, project_id, "OPTIONS")
    return found


def merged(old: Mapping[str, Any], changes: Mapping[str, Any], unset: Sequence[str]) -> dict[str, Any]:
    """The options after the changes."""
    return {name: value for name, value in {**old, **changes}.items() if name not in unset}


def _effective(settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    return settings.for_project(options).model_dump(mode="json", include=set(PROJECT_OPTIONS))
