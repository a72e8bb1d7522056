"""What an admin asks ``init`` for, checked before anything is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.kinds.base import Kind
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import LabelConfig, Output, parse_label_config
from sync.projects.picture_groups import GROUP_FIELD, picture_groups
from sync.projects.pictures import find_images
from sync.rounds.order_quotas import check_balance
from sync.rounds.registration import check_project_settings
from sync.settings import Settings
from sync.studio.protocol import ProjectRow, StudioClient

__all__ = ["InitRequest", "check_request", "project_titled"]


@dataclass(frozen=True, slots=True)
class InitRequest:
    """A request that can be carried out.

    Attributes
    ----------
    title, labels : of the project
    config : label config as XML
    options : the project's own settings; None: not given
    pictures, refused : files that are pictures, and lines about those that only look like some
    groups : the group of each picture that has one
    """

    title: str
    labels: tuple[str, ...]
    config: str
    options: dict[str, Any] | None
    pictures: Sequence[Path]
    refused: Sequence[str]
    groups: Mapping[Path, str]

    @property
    def parsed(self) -> LabelConfig:
        """The label config."""
        return parse_label_config(self.config)


def check_request(
    settings: Settings,
    *,
    title: str,
    labels: Sequence[str],
    images: Path | Sequence[Path] | None,
    output: Output,
    kind: Kind,
    multiple: bool,
    label_config: str,
    options: Mapping[str, Any] | None,
    groups: Path | None,
) -> InitRequest:
    """Check everything that can be checked without Label Studio; see ``init_project`` for the arguments.

    Raises BadInput, BadLabelConfig and BadImage.
    """
    if not 3 <= len(title.strip()) <= 50:
        raise BadInput(
            f"the title {title!r} has {len(title.strip())} characters", field="title", hint="Use 3 to 50"
        )
    config = label_config or build_label_config(
        labels, output=output, kind=kind, multiple=multiple, why=True, one_row=True
    )
    parsed = parse_label_config(config)
    if groups is not None:
        options = {"split_by": GROUP_FIELD, **(options or {})}
    if options is not None:
        check_project_settings(settings.for_project(options), parsed.wanted)
        check_balance(settings.for_project(options), parsed.labels)
    found, refused = ([], []) if images is None else find_images(images)
    if groups is not None and not found:
        raise BadInput("groups are those of pictures that are given", field="groups", hint="Give images too")
    return InitRequest(
        title.strip(),
        tuple(labels or parsed.labels),
        config,
        None if options is None else dict(options),
        found,
        refused,
        {} if groups is None else picture_groups(found, groups),
    )


def project_titled(studio: StudioClient, request: InitRequest) -> ProjectRow | None:
    """The project of this title; None when there is none.

    Raises BadInput when it has other labels or another kind.
    """
    for row in studio.projects():
        if row.title == request.title:
            known = parse_label_config(row.label_config)
            if set(request.labels) - set(known.labels):
                raise BadInput(
                    f"project {row.id} {request.title!r} has the labels {', '.join(known.labels)}",
                    field="labels",
                    hint="Add labels in Label Studio's project settings, or choose another title",
                )
            if known.kind != request.parsed.kind:
                raise BadInput(
                    f"project {row.id} {request.title!r} is of kind {known.kind}",
                    field="kind",
                    hint=f"Choose another title for a project of kind {request.parsed.kind}",
                )
            return row
    return None
