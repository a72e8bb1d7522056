"""Open review tasks: close those nobody needs any more, and replace links that would fail.

Nothing is ever deleted. A person may be looking at a task when it is closed. Label Studio keeps what they
submit, and it counts like any answer of an earlier round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from ml_backend.errors import StudioError
from ml_backend.images.signed_links import crop_url
from sync.review.answers import store_review_tasks
from sync.review.question import FORMS
from sync.review.review_tasks import with_pictures
from sync.rounds.progress import Memo, Progress
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import ReviewTaskRecord
from sync.studio.protocol import StudioClient, TaskRow

__all__ = ["NewLinks", "OpenTask", "outdated_links", "tasks_to_close", "tidy_open_tasks"]


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A review task that Label Studio serves to people.

    ``round`` is the round that asks, ``pictures`` instance and address of each crop, ``is_double`` whether a
    task with a lower number shows the same.
    """

    id: int
    form: int
    round: int
    pictures: tuple[tuple[str, str], ...]
    is_double: bool = False


@dataclass(frozen=True, slots=True)
class NewLinks:
    """The addresses that the crops of a review task should have, in the order shown."""

    task_id: int
    form: int
    urls: tuple[str, ...]


def tasks_to_close(tasks: Sequence[OpenTask], round_number: int) -> list[OpenTask]:
    """Open tasks of earlier rounds, whose answers would teach nothing new, and second copies of a task."""
    return [task for task in tasks if task.round < round_number or task.is_double]


def outdated_links(tasks: Sequence[OpenTask], url_of: Callable[[str], str]) -> list[NewLinks]:
    """Open tasks with a crop whose address differs from what ``url_of`` gives for its instance now."""
    wanted = [NewLinks(t.id, t.form, tuple(url_of(instance) for instance, _ in t.pictures)) for t in tasks]
    return [
        links
        for links, task in zip(wanted, tasks, strict=True)
        if links.urls != tuple(url for _, url in task.pictures)
    ]


def tidy_open_tasks(
    db: ProjectStore,
    review_studio: StudioClient,
    settings: Settings,
    progress: Progress,
    memo: Memo,
    round_number: int,
) -> int:
    """Close tasks that nobody needs and replace links that changed; returns how many tasks were changed.

    Links change with the signing key and with the address of the backend. While those, the round and the
    review tasks are what they were when nothing was to be done, no task is looked at.
    """
    name = ("tidy", db.id)
    state = (db.revision().review, db.key, round_number, crop_url(settings, db.id, "example"))
    if memo.get(name) == state:
        return 0
    tasks = _open_tasks(db)
    close = tasks_to_close(tasks, round_number)
    closed = {task.id for task in close}
    left = [task for task in tasks if task.id not in closed]
    links = outdated_links(left, lambda instance: crop_url(settings, db.id, instance))
    for task in close:
        progress.at("review.close")
        _store(db, task.form, _if_there(review_studio.close_task, task.id))
    for change in links:
        progress.at("review.links")
        row = _if_there(review_studio.task, change.task_id)
        if row is not None:
            data = with_pictures(row.data, change.urls)
            _store(db, change.form, review_studio.set_task_data(change.task_id, data))
    if not close and not links:
        memo[name] = state
    return len(close) + len(links)


def _open_tasks(db: ProjectStore) -> list[OpenTask]:
    """Open tasks of this project that can be read, in order of id."""
    query = select(ReviewTaskRecord).where(
        ReviewTaskRecord.project_id == db.id, ReviewTaskRecord.broken == "", ReviewTaskRecord.key != ""
    )
    first: dict[str, int] = {}
    found = []
    with db.read() as session:
        for row in session.scalars(query.order_by(ReviewTaskRecord.id)):
            is_double = first.setdefault(row.key, row.id) != row.id
            if row.is_open:
                pictures = tuple((str(instance), str(url)) for instance, url in row.pictures)
                asking = row.key.partition(":")[0]
                number = int(asking) if asking.isdecimal() else 0
                found.append(OpenTask(row.id, row.form, number, pictures, is_double))
    return found


def _if_there(call: Callable[[int], TaskRow], task_id: int) -> TaskRow | None:
    """The result of a call; None when somebody deleted the task meanwhile (the next pull forgets it)."""
    try:
        return call(task_id)
    except StudioError as error:
        if error.status != 404:
            raise
    return None


def _store(db: ProjectStore, form: int, row: TaskRow | None) -> None:
    """Keep what Label Studio says about the task now, including an answer that just came."""
    if row is not None:
        with db.write() as session:
            store_review_tasks(session, db.id, FORMS[form], [row])
