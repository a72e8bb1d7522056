"""Turn pictures into tasks: by upload, or served by Label Studio from the folder in which they lie."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from ml_backend.errors import BadInput
from sync.projects.picture_groups import GROUP_FIELD
from sync.projects.pictures import (
    Comparison,
    Held,
    Picture,
    compare_pictures,
    content_digest,
    name_pictures,
)
from sync.studio.client import Studio
from sync.studio.protocol import DIGEST_FIELD, PATH_FIELD, StudioClient

__all__ = [
    "Added",
    "PictureProject",
    "missing_pictures",
    "missing_served",
    "serve_pictures",
    "upload_pictures",
]

_FILES_PER_REPORT = 50
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PictureProject:
    """Where pictures go: into ``field`` of the task data. ``folder`` is the folder given, None for a list.

    ``groups``: the series of pictures, by file, for the field ``GROUP_FIELD`` of the data.
    """

    studio: StudioClient
    project_id: int
    field: str
    folder: Path | None
    groups: Mapping[Path, str] = dataclasses.field(default_factory=dict)

    def data_of(self, picture: Picture) -> dict[str, str]:
        """What the data of a picture's task holds besides its address."""
        group = self.groups.get(picture.path)
        return {PATH_FIELD: picture.name} | ({} if group is None else {GROUP_FIELD: group})


@dataclass(frozen=True, slots=True)
class Added:
    """Tasks made, and a line for each picture that could not keep its name."""

    count: int
    renamed: tuple[str, ...] = ()


def upload_pictures(place: PictureProject, paths: Sequence[Path], *, report: Say) -> Added:
    """Upload the pictures that the project lacks. Raises StudioError; calling again goes on from there."""
    given = name_pictures(paths, place.folder, content_digest)
    found = compare_pictures(given, _held(place, DIGEST_FIELD), clean=_clean)
    _report_assumed(found, report)
    for start in range(0, len(found.new), _FILES_PER_REPORT):
        part = found.new[start : start + _FILES_PER_REPORT]
        data = [{**place.data_of(one), DIGEST_FIELD: one.identity} for one in part]
        place.studio.upload_images(place.project_id, [one.path for one in part], data=data)
        report(f"uploaded {start + len(part)} of {len(found.new)} pictures")
    _name_groups(place, given)
    return Added(len(found.new), _renamed(found, given))


def missing_pictures(place: PictureProject, paths: Sequence[Path]) -> list[Path]:
    """The pictures that an upload would add."""
    given = name_pictures(paths, place.folder, content_digest)
    return [one.path for one in compare_pictures(given, _held(place, DIGEST_FIELD), clean=_clean).new]


def missing_served(place: PictureProject, paths: Sequence[Path], *, files_root: Path | None) -> list[Path]:
    """The pictures that ``serve_pictures`` would add. Raises BadInput when one is outside ``files_root``."""
    _, found = _compare_served(place, paths, files_root)
    return [one.path for one in found.new]


def serve_pictures(
    place: PictureProject, paths: Sequence[Path], *, files_root: Path | None, report: Say
) -> Added:
    """Make tasks of the pictures that the project lacks; Label Studio serves them from where they lie.

    ``files_root`` is the folder below which Label Studio serves files, None when it is unknown. Raises
    BadInput when a picture is not below it, StudioError when Label Studio does not serve the first one.
    """
    given, found = _compare_served(place, paths, files_root)
    if found.new:
        above = os.path.commonpath([one.path.resolve().parent for one in found.new])
        place.studio.ensure_local_files(place.project_id, Path(above))
    if found.new and isinstance(place.studio, Studio):
        place.studio.check_file(_address(found.new[0].identity))
    rows = [{**place.data_of(one), place.field: _address(one.identity)} for one in found.new]
    place.studio.import_tasks(place.project_id, rows)
    report(f"{len(rows)} pictures served from where they lie")
    _name_groups(place, given)
    return Added(len(rows), _renamed(found, given))


def _compare_served(
    place: PictureProject, paths: Sequence[Path], files_root: Path | None
) -> tuple[list[Picture], Comparison]:
    def path_served(path: Path) -> str:
        real = path.resolve()
        if files_root is None or not real.is_relative_to(files_root):
            raise BadInput(
                f"{path} is not below {files_root or 'a folder that Label Studio serves'}",
                field="images",
                hint="Start `groundswell up --files-root` with a folder above it, name that of another "
                "server with --files-root, or use --serve upload",
            )
        return real.relative_to(files_root).as_posix()

    given = name_pictures(paths, place.folder, path_served)
    return given, compare_pictures(given, _held(place, place.field, _path_served), clean=_clean)


def _name_groups(place: PictureProject, given: Sequence[Picture]) -> None:
    """Write the groups of pictures whose tasks were there before, where they differ."""
    wanted = {one.name: place.groups[one.path] for one in given if one.path in place.groups}
    for task, data in place.studio.task_data(place.project_id) if wanted else ():
        group = wanted.get(str(data.get(PATH_FIELD, "")))
        if group is not None and data.get(GROUP_FIELD) != group:
            place.studio.set_task_data(task, {**data, GROUP_FIELD: group})


def _address(path_served: str) -> str:
    """The address of a served file; ``&``, ``#`` and ``+`` are quoted, as they have a meaning in a query."""
    return f"/data/local-files/?d={quote(path_served)}"


def _path_served(address: str) -> str:
    """The path in an address of a served file; addresses made by older releases are not quoted."""
    given = address.partition("?d=")[2]
    return unquote(given) if given else address


def _held(
    place: PictureProject, identity_field: str, read: Callable[[str], str] = lambda value: value
) -> Iterator[Held]:
    for _, data in place.studio.task_data(place.project_id):
        if place.field in data:
            yield Held(
                name=str(data.get(PATH_FIELD, "")),
                identity=read(str(data.get(identity_field, ""))),
                file_name=_stored_file_name(str(data[place.field])),
            )


def _report_assumed(found: Comparison, report: Say) -> None:
    if found.assumed:
        report(
            f"{len(found.assumed)} pictures have the file name of a task that was made without Groundswell's "
            f"record of its content, and are not uploaded again, for example {found.assumed[0].path}"
        )


def _renamed(found: Comparison, given: Sequence[Picture]) -> tuple[str, ...]:
    old = {one.path: one.name for one in given}
    return tuple(
        f"{one.path} is called {one.name}: the project has another {old[one.path]}" for one in found.renamed
    )


def _clean(name: str) -> str:
    """The file name under which Label Studio (that is Django) stores an upload."""
    return re.sub(r"(?u)[^-\w.]", "", name.strip().replace(" ", "_"))


def _stored_file_name(address: str) -> str:
    """The file name in an address, without the eight random digits that Label Studio puts before it."""
    return re.sub(r"^[0-9a-f]{8}-", "", unquote(address.rsplit("/", 1)[-1]))
