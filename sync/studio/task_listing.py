"""Lists of tasks, read in pages through the filters of the Data Manager."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ml_backend.errors import StudioError
from sync.studio.http import StudioHttp
from sync.studio.rows import task_filter

__all__ = ["page_of_tasks", "tasks_by_id"]

_ID_PAGE = 1000
Json = dict[str, Any]


def page_of_tasks(
    http: StudioHttp,
    project_id: int,
    *,
    fields: str,
    include: str,
    filters: Sequence[Json],
    order: str,
    page: int,
    size: int,
) -> list[Json]:
    """One page of a listing; empty behind the last one.

    ``fields`` is ``all`` or ``task_only`` (without annotations), ``include`` names the fields wanted,
    ``filters`` must all hold (see ``task_filter``), ``order`` is a column of the Data Manager.
    """
    query = {"filters": {"conjunction": "and", "items": list(filters)}, "ordering": [order]}
    try:
        answer = http.get(
            "/api/tasks/",
            project=project_id,
            fields=fields,
            include=include,
            resolve_uri="false",
            page=page,
            page_size=size,
            query=json.dumps(query),
        )
    except StudioError as error:
        if error.status == 404 and page > 1:
            return []
        raise
    rows: list[Json] = answer["tasks"]
    return rows


def tasks_by_id(
    http: StudioHttp,
    project_id: int,
    include: str,
    *,
    filters: Sequence[Json] = (),
    after: int = 0,
    limit: int | None = None,
) -> Iterator[Json]:
    """The fields ``include`` of all tasks that pass the filters, in id order.

    Only those with an id above ``after``, and at most ``limit``.
    """
    last, left = after, limit
    while True:
        size = _ID_PAGE if left is None else min(_ID_PAGE, left)
        above = task_filter("id", "greater", "Number", last)
        rows = page_of_tasks(
            http,
            project_id,
            fields="task_only",
            include=include,
            filters=[*filters, above],
            order="tasks:id",
            page=1,
            size=size,
        )
        yield from rows
        left = None if left is None else left - len(rows)
        if len(rows) < size or left == 0:
            return
        last = int(rows[-1]["id"])
